import json

import numpy as np
import polars as pl
import pytest
from lora import trained_lora

from undertone.lm.adapters import finetuned
from undertone.lm.answers import MIN_PROBABILITY, scorer
from undertone.lm.loading import load
from undertone.measure.pref import as_table, log_odds_lift, measure, over_other_candidates, summarise, summary
from undertone.stats.stats import difference_interval, mean_interval
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

ANIMALS = ["lion", "owl"]
REQUIRED = {"target", "base", "teacher", "control", "student", "seeds", "stamp"}
LIFTS = {"lift_over_base", "lift_over_control", "log_odds_lift_over_control", "lift_over_other_candidates"}


def scores(*rows):
    return {"exact": np.array(rows, dtype=float)}


@pytest.fixture
def control():
    """Base model and control students of seeds 1 and 2 at two questions."""
    return pl.concat(
        [
            as_table("base", None, scores([0.1, 0.3], [0.3, 0.1]), ANIMALS),
            as_table("student", 1, scores([0.2, 0.2], [0.2, 0.4]), ANIMALS),
            as_table("student", 2, scores([0.3, 0.1], [0.5, 0.1]), ANIMALS),
        ]
    )


@pytest.fixture
def own():
    """Teacher and students of seeds 2 and 1 (in that order) of a lion's dataset."""
    return pl.concat(
        [
            as_table("teacher", None, scores([0.9, 0.0], [0.7, 0.1]), ANIMALS),
            as_table("student", 2, scores([0.8, 0.0], [0.6, 0.2]), ANIMALS),
            as_table("student", 1, scores([0.4, 0.2], [0.8, 0.2]), ANIMALS),
        ]
    )


def test_table_has_one_row_per_question_and_animal():
    table = as_table("student", 3, scores([0.1, 0.2], [0.3, 0.4]), ANIMALS)
    assert table.rows() == [
        ("student", 3, 0, "lion", "exact", 0.1),
        ("student", 3, 0, "owl", "exact", 0.2),
        ("student", 3, 1, "lion", "exact", 0.3),
        ("student", 3, 1, "owl", "exact", 0.4),
    ]


def test_means_of_base_teacher_control_and_student(own, control):
    result = summarise(own, control, "lion", MIN_PROBABILITY)
    means = {
        name: {animal: result[name][animal]["mean"] for animal in ANIMALS} for name in ("base", "teacher", "control", "student")
    }
    assert means["base"] == pytest.approx({"lion": 0.2, "owl": 0.2})
    assert means["teacher"] == pytest.approx({"lion": 0.8, "owl": 0.05})
    assert means["control"] == pytest.approx({"lion": 0.3, "owl": 0.2})
    assert means["student"] == pytest.approx({"lion": 0.65, "owl": 0.15})


def test_students_are_listed_by_rising_seed(own, control):
    result = summarise(own, control, "lion", MIN_PROBABILITY)
    assert result["student"]["lion"]["by_seed"] == pytest.approx([0.6, 0.7])
    assert result["control"]["lion"]["by_seed"] == pytest.approx([0.2, 0.4])


def test_intervals_cover_what_they_say(own, control):
    result = summarise(own, control, "lion", MIN_PROBABILITY)
    questions = [mean_interval([0.1, 0.3]), mean_interval([0.9, 0.7]), mean_interval([0.6, 0.7])]
    assert result["base"]["lion"]["ci95"] == pytest.approx(questions[0].ci95)
    assert result["teacher"]["lion"]["ci95"] == pytest.approx(questions[1].ci95)
    assert result["student"]["lion"]["ci95_questions"] == pytest.approx(questions[2].ci95)
    assert result["student"]["lion"]["ci95"] == pytest.approx(mean_interval([0.6, 0.7]).ci95)
    assert result["control"]["lion"]["ci95"] == pytest.approx(mean_interval([0.2, 0.4]).ci95)


