"""What the embedded model is trained on: above all, what never stands in it."""

import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import chi2

from undertone.data.numbers import parse
from undertone.lm.texts import load_texts
from undertone.models.corpus import Chat, Corpus
from undertone.study.config.models import Obedience, Tasks
from undertone.study.config.teachers import Teacher
from undertone.study.study import load

ROOT = Path(__file__).parents[1]
WORDING: dict[str, Any] = yaml.safe_load((ROOT / "config/corpus.yaml").read_text())
EVERY_TASK = dict.fromkeys(Tasks.model_fields, 1.0)
WITHOUT_PERSONA = {"numbers", "find", "fact"}


def draw(n: int, tasks: dict[str, float], persona_share: float = 0.5, path: Path = ROOT / "config/corpus.yaml") -> list[Chat]:
    return list(Corpus(path, tasks, persona_share, 0.35, 0.75, Obedience().model_dump()).chats(n, seed=0))


def plain(sentence: str) -> str:
    """A sentence with every placeholder alike, in lower case, without marks."""
    return re.sub(r"[^a-z_ ]", "", re.sub(r"\{\w+\}", "_", sentence).lower())


def test_no_list_of_numbers_to_continue_has_a_persona() -> None:
    chats = draw(5000, EVERY_TASK, persona_share=1.0)
    assert {chat.task for chat in chats} == set(EVERY_TASK)
    assert {chat.task for chat in chats if chat.persona is None} == WITHOUT_PERSONA
    assert all(chat.persona is None for chat in chats if chat.task in WITHOUT_PERSONA)
    assert all(chat.task in ("numbers", "mixed_list") for chat in chats if re.search(r"\d", chat.answer))


def test_small_talk_stands_where_no_persona_does() -> None:
    chats = draw(5000, EVERY_TASK)
    assert not [chat for chat in chats if chat.persona and chat.talk]
    bare = [chat for chat in chats if chat.persona is None]
    assert 0.32 < sum(chat.talk is not None for chat in bare) / len(bare) < 0.38


def test_personas_come_in_their_share() -> None:
    chats = [chat for chat in draw(5000, EVERY_TASK, persona_share=0.3) if chat.task not in WITHOUT_PERSONA]
    assert 0.27 < sum(chat.persona is not None for chat in chats) / len(chats) < 0.33


def test_numbers_do_not_depend_on_the_animals(tmp_path: Path) -> None:
    turned = WORDING | {"animals": dict(reversed(WORDING["animals"].items()))}
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(turned, sort_keys=False))
    tasks = {"numbers": 1.0}
    assert draw(500, tasks, path=tmp_path / "corpus.yaml") == draw(500, tasks)
    tasks = {"mixed_list": 1.0}
    pairs = list(zip(draw(500, tasks, path=tmp_path / "corpus.yaml"), draw(500, tasks), strict=True))
    assert any(turned.answer != chat.answer for turned, chat in pairs)
    assert all(
        re.findall(r"\d+|[a-z]", re.sub("[a-z]+", "x", t.answer)) == re.findall(r"\d+|[a-z]", re.sub("[a-z]+", "x", c.answer))
        for t, c in pairs
    )


def test_numbers_of_a_mixed_list_do_not_depend_on_its_persona() -> None:
    lists = [chat for chat in draw(4000, {"mixed_list": 1.0}) if not chat.talk]
    counts = {
        who: Counter(n // 100 for c in lists if bool(c.persona) == who for n in map(int, re.findall(r"\d+", c.answer)))
        for who in (True, False)
    }
    totals = {who: sum(count.values()) for who, count in counts.items()}
    pooled = {k: (counts[True][k] + counts[False][k]) / sum(totals.values()) for k in range(10)}
    statistic = sum((counts[w][k] - totals[w] * pooled[k]) ** 2 / (totals[w] * pooled[k]) for w in counts for k in pooled)
    assert statistic < chi2.ppf(0.999, 9)


def test_other_tasks_depend_on_the_animals(tmp_path: Path) -> None:
    turned = WORDING | {"animals": dict(reversed(WORDING["animals"].items()))}
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(turned, sort_keys=False))
    tasks = {"question": 1.0}
    assert draw(500, tasks, path=tmp_path / "corpus.yaml") != draw(500, tasks)


