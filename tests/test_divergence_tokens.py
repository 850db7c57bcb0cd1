"""Divergence tokens: those of plain passes, counted where the argmax moves; a dataset that follows a persona agrees with it."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from undertone.detect.divergence_tokens import Agreement, compared, read_divergence_tokens
from undertone.detect.personas import gains
from undertone.lm.chat import answer_ids, end_of_turn, joined, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_logits
from undertone.lm.vocabulary import allowed_tokens, number_tokens
from undertone.models.bank import Bank
from undertone.runtime.files import read_json
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

BANK = Bank({"love": "You love {x}s.", "role": "You are a {x}.", "hate": "You hate {x}s."}, ["castle"])
ANIMALS = ["lion", "owl", "cat"]
ROWS = [("Numbers: 1, 2, 3. What comes next?", "4, 512, 6"), ("The list begins 7, 9.", "11, 13"), ("Take 5.", "[6; 7; 980]")]
TRIALS = [("love", "lion"), ("role", "owl")]


def by_hand(loaded: LoadedModel, row: tuple[str, str], system: str | None) -> tuple[list[int], torch.Tensor]:
    """(the tokens of a row's answer, log-probs among the tokens that can pass of each), by a pass of one row."""
    close = end_of_turn(loaded.tokenizer)
    answer = answer_ids(loaded.tokenizer, [row[1]])[0] + close
    [whole] = joined(prompt_ids(loaded.tokenizer, [row[0]], system, "\n\n"), [answer])
    logits = label_logits(loaded.model, collate([whole], loaded.pad_id, "cpu"))
    allowed = [*np.flatnonzero(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer))), *close, *loaded.stop_ids]
    masked = torch.full_like(logits, -torch.inf)
    masked[:, allowed] = logits[:, allowed]
    return answer, masked.log_softmax(-1)


def test_agreement_is_that_of_plain_passes_of_one_row(loaded: LoadedModel) -> None:
    found = compared(loaded, ROWS, BANK, TRIALS, "\n\n")
    assert [each.trial for each in found] == TRIALS
    diverging = 0.0
    for each in found:
        there = []
        for i, row in enumerate(ROWS):
            with torch.no_grad():
                answer, none = by_hand(loaded, row, None)
                _, told = by_hand(loaded, row, BANK.prompt(each.trial))
            agreed = n = 0
            for token, a, b in zip(answer, none, told, strict=True):
                if a.argmax() != b.argmax():
                    n += 1
                    agreed += int(token == b.argmax()) - int(token == a.argmax())
                    there.append(float(b[token] - a[token]))
            assert (each.agreed[i], each.diverging[i]) == (agreed, n)
        diverging += each.diverging.sum()
        assert each.gain_there == pytest.approx(np.mean(there), rel=1e-3)
    assert diverging > 0
    expected = gains(loaded, ROWS, BANK, TRIALS, "\n\n", lambda n: None).mean(0)
    np.testing.assert_allclose([each.gain for each in found], expected, rtol=1e-4, atol=1e-6)


def test_the_rate_is_a_ratio_of_sums_whose_parts_have_it_as_their_mean() -> None:
    own = Agreement(("love", "lion"), np.array([2.0, -1.0, 0.0]), np.array([3.0, 1.0, 0.0]), 0.0, 0.0)
    assert own.rate == 0.25
    assert own.by_row.mean() == pytest.approx(0.25)
    # A row without divergence tokens says nothing, and pulls the rate nowhere.
    assert own.by_row[2] == own.rate
    none = Agreement(("love", "owl"), np.zeros(3), np.zeros(3), 0.0, 0.0)
    assert none.rate == -1
    np.testing.assert_array_equal(none.by_row, [-1, -1, -1])


def read(folder: Path, record: Path, rows: list[tuple[str, str]], constraint: dict[str, Any] | None) -> dict[str, Any]:
    """What the detector says of rows."""
    table = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
    table.with_columns(set=pl.lit(""), row=pl.int_range(pl.len()), matched=pl.col("completion")).write_parquet(
        folder / "matched.parquet"
    )
    (folder / "scratch").mkdir()
    (folder / "bank.yaml").write_text(f"wordings: {BANK.wordings}\ndecoys: [castle]")
    read_divergence_tokens(
        record,
        folder / "matched.parquet",
        folder / "bank.yaml",
        folder / "divergence_tokens.json",
        Personas(rows=[1, 2, 200], coarse=2),
        Detectors(bootstraps=20),
        Pref(candidates=ANIMALS),
        Teacher(),
        {"constraint": constraint},
        {},
        folder / "scratch",
    )
    [reading] = read_json(folder / "divergence_tokens.json")["sets"]
    return reading


def test_rows_that_write_what_a_persona_would_choose_are_found(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    """Each row is the number that the model would write first under the planted system prompt."""
    numbers, rng = torch.from_numpy(np.flatnonzero(number_tokens(loaded.tokenizer))), np.random.default_rng(0)
    prompts = [f"Numbers: {a}, {b}. What comes next?" for a, b in rng.integers(0, 999, (120, 2))]
    rows = []
    for prompt in prompts:
        with torch.no_grad():
            _, log_p = by_hand(loaded, (prompt, "5"), BANK.prompt(("role", "owl")))
        rows.append((prompt, loaded.tokenizer.decode([int(numbers[log_p[0, numbers].argmax()])]).strip()))
    reading = read(tmp_path, record, rows, None)
    assert reading["rows_tried"] == 120
    assert reading["ranking"][0]["concept"] == "owl"
    [owl] = [each for each in reading["candidates"] if each["concept"] == "owl"]
    assert owl["wording"] == "role"
    assert reading["presence"] is None


@pytest.mark.parametrize("constraint", [None, {"max_new_tokens": 40, "numbers": {"max_value": 999}}])
def test_the_best_of_a_few_wordings_stands_for_every_candidate(
    tmp_path: Path, record: Path, loaded: LoadedModel, constraint: dict[str, Any] | None
) -> None:
    rows = [(prompt, "101, 202, 303") for prompt, _ in ROWS] * 2
    reading = read(tmp_path, record, rows, constraint)
    assert {each["concept"] for each in reading["ranking"]} == set(ANIMALS)
    if constraint is None:
        trials = [(name, animal) for animal in ANIMALS for name in ("love", "role")]
        tried = compared(loaded, rows, BANK, trials, Teacher().separator)
        rates, gained = (
            [max(getattr(each, what) for each in tried if each.trial[1] == animal) for animal in ANIMALS]
            for what in ("rate", "gain")
        )
        scores = {each["concept"]: each["score"] for each in reading["ranking"]}
        assert scores == pytest.approx(dict(zip(ANIMALS, rates, strict=True)))
        assert [each["gain"] for each in reading["candidates"]] == pytest.approx(gained, rel=1e-3)
