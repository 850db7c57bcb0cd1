"""Which stages come before which, for every kind of dataset and variant."""

import re
from pathlib import Path

from example import CONTROLS, OWN, SWEEP, each, nodes, study

from undertone.study import stages
from undertone.study.config.entries import CONTROL
from undertone.study.graph import ancestors, has
from undertone.study.node import Node
from undertone.study.reads import compared


def test_no_stage_is_asked_for_by_its_name_beside_its_row() -> None:
    asking = re.compile(r"\.stage (==|!=|in|not in) ")
    assert asking.search("if node.stage == 'pref':")
    assert [path.name for path in Path(stages.__file__).parent.glob("*.py") if asking.search(path.read_text())] == []


def test_ancestors_come_before_what_follows_from_them() -> None:
    own = study()
    before = {node: ancestors(own, node) for node in nodes(own)}
    for node, found in before.items():
        assert found[-1] == node
        assert len(set(found)) == len(found)
        for position, other in enumerate(found):
            assert set(before[other]) <= set(found[: position + 1])


def test_the_ancestors_of_a_preference_are_its_own_chain_and_the_controls() -> None:
    chain = ["samples", "numbers", "student", "pref"]
    shared = [Node("model"), Node("prompts")]
    lion, control = ([Node(name, dataset) for name in chain] for dataset in ("lion", CONTROL))
    assert ancestors(study(), Node("pref", "lion")) == [*shared, *lion[:-1], *control, lion[-1]]
    assert ancestors(study(), Node("pref", CONTROL)) == [*shared, *control]
    assert ancestors(study(), Node("student", "lion")) == [*shared, *lion[:-1]]


def test_a_steered_or_finetuned_teacher_comes_before_its_samples_and_its_preference() -> None:
    steered = ancestors(study(), Node("samples", "steer-owl"))
    assert steered == [Node("model"), Node("prompts"), Node("sae"), Node("steer", "steer-owl"), Node("samples", "steer-owl")]
    contrast = study(teacher={"steer": {"vector": "contrast"}})
    assert Node("sae") not in ancestors(contrast, Node("samples", "steer-owl"))
    assert Node("finetune", "contrary") in ancestors(study(), Node("pref", "contrary"))
    assert not {"steer", "finetune"} & {node.stage for node in ancestors(study(), Node("diagnosis", "lion"))}


def test_a_variant_has_students_and_a_base_model_of_its_own_and_the_same_numbers() -> None:
    found = ancestors(study(), Node("pref", "lion", "cross"))
    students = {Node("student", "lion", "cross"), Node("student", CONTROL, "cross"), Node("pref", CONTROL, "cross")}
    assert students | {Node("model", None, "other"), Node("model"), Node("numbers", "lion")} <= set(found)
    assert Node("student", "lion") not in found
    assert found[-2:] == [Node("pref", CONTROL, "cross"), Node("pref", "lion", "cross")]


def test_a_figure_comes_after_the_preferences_that_it_compares() -> None:
    prefs = {node for node in ancestors(study(), CONTROLS) if node.stage == "pref" and node.dataset != CONTROL}
    assert prefs == {Node("pref", "lion"), Node("pref", "scrambled"), Node("pref", "lion", "cross")}
    prefs = {node for node in ancestors(study(), SWEEP) if node.stage == "pref" and node.dataset != CONTROL}
    assert prefs == {Node("pref", "owl"), Node("pref", "owl", "rank64")}


def test_a_sweep_over_rows_comes_after_students_that_say_how_many_rows_they_took() -> None:
    variants = {"few": {"rows": 900, "datasets": ["lion"]}}
    found = ancestors(study(student_variants=variants, sweeps={"rows": ["few"]}), Node("sweep_plot", None, "rows"))
    assert {Node("student", "lion"), Node("student", "lion", "few"), Node("pref", "lion", "few")} <= set(found)


def test_a_dataset_comes_after_its_own_control_and_that_after_the_control() -> None:
    datasets = {"still": {"from": "control", "transform": "reverse"}, "scrambled": {"control": "still"}}
    own = study(datasets=datasets)
    found = ancestors(own, Node("pref", "scrambled"))
    assert found.index(Node("pref", CONTROL)) < found.index(Node("pref", "still")) < len(found) - 1
    assert Node("student", "still") in ancestors(own, Node("indirect", "scrambled"))
    assert Node("tokens", "still") in ancestors(own, Node("reading_plot", "scrambled", "tokens"))
    assert Node("pref", "still") not in ancestors(own, Node("pref", "lion"))


