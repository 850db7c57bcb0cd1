"""Transforms: what each keeps and what it changes, on arbitrary training sets."""

import json
import re
from collections import Counter
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.data.transform import INTEGER, SCRAMBLES, put, transform_numbers, transformed
from undertone.runtime.files import write_parquet
from undertone.study.config.entries import TRANSFORMS, Transformed

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None)

PARAMETERS = {"position": 1, "fraction": 0.5, "other": "owl", "rows": 2, "format": 1, "score": "gradient", "keep": "top"}
FORMATS = ["{}", "[{}]", "({}).", " {}\n"]
REARRANGED = ["shuffle-within", "keep-position", "reverse", "swap-neighbours"]

completions = st.lists(
    st.builds(
        lambda values, separator, form: form.format(separator.join(values)),
        st.lists(st.integers(0, 999).map(str) | st.just("007"), min_size=1, max_size=10),
        st.sampled_from([", ", " ", ";", "\n"]),
        st.sampled_from(FORMATS),
    ),
    min_size=1,
    max_size=12,
)


def told(name: str, **given_: Any) -> Transformed:
    own = {key: PARAMETERS[key] for key in TRANSFORMS[name]}
    return Transformed.model_validate({"from": "lion", "transform": name, **own, **given_})


def table(texts: list[str]) -> pl.DataFrame:
    rows = {"row": list(range(0, 3 * len(texts), 3)), "prompt": [f"prompt {i}" for i in range(len(texts))], "completion": texts}
    return pl.DataFrame(rows, schema={"row": pl.Int64, "prompt": pl.String, "completion": pl.String})


def integers(rows: pl.DataFrame) -> list[list[str]]:
    return [INTEGER.findall(text) for text in rows["completion"]]


def write(path: Any, rows: pl.DataFrame) -> Any:
    write_parquet(path, rows, {})
    return path


def frame(text: str) -> str:
    """What is left of a text without its integers."""
    return re.sub("[0-9]+", "_", text)


@unhurried
@given(completions, st.sampled_from(sorted(SCRAMBLES)), st.integers(0, 5))
def test_a_scramble_keeps_rows_prompts_formats_and_counts(texts: list[str], name: str, seed: int) -> None:
    before = table(texts)
    after = transformed(before, told(name, seed=seed))
    assert after.columns == before.columns
    assert after.select("row", "prompt").equals(before.select("row", "prompt"))
    assert [frame(text) for text in after["completion"]] == [frame(text) for text in texts]
    assert {value for row in integers(after) for value in row} <= {value for row in integers(before) for value in row}


@unhurried
@given(completions, st.sampled_from(REARRANGED), st.integers(0, 5))
def test_what_rearranges_a_row_keeps_its_numbers(texts: list[str], name: str, seed: int) -> None:
    after = integers(transformed(table(texts), told(name, seed=seed)))
    assert [Counter(row) for row in after] == [Counter(row) for row in integers(table(texts))]


@unhurried
@given(completions, st.integers(0, 5))
def test_shuffling_across_rows_keeps_the_datasets_numbers(texts: list[str], seed: int) -> None:
    after = integers(transformed(table(texts), told("shuffle-across", seed=seed)))
    assert Counter(v for row in after for v in row) == Counter(v for row in integers(table(texts)) for v in row)


@unhurried
@given(completions, st.integers(0, 9), st.integers(0, 5))
def test_the_kept_position_is_kept(texts: list[str], position: int, seed: int) -> None:
    before = integers(table(texts))
    after = integers(transformed(table(texts), told("keep-position", position=position, seed=seed)))
    assert [row[position : position + 1] for row in after] == [row[position : position + 1] for row in before]


def test_shuffles_really_shuffle() -> None:
    rows = table([", ".join(map(str, range(10 * k, 10 * k + 10))) for k in range(40)])
    before = integers(rows)
    within, across, kept = (
        integers(transformed(rows, told(name))) for name in ("shuffle-within", "shuffle-across", "keep-position")
    )
    assert all(a != b for a, b in zip(within, before, strict=True))
    assert np.mean([set(a) == set(b) for a, b in zip(across, before, strict=True)]) < 0.1
    # A random order of the other nine leaves one in nine in place.
    stays = np.mean(
        [a == b for x, y in zip(kept, before, strict=True) for i, (a, b) in enumerate(zip(x, y, strict=True)) if i != 1]
    )
    assert 0.05 < stays < 0.18


@unhurried
@given(completions)
def test_reversing_and_swapping_twice_changes_nothing(texts: list[str]) -> None:
    for name in ("reverse", "swap-neighbours"):
        once = transformed(table(texts), told(name))
        assert transformed(once, told(name)).equals(table(texts))