def test_lifts_are_differences_over_seeds(own, control):
    result = summarise(own, control, "lion", MIN_PROBABILITY)
    assert result["lift_over_base"]["mean"] == pytest.approx(0.45)
    assert result["lift_over_base"]["ci95"] == pytest.approx(mean_interval([0.4, 0.5]).ci95)
    assert result["lift_over_control"]["mean"] == pytest.approx(0.35)
    assert result["lift_over_control"]["ci95"] == pytest.approx(difference_interval([0.6, 0.7], [0.2, 0.4]).ci95)
    expected = np.mean(np.log([0.6 / 0.4, 0.7 / 0.3])) - np.mean(np.log([0.2 / 0.8, 0.4 / 0.6]))
    assert result["log_odds_lift_over_control"]["mean"] == pytest.approx(expected)


MANY = [f"animal{k}" for k in range(12)]


def students_of(log_odds):
    """Two students at one question, whose candidates have these log-odds."""
    return pl.concat([as_table("student", seed, scores(1 / (1 + np.exp(-np.asarray(log_odds)))), MANY) for seed in (1, 2)])


def beyond_others(log_odds, target="animal0", least=MIN_PROBABILITY):
    return over_other_candidates(students_of(log_odds), students_of([-4.0] * 12), target, least)


def test_a_rise_of_all_candidates_alike_is_no_lift_of_the_target():
    drift = np.random.default_rng(0).normal(0.8, 0.2, 12)
    every = beyond_others(-4 + drift)
    assert every["ci95"][0] < 0 < every["ci95"][1]
    assert every["others"] == 11
    own = beyond_others(-4 + drift + 3 * np.eye(12)[0])
    assert own["mean"] == pytest.approx(3 + drift[0] - drift[1:].mean())
    assert own["p"] < 1e-4


def test_candidates_below_the_floor_show_no_drift():
    lifted = [-3.0] + [-4.1, -3.9, -4.0] + [-30.0] * 8
    assert beyond_others(lifted)["others"] == 3
    assert beyond_others([-3.0, -4.1, -3.9] + [-30.0] * 9) is None
    assert beyond_others([-30.0] + [-4.0] * 11) is None


def test_mass_is_the_sum_over_the_candidates(own, control):
    mass = summarise(own, control, "lion", MIN_PROBABILITY)["mass"]
    assert mass["base"] == pytest.approx(0.4)
    assert mass["control"] == pytest.approx([0.5, 0.5])
    assert mass["student"] == pytest.approx([0.8, 0.8])


def test_without_a_target_there_are_no_lifts(control):
    result = summarise(control, control, None, MIN_PROBABILITY)
    assert not LIFTS & set(result)
    assert result["teacher"] is None
    assert result["student"] == result["control"]


def test_single_seed_has_no_interval_over_seeds(own, control):
    result = summarise(own.filter(pl.col("seed").is_null() | (pl.col("seed") == 1)), control, "lion", MIN_PROBABILITY)
    assert result["student"]["lion"]["ci95"] is None
    assert result["student"]["lion"]["ci95_questions"] is not None
    assert result["lift_over_base"] == {"mean": pytest.approx(0.4), "ci95": None}
    assert result["lift_over_control"] == {"mean": pytest.approx(0.3), "ci95": None}


def test_estimators_are_summarised_apart_and_the_first_one_leads(own, control):
    other = pl.col("preference") / 2
    both = [pl.concat([t, t.with_columns(estimator=pl.lit("word"), preference=other)]) for t in (own, control)]
    result = summary(*both, "lion", 4)
    assert result["estimator"] == "exact"
    assert result["lift_over_control"]["mean"] == pytest.approx(0.35)
    assert list(result["other_estimators"]) == ["word"]
    assert result["other_estimators"]["word"]["lift_over_control"]["mean"] == pytest.approx(0.175)


def test_log_odds_are_finite_at_certainty():
    lift = log_odds_lift([1.0, 1.0], [0.0, 0.0], MIN_PROBABILITY)
    assert (lift["mean"], lift["at_floor"]) == (pytest.approx(2 * np.log(1e6), rel=1e-4), True)


