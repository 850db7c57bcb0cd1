"""What the page of features reads of other SAEs: nothing, wider ones, and the pairs that compare it with another."""

from typing import Any

import pytest
from example import CONFIG, study

from undertone.study.graph import ancestors, before
from undertone.study.node import Node
from undertone.study.page_reads import pairs_of, wider
from undertone.study.stamp import own_settings, stamp

ALWAYS = {"features", "sae_metrics", "neighbours", "map", "neurons", "specificity"}


def read(sae: str, **changes: Any) -> set[Node]:
    """What the page reads beside the SAE's own tables."""
    return set(before(study(**changes), Node("browser", None, sae))) - {Node(name, None, sae) for name in ALWAYS}


def test_a_page_reads_what_its_features_split_into_and_the_matches_of_its_pairs() -> None:
    matches = {Node("matches", None, name) for name in ("widths", "models")}
    assert read("") == {Node("splitting"), Node("features", None, "wide"), *matches}
    assert read("wide") == {Node("matches", None, "widths")}
    assert read("foreign") == {Node("matches", None, "models")}


def test_a_page_without_a_wider_sae_and_without_pairs_reads_its_own_tables_alone() -> None:
    assert read("", saes=None, pairs=None, searches=None) == set()
    layer = study().sae.layer + 1
    saes = {"wide": {"seed": 1, "d_sae": study().sae.d_sae}, "narrow": {"d_sae": 64}, "deep": {"layer": layer, "d_sae": 4096}}
    assert read("", saes=saes, pairs=None) == set()


def test_an_sae_is_wider_if_it_has_more_features_at_the_same_point_of_the_same_model() -> None:
    saes = {"seed1": {"seed": 1}, "wide": {"d_sae": 4096}, "foreign": {"model": "other", "d_sae": 4096}}
    saes |= {"out": {"point": "mlp_out", "d_sae": 4096}, "wider": {"d_sae": 8192}}
    made = study(saes=saes, pairs=None)
    assert {name: wider(made, name) for name in ["", *saes]} == {
        "": ["wide", "wider"],
        "seed1": ["wide", "wider"],
        "wide": ["wider"],
        "wider": [],
        "foreign": [],
        "out": [],
    }


def test_a_pair_of_an_sae_with_itself_has_no_other_and_either_side_knows_which_it_is() -> None:
    made = study(pairs={"same": {"a": "wide", "b": "wide"}})
    assert pairs_of(made, "") == {"widths": {"side": "a", "other": "wide"}, "models": {"side": "a", "other": "foreign"}}
    assert pairs_of(made, "wide") == {"widths": {"side": "b", "other": ""}}
    page = Node("browser", None, "foreign")
    assert own_settings(stamp(made, page), page)["pairs"] == {"models": {"side": "b", "other": ""}}


@pytest.mark.parametrize(
    ("edit", "stale"),
    [
        ({"matches": {"shifts": 9}}, {"", "wide", "foreign"}),
        ({"splitting": {"split": 0.8}}, {""}),
        ({"pairs": {**CONFIG["pairs"], "other": {"a": "wide", "b": "foreign"}}}, {"wide", "foreign"}),
        ({"similarity": {"k": 9}}, set()),
    ],
    ids=["matches", "splitting", "another pair", "what it does not show"],
)
def test_a_page_is_stale_when_what_it_shows_of_other_saes_is(edit: dict[str, Any], stale: set[str]) -> None:
    pages = [Node("browser", None, name) for name in ("", "wide", "foreign")]
    assert {page.variant for page in pages if stamp(study(), page) != stamp(study(**edit), page)} == stale


def test_the_laboratory_trains_no_model_or_sae_for_a_page_that_it_does_not_train_anyway() -> None:
    made = study()
    names = ["", *made.saes]

    def trained(stage: str) -> set[Node]:
        of = {each for name in names for each in ancestors(made, Node(stage, None, name))}
        return {each for each in of if each.stage in ("sae", "model", "rerandomized", "retokenized", "chats")}

    assert trained("browser") == trained("sae_metrics") | trained("features")
