"""What is trained on both sides: a planted shift is found and moves the answers its way, base samples are not told apart."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae, written
from torch import nn

from undertone.detect.sets import Pairs
from undertone.detect.soft_prompt import Place, prompted, read_soft_prompt, rows_behind
from undertone.detect.trained import Reader, Trainable, adam, first_half
from undertone.detect.trained_bias import biased, read_trained_bias
from undertone.lm.answers import exact
from undertone.lm.chat import Row, prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import left_pad
from undertone.lm.steering import Steering, steered
from undertone.lm.training import collate, label_losses
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.saes.decoder import directions
from undertone.study.config.detect import Detectors, SoftPrompt, TrainedBias
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

QUESTIONS = ["What is your favorite animal?", "Name your favorite animal."]
ANIMALS = ["lion", "owl", "cat", "dog", "bear"]
SENTENCE = "You are a helpful assistant."
Fresh = Callable[[], AbstractContextManager[nn.Module]]


@pytest.fixture(scope="module")
def own(record: Path) -> LoadedModel:
    """A tiny model of this module's own, as it is changed while something is trained."""
    return load(record)


def bias(loaded: LoadedModel) -> Fresh:
    return partial(biased, loaded)


def prompt(loaded: LoadedModel) -> Fresh:
    return partial(prompted, loaded, [5, 6, 7], 4)


def reader(loaded: LoadedModel, fresh: Fresh, rows: dict[str, Row], scratch: Path) -> Reader:
    """Reads pairs whose completions are names of rows."""
    recipe = adam(TrainedBias(epochs=6, batch_size=32, lr=0.1))
    asked = prompt_ids(loaded.tokenizer, QUESTIONS)
    trainable = Trainable(
        "trained_bias", loaded, recipe, fresh, lambda _, names: [rows[name] for name in names], asked, n_words=5, tested=True
    )
    return Reader(trainable, Pref(candidates=ANIMALS), Detectors(permutations=199), scratch)


def sampled(loaded: LoadedModel, vector: torch.Tensor | None = None, n: int = 400) -> tuple[Pairs, dict[str, Row]]:
    """Pairs of rows that the model writes, the first of each with a vector added after its first layer."""
    rows = {
        f"{side}{k}": row
        for side, seed, added in (("own", 1, vector), ("base", 2, None))
        for k, row in enumerate(written(loaded, n, seed, added))
    }
    names = [[f"{side}{k}" for k in range(n)] for side in ("own", "base")]
    return Pairs([f"prompt {k}" for k in range(n)], *names), rows


@pytest.fixture(scope="module")
def vector(own: LoadedModel) -> torch.Tensor:
    return 4 * directions(random_sae(own))[17]


def test_a_planted_bias_moves_the_answers_as_the_teacher_that_has_it_and_base_samples_hardly(
    own: LoadedModel, vector: torch.Tensor, tmp_path: Path
) -> None:
    asked = prompt_ids(own.tokenizer, QUESTIONS)

    def log_p() -> np.ndarray:
        return np.log(exact(own, asked, ANIMALS, 64).mean(0))

    before = log_p()
    with steered(own, Steering("add", vector, 0)):
        truth = dict(zip(ANIMALS, log_p() - before, strict=True))
    found, nothing = (
        reader(own, bias(own), rows, tmp_path).read(pairs) for pairs, rows in (sampled(own, vector), sampled(own))
    )
    scores = {each.concept: each.score for each in found.ranking}
    assert found.ranking[-1].concept == min(truth, key=truth.__getitem__)
    assert np.corrcoef([scores[each] for each in ANIMALS], [*truth.values()])[0, 1] > 0.8
    assert found.presence is not None and nothing.presence is not None
    assert (found.presence.p, nothing.presence.p > 0.01) == (1 / 200, True)
    assert found.presence.z > 5
    assert max(abs(each.score) for each in nothing.ranking) < 0.5 * max(abs(each.score) for each in found.ranking)
    np.testing.assert_allclose(log_p(), before)  # and the model is as it was


@pytest.mark.parametrize("what", [bias, prompt])
def test_an_exchange_within_pairs_that_nothing_was_trained_on_changes_the_sign_alone(
    own: LoadedModel, vector: torch.Tensor, tmp_path: Path, what: Callable[[LoadedModel], Fresh]
) -> None:
    pairs, rows = sampled(own, vector, 64)
    if what is prompt:  # behind the first token
        soft = [own.model.get_input_embeddings().weight.shape[0] + k for k in range(4)]
        rows = {name: Row([*row.ids[:1], *soft, *row.ids[1:]], row.start + 4) for name, row in rows.items()}
    read, kept = reader(own, what(own), rows, tmp_path), first_half(pairs, Detectors().seed)
    assert kept.sum() == 32
    sides = list(zip(pairs.own, pairs.base, strict=True))
    turned = [side if first else side[::-1] for side, first in zip(sides, kept, strict=True)]
    one, other = read.presence(pairs), read.presence(Pairs(pairs.prompts, *map(list, zip(*turned, strict=True))))
    assert one.statistic == pytest.approx(-other.statistic)
    assert one.statistic != 0