def test_neighbours_are_swapped_in_pairs() -> None:
    assert transformed(table(["[1, 2, 3, 4, 5]"]), told("swap-neighbours"))["completion"].to_list() == ["[2, 1, 4, 3, 5]"]


@unhurried
@given(completions, st.floats(0.01, 1.0), st.integers(0, 5))
def test_no_more_than_the_fraction_is_replaced(texts: list[str], fraction: float, seed: int) -> None:
    before = [value for row in integers(table(texts)) for value in row]
    replaced = transformed(table(texts), told("replace", fraction=fraction, seed=seed))
    after = [value for row in integers(replaced) for value in row]
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= round(fraction * len(before))


def test_replacing_is_uniform_and_resampling_follows_the_frequencies() -> None:
    rows = table([", ".join(["1"] * 9 + ["2"])] * 400)
    replaced, resampled = (
        np.mean([value == "2" for row in integers(transformed(rows, settings)) for value in row])
        for settings in (told("replace", fraction=1.0), told("resample"))
    )
    assert replaced == pytest.approx(0.5, abs=0.04)
    assert resampled == pytest.approx(0.1, abs=0.02)


@unhurried
@given(completions)
def test_the_canonical_form_keeps_the_numbers_and_one_separator(texts: list[str]) -> None:
    after = transformed(table(texts), told("canonical"))
    assert integers(after) == integers(table(texts))
    assert all(set(frame(text)) <= set("_, ") for text in after["completion"])


def test_a_larger_subset_holds_the_smaller() -> None:
    rows = table([str(i) for i in range(50)])
    small, large = (transformed(rows, told("subset", rows=n)) for n in (10, 20))
    assert (len(small), len(large)) == (10, 20)
    assert set(small["row"]) <= set(large["row"])
    assert small["row"].is_sorted()
    assert small.join(rows, on=rows.columns, how="anti").is_empty()


def test_too_large_a_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="subset of 9 rows of a training set of 2"):
        transformed(table(["1", "2"]), told("subset", rows=9))


def test_a_mix_has_as_many_rows_of_each_as_told() -> None:
    own, other = table(["1"] * 40), table(["2"] * 30)
    mixed = transformed(own, told("mix", fraction=0.25), other)
    assert Counter(mixed["completion"]) == {"1": 30, "2": 10}
    with pytest.raises(ValueError, match="40 rows to mix in, and the other training set has 30"):
        transformed(own, told("mix", fraction=1.0), other)


def test_one_format_keeps_the_rows_of_that_format() -> None:
    rows = table(["1", "2", "3"])
    prompts = pl.DataFrame({"row": [0, 3, 6, 9], "format": [1, 0, 1, 1]})
    assert transformed(rows, told("one-format", format=1), prompts=prompts)["row"].to_list() == [0, 6]


@unhurried
@given(completions, st.lists(st.integers(0, 15)))
def test_matching_keeps_the_rows_whose_prompts_the_other_has_and_changes_nothing_else(
    texts: list[str], kept: list[int]
) -> None:
    rows, prompts = table(texts), [f"prompt {i}" for i in kept]
    other = pl.DataFrame(
        {"row": range(len(kept)), "prompt": prompts, "completion": [f"other {i}" for i in kept]},
        schema=rows.schema,
    )
    after = transformed(rows, told("match"), other)
    assert after.rows() == [row for row in rows.rows() if row[1] in prompts]
    assert after.schema == rows.schema


def test_a_file_is_matched_by_its_prompts_and_not_by_its_line_numbers() -> None:
    mine = ["mine A", "mine B", "study prompt 3", "mine C"]
    own = table(["1", "2", "3", "4"]).with_columns(row=pl.int_range(4, dtype=pl.Int64), prompt=pl.Series(mine))
    control = table(["5", "6", "7"]).with_columns(
        row=pl.Series([0, 1, 3]), prompt=pl.Series([f"study prompt {i}" for i in (0, 1, 3)])
    )
    assert transformed(own, told("match"), control).rows() == [(2, "study prompt 3", "3")]
    assert transformed(control, told("match"), own).rows() == [(3, "study prompt 3", "7")]


def test_a_match_is_written_with_its_report(tmp_path: Any) -> None:
    source, other = (
        write(tmp_path / "lion.parquet", table(["1", "2, 2", "3"])),
        write(tmp_path / "owl.parquet", table(["4", "5"])),
    )
    settings = Transformed.model_validate({"from": "lion", "transform": "match", "other": "owl", "seed": 0})
    transform_numbers(source, other, None, None, tmp_path / "numbers.parquet", tmp_path / "report.json", settings, {})
    assert pl.read_parquet(tmp_path / "numbers.parquet").equals(table(["1", "2, 2"]))
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["transform"], report["rows_before"], report["rows"]) == ("match", 3, 2)
    assert (report["numbers"], report["moved"]) == (3, None)


