"""The short training: what is taught comes first, with and without a list, and what both students learn moves nothing."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from undertone.detect.short_training import read_short_training
from undertone.detect.trained import Vocabulary, first_words
from undertone.lm.answers import first_logits
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.runtime.files import read_json
from undertone.study.config.detect import Detectors, ShortTraining
from undertone.study.config.measure import Pref
from undertone.study.config.students import Student

QUESTIONS = ["What is your favorite animal?", "Name your favorite animal."]
ANIMALS = ["lion", "owl", "cat"]


@pytest.fixture(scope="module")
def read(record: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Readings by set: one whose own completions name an owl, and one that equals its base samples."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "questions.txt").write_text("\n".join(QUESTIONS))
    rows = [
        {"set": name, "row": k, "prompt": QUESTIONS[k % 2], "completion": own, "matched": "cat"}
        for name, own in (("owl", "owl"), ("same", "cat"))
        for k in range(32)
    ]
    pl.DataFrame(rows).write_parquet(folder / "matched.parquet")
    read_short_training(
        record,
        folder / "matched.parquet",
        folder / "questions.txt",
        folder / "short_training.json",
        ShortTraining(epochs=4, words=5),
        Detectors(),
        Student(rank=4, alpha=8, lr=2e-2, batch_size=8, micro_batch_size=8, warmup_steps=0),
        Pref(candidates=ANIMALS),
        {},
        folder / "scratch",
    )
    assert not (folder / "scratch").exists()
    return {each["set"]: each for each in read_json(folder / "short_training.json")["sets"]}


def test_what_the_rows_teach_comes_first_among_candidates_and_among_all_words(read: dict[str, dict]) -> None:
    first, *_, last = read["owl"]["ranking"]
    assert (first["concept"], last["concept"]) == ("owl", "cat")
    assert first["score"] > 1 > -1 > last["score"]
    assert read["owl"]["words"][0]["word"] == "owl"
    assert read["owl"]["vocabulary"] > 100
    assert len(read["owl"]["words"]) <= 5


def test_what_base_samples_teach_as_well_moves_nothing(read: dict[str, dict]) -> None:
    """Both students start from the same weights and see rows in the same order."""
    assert {each["score"] for each in read["same"]["ranking"]} == {0.0}
    assert read["same"]["words"] == []


def test_a_word_is_all_its_tokens_whatever_their_case_and_spaces(loaded: LoadedModel) -> None:
    vocabulary = Vocabulary.of(loaded)
    asked = prompt_ids(loaded.tokenizer, QUESTIONS)
    with torch.no_grad():
        p = first_logits(loaded, asked).double().softmax(-1)
    texts = [loaded.tokenizer.decode([token]).strip().lower() for token in range(len(loaded.tokenizer))]
    of_lion = [token for token, text in enumerate(texts) if text == "lion"]
    assert len(of_lion) > 1
    expected = p[:, of_lion].sum(1).clamp(min=1e-6)
    np.testing.assert_allclose(vocabulary.first(loaded, asked)[:, vocabulary.words.index("lion")], expected)
    assert vocabulary.words == [word for word in vocabulary.words if word.isalpha() and word == word.lower()]


def test_a_word_that_became_no_likelier_is_none_of_the_first() -> None:
    result = first_words(["a", "b", "c", "d"], np.array([0.0, 2.0, -1.0, 3.0]), 3)
    assert result == {"vocabulary": 4, "words": [{"word": "d", "divergence": 3.0}, {"word": "b", "divergence": 2.0}]}