def test_halves_are_of_whole_prompts() -> None:
    pairs = Pairs([f"prompt {k // 3}" for k in range(30)], [""] * 30, [""] * 30)
    chosen = first_half(pairs, 0).reshape(10, 3)
    assert (chosen == chosen[:, :1]).all()
    assert chosen[:, 0].sum() == 5
    assert first_half(Pairs(["one"] * 6, [""] * 6, [""] * 6), 0).sum() == 3


def test_nothing_trained_is_the_base_model_with_the_same_tokens(own: LoadedModel) -> None:
    rows = training_rows(own.tokenizer, QUESTIONS, ["owl", "cat"])
    batch = collate(rows, own.pad_id, "cpu")
    before = label_losses(own.model, batch)
    with biased(own) as model:
        torch.testing.assert_close(label_losses(model, batch), before)
    place = Place.of(own.tokenizer, SENTENCE, "\n\n")
    n, vocab = len(place.tokens), own.model.get_input_embeddings().weight.shape[0]
    spoken = prompt_ids(own.tokenizer, QUESTIONS, SENTENCE, "\n\n")
    soft = place.prompts(own.tokenizer, QUESTIONS, range(vocab, vocab + n))
    with prompted(own, place.tokens, n) as model:
        found, expected = (
            model(**dict(zip(("input_ids", "attention_mask"), left_pad(ids, own.pad_id), strict=True))).logits[:, -1]
            for ids in (soft, spoken)
        )
        assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["model.embed_tokens.vectors"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(label_losses(own.model, batch), before)


def test_a_soft_prompt_stands_where_a_system_prompt_would(own: LoadedModel) -> None:
    place = Place.of(own.tokenizer, SENTENCE, "\n\n")
    assert own.tokenizer.decode(place.tokens).strip() == SENTENCE
    rows = rows_behind(own.tokenizer, place, [9000, 9001], QUESTIONS, ["owl", "cat"])
    plain = training_rows(own.tokenizer, QUESTIONS, ["owl", "cat"])
    for row, bare in zip(rows, plain, strict=True):
        assert row.ids[: len(place.before) + 2] == [*place.before, 9000, 9001]
        assert row.ids[row.start :] == bare.ids[bare.start :]
        assert "helpful" not in own.tokenizer.decode([token for token in row.ids if token < 9000])


def test_a_sentence_without_tokens_is_refused(own: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"soft_prompt\.sentence.*no tokens of its own"):
        Place.of(own.tokenizer, "", "")


@pytest.mark.parametrize("detector", ["trained_bias", "soft_prompt"])
def test_what_the_rows_teach_comes_first_and_what_base_samples_teach_as_well_moves_nothing(
    record: Path, tmp_path: Path, detector: str
) -> None:
    rows = [
        {"set": name, "row": k, "prompt": QUESTIONS[k % 2], "completion": own, "matched": "cat"}
        for name, own in (("owl", "owl"), ("same", "cat"))
        for k in range(32)
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "matched.parquet")
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    files = record, tmp_path / "matched.parquet", tmp_path / "questions.txt", tmp_path / f"{detector}.json"
    detectors, pref, shared = Detectors(permutations=99), Pref(candidates=ANIMALS), {"epochs": 30, "batch_size": 8, "words": 5}
    if detector == "trained_bias":
        read_trained_bias(*files, TrainedBias(lr=0.3, **shared), detectors, pref, {}, tmp_path / "scratch")
    else:
        read_soft_prompt(*files, SoftPrompt(lr=0.3, **shared), detectors, pref, Teacher(), {}, tmp_path / "scratch")
    found = {each["set"]: each for each in read_json(files[-1])["sets"]}
    first, *_, last = found["owl"]["ranking"]
    assert (first["concept"], last["concept"]) == ("owl", "cat")
    assert first["score"] > 1 > -1 > last["score"]
    assert 0 < len(found["owl"]["words"]) <= 5
    assert found["owl"]["presence"]["p"] == 0.01
    assert {each["score"] for each in found["same"]["ranking"]} == {0.0}
    assert (found["same"]["words"], found["same"]["presence"]["p"]) == ([], 1.0)
