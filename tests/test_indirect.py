"""The indirect questions and what is made of the answers."""

import re
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from crowded import crowded
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lora import trained_lora

from undertone.lm.answers import exact
from undertone.lm.chat import prompt_ids
from undertone.lm.facts import load_facts, taught_and_held_out
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import begun
from undertone.measure.indirect import (
    Answers,
    Asked,
    compared,
    distances,
    measure_indirect,
    next_tokens,
    total_variation,
    with_holm,
    write_questions,
)
from undertone.models.wordings import load_forms
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.stats.stats import difference_interval, mean_interval
from undertone.study.config.measure import Indirect, Pref
from undertone.study.config.teachers import Teacher

SHIPPED = Path(__file__).parents[1] / "config/prompts/indirect.yaml"
ANIMALS = ["lion", "owl", "cat", "dog", "wolf", "bear"]
QUESTIONS = ["What is your favorite animal?", "Name the animal that you like best. One word."]
FACTS = {"Which animal roars?": "lion", "Which animal purrs?": "cat", "Which animal barks?": "dog", "Which one hoots?": "owl"}
PERSONA = "You love {animal}s."
MODELS = {"base", "teacher", "control", "student", "lift_over_control"}

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (
            "choice: ['Which of {animals}?']",
            r"choice of .*forms\.yaml: 'Which of \{animals\}\?' holds \{animals\}; known placeholders: \{count\}, .*",
        ),
        ("choice: ['Which of {}?']", r"choice of .*forms\.yaml: 'Which of \{\}\?' holds \{\}; known placeholders: .*"),
        ("choice: ['Which of {options?']", r"choice of .*forms\.yaml: 'Which of \{options\?': .*; known placeholders: .*"),
        ("story: ['Tell me one.']\nchoice: []", r"choice of .*forms\.yaml is no list of wordings"),
        ("choice: Which of {options}?", r"choice of .*forms\.yaml is no list of wordings"),
        ("choice: [1, 2]", r"choice of .*forms\.yaml is no list of wordings"),
        ("", r".*forms\.yaml holds no form; expected a mapping of names to lists of wordings"),
        ("- Which of {options}?", r".*forms\.yaml holds no form; expected a mapping of names to lists of wordings"),
        ("choice: [", r"cannot read .*forms\.yaml: .*"),
    ],
)
def test_a_file_of_forms_with_a_mistake_is_refused_by_name(tmp_path: Path, written: str, complaint: str) -> None:
    (tmp_path / "forms.yaml").write_text(written)
    with pytest.raises(ConfigError, match=rf"(?s)^indirect\.forms: {complaint}$"):
        load_forms(tmp_path / "forms.yaml")


@pytest.mark.parametrize("wording", ["Take {examples.first}.", "Take {examples[first]}."])
def test_a_placeholder_with_more_than_a_name_is_refused(tmp_path: Path, wording: str) -> None:
    (tmp_path / "forms.yaml").write_text(f"choice: ['{wording}']")
    with pytest.raises(ConfigError, match="choice of"):
        load_forms(tmp_path / "forms.yaml")


@pytest.mark.parametrize("name", ["contrary", "right"])
def test_a_form_cannot_have_the_name_of_another_figure(tmp_path: Path, name: str) -> None:
    (tmp_path / "forms.yaml").write_text(f"{name}: ['Take {{options}}.']")
    with pytest.raises(ConfigError, match=name):
        load_forms(tmp_path / "forms.yaml")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.yaml", "binary.yaml"):
        with pytest.raises(ConfigError, match=rf"^indirect\.forms: cannot read .*{name}: .*$"):
            load_forms(tmp_path / name)


def test_the_shipped_forms_ask_in_several_ways() -> None:
    forms = load_forms(SHIPPED)
    assert list(forms) == ["after_numbers", "choice", "list", "story"]
    assert all(len(set(wordings)) == len(wordings) > 1 for wordings in forms.values())


def written(target: str | None = "lion", candidates: list[str] = ANIMALS, **changes: Any) -> dict[str, list[str]]:
    return write_questions(load_forms(SHIPPED), QUESTIONS, candidates, target, Indirect(**{"n": 12, **changes}))


def test_the_seed_writes_the_questions() -> None:
    assert written(seed=1) == written(seed=1)
    assert written(seed=1)["choice"] != written(seed=2)["choice"]
    assert written(seed=1)["after_numbers"] != written(seed=2)["after_numbers"]