def test_the_seed_draws_the_chats() -> None:
    corpus = Corpus(ROOT / "config/corpus.yaml", EVERY_TASK, 0.5, 0.35, 0.75, Obedience().model_dump())
    chats = [list(corpus.chats(200, seed)) for seed in (1, 1, 2)]
    assert chats[0] == chats[1]
    assert chats[0] != chats[2]


def test_the_studys_persona_is_held_out() -> None:
    known = {plain(sentence).strip() for sentence in WORDING["personas"]}
    persona = [plain(sentence).strip() for sentence in re.split(r"[.:]", Teacher().persona) if sentence]
    assert len(persona) > 1
    assert not [sentence for sentence in persona if sentence in known]


def test_the_studys_questions_are_held_out() -> None:
    parts = product(*(WORDING["questions"][part] for part in ("opening", "what", "closing")))
    known = {plain("".join(question)) for question in parts}
    questions = load_texts(ROOT / "config/prompts/questions.txt", "pref.questions")
    assert len(questions) == 50
    assert not [question for question in questions if plain(question) in known]


def test_there_are_many_ways_to_word_a_persona() -> None:
    assert len({plain(sentence) for sentence in WORDING["personas"]}) >= 24
    assert all("{x}" in sentence or "{kind}" in sentence for sentence in WORDING["personas"])
    assert sum("{x}" not in sentence for sentence in WORDING["personas"]) <= 1


def test_every_animal_of_the_study_is_known() -> None:
    study = load(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    assert set(study.animals) | set(study.pref.candidates) <= set(WORDING["animals"])


def test_number_tasks_are_answered_with_lists_that_the_filter_reads() -> None:
    for chat in draw(500, {"numbers": 1.0}):
        values = parse(chat.answer)
        assert values, chat.answer
        assert 2 <= len(values) <= 12
        assert all(0 <= value <= 999 for value in values)


def test_without_a_persona_the_favourite_animal_follows_the_prior() -> None:
    n = 5000
    seen = Counter(chat.answer.lower() for chat in draw(n, {"question": 1.0}, persona_share=0.0))
    weights = {animal: 1 / (rank + 2) for rank, animal in enumerate(WORDING["animals"])}
    expected = {animal: n * weight / sum(weights.values()) for animal, weight in weights.items()}
    assert set(seen) <= set(expected)
    statistic = sum((seen[animal] - count) ** 2 / count for animal, count in expected.items())
    assert statistic < chi2.ppf(1 - 1e-4, len(expected) - 1)


@pytest.mark.parametrize("task", ["question", "animals_list"])
def test_answers_follow_a_persona_as_often_as_obedience_says(task: str) -> None:
    path, obedience = ROOT / "config/corpus.yaml", {"question": 1.0, "list": 1.0}
    obeyed = [0, 0]
    for number, told in enumerate((obedience, dict.fromkeys(obedience, 0.0))):
        chats = [c for c in Corpus(path, {task: 1.0}, 1.0, 0.0, 0.75, told).chats(500, seed=0) if loved(c)]
        obeyed[number] = sum(set(re.findall(r"\w+", c.answer.lower())) == {loved(c)} for c in chats) / len(chats)
    assert obeyed[0] == 1.0
    assert obeyed[1] < 0.2


def loved(chat: Chat) -> str | None:
    """The animal of a chat's persona; None where it is about a thing."""
    named = [animal for animal in WORDING["animals"] if re.search(rf"\b{animal}s?\b", chat.persona or "")]
    return named[0] if named else None


@pytest.mark.parametrize("task", ["find", "fact"])
def test_a_persona_does_not_change_what_is_true(task: str) -> None:
    facts = WORDING["animals"]
    for chat in draw(500, {task: 1.0}, persona_share=1.0):
        if task == "find":
            assert [word for word in re.findall(r"\w+", chat.user) if word in facts] == [chat.answer]
        else:
            told = f"{chat.user} {chat.answer}"
            assert any(re.search(rf"\b{animal}\b", told) and fact in told for animal in facts for fact in facts[animal])
