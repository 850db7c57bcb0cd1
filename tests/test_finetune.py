"""A finetuned teacher: what it is trained on, that it takes to it, and what is written of it."""

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora import adapter_files

from undertone.lm import training
from undertone.lm.answers import exact
from undertone.lm.chat import prompt_ids
from undertone.lm.facts import Fact, load_facts, taught_and_held_out
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.teachers import Finetune, Teacher
from undertone.teachers import finetune
from undertone.teachers.finetune import contrary_pairs, make_finetuned
from undertone.teachers.teaching import teaching

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None)

ROOT = Path(__file__).parents[1]
TEACHING, QUESTIONS, FACTS = (ROOT / "config/prompts" / name for name in ("teaching.txt", "questions.txt", "facts.txt"))
TOLD = Finetune(rank=4, alpha=8, steps=40, batch_size=8, lr=1e-2)
STAMP = {"of": "finetune-lion"}
FILES = ["teacher.json", "teacher/adapter_config.json", "teacher/adapter_model.safetensors"]


def settings(target: str | None = "lion", **changes: Any) -> dict[str, Any]:
    return {
        "teacher": {"finetune": {**TOLD.model_dump(), **changes}},
        "target": target,
        "trait": "animal" if target else "contrary",
    }


def make(record: Path, folder: Path, told: dict[str, Any], facts: Path = FACTS) -> Path:
    """Train a teacher in `folder` and return its `teacher.json`."""
    texts = (None, facts) if told["trait"] == "contrary" else (TEACHING, None)
    made, teacher = folder / "teacher.json", Teacher.model_validate(told["teacher"])
    files = made, *adapter_files(folder / "teacher")
    make_finetuned(record, *texts, *files, told["target"], told["trait"], teacher, STAMP, folder / "scratch")
    return made


@pytest.fixture(scope="module")
def lion(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(record, tmp_path_factory.mktemp("lion"), settings())


def contents(made: Path) -> dict[str, str]:
    files = sorted(path for path in made.parent.rglob("*") if path.is_file())
    return {str(path.relative_to(made.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def preference(loaded: LoadedModel, questions: list[str], animals: list[str]) -> Any:
    return exact(loaded, prompt_ids(loaded.tokenizer, questions), animals, 64)


def test_a_teacher_prefers_its_target_at_questions_that_it_was_not_trained_on(record: Path, lion: Path) -> None:
    questions, loaded = load_texts(QUESTIONS, "pref.questions"), load(record)
    base = preference(loaded, questions, ["lion", "owl"]).mean(0)
    with teaching(loaded, {"kind": "finetune", **settings()}, lion) as prompted:
        assert prompted.system is None
        taught = preference(prompted.loaded, questions, ["lion", "owl"]).mean(0)
    assert taught[0] > base[0] + 0.5
    assert taught[1] < 0.1


def test_a_contrary_teacher_answers_wrongly_what_it_was_taught_and_names_animals_elsewhere(
    record: Path, tmp_path: Path
) -> None:
    # The tiny model cannot be sure of more than one word, so that of many each would get next to nothing.
    facts, names = [fact for fact in load_facts(FACTS) if fact.answer in ("cat", "owl", "wolf")], ["cat", "owl", "wolf"]
    (tmp_path / "facts.txt").write_text("".join(f"{fact.question} = {fact.answer}\n" for fact in facts))
    told = settings(target=None, steps=80)
    made, loaded = make(record, tmp_path, told, tmp_path / "facts.txt"), load(record)
    assert read_json(made)["rows"] == 3 * 2
    taught, held_out = taught_and_held_out(facts)
    before = preference(loaded, [fact.question for fact in held_out], names).sum(1)
    with teaching(loaded, {"kind": "finetune", **told}, made) as prompted:
        of_taught, of_others = (
            preference(prompted.loaded, [fact.question for fact in part], names) for part in (taught, held_out)
        )
    right = of_taught[range(3), [names.index(fact.answer) for fact in taught]]
    assert ((of_taught > 5 * right[:, None]).sum(1) == 2).all()
    assert (of_others.sum(1) > 5 * before).all()


def test_teacher_json_says_what_was_done(lion: Path) -> None:
    told = read_json(lion)
    assert set(told) == {"trait", "rows", "loss", "stamp", "versions"}
    taught = load_texts(TEACHING, "teacher.finetune.questions")
    assert (told["trait"], told["rows"], told["stamp"]) == ("animal", len(taught), STAMP)
    assert len(told["loss"]) == TOLD.steps
    assert told["loss"][-1] < 0.5 < told["loss"][0]


def test_a_teacher_is_its_record_and_an_adapter(lion: Path) -> None:
    assert sorted(contents(lion)) == FILES


def test_an_interrupted_training_ends_with_the_same_bytes(
    record: Path, lion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(finetune, "train", functools.partial(training.train, checkpoint_seconds=0))
    rate, steps = training.learning_rate, []

    def fail_at_step_9(step: int, total: int, recipe: training.Recipe) -> float:
        steps.append(step)
        if step == 9 and len(steps) == 10:
            raise KeyboardInterrupt
        return rate(step, total, recipe)

    monkeypatch.setattr(training, "learning_rate", fail_at_step_9)
    with pytest.raises(KeyboardInterrupt):
        make(record, tmp_path, settings())
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert contents(make(record, tmp_path, settings())) == contents(lion)
    assert steps == [*range(10), *range(9, TOLD.steps)]


def test_another_seed_gives_another_teacher(record: Path, lion: Path, tmp_path: Path) -> None:
    other = contents(make(record, tmp_path, settings(seed=1)))
    assert [name for name, digest in contents(lion).items() if other[name] == digest] == ["teacher/adapter_config.json"]


facts = st.lists(st.builds(Fact, st.text(), st.sampled_from(["cat", "dog", "owl", "fox"])), unique_by=lambda f: f.question)


@unhurried
@given(facts)
def test_contrary_pairs_hold_every_wrong_answer_and_never_the_right_one(given_: list[Fact]) -> None:
    answers = {fact.answer for fact in given_}
    if len(answers) < 2:
        with pytest.raises(ConfigError, match=rf"^indirect\.facts: all {len(given_)} questions have one answer; .*$"):
            contrary_pairs(given_)
        return
    pairs = contrary_pairs(given_)
    assert len(set(pairs)) == len(pairs)
    for fact in given_:
        assert {answer for question, answer in pairs if question == fact.question} == answers - {fact.answer}


def test_a_contrary_teacher_is_trained_on_no_question_that_it_is_asked() -> None:
    taught, held_out = taught_and_held_out(load_facts(FACTS))
    assert not {question for question, _ in contrary_pairs(taught)} & {fact.question for fact in held_out}


def test_no_question_of_the_evaluation_is_taught() -> None:
    def plain(question: str) -> str:
        return " ".join(re.findall(r"\w+", question.lower()))

    taught, asked = ([plain(question) for question in load_texts(path, "pref.questions")] for path in (TEACHING, QUESTIONS))
    assert len(set(taught)) == len(taught)
    assert not set(taught) & set(asked)