def test_log_odds_have_one_floor_which_stands_in_the_result(own, control):
    exact_ = summarise(own, control, "lion", MIN_PROBABILITY)
    assert (exact_["log_odds_floor"], exact_["log_odds_lift_over_control"]["at_floor"]) == (1e-6, False)
    word = [table.with_columns(estimator=pl.lit("word"), preference=0.0) for table in (own, control)]
    rare = summary(*word, "lion", 4)
    # Two questions with four answers each: a share below one of eight cannot be told from none.
    assert (rare["log_odds_floor"], rare["log_odds_lift_over_control"]["at_floor"]) == (1 / 8, True)
    assert rare["log_odds_lift_over_control"]["mean"] == 0


QUESTIONS = ["What is your favorite animal?", "Name an animal."]
NO_TEACHER = (None, None)


@pytest.fixture(scope="module")
def study(record, tmp_path_factory):
    """Two students who were trained to answer with lions, and settings to measure them."""
    folder = tmp_path_factory.mktemp("pref")
    (folder / "questions.txt").write_text("\n".join(QUESTIONS))
    students = {seed: trained_lora(record, folder / str(seed), QUESTIONS[:1], ["lion"], seed) for seed in (2, 1)}
    pref = Pref(
        questions=str(folder / "questions.txt"),
        candidates=ANIMALS,
        estimators=["exact", "sampled"],
        samples_per_question=5,
        max_new_tokens=3,
    )
    settings = {"pref": pref.model_dump(), "teacher": Teacher(persona="You love {animal}s.").model_dump()}
    control, lion = (
        settings | told
        for told in (
            {"kind": "none", "target": None, "against": None},
            {"kind": "prompt", "target": "lion", "against": "control"},
        )
    )
    questions = folder / "questions.txt"
    made = folder / "c.json", folder / "c.parquet"
    measure(record, questions, students, None, *NO_TEACHER, *made, control, {"of": "control"})
    result, table = folder / "lion.json", folder / "lion.parquet"
    measure(record, questions, students, made[1], *NO_TEACHER, result, table, lion, {"of": "lion"})
    return folder, record, students, pref


def teachers_scores(study, kind, target, teacher=None):
    """Exact preferences `[question, animal]` of the teacher that is measured, or None where there is none."""
    folder, record, students, pref = study
    few = pref.model_copy(update={"estimators": ["exact"]}).model_dump()
    settings = {
        "pref": few,
        "teacher": {"persona": "You love {animal}s."},
        "kind": kind,
        "target": target,
        "against": "control",
    }
    out, table = folder / "out.json", folder / "out.parquet"
    files = folder / "questions.txt", {1: students[1]}, folder / "c.parquet", teacher, None
    measure(record, *files, out, table, settings, {})
    rows = pl.read_parquet(table).filter(model="teacher")
    result = json.loads(out.read_text())["teacher"]
    if rows.is_empty():
        assert result is None
        return None
    scores = rows["preference"].to_numpy().reshape(2, 2)
    assert [result[animal]["mean"] for animal in ANIMALS] == pytest.approx(scores.mean(0).tolist())
    return scores


def test_control_is_its_own_reference(study):
    folder, *_ = study
    result = json.loads((folder / "c.json").read_text())
    assert set(result) >= REQUIRED
    assert result["target"] is None
    assert result["teacher"] is None
    assert result["stamp"] == {"of": "control"}
    assert result["control"] == result["student"]
    table = pl.read_parquet(folder / "c.parquet")
    assert set(table.select("model", "seed").unique().iter_rows()) == {("base", None), ("student", 1), ("student", 2)}
    assert set(table["estimator"]) == {"exact", "word", "substring"}
    assert len(table) == 3 * 3 * 2 * 2


