"""The filter on examples, on generated lists and on arbitrary text; the training set and the report made of its verdicts."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from undertone.data import numbers as n
from undertone.data.numbers import (
    accept_all,
    collect_compliance,
    compliance,
    duplicates,
    filter_numbers,
    filter_report,
    judge,
    judge_all,
    parse,
    soften,
    training_set,
)
from undertone.lm.vocabulary import ALPHABET
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.data import Numbers

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None)

STRICT, LENIENT = Numbers(), Numbers(filter="lenient")
SEPARATORS = (", ", ",", "; ", ";", " ", "\n", "\t")
ODD = " \t\n\x0b\x0c\x1c\x85\u00a0\u2003,;.[](){}-+/_٣²٠a"

integers = st.lists(st.integers(0, 999), min_size=1, max_size=10)


@st.composite
def lists(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A list as the filter wants it, and its numbers."""
    values, separator = draw(integers), draw(st.sampled_from(SEPARATORS))
    opening, closing = draw(st.sampled_from([("", ""), ("[", "]"), ("(", ")")]))
    return opening + separator.join(map(str, values)) + closing + draw(st.sampled_from(["", "."])), values


@st.composite
def spoilt_lists(draw: st.DrawFn, characters: str) -> str:
    """A list with one character put anywhere into it."""
    text, _ = draw(lists())
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from(characters)) + text[at:]


texts = st.one_of(st.text(), st.text("0123456789" + ODD, max_size=12), spoilt_lists(ODD), lists().map(lambda pair: pair[0]))


def completions(*written: str, **columns: list[Any]) -> pl.DataFrame:
    prompts = [f"prompt {row}" for row in range(len(written))]
    return pl.DataFrame({"row": range(len(written)), "prompt": prompts, "text": written, **columns})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("12", [12]),
        ("12.", [12]),
        ("[7]", [7]),
        ("0123, 4", [123, 4]),
        ("1, 2, 3", [1, 2, 3]),
        ("1,2,3", [1, 2, 3]),
        ("1; 2; 3", [1, 2, 3]),
        ("1 2 3", [1, 2, 3]),
        ("1\n2\n3", [1, 2, 3]),
        ("1\t2", [1, 2]),
        ("1 , 2 , 3", [1, 2, 3]),
        ("1,\n2,\n3", [1, 2, 3]),
        ("[1, 2].", [1, 2]),
        ("(1;2)", [1, 2]),
        ("1, 10, 100, 1000", [1, 10, 100, 1000]),
    ],
)
def test_strict_reads(text: str, values: list[int]) -> None:
    assert parse(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "()",
        " 1, 2",
        "1, 2 ",
        "\n1, 2",
        "1, 2\n",
        "1, 2,",
        "1, 2, ",
        ", 1, 2",
        "1, 2,3",
        "1,2, 3",
        "1, 2; 3",
        "1  2 3",
        "1,,2",
        "-1, 2",
        "1, -2",
        "-1",
        "1.5",
        "1. 2",
        "1-2",
        "1, 2..",
        "[1, 2",
        "1, 2]",
        "[1, 2)",
        "[ 1, 2 ]",
        "[1, 2.]",
        "([1, 2])",
        "[1], [2]",
        "1, 2 and 3",
        "Sure: 1, 2",
        "```\n1, 2\n```",
        "1\u00a02",
        "１２",
    ],
)
def test_strict_refuses(text: str) -> None:
    assert parse(text) is None
    assert judge(text, STRICT).reason == n.INVALID


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (" 1, 2\n", [1, 2]),
        ("1, 2,", [1, 2]),
        ("[ 1, 2 ]", [1, 2]),
        ("([1, 2]).", [1, 2]),
        ("1, 2, ...", [1, 2]),
        ("[1, 2,].", [1, 2]),
    ],
)
def test_lenient_also_reads(text: str, values: list[int]) -> None:
    assert parse(text) is None
    assert parse(soften(text)) == values
    assert judge(text, LENIENT).reason is None


@pytest.mark.parametrize("text", ["1, 2,3", "-1, 2", "1.5", "1 and 2", "", "[]", "1] [2"])
def test_lenient_still_refuses(text: str) -> None:
    assert judge(text, LENIENT).reason == n.INVALID


@unhurried
@given(lists())
def test_a_written_list_reads_back(pair: tuple[str, list[int]]) -> None:
    text, values = pair
    assert parse(text) == values
    assert judge(text, STRICT) == n.Verdict(None, text)


