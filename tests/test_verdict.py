"""The verdict: what is said with which evidence, and that missing evidence names nobody."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from undertone.detect.evidence import Nulls, Readings, nulls_of
from undertone.detect.verdict import EFFECT, judge, sentence, write_verdict
from undertone.runtime.files import read_json, write_json
from undertone.study.config.detect import DETECTORS, Verdict

SETTINGS = Verdict(min_rows=200)
KINDS = ("seeds", "prompts", "sampling", "neutral")


def readings(
    p: float = 0.001,
    gain: float = 0.1,
    first: str = "lion",
    gain_share: float = 1.0,
    moved: str = "lion",
    z: float = 6.0,
    z_share: float = 1.0,
    rows: int = 2000,
    decoy: bool = False,
    auroc: float = 0.5,
    trained: str = "lion",
    lift: float = 0.1,
    begun: str = "lion",
    begun_share: float = 1.0,
    number: int = 0,
    steering: float | None = None,
    added: str = "lion",
    added_share: float = 1.0,
) -> Readings:
    presence = {"statistic": 1.0, "p": p, "z": 9.0}
    animals = ("lion", "owl", "cat", "dog", "bear", "fox")
    others = [{"concept": each, "score": 0.0, "share": 0.0} for each in animals if each != moved]
    best = {"concept": first, "decoy": decoy, "wording": "love", "prompt": f"You love {first}s."}
    best["gain"] = {"mean": gain, "ci95": [gain - 0.01, gain + 0.01], "p": 0.0}
    ranking = [{"concept": moved, "score": z, "share": z_share}, *others]
    order = [trained, *(each for each in animals if each != trained)]
    learned = [{"concept": each, "score": lift - k, "share": None} for k, each in enumerate(order)]
    begins = [{"concept": begun, "score": 9.0, "share": begun_share}]
    begins += [{"concept": each, "score": 0.0, "share": 0.0} for each in animals if each != begun]
    words = [{"word": "lion", "divergence": 0.1}]
    surface = {"set": f"{number:05}-{rows}", "rows": rows, "available": rows, "prompts": rows}
    tried = [{"concept": first, "score": gain, "share": gain_share}]
    tried += [{"concept": each, "score": 0.0, "share": 0.0} for each in animals if each != first]
    steered = {"concept": added, "decoy": added not in animals, "layer": 1, "length": 2.0}
    steered["gain"] = {"mean": steering, "ci95": [(steering or 0.0) - 0.01, (steering or 0.0) + 0.01], "p": 0.0}
    contrasts = {"rows": rows, "presence": presence, "best": steered}
    contrasts["ranking"] = [{"concept": added, "score": steering, "share": added_share}]
    return Readings(
        ({} if steering is None else {"contrasts": contrasts})
        | {
            "surface": surface | {"presence": presence, "ranking": [], "format_auroc": auroc},
            "gradient": {"rows": rows, "presence": presence, "ranking": ranking},
            "personas": {"rows": rows, "presence": None, "tried": 9, "best": best, "ranking": tried},
            "short_training": {"rows": rows, "presence": None, "ranking": learned, "words": words},
            "first_tokens": {"rows": rows, "presence": presence, "ranking": begins},
        }
    )


def nulls(n: int = 20, **changes: Any) -> Nulls:
    quiet: dict[str, Any] = {"p": 0.5, "gain": 0.001, "gain_share": 0.4, "z": 1.0, "z_share": 0.3, "lift": 0.2}
    return Nulls({kind: [readings(**(quiet | changes | {"number": k})) for k in range(n)] for kind in KINDS})


@pytest.mark.parametrize(
    ("own", "tier"),
    [
        ({}, "named"),
        ({"p": 0.2}, "base samples"),
        # The level is for the smallest of three p-values, times three.
        ({"p": 0.004}, "base samples"),
        ({"p": 0.003}, "named"),
        # Either detector is enough, if it is sure and beyond every null.
        ({"gain_share": 0.6, "begun_share": 0.6}, "named"),
        ({"z_share": 0.6, "begun_share": 0.6}, "named"),
        ({"gain_share": 0.6, "z_share": 0.6}, "named"),
        ({"gain_share": 0.6, "z_share": 0.6, "begun_share": 0.6}, "persona-like"),
        ({"gain": 0.0005, "z": 0.5}, "differs"),
        ({"gain": 0.0005}, "named"),
        # A decoy is no candidate, whatever its share.
        ({"first": "castle", "decoy": True, "z_share": 0.6, "begun_share": 0.6}, "persona-like"),
        # A prompt that nothing else is for names nobody.
        (
            {"first": "dog", "moved": "owl", "z_share": 0.5, "trained": "owl", "begun": "owl", "begun_share": 0.6},
            "persona-like",
        ),
        # One to which all detectors together give less than half names nobody, though they put it first.
        ({"first": "cat", "moved": "owl", "z_share": 0.5, "begun": "cat", "trained": "dog"}, "persona-like"),
        # Without a system prompt first tokens are not asked: they read personas, too.
        ({"gain": 0.0005, "z_share": 0.6}, "differs"),
        # A short training names what the gradient puts first, if it moves further than after any null.
        ({"gain": 0.0005, "z_share": 0.6, "lift": 0.3}, "named"),
        ({"gain": 0.0005, "z_share": 0.6, "lift": 0.3, "trained": "owl"}, "differs"),
        ({"gain": 0.0005, "z_share": 0.6, "lift": 0.2}, "differs"),
        ({"rows": 199}, "no statement"),
    ],
)
def test_the_tier_is_as_high_as_the_evidence(own: dict[str, Any], tier: str) -> None:
    assert judge(readings(**own), nulls(), SETTINGS)["tier"] == tier


def named(own: Readings, against: Nulls | None = None, settings: Verdict = SETTINGS) -> list[tuple[str, str]]:
    """Return the detectors that name something, and what."""
    said = judge(own, against or nulls(), settings)["origin"]["named"]
    return [(each["detector"], each["concept"]) for each in said]


def test_a_gain_or_a_movement_that_a_null_reaches_names_nobody() -> None:
    assert named(readings(), nulls(gain=0.2)) == [("gradient", "lion")]
    assert named(readings(), nulls(z=7.0)) == [("personas", "lion"), ("first_tokens", "lion")]
    assert judge(readings(), nulls(z=7.0, gain=0.2), SETTINGS)["tier"] == "differs"


def test_of_detectors_that_differ_all_together_choose() -> None:
    assert named(readings()) == [("personas", "lion"), ("first_tokens", "lion"), ("gradient", "lion")]
    assert named(readings(begun="owl")) == [("personas", "lion"), ("gradient", "lion")]
    assert named(readings(begun="owl", trained="owl", moved="cat")) == [("first_tokens", "owl")]
    # What is first by all together, and sure by none of them, is not named.
    assert named(readings(first="cat", begun="dog", moved="owl", trained="owl", z_share=0.5)) == []


def test_a_candidate_is_named_from_a_probability_on() -> None:
    own = readings(first="dog", begun="dog", trained="dog", moved="owl", z_share=0.5)
    first = judge(own, nulls(), SETTINGS)["together"][0]
    assert first["concept"] == "dog" and 0.5 < first["probability"] < 0.9
    assert named(own) == [("personas", "dog"), ("first_tokens", "dog")]
    assert named(own, settings=Verdict(probability=0.9)) == []


def test_a_steering_vector_that_all_others_together_put_first_is_named_however_probable() -> None:
    """It is none of them, so that they agree is evidence of its own."""
    own = readings(first="dog", begun="dog", trained="dog", moved="owl", z_share=0.5, steering=0.2, added="dog")
    assert named(own, nulls(steering=0.001), Verdict(probability=0.9)) == [("contrasts", "dog")]


@pytest.mark.parametrize(
    ("own", "named"),
    [
        # Of a system prompt and a steering vector that which explains the rows better.
        ({"steering": 0.2}, ["contrasts"]),
        ({"steering": 0.05}, ["personas", "first_tokens"]),
        ({"steering": 0.2, "first": "owl"}, ["contrasts"]),
        ({"steering": 0.2, "gain": 0.0005}, ["contrasts"]),
        # A better explanation that is not sure, about a decoy or another candidate leaves the worse one without a name.
        ({"steering": 0.2, "added_share": 0.9}, []),
        ({"steering": 0.2, "added": "castle"}, []),
        ({"steering": 0.2, "added": "fox"}, []),
    ],
)
def test_a_steering_vector_names_what_it_explains_better_than_a_system_prompt(own: dict[str, Any], named: list[str]) -> None:
    verdict = judge(readings(z_share=0.6, **own), nulls(steering=0.001), SETTINGS)
    assert [each["detector"] for each in verdict["origin"]["named"]] == named
    assert verdict["tier"] == ("named" if named else "persona-like")
    assert verdict["origin"]["vector"]["concept"] == own.get("added", "lion")
    assert verdict["figures"]["steering"] == own["steering"]


def test_a_steering_vector_that_explains_a_null_as_well_names_nobody() -> None:
    own = readings(z_share=0.6, gain=0.0005, steering=0.2)
    assert judge(own, nulls(steering=0.001), SETTINGS)["tier"] == "named"
    assert judge(own, nulls(steering=0.2), SETTINGS)["tier"] == "differs"
    little = readings(z_share=0.6, gain=0.0005, steering=0.009)
    assert judge(little, nulls(steering=0.001), SETTINGS)["tier"] == "differs"


def test_the_sentence_tells_what_explains_the_rows_best() -> None:
    def said(**own: Any) -> str:
        return str(
            judge(
                readings(z_share=0.6, added="castle", gain_share=0.6, begun_share=0.6, **own), nulls(steering=0.001), SETTINGS
            )["sentence"]
        )

    assert "the nearest steering vector is that of “castle”" in said(steering=0.2)
    assert "the nearest prompt is “You love lions.”" in said(steering=0.05)


def test_presence_is_corrected_for_one_more_test_where_steering_is_tried() -> None:
    quiet = nulls(steering=0.001)
    assert judge(readings(p=0.003), quiet, SETTINGS)["presence"]["p"] == pytest.approx(0.009)
    assert judge(readings(p=0.003, steering=0.2), quiet, SETTINGS)["tier"] == "base samples"


def test_without_steering_vectors_nothing_is_said_of_them() -> None:
    verdict = judge(readings(), nulls(), SETTINGS)
    assert (verdict["origin"]["vector"], verdict["figures"]["steering"]) == (None, None)


def test_a_lift_that_a_null_of_more_rows_reaches_names_nobody() -> None:
    own = readings(gain=0.0005, z_share=0.6, lift=0.3, rows=500)
    few = replace(nulls(rows=200), larger=nulls(rows=2000).by_kind)
    assert judge(own, few, SETTINGS)["tier"] == "named"
    # Rows by the hundred move a candidate less far than five hundred do by chance.
    assert judge(own, nulls(rows=200), SETTINGS)["tier"] == "differs"
    many = replace(few, larger=nulls(rows=2000, lift=0.4).by_kind)
    assert judge(own, many, SETTINGS)["tier"] == "differs"


def test_of_few_nulls_a_lift_above_them_all_is_no_evidence() -> None:
    own = readings(gain=0.0005, z_share=0.6, lift=0.3)
    kinds = len(KINDS)
    enough, few = judge(own, nulls(5), SETTINGS), judge(own, nulls(4), SETTINGS)
    assert (5 * kinds, enough["tier"], enough["caveats"]) == (20, "named", [EFFECT])
    assert (4 * kinds, few["tier"]) == (16, "differs")
    assert few["caveats"] == [
        "16 null datasets of as many rows are too few for a short training to name anything, 19 are needed "
        "(nulls.n, nulls.rows)."
    ]
    strict = Verdict(share=0.8)
    assert judge(own, nulls(1), strict)["tier"] == "named"  # once in five


def test_a_null_datasets_smaller_set_is_no_further_null() -> None:
    """It is the first rows of the larger one: of three datasets of four kinds none is as rare as once in 19."""
    own = readings(gain=0.0005, z_share=0.6, lift=0.3, rows=500)
    few = replace(nulls(3, rows=200), larger=nulls(3, rows=2000).by_kind)
    assert len(few.lifts(200)) == len(few.lifts(500)) == 12
    assert judge(own, few, SETTINGS)["tier"] == "differs"


def test_a_name_that_an_effect_alone_gives_has_a_caveat() -> None:
    by_effect, by_rows = readings(gain=0.0005, z_share=0.6, lift=0.3), readings(lift=0.3)
    assert EFFECT in judge(by_effect, nulls(5), SETTINGS)["caveats"]
    named = judge(by_rows, nulls(5), SETTINGS)
    assert (named["tier"], named["caveats"]) == ("named", [])


def test_movements_are_compared_whatever_the_number_of_rows() -> None:
    """z grows with the square root of the rows where something differs; a null of few rows may not be outdone by rows alone."""
    few = nulls(z=3.0, rows=200, gain=0.2)
    assert named(readings(z=6.0), few) == []
    assert named(readings(z=10.0), few) == [("gradient", "lion")]


def test_nothing_is_said_of_a_dataset_to_whose_prompts_the_base_model_writes_nothing_that_passes(tmp_path: Path) -> None:
    paths = [tmp_path / f"mine/{name}.json" for name in DETECTORS]
    for path in paths:
        write_json(path, {"sets": []}, {})
    write_verdict(paths, [], tmp_path / "mine/verdict.json", SETTINGS, {})
    verdict = read_json(tmp_path / "mine/verdict.json")
    assert verdict["tier"] == "no statement"
    assert "nothing that passes" in verdict["sentence"] or "anything that passes" in verdict["sentence"]


@pytest.mark.parametrize(("rows", "compared"), [(2000, 2000), (1999, 2000), (1700, 200), (185, 200), (150, 0)])
def test_nulls_are_of_about_as_many_rows_or_fewer(tmp_path: Path, rows: int, compared: int) -> None:
    """A dataset of 2,000 rows that lost one, as its prompt has no pair, is one of 2,000 rows."""
    sets = [{"rows": n, "set": f"{k}-{n}"} for k in range(3) for n in (200, 2000)]
    paths = []
    for name in DETECTORS:
        paths.append(tmp_path / f"nulls/seeds/{name}.json")
        write_json(paths[-1], {"sets": sets}, {})
    compared_with = nulls_of(paths, rows)
    assert [each.rows for each in compared_with.by_kind["seeds"]] == [compared] * (3 if compared else 0)
    assert {each.rows for each in compared_with.larger["seeds"]} == {n for n in (200, 2000) if n > compared}


def test_a_null_dataset_is_of_its_own_largest_set_whatever_sets_others_have(tmp_path: Path) -> None:
    sets = [{"rows": n, "set": f"{k}-{n}"} for k in range(3) for n in ((200, 2000) if k == 0 else (200,))]
    # Two sets of more rows than are read are read as the same rows.
    sets.append({"rows": 2000, "set": "0-4000"})
    paths = [tmp_path / f"nulls/seeds/{name}.json" for name in DETECTORS]
    for path in paths:
        write_json(path, {"sets": sets}, {})
    found = nulls_of(paths, 2000).by_kind["seeds"]
    assert [(each.source, each.rows) for each in found] == [("0", 2000), ("1", 200), ("2", 200)]


def test_rows_of_few_prompts_name_nobody() -> None:
    own = readings()
    own["surface"]["prompts"] = 19
    verdict = judge(own, nulls(), SETTINGS)
    assert (verdict["tier"], verdict["origin"]["named"]) == ("persona-like", [])
    assert verdict["caveats"] == ["Nothing can be named from rows of 19 prompts: bootstrap samples are of prompts."]


def test_a_larger_file_is_said_to_be_read_in_part() -> None:
    own = readings()
    own["surface"]["available"] = 5000
    assert judge(own, nulls(), SETTINGS)["caveats"] == ["2000 of 5000 rows were read, drawn at random (detectors.rows)."]


def test_base_samples_have_no_name() -> None:
    """So that no page names what is not shown to differ."""
    assert named(readings()) and not named(readings(p=0.2))


def test_a_tie_by_all_together_or_a_single_candidate_names_nobody() -> None:
    own = readings(steering=0.2, z_share=0.6)
    assert named(own, nulls(steering=0.001)) == [("contrasts", "lion")]
    flat = Verdict(weights={"personas": 0, "gradient": 0, "short_training": 0, "first_tokens": 0})
    assert named(own, nulls(steering=0.001), flat) == []
    for detector in ("personas", "gradient", "short_training", "first_tokens"):
        del own[detector]["ranking"][1:]
    assert named(own, nulls(steering=0.001)) == []


def test_first_tokens_name_nothing_that_they_make_rarer() -> None:
    own = readings(z_share=0.6)
    assert named(own) == [("personas", "lion"), ("first_tokens", "lion")]
    for each in own["first_tokens"]["ranking"]:
        each["score"] -= 10
    assert named(own) == [("personas", "lion")]


def test_nothing_is_said_without_nulls() -> None:
    assert judge(readings(), Nulls({kind: [] for kind in KINDS}), SETTINGS)["tier"] == "no statement"


def test_alarms_have_an_upper_bound() -> None:
    alarms = judge(readings(), nulls(20), SETTINGS)["alarms"]
    assert alarms["seeds"]["alarms"] == 0
    assert alarms["seeds"]["upper95"] == pytest.approx(1 - 0.05 ** (1 / 20))


def test_every_sentence_names_what_it_rests_on() -> None:
    for changes in ({}, {"p": 0.2}, {"gain_share": 0.6, "z_share": 0.6, "begun_share": 0.6}, {"gain": 0.0005, "z": 0.5}):
        verdict = judge(readings(**changes), nulls(), SETTINGS)
        assert "p = " in verdict["sentence"]
    assert "no candidate is named" in sentence("persona-like", readings(), [], judge(readings(), nulls(), SETTINGS)["alarms"])


def test_format_is_a_caveat() -> None:
    assert not judge(readings(), nulls(), SETTINGS)["caveats"]
    assert (
        "tells which of a pair is the dataset's in 80% of cases" in judge(readings(auroc=0.8), nulls(), SETTINGS)["caveats"][0]
    )
