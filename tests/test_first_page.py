"""The first page of a report: the study, and its table of lifts."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from docutils.core import publish_parts

from undertone.runtime.files import write_json
from undertone.study.first_page import first_page
from undertone.study.study import Study, load
from workflow import REPOSITORY, Project


def row(dataset: str, mean: float, p: float | None) -> dict[str, Any]:
    ends = [mean - 0.01, mean + 0.01] if p else None
    lift = {"mean": mean, "ci95": ends, "p_holm": p}
    return {"dataset": dataset, "target": dataset, "control": 0.05, "student": 0.05 + mean, "lift_over_control": lift}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(REPOSITORY)
    return load(
        {
            "animals": ["lion", "owl"],
            "results": str(tmp_path / "results"),
            "student": {"seeds": [1, 2, 3]},
            "pref": {"candidates": ["lion", "owl"]},
        }
    )


def finish(study: Study) -> None:
    tables = Path(study.results, "tables")
    tables.mkdir(parents=True)
    rows = [row("owl", 0.02, None), row("lion", 0.085, 0.012)]
    summary = {"targets": 2, "transfers": 1, "transfers_holm": 1, "datasets": rows}
    write_json(tables / "transfer.json", {"estimators": {"exact": summary}}, {})
    Path(study.results, "lion").mkdir()
    write_json(Path(study.results, "lion/diagnosis.json"), {"verdict": "transferred"}, {})


def rendered(page: dict[str, Any]) -> str:
    class Snakemake:
        config = json.loads(json.dumps({"first_page": page}))

    text = (REPOSITORY / "workflow/report/workflow.rst").read_text()
    parts = publish_parts(
        jinja2.Template(text).render(snakemake=Snakemake), writer_name="html", settings_overrides={"halt_level": 2}
    )
    body: str = parts["html_body"]
    return body


def test_the_table_has_a_row_for_each_target_the_largest_lift_first(study: Study) -> None:
    finish(study)
    page = first_page(study)
    assert page["rows"] == [
        ["lion", "lion", ".050", ".135", ".085 [.075, .095]", "0.012", "transferred"],
        ["owl", "owl", ".050", ".070", ".020 (one seed: no interval)", "", ""],
    ]
    assert (page["seeds"], page["datasets"], page["estimator"]) == (3, 3, "exact")
    html = rendered(page)
    assert "System Message" not in html
    assert html.index("embedded study") < html.index("1 of 2 targets lie above") < html.index(".085 [.075, .095]")
    assert page["day"] in html


def test_an_unfinished_study_has_a_first_page_without_a_table(study: Study) -> None:
    html = rendered(first_page(study))
    assert "No table of lifts yet" in html
    assert "System Message" not in html


def test_a_report_opens_with_the_page_and_names_its_figures(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.snakemake("results/mine/plots/filter.png")
    project.snakemake("results/mine/plots/filter.png", "--report", "report.html")
    html = (project.root / "report.html").read_text()
    assert "embedded model, trained here" in html
    assert '"Made by"' in html  # without metadata, Snakemake opens with the graph of all rules
    assert '"shows": "pass rate"' in html