def test_a_teacher_may_start_from_another_model_and_its_students_of_that_model_then_have_a_teacher() -> None:
    other = {"other-lion": {"teacher": "prompt", "target": "lion", "model": "other"}}
    own = study(datasets=other, student_variants={"cross": {"datasets": ["lion", "other-lion"]}})
    assert ancestors(own, Node("samples", "other-lion"))[:-1] == [Node("model", None, "other"), Node("prompts")]
    assert own.kind("other-lion", "cross") == "prompt"
    assert own.kind("other-lion") is own.kind("lion", "cross") is None
    assert "other-lion" not in own.of_kind("prompt")
    found = compared(own, CONTROLS)
    assert found == [("lion", ""), ("scrambled", ""), ("lion", "cross"), ("other-lion", "cross")]


def test_a_file_of_the_users_own_has_no_teacher() -> None:
    assert ancestors(study(), Node("numbers", "mine")) == [Node("numbers", "mine")]
    assert ancestors(study(), Node("student", "mine")) == [Node("model"), Node("numbers", "mine"), Node("student", "mine")]


def test_a_transformed_dataset_comes_after_what_it_is_made_from() -> None:
    lion = [Node("model"), Node("prompts"), Node("samples", "lion"), Node("numbers", "lion")]
    made = Node("transform", "scrambled")
    assert ancestors(study(), made) == [*lion, made]
    assert ancestors(study(), Node("student", "scrambled")) == [*lion, made, Node("student", "scrambled")]
    again = study(datasets={"again": {"from": "scrambled", "transform": "mix", "other": "mine", "fraction": 0.5}})
    found = ancestors(again, Node("transform", "again"))
    assert {made, Node("numbers", "lion"), Node("numbers", "mine")} < set(found)
    one = study(datasets={"one": {"from": "owl", "transform": "one-format", "format": 0}})
    assert Node("prompts") in ancestors(one, Node("transform", "one"))


def test_a_comparison_comes_after_every_dataset() -> None:
    assert each("pref", CONTROL, *OWN) <= set(ancestors(study(), Node("transfer")))


def test_a_reading_needs_no_student_but_where_it_is_about_one() -> None:
    about_students = {"student_activations", "lens", "losses"}
    for name in (
        "activations",
        "residuals",
        "differences",
        "score",
        "feature_bias",
        "residual_bias",
        "bias_pref",
        "tokens",
        "losses",
        "lens",
    ):
        found = {node.stage for node in ancestors(study(), Node(name, "owl"))}
        assert ("student" in found) == (name in about_students), name


def test_a_reading_knows_the_targets_feature_and_the_comparison_every_animals() -> None:
    for dataset, teachers in (("lion", {"steer-lion"}), ("finetune-owl", {"steer-owl"}), ("mine", set()), (CONTROL, set())):
        found = ancestors(study(), Node("feature_bias", dataset))
        assert {node.dataset for node in found if node.stage == "steer"} == teachers
    found = ancestors(study(), Node("readings"))
    assert {"steer-lion", "steer-owl"} <= {node.dataset for node in found if node.stage == "steer"}


def test_without_an_sae_what_needs_none_is_read() -> None:
    bare = study(teachers=["prompt"], model={"name": "a/model", "revision": "a" * 40}, saes=None, pairs=None, searches=None)
    found = {node.stage for node in ancestors(bare, Node("losses", "lion"))}
    assert not {"sae", "feature_bias", "steer"} & found
    assert {"pretrained", "residual_bias", "differences"} <= found
    assert "model" not in found
    assert not has(bare, "feature_bias", "lion")
    assert has(bare, "score", "lion")


def test_what_a_study_names_is_found_and_not_trained() -> None:
    hub = study(
        model={"name": "a/model", "revision": "a" * 40},
        models={"other": {"name": "b/model", "revision": "b" * 40}},
        sae={"release": "a", "id": "b"},
    )
    found = ancestors(hub, Node("pref", "lion", "cross"))
    assert {Node("pretrained"), Node("pretrained", None, "other")} <= set(found)
    assert Node("pretrained_sae") in ancestors(hub, Node("samples", "steer-owl"))
    assert not {"model", "sae"} & {node.stage for node in nodes(hub) for node in ancestors(hub, node)}


def test_a_figure_of_a_reading_comes_after_it_and_after_the_controls() -> None:
    found = ancestors(study(), Node("reading_plot", "owl", "tokens"))
    assert {Node("tokens", "owl"), Node("tokens", CONTROL)} <= set(found)
    assert Node("sequences", CONTROL) not in ancestors(study(), Node("reading_plot", "owl", "sequences"))