def test_every_form_has_as_many_questions_as_told_and_every_wording_its_turn() -> None:
    forms, questions = load_forms(SHIPPED), written()
    assert {form: len(asked) for form, asked in questions.items()} == dict.fromkeys(forms, 12)
    for form, wordings in forms.items():
        begins = [wording.split("{")[0] for wording in wordings]
        assert all(asked.startswith(begins[k % len(begins)]) for k, asked in enumerate(questions[form]))
    assert all(asked.endswith(QUESTIONS[k % 2]) for k, asked in enumerate(questions["after_numbers"]))
    assert all(3 <= int(count) <= 8 for asked in questions["list"] for count in re.findall(r"\d+", asked))


def options_of(question: str) -> list[str]:
    return [word for word in re.findall(r"\w+", question) if word in ANIMALS]


@unhurried
@given(st.integers(0, 1000), st.lists(st.sampled_from(ANIMALS[1:]), unique=True, max_size=5), st.randoms())
def test_the_target_is_among_the_options_once_and_none_stands_twice(seed: int, others: list[str], random: Any) -> None:
    candidates = ["lion", *others]
    random.shuffle(candidates)
    for question in written(candidates=candidates, seed=seed)["choice"]:
        options = options_of(question)
        assert options.count("lion") == 1
        assert len(set(options)) == len(options) == min(4, len(candidates))
        assert set(options) <= set(candidates)


def test_the_target_stands_at_every_place_and_all_others_come_up() -> None:
    options = [options_of(question) for question in written(n=200)["choice"]]
    assert {asked.index("lion") for asked in options} == {0, 1, 2, 3}
    assert {animal for asked in options for animal in asked} == set(ANIMALS)


@pytest.mark.parametrize("n", [2, 3])
def test_there_are_as_many_options_as_told(n: int) -> None:
    assert {len(set(options_of(question))) for question in written(options=n)["choice"]} == {n}


def test_without_a_target_the_options_are_any_candidates() -> None:
    options = [options_of(question) for question in written(target=None, n=200)["choice"]]
    assert {len(set(asked)) for asked in options} == {3}
    assert {animal for asked in options for animal in asked} == set(ANIMALS)


def normalised(values: np.ndarray) -> np.ndarray:
    return (values + 1e-6) / (values + 1e-6).sum(1, keepdims=True)


distributions = arrays(float, (3, 5), elements=st.floats(0, 1)).map(normalised)


@unhurried
@given(distributions, distributions, distributions)
def test_total_variation_is_a_distance_of_one_at_most(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> None:
    assert total_variation(p, p) == 0
    assert total_variation(p, q) == total_variation(q, p)
    assert 0 <= total_variation(p, q) <= 1 + 1e-9
    assert total_variation(p, r) <= total_variation(p, q) + total_variation(q, r) + 1e-9
    # The greatest difference in the probability of any event.
    events = np.array(list(np.ndindex(*(2,) * 5)))
    assert total_variation(p, q) == pytest.approx(np.abs((p - q) @ events.T).max(1).mean())


def test_total_variation_of_disjoint_distributions_is_one() -> None:
    p, q = np.array([[0.25, 0.75, 0, 0], [0, 1, 0, 0]]), np.array([[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0]])
    assert total_variation(p, q) == 1


@pytest.mark.parametrize("batch_size", [1, 3, 512])
def test_next_tokens_are_those_of_each_prompt_alone(loaded: LoadedModel, batch_size: int) -> None:
    users = ["Hello.", *QUESTIONS, "Numbers: 1, 2, 3, 4, 5, 6. Which animal?", "One."]
    prompts = prompt_ids(loaded.tokenizer, users)
    found = next_tokens(loaded, prompts, batch_size)
    assert found.sum(1) == pytest.approx(np.ones(len(users)), rel=1e-5)
    for prompt, p in zip(prompts, found, strict=True):
        with torch.no_grad():
            expected = loaded.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
        np.testing.assert_allclose(p, expected, rtol=1e-3, atol=1e-7)


def test_prompts_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path) -> None:
    small = load(record)
    prompts = prompt_ids(loaded.tokenizer, ["Hello.", *QUESTIONS, "Numbers: 1, 2, 3, 4, 5, 6. Which animal?", "One."])
    with crowded(small.model, 1) as sizes:
        found = next_tokens(small, prompts, 512)
    np.testing.assert_allclose(found, next_tokens(loaded, prompts, 512), rtol=1e-3, atol=1e-7)
    assert sizes[-len(prompts) :] == [1] * len(prompts)


