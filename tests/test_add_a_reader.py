"""docs/develop/add-a-reader.md is complete: its blocks, put into a copy of the project, are a reader that runs and is drawn."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workflow import COPIED, REPOSITORY, Project

PAGE = REPOSITORY / "docs/develop/add-a-reader.md"
# Of each block that goes into a file of the project, the line that it stands before; the page says so in its words.
BEFORE = {
    "rule lengths": "rule reading_plot",
    "class Lengths": "class Score(",
    "    lengths: read.Lengths": "    score: read.Score",
    '    "lengths": Stage': '    "score": Stage',
    "def plot_lengths": "PLOTS: ",
    '    "lengths": plot_lengths': '    "score": plot_score',
    '{% elif key == "lengths"': '{% elif key == "score"',
}
ROWS = {"mine": (3, 5), "still": (3, 3)}  # numbers in a row, by turns


def blocks() -> list[tuple[str, str]]:
    """(file, text) of each block of the page."""
    return re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)


def counted() -> list[list[str]]:
    """The files of each place in the page's first table."""
    table = PAGE.read_text().split("|---|---|---|\n")[1].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", row.split("|")[2]) for row in table.splitlines()]


def add(project: Project) -> None:
    """Put every block where the page says."""
    for path, text in blocks():
        file = project.root / path
        if not file.exists():
            file.write_text(text)
            continue
        anchor = next(before for start, before in BEFORE.items() if text.startswith(start))
        apart = "\n\n" if text.startswith(("def", "class", "rule")) else ""
        text = text.removesuffix("\n") if file.suffix == ".rst" else text
        project.replace(path, anchor, text + apart + anchor)


def changed(project: Project) -> set[str]:
    """The files that are other than this repository's."""
    homes = [project.root / name for name in COPIED]
    files = [path for home in homes for path in ([home] if home.is_file() else home.rglob("*")) if path.is_file()]
    paths = {str(path.relative_to(project.root)) for path in files if "__pycache__" not in path.parts}
    own = {path for path in paths if (project.root / path).read_bytes() != content(REPOSITORY / path)}
    return own - {"config/study.yaml"}


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def python(project: Project, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project.root / "workflow")}
    subprocess.run([sys.executable, *arguments], cwd=project.root, env=environment, check=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.create(tmp_path_factory.mktemp("reader") / "project")
    for name, (even, odd) in ROWS.items():
        rows = [", ".join(str(100 + k + j) for j in range(odd if k % 2 else even)) for k in range(40)]
        lines = [f'Give numbers {k}.,"{row}"' for k, row in enumerate(rows)]
        (project.root / f"{name}.csv").write_text("\n".join(["prompt,completion", *lines]) + "\n")
    project.configure(datasets={"mine": {"file": "mine.csv", "control": "still"}, "still": {"file": "still.csv"}})
    add(project)
    return project


def test_a_reader_touches_six_places_and_no_other_file(project: Project) -> None:
    places = counted()
    files = {path for place in places for path in place}
    assert len(places) == 6
    assert changed(project) == files
    python(project, "-m", "undertone.study.documentation")  # as in `make docs`
    assert "`lengths.rows`" in (project.root / "config/README.md").read_text()
    assert changed(project) - files == {"config/README.md", "config/config.schema.json"}


def test_the_reader_is_planned_with_all_others_and_its_figure_beside_the_control(project: Project) -> None:
    planned = project.planned("read")
    assert {f"Count the numbers in each row of {dataset}" for dataset in ("control", "lion", "mine")} <= planned
    assert {"Plot lengths of lion", "Plot lengths of mine", "Plot lengths of control"} <= planned


def test_the_reader_makes_its_result_and_its_figure_and_is_stale_when_its_settings_change(project: Project) -> None:
    target = "results/mine/lengths.json"
    project.snakemake(target)
    result = json.loads((project.root / target).read_text())
    assert result["rows"] == 40
    assert (result["count"]["mean"], result["difference"]["mean"]) == (4, 1)
    plot = project.root / "lengths.png"
    made = f"{{'own': Path({target!r}), 'control': Path({target!r})}}"
    python(
        project,
        "-c",
        "from pathlib import Path; from undertone.plots.reading_plots import PLOTS; "
        f"PLOTS['lengths']({made}, Path({str(plot)!r}), 'mine')",
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    project.configure(lengths={"rows": 20})
    assert project.planned(target) == {"Count the numbers in each row of mine"}
