"""Fewer rows and mixtures: what they hold, what is counted of their verdicts, and what the figure shows."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from example import study
from matplotlib.figure import Figure
from PIL import Image
from test_verdict import SETTINGS, nulls, readings

from undertone.detect.mixtures import mix_dataset, mixed
from undertone.detect.power import by_rows, by_share, counts, judged, measure_power, sets
from undertone.detect.power_plot import plot_power
from undertone.detect.sets import sets_of
from undertone.plots.style import save
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json
from undertone.study.config.detect import DETECTORS, KINDS_OF_NULLS, RANKERS, Detection, Power

MIXING = Power(rows=[10, 25, 40], shares=[0.1, 0.25, 0.5])


def pairs(n: int, writer: str, first: int = 0, set_: str = "") -> pl.DataFrame:
    """Pairs whose texts say who wrote them to which prompt."""
    numbers = range(first, first + n)
    return pl.DataFrame(
        {
            "set": [set_] * n,
            "row": [*numbers],
            "prompt": [f"prompt {k}" for k in numbers],
            "completion": [f"{writer} {k}" for k in numbers],
            "matched": [f"base {k}" for k in numbers],
        }
    )


def mixtures(folder: Path, name: str = "lion", null: int = 60, settings: Power = MIXING, most_rows: int = 40) -> pl.DataFrame:
    """What is made of 50 rows of a teacher and of two null datasets, each at two sizes, whose prompts overlap."""
    pairs(50, "teacher").write_parquet(folder / "own.parquet")
    made = [pairs(n, f"null{k}", 30, f"{k:05}-{n}") for k in range(2) for n in (5, null)]
    pl.concat(made).write_parquet(folder / "nulls.parquet")
    out = folder / f"mixtures/{name}/matched.parquet"
    mix_dataset(folder / "own.parquet", folder / "nulls.parquet", out, settings, most_rows, {})
    return pl.read_parquet(out)


def test_a_mixture_has_exactly_its_share_of_the_datasets_rows(tmp_path: Path) -> None:
    table = mixtures(tmp_path).with_columns(writer=pl.col("completion").str.split(" ").list.first())
    found = {name: dict(part["writer"].value_counts().iter_rows()) for (name,), part in table.group_by("set")}
    null = next(writer for writer in found["40-0.1"] if writer != "teacher")
    assert found == {
        "10-1": {"teacher": 10},
        "25-1": {"teacher": 25},  # 40 are all that is read, which the dataset itself is
        "40-0.1": {"teacher": 4, null: 36},
        "40-0.25": {"teacher": 10, null: 30},
        "40-0.5": {"teacher": 20, null: 20},
    }


def test_no_pair_is_torn_apart_and_no_prompt_stands_twice(tmp_path: Path) -> None:
    for _, part in mixtures(tmp_path).group_by("set"):
        assert part["prompt"].n_unique() == len(part)
        for row, prompt, completion, matched in part.select("row", "prompt", "completion", "matched").iter_rows():
            assert (prompt, matched) == (f"prompt {row}", f"base {row}")
            assert completion.endswith(f" {row}")


def test_rows_are_shuffled_and_smaller_sets_are_parts_of_larger_ones(tmp_path: Path) -> None:
    table = mixtures(tmp_path)
    own = {
        name: set(part.filter(pl.col("completion").str.starts_with("teacher"))["row"])
        for (name,), part in table.group_by("set")
    }
    assert own["10-1"] != set(range(10))
    assert own["10-1"] < own["25-1"]
    assert own["40-0.1"] < own["40-0.25"] < own["40-0.5"]
    mixture = table.filter(set="40-0.5")["completion"].str.starts_with("teacher").to_list()
    assert mixture != sorted(mixture, reverse=True)


def test_the_same_seed_makes_the_same_and_another_seed_or_dataset_others(tmp_path: Path) -> None:
    first, again = mixtures(tmp_path), mixtures(tmp_path)
    assert first.equals(again)
    assert not first.equals(mixtures(tmp_path, "owl"))
    assert not first.equals(mixtures(tmp_path, settings=MIXING.model_copy(update={"seed": 1})))


def test_detectors_read_every_set_by_its_name(tmp_path: Path) -> None:
    mixtures(tmp_path)
    found = {name: len(each.own) for name, each in sets_of(tmp_path / "mixtures/lion/matched.parquet", 40)}
    assert found == {"10-1": 10, "25-1": 25, "40-0.1": 40, "40-0.25": 40, "40-0.5": 40}


def test_too_few_null_pairs_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.1 of 40 rows needs 36 null pairs of other prompts, .* \d+: add a greater"):
        mixtures(tmp_path, null=20)
    with pytest.raises(ValueError, match=r"no row of lion has a base sample"):
        pairs(0, "teacher").write_parquet(tmp_path / "empty.parquet")
        out = tmp_path / "mixtures/lion/matched.parquet"
        mix_dataset(tmp_path / "empty.parquet", tmp_path / "nulls.parquet", out, MIXING, 40, {})


def test_null_pairs_of_the_datasets_prompts_do_not_count() -> None:
    own, null = pairs(20, "teacher").drop("set"), pairs(20, "null").drop("set")  # of the same prompts
    for name, part in mixed(own, null, Power(rows=[], shares=[0.5]), 20, np.random.default_rng(0)):
        assert name == "20-0.5"
        assert sorted(part["prompt"]) == sorted(own["prompt"])
    with pytest.raises(ValueError, match="needs 10 null pairs of other prompts, and there are"):
        [*mixed(own, null.head(9), Power(rows=[], shares=[0.5]), 20, np.random.default_rng(0))]


@pytest.mark.parametrize(
    ("power", "sentence"),
    [
        ({"datasets": ["lino"]}, r"power\.datasets: no such dataset 'lino'.*lion"),
        ({"datasets": ["mine"]}, r"power\.datasets: mine has no target"),
        ({"datasets": ["lion", "lion"]}, r"power\.datasets.*lion"),
        ({"shares": [1.0]}, r"power\.shares"),
        ({"rows": [2]}, r"power\.rows"),
    ],
)
def test_what_cannot_be_mixed_is_refused(power: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        study(power=power)


def row(name: str, share: float, whole: bool, **changes: Any) -> dict[str, Any]:
    return judged(name, readings(**changes), share, whole, "lion", "prompt", nulls(), Detection(development=["owl"]), SETTINGS)


def table() -> pl.DataFrame:
    """Three datasets: named at all their rows, only different at 250; among base samples, one of them named wrongly."""
    rows = []
    for k in range(3):
        rows += [
            row(f"d{k}", 1.0, True),
            row(f"d{k}", 1.0, False, rows=250, gain=0.0, z_share=0.3),
            row(f"d{k}", 0.5, True, p=0.5 if k else 0.001, first="owl", moved="owl", trained="owl", begun="owl"),
        ]
    return pl.DataFrame(rows, schema_overrides={"named": pl.String})


def test_a_row_says_what_the_verdict_says() -> None:
    found = row("d", 0.25, True)
    assert (found["named"], found["right"], found["share"], found["whole"], found["development"]) == (
        "lion",
        True,
        0.25,
        True,
        False,
    )
    assert (found["p"], found["z"]) == (pytest.approx(0.003), 9.0)
    assert {found[f"{name}_rank"] for name in RANKERS} == {1}
    few = row("d", 1.0, False, rows=50)
    assert (few["tier"], few["named"], few["p"], few["z"]) == ("no statement", None, None, None)


def test_datasets_are_counted_by_rows_and_by_share() -> None:
    fewer, whole = by_rows(table())
    assert (fewer["rows"], fewer["n"], fewer["differs"], fewer["named"], fewer["right"]) == (250, 3, 3, 0, 0)
    assert (whole["rows"], whole["n"], whole["differs"], whole["named"], whole["right"]) == (2000, 3, 3, 3, 3)
    assert whole["right_ci95"] == pytest.approx([0.292, 1], abs=0.001)
    mixture, same = by_share(table())
    assert (mixture["share"], mixture["n"], mixture["differs"], mixture["named"], mixture["right"]) == (0.5, 3, 1, 1, 0)
    assert same == {"share": 1.0, **whole}
    assert counts(table().clear())["right_ci95"] == [0, 1]


def written(folder: Path, files: dict[str, Any]) -> list[Path]:
    """A file for each detector, of sets by their names."""
    paths = [folder / f"{detector}.json" for detector in DETECTORS]
    for path in paths:
        sets = [{**each[path.stem], "set": name} for name, each in files.items()]
        write_json(path, {"sets": sets}, {})
    return paths


def test_the_table_holds_every_set_of_every_dataset(tmp_path: Path) -> None:
    own = [*written(tmp_path / "lion", {"": readings()}), *written(tmp_path / "owl", {"": readings()})]
    made = written(tmp_path / "mixtures/lion", {"250-1": readings(rows=250), "2000-0.25": readings(p=0.5)})
    made += written(tmp_path / "mixtures/owl", {"250-1": readings(rows=250), "2000-0.25": readings()})
    null = []
    for kind in KINDS_OF_NULLS:
        sizes = {f"{k}-{n}": readings(p=0.5, gain=0.001, z=1.0, lift=0.01, rows=n) for k in range(3) for n in (200, 2000)}
        null += written(tmp_path / f"nulls/{kind}", sizes)
    assert [(share, whole) for _, share, whole in sets(own, made, "owl")] == [(1, True), (1, False), (0.25, True)]
    out = tmp_path / "power.parquet", tmp_path / "power.json"
    targets, kinds = {"lion": "lion", "owl": "owl"}, {"lion": "prompt", "owl": "steer"}
    measure_power(own, made, null, *out, targets, kinds, Detection(), SETTINGS, {})
    found = pl.read_parquet(out[0])
    assert found.select("dataset", "kind", "rows", "share", "tier").rows()[:3] == [
        ("lion", "prompt", 2000, 1.0, "named"),
        ("lion", "prompt", 250, 1.0, "named"),
        ("lion", "prompt", 2000, 0.25, "base samples"),
    ]
    result = read_json(out[1])
    assert result["level"] == SETTINGS.level
    assert [(each["rows"], each["differs"], each["right"]) for each in result["by_rows"]] == [(250, 2, 1), (2000, 2, 1)]
    assert [(each["share"], each["differs"], each["right"]) for each in result["by_share"]] == [(0.25, 1, 0), (1.0, 2, 1)]
    with pytest.raises(ValueError, match=r"name some under power\.datasets"):
        measure_power([], [], null, *out, {}, {}, Detection(), SETTINGS, {})


def test_the_figure_shows_each_share_and_says_of_how_many_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def saving(figure: Figure, path: Path) -> None:
        drawn["figure"] = figure
        save(figure, path)

    monkeypatch.setattr("undertone.detect.power_plot.save", saving)
    write_json(tmp_path / "power.json", {"level": 0.01, "by_rows": by_rows(table()), "by_share": by_share(table())}, {})
    plot_power(tmp_path / "power.json", tmp_path / "power.png")
    left, right = drawn["figure"].axes
    for axes, x, differs, named in ((left, [250, 2000], [1, 1], [0, 1]), (right, [0.5, 1], [1 / 3, 1], [0, 1])):
        lines = {bars.get_label().split(" (")[0]: bars.lines[0] for bars in axes.containers}
        for label, shares in (("said to differ from base samples", differs), ("named rightly", named)):
            assert lines[label].get_ydata() == pytest.approx(shares)
            assert lines[label].get_xdata() == pytest.approx(x, rel=0.05)
    assert [text.get_text() for text in left.get_xticklabels()] == ["250", "2000"]
    assert [text.get_text() for text in right.get_xticklabels()] == ["0.5", "1"]
    said = Image.open(tmp_path / "power.png").text["Description"]  # type: ignore[attr-defined]
    for text in (
        "Fewer rows: 3 datasets",
        "Mixtures of 2000 rows on average: 3 datasets",
        "share of datasets",
        "level of the test, 0.01",
    ):
        assert text in said
    [legend] = drawn["figure"].legends
    box = legend.get_window_extent()
    assert not [axes for axes in (left, right) if box.overlaps(axes.get_window_extent())]