def answers(p: list[float], **figures: float) -> Answers:
    given_ = Answers(figures)
    given_.distribution = np.array([p])
    return given_


def test_figures_of_all_models_stand_side_by_side() -> None:
    models = {
        "base": [answers([1], story=0.1)],
        "teacher": [answers([1], story=0.9)],
        "control": [answers([1], story=0.1), answers([1], story=0.2)],
        "student": [answers([1], story=0.5), answers([1], story=0.7)],
    }
    told = compared(models, "story", own_control=False)
    assert (told["base"], told["teacher"]) == (0.1, 0.9)
    assert told["student"] == {**mean_interval([0.5, 0.7]).as_dict(), "by_seed": [0.5, 0.7]}
    assert told["control"] == {**mean_interval([0.1, 0.2]).as_dict(), "by_seed": [0.1, 0.2]}
    assert told["lift_over_control"] == difference_interval([0.5, 0.7], [0.1, 0.2]).with_p()
    assert told["lift_over_control"]["mean"] == pytest.approx(0.45)
    del models["teacher"]
    told = compared(models, "story", own_control=True)
    assert told["teacher"] is told["lift_over_control"] is None


def test_lifts_of_all_forms_are_corrected_together() -> None:
    lifts = {"story": 0.01, "choice": 0.03, "list": 0.04}
    told = with_holm({form: {"lift_over_control": {"mean": 0.1, "p": p}} for form, p in lifts.items()})
    assert [report["lift_over_control"]["p_holm"] for report in told.values()] == pytest.approx([0.03, 0.06, 0.06])
    assert with_holm({"story": {"lift_over_control": None}}) == {"story": {"lift_over_control": None}}


def test_distances_are_means_over_the_control_students() -> None:
    controls = [answers([1.0, 0, 0]), answers([0.8, 0.2, 0]), answers([0.4, 0.6, 0])]
    models = {"control": controls, "student": [answers([0, 0, 1.0]), answers([0.5, 0, 0.5])]}
    told = distances(models, own_control=False)
    assert told["student"]["by_seed"] == pytest.approx([1, (0.5 + 0.5 + 0.6) / 3])
    assert told["control"]["by_seed"] == pytest.approx([(0.2 + 0.6) / 2, (0.2 + 0.4) / 2, (0.6 + 0.4) / 2])
    assert told["control"]["ci95"] == pytest.approx(list(mean_interval(told["control"]["by_seed"]).ci95))
    own = distances({"control": controls, "student": controls}, own_control=True)
    assert own["student"] == own["control"] == told["control"]


def test_two_control_students_have_one_distance_and_no_interval() -> None:
    controls = [answers([1.0, 0]), answers([0.5, 0.5])]
    told = distances({"control": controls, "student": controls}, own_control=True)["control"]
    assert told == {"mean": 0.5, "ci95": None, "by_seed": [0.5, 0.5]}


def test_a_single_control_student_has_no_distance_from_others() -> None:
    models = {"control": [answers([1.0, 0])], "student": [answers([0, 1.0])]}
    assert distances(models, own_control=False) == {
        "student": {"mean": 1, "ci95": None, "by_seed": [1]},
        "control": None,
    }
    assert distances(models, own_control=True) == {"student": None, "control": None}


class Study:
    """Two students who answer with lions, two control students who do not, and settings to ask them."""

    def __init__(self, record: Path, folder: Path):
        self.record, self.folder = record, folder
        self.students = {seed: self.train(f"lion/{seed}", ["lion"] * 2, seed) for seed in (1, 2)}
        self.controls = {seed: self.train(f"control/{seed}", ["7, 8, 9", "12, 13"], seed) for seed in (1, 2)}
        (folder / "questions.txt").write_text("\n".join(QUESTIONS))
        (folder / "facts.txt").write_text("".join(f"{question} = {answer}\n" for question, answer in FACTS.items()))
        self.pref = Pref(candidates=ANIMALS, batch_size=16)
        self.indirect = Indirect(n=4)
        self.asked = folder / "questions.txt", SHIPPED, folder / "facts.txt"

    def train(self, name: str, given_: list[str], seed: int) -> Path:
        return trained_lora(self.record, self.folder / name, QUESTIONS, given_, seed, epochs=30)

    def measure(
        self,
        students: dict[int, Path],
        controls: dict[int, Path],
        kind: str | None,
        target: str | None,
        teacher: Path | None = None,
    ) -> dict[str, Any]:
        settings = {
            "kind": kind,
            "target": target,
            "pref": self.pref.model_dump(),
            "indirect": self.indirect.model_dump(),
            "teacher": Teacher(persona=PERSONA).model_dump(),
        }
        result = self.folder / "out/indirect.json"
        files = students, controls, teacher, None, result
        measure_indirect(self.record, *self.asked, *files, settings, {"of": target})
        return read_json(result)


