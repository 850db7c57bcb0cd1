"""The first page of a report: the study, and its table of lifts."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from browser import browse, needs_browser
from docutils.core import publish_parts

from undertone.runtime.files import write_json
from undertone.study.first_page import first_page, plain
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

    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        (REPOSITORY / "workflow/report/workflow.rst").read_text()
    )
    text = template.render(snakemake=Snakemake, categories={})
    body: str = publish_parts(text, writer_name="html", settings_overrides={"halt_level": 2})["html_body"]
    return body


def test_no_name_is_markup(study: Study) -> None:
    texts = dict.fromkeys(("summary", "estimator", "day"), "-")
    page = first_page(study) | texts | {"rows": [[plain("mine_"), plain("a*b|"), *"1234", ""]]}
    assert "<td>mine_</td>" in rendered(page) and "<td>a*b|</td>" in rendered(page)


def test_without_a_table_the_page_says_where_it_would_be(study: Study) -> None:
    assert "tables/transfer.json" in rendered(first_page(study.model_copy(update={"name": None})))
    assert "tables/other/transfer.json" in rendered(first_page(study.model_copy(update={"name": "other"})))


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
    assert html.index("embedded study") < html.index("1 of 2 datasets lie above") < html.index(".085 [.075, .095]")
    assert f"lifts of {page['day']}" in html


def test_an_unfinished_study_has_a_first_page_without_a_table(study: Study) -> None:
    page = first_page(study)
    html = rendered(page)
    assert "No lift of any target yet" in html
    assert page["today"] in html
    assert "lifts of" not in html.replace("table of lifts", "")
    assert "System Message" not in html


@pytest.fixture(scope="module")
def report(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a figure and of a file of data."""
    project = base.copy(tmp_path_factory.mktemp("report") / "project")
    targets = ["results/mine/plots/filter.png", "results/mine/filter.json"]
    project.forked(*targets)
    project.snakemake(*targets, "--report", "report.html")
    return project.root / "report.html"


def test_a_report_opens_with_the_page_and_names_its_figures(report: Path) -> None:
    html = report.read_text()
    assert "embedded model, trained here" in html
    assert '"Made by"' in html  # without metadata, Snakemake opens with the graph of all rules
    assert '"shows": "pass rate"' in html


@needs_browser
def test_the_pages_link_opens_a_figure_with_its_caption_beside(report: Path) -> None:
    click = "<script>setTimeout(() => document.querySelector('.prose li a[onclick]').click(), 100)</script>"
    page = report.with_name("clicked.html")
    page.write_text(report.read_text().replace("</body>", f"{click}</body>"))
    shown = browse(page, "--virtual-time-budget=5000", "--dump-dom").split('<div id="app">')[1].split("<script")[0]
    assert '<img src="data:image/png;' in shown
    assert "Share of completions that pass the filter" in shown


@needs_browser
def test_the_top_of_a_long_page_is_seen(report: Path) -> None:
    top = "document.querySelector('.prose h1').getBoundingClientRect().top"
    ask = f"<script>setTimeout(() => {{document.body.dataset.top = {top}}}, 100)</script>"
    page = report.with_name("asked.html")
    page.write_text(report.read_text().replace("</body>", f"{ask}</body>"))
    shown = browse(page, "--window-size=900,200", "--virtual-time-budget=5000", "--dump-dom")
    assert float(shown.split('data-top="')[1].split('"')[0]) >= 0
