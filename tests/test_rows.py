"""Which rows of a dataset who sees."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertone.data.rows import Split, drawn, every_second, first, halves, pairs
from undertone.stats.stats import difference_interval

unhurried = settings(deadline=None)


def table(n: int) -> pl.DataFrame:
    texts = {"prompt": [f"p{k}" for k in range(n)], "completion": [f"c{k}" for k in range(n)]}
    return pl.DataFrame({"row": range(0, 2 * n, 2), **texts})


def generations(*verdicts: str) -> pl.DataFrame:
    return table(len(verdicts)).with_columns(verdict=pl.Series(verdicts))


def texts(*numbers: int) -> list[tuple[str, str]]:
    return [(f"p{k}", f"c{k}") for k in numbers]


SOME = generations("pass", "pass", "reject", "pass", "pass", "pass")


def test_unseen_are_rows_that_pass_and_that_no_student_saw() -> None:
    split = Split.of(SOME[[1, 4]], SOME)
    assert pairs(split.unseen(3, 50)) == texts(0, 3, 5)
    assert pairs(split.unseen(2, 50)) == texts(0, 3)
    assert pairs(split.passed) == texts(0, 1, 3, 4, 5)


def test_unseen_are_rows_whose_prompts_no_control_student_saw() -> None:
    control = pl.DataFrame({"row": [90, 91], "prompt": ["p3", "p4"], "completion": ["1", "2"]})
    split = Split.of(SOME[[1]], SOME, control)
    assert pairs(split.unseen(2, 50)) == texts(0, 5)
    assert split.unseen(3, 50) is None


def test_too_few_rows_are_not_read_as_unseen() -> None:
    passed = generations("pass", "reject", "pass", "pass")
    assert Split.of(passed[[0, 2, 3]], passed).unseen(3, 50) is None
    assert Split.of(passed[[0]], passed).unseen(3, 50) is None
    assert pairs(Split.of(passed[[0]], passed).unseen(2, 50)) == texts(2, 3)
    assert Split.of(passed).unseen(1, 50) is None


def test_as_many_rows_as_the_settings_say_are_enough() -> None:
    passed = generations(*["pass"] * 120)
    assert len(Split.of(passed[:70], passed).unseen(100, 50)) == len(Split.of(passed[:71], passed).unseen(100, 49)) + 1 == 50
    assert Split.of(passed[:71], passed).unseen(100, 50) is None


def test_biases_see_three_quarters_of_the_training_set_in_an_order_that_stays() -> None:
    split = Split.of(table(1000), held_out=0.25)
    assert sorted([*split.biases["row"], *split.held_out["row"]]) == table(1000)["row"].to_list()
    assert len(split.held_out) == 250
    assert pairs(Split.of(table(8), held_out=0.25).biases) == texts(*EIGHT[:6])
    assert pairs(Split.of(table(8), held_out=0.25).held_out) == texts(*EIGHT[6:])


# The order of eight rows, as the biases of the published results saw them.
EIGHT = [6, 0, 4, 7, 1, 5, 3, 2]


def test_draws_of_biases_are_slices_of_that_order() -> None:
    split = Split.of(table(8), held_out=0.25)
    assert [pairs(draw) for draw in split.of_biases(0.25, 3)] == [texts(*EIGHT[k : k + 2]) for k in (0, 2, 4)]
    assert [pairs(draw) for draw in split.of_biases(0.25, 2)] == [texts(*EIGHT[k : k + 2]) for k in (0, 2)]


def test_intervals_over_draws_keep_their_level_where_nothing_is_hidden() -> None:
    """Means of noise over the draws of two datasets: as many intervals lie above 0 as independent draws would give."""
    rng, above = np.random.default_rng(0), []
    draws = [draw["row"].to_numpy() // 2 for draw in Split.of(table(400), held_out=0.25).of_biases(0.25, 3)]
    for _ in range(2000):
        own, control = rng.normal(size=(2, 400))
        interval = difference_interval(*([side[rows].mean() for rows in draws] for side in (own, control))).ci95
        above.append(interval is not None and interval[0] > 0)
    assert np.mean(above) < 0.035


def test_a_split_of_no_rows_is_empty() -> None:
    split = Split.of(table(0), SOME)
    assert [len(part) for part in (split.students, split.biases, split.held_out)] == [0, 0, 0]
    assert pairs(split.left_over) == pairs(split.passed) == texts(0, 1, 3, 4, 5)


def test_the_first_rows_are_those_that_were_asked_for_or_all() -> None:
    assert pairs(first(table(5), 2)) == texts(0, 1)
    assert first(table(5), None).equals(first(table(5), 9)) and len(first(table(5), 9)) == 5
    with pytest.raises(ValueError, match="the training set holds no row"):
        first(table(0), 2)


@unhurried
@given(st.integers(1, 60), st.data())
def test_a_larger_draw_of_rows_holds_the_smaller_ones_in_their_order(n: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(1, n))
    many = data.draw(st.integers(few, n))
    rows, seed = table(n), data.draw(st.integers(0, 5))
    smaller, larger = drawn(rows, few, seed), drawn(rows, many, seed)
    assert (len(smaller), len(larger)) == (few, many)
    assert set(smaller["row"]) <= set(larger["row"])
    assert larger.equals(rows.filter(pl.col("row").is_in(larger["row"].to_list())))


def test_a_seed_draws_the_rows() -> None:
    rows = table(60)
    assert drawn(rows, 20, 1).equals(drawn(rows, 20, 1))
    assert not drawn(rows, 20, 1).equals(drawn(rows, 20, 2))
    assert drawn(rows, 60, 1).equals(rows)
    assert drawn(rows, None, 1).equals(rows)


def test_a_prompts_rows_are_in_one_half_of_every_dataset() -> None:
    rows = pl.DataFrame({"prompt": [f"prompt {k % 40}" for k in range(80)], "completion": ["1"] * 80})
    one, other = halves(rows)
    assert not set(one["prompt"]) & set(other["prompt"])
    assert len(one) + len(other) == 80
    assert len(one) > 20 < len(other)
    assert set(halves(rows.head(30).reverse())[0]["prompt"]) <= set(one["prompt"])


def test_every_second_row_and_the_others() -> None:
    assert [pairs(part) for part in every_second(table(5))] == [texts(0, 2, 4), texts(1, 3)]
