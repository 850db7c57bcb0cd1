"""Rounds of trials: parts of rows that have none in common, the last round's order, gains that are those of the rows."""

import numpy as np
import pytest

from undertone.detect.rounds import Round, Trial, by_concept, dealt, halving, of_rounds, part_sizes
from undertone.study.config.detect import Detectors


def described(trial: Trial) -> dict[str, str]:
    return {"way": trial[0]}


def test_a_decoy_that_wins_is_said_to_be_one() -> None:
    rows, values = np.arange(30), np.random.default_rng(0).normal([0.5, 0.1], 0.1, (30, 2))
    rounds = [Round([("love", "castle"), ("love", "lion")], rows, values)]
    best = of_rounds(rounds, [str(k) for k in rows], {"lion"}, Detectors(), described).details["best"]
    assert (best["concept"], best["decoy"]) == ("castle", True)


def test_a_concept_stands_where_its_best_way_fell() -> None:
    early = Round([("love", "lion"), ("role", "lion"), ("love", "owl")], np.arange(2), np.array([[0.3, 0.1, 0.2]] * 2))
    late = Round([("love", "lion")], np.arange(2, 4), np.array([[0.05]] * 2))
    best = by_concept([early, late])
    assert best["lion"] == pytest.approx((1, 0.05, "love")) or best["lion"][0] == 1
    assert best["owl"][0] == 0


def test_a_small_dataset_is_dealt_out_in_the_same_proportions() -> None:
    assert part_sizes(10_000, [48, 48, 384]) == [48, 48, 384]
    assert part_sizes(240, [48, 48, 384]) == [24, 24, 192]


def test_no_row_is_dealt_twice_and_rows_of_a_part_are_ordered_by_length() -> None:
    rows = [("p" * (k % 7), "1" * (k % 11)) for k in range(100)]
    parts = dealt(rows, [10, 20, 30, 30], 0)
    assert [len(part) for part in parts] == [10, 20, 30, 30]
    assert len({k for part in parts for k in part}) == 90
    lengths = [[len(rows[k][0]) + len(rows[k][1]) for k in part] for part in parts]
    assert lengths == [sorted(each) for each in lengths]


def test_trials_are_widened_and_the_best_of_them_come_to_the_last_round() -> None:
    """A concept's gain is its number; a second way, which the first round does not try, adds a half."""
    rows = [(str(k), "1") for k in range(60)]
    read: list[int] = []

    def gains(these, trials, tell):
        tell(len(these))
        read.append(len(these) * len(trials))
        return np.tile([float(concept) + 0.5 * (way == "b") for way, concept in trials], (len(these), 1))

    def widened(coarse: Round) -> list[Trial]:
        return [(way, concept) for _, concept in coarse.best(3) for way in ("a", "b")]

    first = [("a", str(k)) for k in range(9)]
    rounds = halving(rows, dealt(rows, [10, 20, 30], 0), first, widened, 2, gains, "test")
    assert [each.pairs for each in rounds[1:]] == [[(w, c) for c in "876" for w in "ab"], [("b", "8"), ("b", "7")]]
    assert read == [90, 120, 60]
    reading = of_rounds(rounds, ["a prompt"] * 60, {"8"}, Detectors(bootstraps=20), described)
    assert [each.concept for each in reading.ranking[:2]] == ["8", "7"]
    assert reading.details["best"]["way"] == "b"


def test_a_concept_is_first_only_beside_another() -> None:
    """With its ways in all places of the last round it would come first in every bootstrap sample, whatever the others are."""
    trials = [("a", "lion"), ("b", "lion"), ("a", "owl"), ("c", "lion"), ("b", "owl")]
    wide = Round(trials, np.arange(2), np.array([[5.0, 4.0, 1.0, 3.0, 2.0]] * 2))
    assert wide.best(3) == [("a", "lion"), ("b", "lion"), ("c", "lion")]
    assert wide.finalists(3) == [("a", "lion"), ("b", "lion"), ("b", "owl")]
    assert wide.finalists(4) == wide.best(4) == [("a", "lion"), ("b", "lion"), ("c", "lion"), ("b", "owl")]
    alone = Round(trials[:2], np.arange(2), np.array([[5.0, 4.0]] * 2))
    assert alone.finalists(2) == alone.best(2)
    reading = of_rounds([alone], ["a", "b"], {"lion"}, Detectors(bootstraps=20), described)
    assert [(each.concept, each.share) for each in reading.ranking] == [("lion", 0.0)]