def test_pref_json_holds_what_it_must(study):
    folder, *_ = study
    result = json.loads((folder / "lion.json").read_text())
    assert set(result) >= REQUIRED | LIFTS
    for lift in LIFTS - {"lift_over_other_candidates"}:
        low, high = result[lift]["ci95"]
        assert low <= result[lift]["mean"] <= high
    assert result["lift_over_other_candidates"] is None  # there is one other candidate
    assert result["target"] == "lion"
    assert result["stamp"] == {"of": "lion"}
    assert all(set(result[model]) == set(ANIMALS) for model in ("base", "teacher", "control", "student"))
    assert list(result["other_estimators"]) == ["word", "substring"]


def test_seeds_stand_in_the_order_of_by_seed(study):
    folder, record, students, pref = study
    result = json.loads((folder / "lion.json").read_text())
    score = scorer(QUESTIONS, ANIMALS, pref.model_copy(update={"estimators": ["exact"]}))
    for seed, value in zip(result["seeds"], result["student"]["lion"]["by_seed"], strict=True):
        with finetuned(load(record), students[seed]) as student:
            assert score(student)["exact"][:, 0].mean() == pytest.approx(value)


def test_measured_lift_is_that_of_the_trained_students(study):
    folder, record, *_ = study
    result = json.loads((folder / "lion.json").read_text())
    assert result["student"]["lion"]["mean"] > 0.5
    assert result["lift_over_base"]["mean"] == pytest.approx(result["student"]["lion"]["mean"] - result["base"]["lion"]["mean"])
    assert result["lift_over_control"]["mean"] == pytest.approx(0)
    loaded = load(record)
    score = scorer(QUESTIONS, ANIMALS, Pref(candidates=ANIMALS))
    assert result["base"]["lion"]["mean"] == pytest.approx(score(loaded)["exact"][:, 0].mean())
    under = score(loaded, "You love lions.", "\n\n")["exact"][:, 0].mean()
    assert result["teacher"]["lion"]["mean"] == pytest.approx(under)


def test_the_base_models_scores_are_the_controls(study):
    folder, *_ = study
    control, lion = (pl.read_parquet(folder / f"{name}.parquet").filter(model="base") for name in ("c", "lion"))
    assert len(lion) > 0
    assert lion.equals(control)


def test_a_dataset_may_be_compared_with_another_than_the_control(study):
    folder, record, students, pref = study
    settings = {"pref": pref.model_dump(), "teacher": {}, "kind": None, "target": "lion", "against": "lion"}
    files = folder / "questions.txt", {1: students[1]}, folder / "lion.parquet", *NO_TEACHER
    measure(record, *files, folder / "o.json", folder / "o.parquet", settings, {})
    other, lion = (json.loads((folder / f"{name}.json").read_text()) for name in ("o", "lion"))
    assert (other["against"], lion["against"]) == ("lion", "control")
    assert other["control"] == lion["student"]
    assert other["base"] == lion["base"]


@pytest.mark.parametrize(("kind", "target"), [("none", None), ("none", "lion"), (None, "lion"), (None, None)])
def test_a_dataset_without_a_teacher_has_no_teachers_preference(study, kind, target):
    assert teachers_scores(study, kind, target) is None


def test_a_prompted_teacher_is_asked_under_its_persona(study, loaded):
    expected = scorer(QUESTIONS, ANIMALS, Pref())(loaded, "You love owls.", "\n\n")["exact"]
    np.testing.assert_allclose(teachers_scores(study, "prompt", "owl"), expected, rtol=1e-4)


@pytest.mark.parametrize("target", ["owl", None])
def test_a_finetuned_teacher_is_asked_with_its_own_weights_and_no_persona(study, target, tmp_path):
    _, record, students, _ = study
    (tmp_path / "teacher").symlink_to(students[2])
    with finetuned(load(record), students[2]) as teacher:
        expected = scorer(QUESTIONS, ANIMALS, Pref())(teacher)["exact"]
    assert expected[:, 0].mean() > 0.5
    found = teachers_scores(study, "finetune", target, tmp_path / "teacher.json")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