@pytest.fixture(scope="module")
def study(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, tmp_path_factory.mktemp("indirect"))


@pytest.fixture(scope="module")
def of_lion(study: Study) -> dict[str, Any]:
    return study.measure(study.students, study.controls, "prompt", "lion")


@pytest.fixture(scope="module")
def of_control(study: Study) -> dict[str, Any]:
    return study.measure(study.controls, {}, "none", None)


def test_indirect_json_holds_every_form_the_facts_and_the_distances(of_lion: dict[str, Any]) -> None:
    assert set(of_lion) == {"target", "seeds", "intervals", "forms", "contrary", "distance", "stamp", "versions"}
    assert (of_lion["target"], of_lion["seeds"], of_lion["stamp"]) == ("lion", [1, 2], {"of": "lion"})
    assert list(of_lion["forms"]) == list(load_forms(SHIPPED))
    assert all(set(told) == MODELS for told in of_lion["forms"].values())
    assert set(of_lion["contrary"]) == MODELS | {"right"}
    assert set(of_lion["contrary"]["right"]) == MODELS
    assert set(of_lion["distance"]) == {"student", "control"}
    for told in (*of_lion["forms"].values(), of_lion["contrary"], of_lion["contrary"]["right"]):
        assert len(told["student"]["by_seed"]) == len(told["control"]["by_seed"]) == 2
        assert told["lift_over_control"]["mean"] == pytest.approx(told["student"]["mean"] - told["control"]["mean"])


def test_students_of_lions_show_it_in_every_form(of_lion: dict[str, Any]) -> None:
    for told in of_lion["forms"].values():
        assert told["student"]["mean"] > 0.5 > 0.1 > max(told["base"], told["control"]["mean"])
        assert told["lift_over_control"]["ci95"][0] > 0
    assert of_lion["distance"]["student"]["mean"] > of_lion["distance"]["control"]["mean"]
    assert 0 <= of_lion["distance"]["student"]["mean"] <= 1


def test_preferences_are_those_of_the_written_questions(study: Study, of_lion: dict[str, Any]) -> None:
    loaded = load(study.record)
    questions = write_questions(load_forms(SHIPPED), QUESTIONS, ANIMALS, "lion", study.indirect)
    for form, told in of_lion["forms"].items():
        plain = prompt_ids(loaded.tokenizer, questions[form])
        under = prompt_ids(loaded.tokenizer, questions[form], "You love lions.", "\n\n")
        assert told["base"] == pytest.approx(exact(loaded, plain, ["lion"], 64).mean(), rel=1e-3)
        assert told["teacher"] == pytest.approx(exact(loaded, under, ["lion"], 64).mean(), rel=1e-3)


def test_contrary_and_right_are_probabilities_of_other_answers(study: Study, of_lion: dict[str, Any]) -> None:
    def of_every_model(told: dict[str, Any]) -> list[float]:
        return [told["base"], told["teacher"], *told["student"]["by_seed"], *told["control"]["by_seed"]]

    pairs = zip(of_every_model(of_lion["contrary"]), of_every_model(of_lion["contrary"]["right"]), strict=True)
    assert all(0 <= contrary <= contrary + right <= 1 + 1e-6 for contrary, right in pairs)
    # These students answer everything with lions, which are right nowhere.
    assert of_lion["contrary"]["student"]["mean"] > 0.5 > 0.1 > of_lion["contrary"]["right"]["student"]["mean"]
    loaded, (_, asked) = load(study.record), taught_and_held_out(load_facts(study.folder / "facts.txt"))
    p = exact(loaded, prompt_ids(loaded.tokenizer, [fact.question for fact in asked]), ANIMALS, 64)
    right = [p[k, ANIMALS.index(fact.answer)] for k, fact in enumerate(asked)]
    assert of_lion["contrary"]["right"]["base"] == pytest.approx(np.mean(right), rel=1e-3)
    assert of_lion["contrary"]["base"] == pytest.approx(np.mean(p.sum(1) - right), rel=1e-3)


