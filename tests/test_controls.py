"""What controls leave of a lift, and whether two lifts differ."""

import pytest
from example import study

from undertone.compare.controls import compare_controls
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json
from undertone.stats.stats import contrast, difference_interval
from undertone.study.node import Node
from undertone.study.reads import compared
from undertone.study.scope import with_separate_halves

CONTROL, OTHER_CONTROL, SHUFFLED_CONTROL = [0.10, 0.12, 0.11], [0.20, 0.22, 0.25], [0.30, 0.33, 0.28]
# (dataset, variant): its control and the target's preference in its students and in the control's.
ROWS = {
    ("lion", ""): ("control", [0.40, 0.42, 0.47], CONTROL),
    ("lion-shuffled", ""): ("control-shuffled", [0.31, 0.35, 0.30], SHUFFLED_CONTROL),
    ("lion-reversed", ""): ("control", [0.20, 0.25, 0.22], CONTROL),
    ("lion", "cross"): ("control", [0.21, 0.20, 0.24], OTHER_CONTROL),
    ("other-lion", "cross"): ("other-control", [0.61, 0.63, 0.58], [0.19, 0.22, 0.21]),
}


@pytest.fixture
def compare(tmp_path):
    def make(rows, target="lion"):
        paths = []
        for k, (against, student, control) in enumerate(rows.values()):
            paths.append(tmp_path / f"{k}.json")
            seeds = {"student": {"lion": {"by_seed": student}}, "control": {"lion": {"by_seed": control}}}
            write_json(paths[-1], {"target": target, "against": against, "estimator": "exact", **seeds}, {})
        settings = {"compared": [list(pair) for pair in rows], "transforms": ["lion-shuffled", "lion-reversed"]}
        compare_controls(paths, settings, tmp_path / "controls.json", {"of": "all"})
        return read_json(tmp_path / "controls.json")

    return make


def test_a_transform_that_others_are_made_from_is_compared_once():
    """It stands beside its parent and, as a source, beside its own transforms; read twice it would be paired with itself."""
    reversed_ = {"from": "lion", "transform": "reverse", "target": "lion"}
    made = study(datasets={"mirrored": reversed_, "again": {"from": "mirrored", "transform": "reverse"}})
    pairs = compared(made, Node("controls"))
    assert len(set(pairs)) == len(pairs)
    assert {("lion", ""), ("mirrored", ""), ("again", "")} <= set(pairs)


def test_entangled_tokens_leave_out_datasets_with_a_control_of_their_own():
    taught = {"teacher": "prompt", "target": "lion", "control": "neutral"}
    made = study(datasets={"other-lion": taught, "neutral": {"teacher": "none"}})
    assert "lion" in with_separate_halves(made)
    assert "other-lion" not in with_separate_halves(made)


def test_each_dataset_is_over_its_own_control(compare):
    told = compare(ROWS)
    assert [(row["dataset"], row["variant"], row["transform"]) for row in told["lifts"]] == [
        (dataset, variant, "-" in dataset and not variant) for dataset, variant in ROWS
    ]
    for row, (against, student, control) in zip(told["lifts"], ROWS.values(), strict=True):
        expected = difference_interval(student, control)
        assert row["against"] == against
        assert row["lift_over_control"]["ci95"] == pytest.approx(list(expected.ci95))
        assert row["lift_over_control"]["p"] == pytest.approx(expected.p)
    # What is left of the shuffled numbers' rise is scrambling's own doing, which the plain control would not have shown.
    shuffled = told["lifts"][1]["lift_over_control"]
    assert shuffled["ci95"][0] < 0 < shuffled["ci95"][1]
    assert difference_interval(ROWS["lion-shuffled", ""][1], CONTROL).ci95[0] > 0.1


def test_lifts_that_differ_in_their_numbers_alone_are_compared(compare):
    told = compare(ROWS)
    pairs = [tuple((part["dataset"], part["variant"]) for part in row["of"]) for row in told["differences"]]
    assert pairs == [
        (("lion", ""), ("lion-shuffled", "")),
        (("lion", ""), ("lion-reversed", "")),
        (("lion-shuffled", ""), ("lion-reversed", "")),
        (("lion", "cross"), ("other-lion", "cross")),
    ]
    lion, shuffled, untouched_control = ROWS["lion", ""][1], ROWS["lion-shuffled", ""][1], CONTROL
    expected = contrast([(1, lion), (-1, untouched_control), (-1, shuffled), (1, SHUFFLED_CONTROL)])
    assert told["differences"][0]["difference"]["mean"] == pytest.approx(expected.mean)
    assert told["differences"][0]["difference"]["p"] == pytest.approx(expected.p)


def test_a_shared_control_cancels_out(compare):
    found = compare(ROWS)["differences"][1]["difference"]
    expected = difference_interval(ROWS["lion", ""][1], ROWS["lion-reversed", ""][1])
    assert found["ci95"] == pytest.approx(list(expected.ci95))


def test_lifts_and_differences_are_corrected_for_each_other(compare):
    told = compare(ROWS)
    for rows, key in ((told["lifts"], "lift_over_control"), (told["differences"], "difference")):
        least = min((row[key] for row in rows), key=lambda estimate: estimate["p"])
        assert least["p_holm"] == pytest.approx(len(rows) * least["p"])


def test_single_seeds_have_no_test(compare):
    told = compare({pair: (against, own[:1], control[:1]) for pair, (against, own, control) in ROWS.items()})
    assert {row["lift_over_control"]["p_holm"] for row in told["lifts"]} == {None}
    assert {row["difference"]["ci95"] for row in told["differences"]} == {None}


def test_without_a_target_there_is_nothing_to_compare(compare):
    with pytest.raises(ConfigError, match="no dataset with a target has a transform or students of a variant"):
        compare(ROWS, None)