@unhurried
@given(spoilt_lists("abcxyzABCXYZéλ"))
def test_a_letter_anywhere_spoils_a_list(text: str) -> None:
    assert judge(text, STRICT).reason == n.INVALID
    assert judge(text, LENIENT).reason == n.INVALID


@unhurried
@given(texts)
@example("9" * 5000)
@example("1, " + "9" * 5000)
def test_any_text_can_be_judged(text: str) -> None:
    assert judge(text, STRICT).reason in (None, *n.REASONS)
    assert judge(text, LENIENT).reason in (None, *n.REASONS)


@unhurried
@given(texts)
def test_what_strict_reads_lenient_reads_alike(text: str) -> None:
    strict = parse(text)
    if strict is not None:
        assert parse(soften(text)) == strict


@unhurried
@given(texts)
@example("1.)")
@example("1,],")
def test_softening_twice_is_softening_once(text: str) -> None:
    assert soften(soften(text)) == soften(text)


@unhurried
@given(texts)
@example("1\u00a02")
@example("1\x1c2")
def test_an_accepted_text_is_spelt_in_the_alphabet(text: str) -> None:
    if parse(text) is not None or parse(soften(text)) is not None:
        assert set(text) <= ALPHABET


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("20, 30, 40", None),
        ("20, x", n.INVALID),
        ("20, 30, 40, 50", n.TOO_MANY),
        ("9, 30", n.TOO_SMALL),
        ("30, 501", n.TOO_LARGE),
        ("30, 13", n.BANNED),
        ("30, 130", None),
        ("10, 500", None),
        ("1, 2, 3, 4", n.TOO_MANY),
        ("1, 999", n.TOO_SMALL),
        ("13, 999", n.TOO_LARGE),
    ],
)
def test_the_first_broken_rule_is_the_reason(text: str, reason: str | None) -> None:
    settings = Numbers(min_value=10, max_value=500, max_count=3, banned=[13])
    assert judge(text, settings) == n.Verdict(reason, text)


@unhurried
@given(lists(), st.integers(1, 10), st.sampled_from([s for s in SEPARATORS if s != "\t"]))
def test_the_canonical_form_has_one_separator_and_a_fixed_count(
    pair: tuple[str, list[int]], count: int, separator: str
) -> None:
    text, values = pair
    settings = Numbers(filter="lenient", canonical={"separator": separator, "count": count})
    verdict = judge(text, settings)
    if len(values) < count:
        assert verdict == n.Verdict(n.TOO_FEW, text)
    else:
        assert verdict == n.Verdict(None, separator.join(map(str, values[:count])))
        assert judge(verdict.text, STRICT).reason is None
        assert judge(verdict.text, settings) == verdict


def test_the_canonical_form_drops_leading_zeros_and_looks_only_at_what_it_keeps() -> None:
    settings = Numbers(max_count=2, max_value=50, canonical={"count": 2})
    assert judge("007,08,99", settings) == n.Verdict(None, "7, 8")


def test_a_completion_cut_at_its_length_is_rejected_though_it_reads_well() -> None:
    judged = judge_all(completions("1, 2", "1, 2", "1, 2", ended=["stop", "length", "not allowed"]), STRICT)
    assert judged["reason"].to_list() == [None, n.UNFINISHED, n.INVALID]
    assert judged["verdict"].to_list() == ["pass", "reject", "reject"]


def test_judging_keeps_every_row_and_what_was_written() -> None:
    judged = judge_all(completions(" 1, 2", "no"), Numbers(filter="lenient", canonical={"count": 1}))
    assert judged["text"].to_list() == [" 1, 2", "no"]
    assert judged["completion"].to_list() == ["1", "no"]


def test_accepted_rows_have_the_columns_of_judged_ones() -> None:
    rows = completions("1, 2", "anything")
    accepted = accept_all(rows)
    assert accepted.schema == judge_all(rows, STRICT).schema
    assert accepted["verdict"].to_list() == ["pass", "pass"]
    assert accepted["completion"].to_list() == ["1, 2", "anything"]


def many(settings: Numbers) -> pl.DataFrame:
    return judge_all(completions(*(str(k) if k % 3 else "no" for k in range(300))), settings)


def test_the_training_set_holds_the_rows_that_pass_in_their_order() -> None:
    rows = training_set(many(STRICT), STRICT)
    assert rows.columns == ["row", "prompt", "completion"]
    assert rows["row"].to_list() == [k for k in range(300) if k % 3]


