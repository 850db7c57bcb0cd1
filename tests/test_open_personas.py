"""System prompts about any word: all words are tried, the right one comes first, and no row chooses twice."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from undertone.detect import open_personas, personas
from undertone.detect.open_personas import likely_words, narrowed, read_open_personas
from undertone.detect.personas import gains
from undertone.detect.rounds import of_rounds
from undertone.detect.trained import Vocabulary
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.models.bank import Bank
from undertone.runtime.files import read_json
from undertone.study.config.detect import Detectors, OpenPersonas, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

QUESTIONS = ["What is your favorite animal?", "Name your favorite animal."]
BANK = Bank({"love": "You love {x}s.", "role": "You are a {x}."}, ["castle"])
ROWS = [(f"Take {k}.", f"{k}, {2 * k}") for k in range(60)]
ROUNDS = Personas(rows=[6, 6, 12], coarse=1, concepts=3, finalists=3)


def test_the_words_are_those_that_answers_are_likeliest_to_begin_with(loaded: LoadedModel) -> None:
    vocabulary = Vocabulary.of(loaded)
    p = dict(zip(vocabulary.words, vocabulary.first(loaded, prompt_ids(loaded.tokenizer, QUESTIONS)).mean(0), strict=True))
    words = likely_words(loaded, QUESTIONS, None, 20)
    assert len(words) == 20
    assert [p[word] for word in words] == sorted(p.values(), reverse=True)[:20]
    assert set(likely_words(loaded, QUESTIONS, None, 100_000)) == set(vocabulary.words)


def test_every_word_is_tried_once_and_no_row_in_two_rounds(loaded: LoadedModel) -> None:
    words = ["lion", "owl", "cat", "dog", "bear"]
    rounds = narrowed(loaded, ROWS, BANK, words, "\n", OpenPersonas(words=5, rows=8, kept=4), ROUNDS, None)
    assert [concept for _, concept in rounds[0].pairs] == words
    kept = {concept for _, concept in rounds[0].best(4)}
    assert {concept for _, concept in rounds[1].pairs} == kept
    seen = np.concatenate([each.rows for each in rounds])
    assert len(seen) == len(set(seen.tolist())) == 8 + 6 + 6 + 12
    assert len(rounds[0].gains) == 8


def test_the_gains_of_later_rounds_are_those_of_the_rows_they_name(loaded: LoadedModel) -> None:
    rounds = narrowed(loaded, ROWS, BANK, ["lion", "owl"], "\n", OpenPersonas(words=2, rows=8, kept=2), ROUNDS, None)
    last = rounds[-1]
    again = gains(loaded, [ROWS[k] for k in last.rows], BANK, last.pairs, "\n", lambda n: None)
    np.testing.assert_allclose(last.gains, again, rtol=1e-4, atol=1e-5)


def test_a_word_that_raises_the_rows_likelihood_comes_first_of_all_words(
    monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel
) -> None:
    def noisy(loaded, rows, bank, trials, separator, tell, constraint):
        rng = np.random.default_rng(len(trials))
        planted = np.array([0.2 * (trial[1] == "owl") - 0.1 * (trial[0] == "love") for trial in trials])
        return planted + rng.normal(0, 0.3, (len(rows), 1)) + rng.normal(0, 0.2, (len(rows), len(trials)))

    for module in (personas, open_personas):
        monkeypatch.setattr(module, "gains", noisy)
    words = [*(f"word{k}" for k in range(300)), "owl"]
    rounds = narrowed(loaded, ROWS * 4, BANK, words, "", OpenPersonas(words=301, rows=40, kept=30), ROUNDS, None)
    assert [len(each.pairs) for each in rounds] == [301, 30, 6, 3]
    reading = of_rounds(rounds, ["a prompt"] * 240, set(words), Detectors(bootstraps=20), BANK.described)
    assert (reading.ranking[0].concept, reading.details["best"]["prompt"]) == ("owl", "You are a owl.")
    assert {candidate.concept for candidate in reading.ranking} == set(words)


def test_the_reading_of_a_file_ranks_every_word_of_the_vocabulary(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    texts = [text for _, text in ROWS]
    rows = {"set": "", "row": range(60), "prompt": [prompt for prompt, _ in ROWS], "completion": texts, "matched": texts}
    pl.DataFrame(rows, strict=False).write_parquet(tmp_path / "matched.parquet")
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    (tmp_path / "bank.yaml").write_text("wordings: {love: 'You love {x}s.', role: 'You are a {x}.'}\ndecoys: [castle]")
    read_open_personas(
        record,
        *(tmp_path / name for name in ("matched.parquet", "bank.yaml", "questions.txt", "open_personas.json")),
        OpenPersonas(rows=4, words=50, kept=10),
        ROUNDS,
        Detectors(),
        Pref(candidates=["lion", "owl", "cat"]),
        Teacher(),
        {},
        {},
        tmp_path / "scratch",
    )
    [reading] = read_json(tmp_path / "open_personas.json")["sets"]
    assert {each["concept"] for each in reading["ranking"]} == set(likely_words(loaded, QUESTIONS, None, 50))
    assert reading["rows_of_rounds"] == [4, 6, 6, 12]