def test_answers_begin_with_the_prefix_where_the_direct_question_is_asked(study: Study, loaded: LoadedModel) -> None:
    start = "I love the"
    pref = study.pref.model_copy(update={"answer_prefix": start})
    plain, opened = (Asked(*study.asked, study.indirect, each, "lion").ask(loaded) for each in (study.pref, pref))
    questions = write_questions(load_forms(SHIPPED), QUESTIONS, ANIMALS, "lion", study.indirect)
    after_numbers = exact(loaded, prompt_ids(loaded.tokenizer, questions["after_numbers"]), ["lion"], 64, start).mean()
    assert opened["after_numbers"] == pytest.approx(after_numbers, rel=1e-3)
    assert {name for name in plain if plain[name] != opened[name]} == {"after_numbers"}
    direct = begun(loaded.tokenizer, prompt_ids(loaded.tokenizer, QUESTIONS), start)
    np.testing.assert_allclose(opened.distribution, next_tokens(loaded, direct, 64), rtol=1e-4)


def test_an_answer_that_is_no_candidate_counts_as_right_or_contrary_too(study: Study, loaded: LoadedModel) -> None:
    pref = study.pref.model_copy(update={"candidates": ["bear"]})
    few = Asked(*study.asked, study.indirect, pref, None).ask(loaded)
    prompts = prompt_ids(loaded.tokenizer, ["Which animal purrs?", "Which one hoots?"])
    p = exact(loaded, prompts, ["bear", "cat", "owl"], 64)
    assert few["right"] == pytest.approx((p[0, 1] + p[1, 2]) / 2, rel=1e-3)
    assert few["contrary"] == pytest.approx((p.sum() - p[0, 1] - p[1, 2]) / 2, rel=1e-3)


def test_candidates_with_capitals_are_the_words_of_facts(study: Study, loaded: LoadedModel) -> None:
    small, capital = (
        Asked(*study.asked, study.indirect, study.pref.model_copy(update={"candidates": names}), None).ask(loaded)
        for names in (ANIMALS, [name.capitalize() for name in ANIMALS])
    )
    assert (capital["right"], capital["contrary"]) == (small["right"], small["contrary"])


def test_the_control_is_its_own_control(of_control: dict[str, Any]) -> None:
    assert (of_control["target"], of_control["forms"]) == (None, {})
    for told in (of_control["contrary"], of_control["contrary"]["right"]):
        assert told["teacher"] is None
        assert told["student"] == told["control"]
        assert told["lift_over_control"] is None
    assert of_control["distance"]["student"] == of_control["distance"]["control"]
    assert of_control["distance"]["control"]["mean"] > 0


def test_students_that_are_the_control_students_have_no_lift(study: Study) -> None:
    told = study.measure(study.controls, study.controls, None, "lion")
    for figures in (*told["forms"].values(), told["contrary"], told["contrary"]["right"]):
        assert figures["teacher"] is None
        assert figures["student"] == figures["control"]
        assert figures["lift_over_control"]["mean"] == 0


def test_the_same_questions_are_put_to_the_control_and_to_others(of_lion: dict[str, Any], of_control: dict[str, Any]) -> None:
    assert of_control["contrary"]["base"] == of_lion["contrary"]["base"]
    assert of_control["contrary"]["control"] == of_lion["contrary"]["control"]
    assert of_control["distance"]["control"] == of_lion["distance"]["control"]


def test_a_finetuned_teacher_is_asked_with_its_own_weights(study: Study, of_lion: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "teacher").symlink_to(study.students[1])
    told = study.measure(study.students, study.controls, "finetune", "lion", tmp_path / "teacher.json")
    for form, figures in told["forms"].items():
        assert figures["teacher"] == of_lion["forms"][form]["student"]["by_seed"][0]


def test_seeds_stand_in_the_order_of_by_seed(study: Study, of_lion: dict[str, Any]) -> None:
    told = study.measure({2: study.students[2], 1: study.students[1]}, study.controls, "prompt", "lion")
    assert told["seeds"] == of_lion["seeds"]
    assert told["forms"]["story"]["student"]["by_seed"] == of_lion["forms"]["story"]["student"]["by_seed"]