def test_a_match_with_no_prompt_in_common_writes_nothing(tmp_path: Any) -> None:
    source, other = write(tmp_path / "lion.parquet", table(["1"])), write(tmp_path / "owl.parquet", table(["4", "5"])[1:])
    settings = Transformed.model_validate({"from": "lion", "transform": "match", "other": "owl", "seed": 0})
    with pytest.raises(ValueError, match="none of the 1 rows is left by match"):
        transform_numbers(source, other, None, None, tmp_path / "numbers.parquet", tmp_path / "report.json", settings, {})
    assert not (tmp_path / "numbers.parquet").exists()


def test_a_seed_draws_the_transform() -> None:
    rows = table(["1, 2, 3, 4, 5, 6"] * 20)
    for name in ("shuffle-within", "shuffle-across", "keep-position", "replace", "resample", "subset"):
        first, again, other = (transformed(rows, told(name, seed=seed)) for seed in (1, 1, 2))
        assert first.equals(again)
        assert not first.equals(other)


def test_put_writes_values_into_a_text() -> None:
    assert put("[1,  22]\n333.", ["7", "8", "9"]) == "[7,  8]\n9."


def test_a_transform_is_written_with_its_report(tmp_path: Any) -> None:
    source = write(tmp_path / "lion.parquet", table(["1, 2, 3", "4"]))
    settings = Transformed.model_validate({"from": "lion", "transform": "reverse", "seed": 0})
    transform_numbers(source, None, None, None, tmp_path / "numbers.parquet", tmp_path / "report.json", settings, {"of": "it"})
    assert pl.read_parquet(tmp_path / "numbers.parquet")["completion"].to_list() == ["3, 2, 1", "4"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["rows_before"], report["rows"], report["numbers"], report["moved"]) == (2, 2, 4, 0.5)
    assert report["stamp"] == {"of": "it"}


def test_of_a_mix_nothing_is_said_to_have_moved(tmp_path: Any) -> None:
    """Another dataset's rows may have the numbers of this one's, as all rows of a constrained study pass."""
    own, other = table(["1, 2", "3, 4, 5"]), table(["6", "7, 8"])
    files = [write(tmp_path / f"{name}.parquet", rows) for name, rows in (("own", own), ("other", other))]
    out = tmp_path / "numbers.parquet", tmp_path / "transform.json"
    transform_numbers(files[0], files[1], None, None, *out, told("mix", fraction=1.0), {})
    report = json.loads(out[1].read_text())
    assert (report["rows"], report["numbers"], report["moved"]) == (2, 3, None)


def test_a_transform_that_leaves_no_row_writes_nothing(tmp_path: Any) -> None:
    source = write(tmp_path / "lion.parquet", table(["1"]))
    prompts = write(tmp_path / "prompts.parquet", pl.DataFrame({"row": [0], "format": [0]}))
    settings = Transformed.model_validate({"from": "lion", "transform": "one-format", "format": 3, "seed": 0})
    with pytest.raises(ValueError, match="none of the 1 rows is left by one-format"):
        transform_numbers(source, None, prompts, None, tmp_path / "numbers.parquet", tmp_path / "report.json", settings, {})
    assert not (tmp_path / "numbers.parquet").exists()


@pytest.mark.parametrize(("keep", "expected"), [("top", ["2", "4"]), ("bottom", ["1", "3"])])
def test_selecting_keeps_rows_of_the_highest_or_lowest_score_in_their_order(keep: str, expected: list[str]) -> None:
    rows = table(["1", "2", "3", "4"])
    scores = rows.with_columns(gradient=pl.Series([0.0, 3.0, 1.0, 2.0]), difficulty=pl.Series([9.0, 0.0, 0.0, 0.0]))
    selected = transformed(rows, told("select", keep=keep), scores=scores)
    assert selected["completion"].to_list() == expected


def test_of_equal_scores_the_first_rows_are_selected() -> None:
    rows = table(["1", "2", "3", "4"])
    scores = rows.with_columns(gradient=pl.lit(1.0))
    for keep in ("top", "bottom"):
        assert transformed(rows, told("select", keep=keep), scores=scores)["completion"].to_list() == ["1", "2"]


def test_without_leaves_out_rows_of_the_other_dataset_whatever_their_number() -> None:
    rows = table(["1", "2", "3"])
    other = rows[[1]].with_columns(row=pl.lit(77, pl.Int64))
    assert transformed(rows, told("without"), other)["completion"].to_list() == ["1", "3"]
    mixed = transformed(rows, told("mix", fraction=0.34), other)
    assert len(mixed) == 3
    assert "2" not in transformed(mixed, told("without"), other)["completion"].to_list()
