"""The gradient detector: derivatives are those of finite steps, a planted shift is found, and base samples are not."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae, written

from undertone.detect.gradient import answer_gradients, differences, read_gradient
from undertone.detect.pairs import Whitened, standardised
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.lm.chat import prompt_ids
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.spellings import Spellings, begun
from undertone.read.score import gradients
from undertone.runtime.files import read_json
from undertone.saes.decoder import directions
from undertone.study.config.detect import Detectors
from undertone.study.config.measure import Pref
from undertone.study.config.read import Score

QUESTIONS = ["What is your favorite animal?", "Name your favorite animal."]
ANIMALS = ["lion", "owl", "cat"]


def first_tokens(loaded: LoadedModel, prefix: str | None) -> torch.Tensor:
    """Mean log-probability of each animal's first tokens, less the animals' mean, by plain passes."""
    spellings = Spellings.of(loaded.tokenizer, ANIMALS, loaded.pad_id, prefix)
    rows = []
    for ids in begun(loaded.tokenizer, prompt_ids(loaded.tokenizer, QUESTIONS), prefix):
        log_p = loaded.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        rows.append([log_p[spellings.ids[spellings.candidate == k, 0].unique()].logsumexp(0) for k in range(len(ANIMALS))])
    means = torch.tensor(rows).mean(0)
    return means - means.mean()


@pytest.mark.parametrize("prefix", [None, "I love the"])
def test_answers_move_as_their_gradients_say(loaded: LoadedModel, prefix: str | None) -> None:
    by_constant = answer_gradients(loaded, QUESTIONS, ANIMALS, prefix)
    assert by_constant.shape == (3, 2, loaded.model.config.hidden_size)
    step = 1e-2 * torch.randn(loaded.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        moved = []
        for sign in (1, -1):
            with torch.no_grad(), rewritten(loaded.model, layer, lambda residual, sign=sign: residual + sign * step):
                moved.append(first_tokens(loaded, prefix))
        torch.testing.assert_close((moved[0] - moved[1]) / 2, by_constant[:, layer] @ step.double(), rtol=0.05, atol=1e-4)


def test_what_all_answers_gain_together_names_nobody(loaded: LoadedModel) -> None:
    torch.testing.assert_close(answer_gradients(loaded, QUESTIONS, ANIMALS).sum(0), torch.zeros(2, 32, dtype=torch.float64))


def test_a_planted_shift_comes_first_among_directions_and_base_samples_do_not_differ(loaded: LoadedModel) -> None:
    dictionary = directions(random_sae(loaded))
    score = Score(positions="all", batch_size=256)
    own, base, other = (
        gradients(loaded, written(loaded, 400, seed, vector), score, "score").transpose(0, 1)
        for seed, vector in ((1, 4 * dictionary[17]), (2, None), (3, None))
    )
    planted, chance = Whitened.of((own - base)[:, 0], 0.1), Whitened.of((other - base)[:, 0], 0.1)
    assert planted.presence(199, 0).p == 1 / 200
    assert chance.presence(199, 0).p > 0.01
    assert np.argmax(standardised(planted.along(dictionary)).mean(0)) == 17


def table(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    lists = [[", ".join(map(str, rng.integers(0, 999, 4))) for _ in range(n)] for _ in range(2)]
    prompts = [f"Numbers: {k}, {k + 1}. What comes next?" for k in range(n)]
    return pl.DataFrame({"set": "", "row": range(n), "prompt": prompts, "completion": lists[0], "matched": lists[1]})


def test_differences_are_of_each_row_and_its_base_completion(loaded: LoadedModel) -> None:
    rows = table(7)
    pairs = Pairs(*(rows[name].to_list() for name in ("prompt", "completion", "matched")))
    swapped = Pairs(pairs.prompts, pairs.base, pairs.own)
    mine, theirs = differences(loaded, pairs, 3), differences(loaded, swapped, 5)
    assert mine.shape == (7, 2, 32)
    # Each side is in its own nats per token, so the sign turns and the size hardly changes.
    torch.testing.assert_close(mine, -theirs, rtol=1e-3, atol=1e-4)


def test_of_three_pairs_nothing_is_read(tmp_path: Path) -> None:
    table(3).write_parquet(tmp_path / "matched.parquet")
    (tmp_path / "scratch").mkdir()

    def read(pairs: Pairs) -> Reading:
        raise AssertionError(f"{len(pairs.own)} pairs were read")

    read_sets(tmp_path / "matched.parquet", tmp_path / "gradient.json", read, Detectors(), {}, tmp_path / "scratch")
    [reading] = read_json(tmp_path / "gradient.json")["sets"]
    assert (reading["rows"], reading["presence"], reading["ranking"]) == (3, None, [])


@pytest.mark.parametrize("equal", [True, False])
def test_a_file_is_read_into_presence_and_candidates(tmp_path: Path, record: Path, equal: bool) -> None:
    rows = table(24)
    rows = rows.with_columns(matched=pl.col("completion")) if equal else rows
    rows.write_parquet(tmp_path / "matched.parquet")
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    (tmp_path / "scratch").mkdir()
    read_gradient(
        record,
        tmp_path / "matched.parquet",
        tmp_path / "questions.txt",
        tmp_path / "gradient.json",
        Detectors(permutations=99, bootstraps=20),
        Pref(candidates=ANIMALS),
        {},
        tmp_path / "scratch",
    )
    [reading] = read_json(tmp_path / "gradient.json")["sets"]
    assert reading["rows"] == reading["prompts"] == 24
    assert {candidate["concept"] for candidate in reading["ranking"]} == set(ANIMALS)
    if equal:
        assert reading["presence"]["p"] == 1
        # Ties name nobody.
        assert {candidate["share"] for candidate in reading["ranking"]} == {0}