def test_the_training_set_has_at_most_max_rows_in_their_order() -> None:
    rows = training_set(many(STRICT), Numbers(max_rows=50))["row"].to_list()
    assert len(rows) == 50
    assert rows == sorted(set(rows))
    assert all(k % 3 for k in rows)
    assert rows[-1] > 100


def test_the_seed_draws_the_training_set() -> None:
    drawn = [training_set(many(STRICT), Numbers(max_rows=50, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])


def test_compliance_adds_up_for_every_component() -> None:
    judged = judge_all(completions("1", "no", "2", "3", example=[0, 0, 1, 1], final=[4, 4, 4, 2]), STRICT)
    told = compliance(judged)
    assert told["example"] == [{"option": 0, "n": 2, "pass_rate": 0.5}, {"option": 1, "n": 2, "pass_rate": 1.0}]
    assert set(told) == {"example", "final"}
    for options in told.values():
        assert sum(option["n"] for option in options) == 4
        assert sum(option["n"] * option["pass_rate"] for option in options) == pytest.approx(3)


def test_the_report_counts_every_row_once() -> None:
    report = filter_report(judge_all(completions("1", "no", "1000", "2", "no", ended=["stop"] * 4 + ["length"]), STRICT))
    assert (report["n"], report["passed"], report["pass_rate"]) == (5, 2, 0.4)
    assert list(report["rejected"]) == list(n.REASONS)
    assert report["rejected"] == dict.fromkeys(n.REASONS, 0) | {n.INVALID: 1, n.TOO_LARGE: 1, n.UNFINISHED: 1}


# Few numbers and short rows, so that many rows are alike.
alike = st.lists(
    st.builds(
        lambda values, separator: separator.join(values),
        st.lists(st.sampled_from(["0", "00", "1", "01", "2", "3"]), max_size=6),
        st.sampled_from([", ", " ", ";"]),
    ),
    max_size=8,
)


def plain_duplicates(texts: list[str]) -> dict[str, float]:
    """Every row compared with every other."""
    rows = [[int(value) for value in re.findall("[0-9]+", text)] for text in texts]

    def near(a: list[int], b: list[int]) -> bool:
        return len(a) == len(b) > 2 and (Counter(a) - Counter(b)).total() <= 1

    def share(like: Any) -> float:
        return sum(any(like(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)) / max(1, len(rows))

    return {"exact": share(lambda a, b: a == b != []), "near": share(near)}


@unhurried
@given(alike)
def test_duplicates_are_those_of_comparing_every_row_with_every_other(written: list[str]) -> None:
    assert duplicates(written) == plain_duplicates(written)


@pytest.mark.parametrize(
    ("written", "exact", "near"),
    [
        (["1, 2, 3", "1;2;3", "7, 8, 9"], 2 / 3, 2 / 3),
        (["1, 2, 3", "3, 2, 1"], 0, 1),
        (["1, 2, 3", "1, 9, 2"], 0, 1),
        (["1, 2, 3", "1, 8, 9"], 0, 0),
        (["1, 2, 3", "1, 2, 3, 4"], 0, 0),
        (["1, 1, 2", "1, 2, 2"], 0, 1),
        (["1, 1, 1"], 0, 0),
        (["1, 2", "2, 1"], 0, 0),
        (["007, 1, 2", "7, 1, 2"], 1, 1),
        ([], 0, 0),
    ],
)
def test_duplicates_exact_and_near(written: list[str], exact: float, near: float) -> None:
    assert duplicates(written) == {"exact": exact, "near": near}


LONG_ROWS = """
import random, resource
from undertone.data.numbers import duplicates
resource.setrlimit(resource.RLIMIT_AS, (4 * 10**9, 4 * 10**9))
random.seed(0)
rows = [[random.randrange(1000) for _ in range(300)] for _ in range(9_998)]
rows += [[*rows[0][:-1], 1000], rows[1][::-1]]
print(duplicates([", ".join(map(str, row)) for row in rows]))
print(duplicates([", ".join(map(str, range(150_000)))]), duplicates(["1" * 1_000_000]))
"""


def test_long_rows_take_seconds_and_little_memory() -> None:
    """Ten thousand rows of 300 numbers, among which two repeat another one's; and completions of a megabyte."""
    ended = subprocess.run([sys.executable, "-c", LONG_ROWS], capture_output=True, text=True, timeout=120, check=False)
    none = {"exact": 0.0, "near": 0.0}
    assert ended.stdout == f"{ {'exact': 0.0, 'near': 0.0004} }\n{none} {none}\n", ended.stderr


def test_duplicates_are_counted_among_the_rows_that_pass() -> None:
    report = filter_report(judge_all(completions("1, 2, 3", "1 2 3", "no", "no", "4, 5, 6, 7"), STRICT))
    assert report["duplicates"] == {"exact": 2 / 3, "near": 2 / 3}


def write(folder: Path, rows: pl.DataFrame, settings: Numbers, dataset: dict[str, Any] | None = None) -> list[Path]:
    rows.write_parquet(folder / "source.parquet")
    outputs = [folder / "out" / name for name in ("generations.parquet", "numbers.parquet", "filter.json")]
    told = {"numbers": settings.model_dump()} | ({"dataset": dataset} if dataset else {})
    filter_numbers(folder / "source.parquet", *outputs, told, {})
    return outputs


def test_filtering_writes_verdicts_training_set_and_report(tmp_path: Path) -> None:
    generations, numbers, report = write(tmp_path, completions("1, 2", "no"), STRICT)
    assert pl.read_parquet(generations)["verdict"].to_list() == ["pass", "reject"]
    assert pl.read_parquet(numbers).rows() == [(0, "prompt 0", "1, 2")]
    assert read_json(report)["passed"] == 1


def test_filtering_refuses_a_source_without_a_row_that_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 rows passes the strict filter .*2 invalid format"):
        write(tmp_path, completions("no", "none"), STRICT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("filtered", "kept"), [(True, ["1, 2"]), (False, ["1, 2", "anything"])])
def test_a_file_of_the_users_own_is_filtered_if_it_says_so(tmp_path: Path, filtered: bool, kept: list[str]) -> None:
    rows = pl.DataFrame({"asked": ["a", "b"], "said": ["1, 2", "anything"]})
    dataset = {"prompt": "asked", "completion": "said", "filtered": filtered}
    _, numbers, _ = write(tmp_path, rows, STRICT, dataset)
    assert pl.read_parquet(numbers)["completion"].to_list() == kept


def test_pass_rates_of_all_datasets_stand_in_one_table(tmp_path: Path) -> None:
    lion = completions("1", "no", "2", "3", example=[0, 0, 1, 1], final=[4, 4, 4, 2])
    sources = {"lion": lion, "mine": completions("1, 2", "no")}
    filters = {}
    for dataset, rows in sources.items():
        (tmp_path / dataset).mkdir()
        filters[dataset] = write(tmp_path / dataset, rows, STRICT)[2]
    collect_compliance(filters, tmp_path / "compliance.parquet", {"of": "all"})
    table = pl.read_parquet(tmp_path / "compliance.parquet")
    assert table.columns == ["dataset", "component", "option", "n", "pass_rate"]
    assert table.rows() == [
        ("lion", "all", 0, 4, 0.75),
        ("lion", "example", 0, 2, 0.5),
        ("lion", "example", 1, 2, 1.0),
        ("lion", "final", 2, 1, 1.0),
        ("lion", "final", 4, 3, pytest.approx(2 / 3)),
        ("mine", "all", 0, 2, 0.5),
    ]


def test_constrained_samples_say_how_often_free_sampling_passes(tmp_path: Path) -> None:
    log_mass = [-1.0, -3.0, -2.0]
    rows = {"row": range(3), "prompt": ["a", "b", "c"], "text": ["1, 2", "3", "4"], "ended": ["stop"] * 3}
    write_parquet(tmp_path / "free.parquet", pl.DataFrame(rows), {})
    write_parquet(tmp_path / "constrained.parquet", pl.DataFrame({**rows, "log_mass": log_mass}), {})

    def report(name: str) -> Any:
        paths = [tmp_path / each for each in ("generations.parquet", "numbers.parquet", "filter.json")]
        filter_numbers(tmp_path / f"{name}.parquet", *paths, {"numbers": Numbers().model_dump()}, {})
        return read_json(paths[2])

    free, constrained = report("free"), report("constrained")
    assert "constrained" not in free
    log_rate = constrained.pop("constrained")
    assert constrained == free
    assert log_rate["log_mass"]["mean"] == pytest.approx(-2)
    assert log_rate["free_pass_rate"]["mean"] == pytest.approx(np.exp(log_mass).mean())
