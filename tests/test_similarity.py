"""Similarities of matches whose features hold concepts of one kind, beside as many other matches."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import ortho_group

from undertone.pairs.similarity import LEAST, by_kind, kinds_of, matched
from undertone.stats.partners import unit
from undertone.study.config.pair_settings import Similarity

N, D, OWN = 90, 8, 40
SETTINGS = Similarity(permutations=39)


def test_features_of_one_kind_that_agree_are_told_from_as_many_others() -> None:
    rng = np.random.default_rng(0)
    a, b = (unit(rng.standard_normal((N, D))) for _ in "ab")
    # The first features of a match those of b in reverse order, turned; the others match at random.
    partners = rng.permutation(N)
    b[partners[:OWN]] = a[:OWN] @ ortho_group.rvs(D, random_state=1)
    one = pl.DataFrame({"a": np.arange(N), "b": partners})
    kinds = dict.fromkeys(range(OWN), "animals") | dict.fromkeys(range(OWN, OWN + LEAST - 1), "signs")
    found = by_kind(one, (a, b), kinds, SETTINGS)
    assert list(found) == ["animals", "signs"]
    assert found["animals"]["pairs"] == OWN
    for name in ("cka", "rsa", "knn", "procrustes"):
        assert found["animals"]["measures"][name]["value"] == pytest.approx(1)
        assert found["animals"]["measures"][name]["p"] == found["animals"]["random"][name]["p"] == 1 / 40
        assert found["animals"]["random"][name]["null_mean"] < 0.9
    # Too few to span a space.
    assert found["signs"] == {"pairs": LEAST - 1, "measures": None, "random": None}


def test_a_feature_is_of_the_kind_of_its_concept() -> None:
    features = pl.DataFrame({"unit": [3, 5, 8], "concept": ["lion", "colon", "question"]})
    assert kinds_of(features, {"lion": "animals", "colon": "signs", "owl": "animals"}) == {3: "animals", 5: "signs"}


def test_trivial_matches_and_other_ways_are_left_out() -> None:
    table = pl.DataFrame({"a": [0, 1, 2], "trivial": [None, "rare", None], "way": ["one", "one", "best_a"]})
    assert matched(table, "one")["a"].to_list() == [0]
