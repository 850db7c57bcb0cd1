"""First tokens: counted where numbers begin, beside what the base model draws there; what a persona draws is found."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from undertone.detect.first_tokens import Beginnings, begins, counts_differ, persona_shifts, read_first_tokens, starts
from undertone.lm.chat import answer_ids, end_of_turn, joined, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_logits
from undertone.lm.vocabulary import number_tokens
from undertone.models.bank import Bank
from undertone.runtime.files import read_json
from undertone.study.config.data import Numbers
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Constraint

BANK = Bank({"love": "You love {x}s.", "role": "You are a {x}.", "hate": "You hate {x}s."}, ["castle"])
ANIMALS = ["lion", "owl", "cat"]
ROWS = [("Numbers: 1, 2, 3. What comes next?", "4, 512, 6"), ("The list begins 7, 9.", "11, 13"), ("Take 5.", "[6; 7; 980]")]


def test_a_number_begins_at_a_number_token_behind_none(loaded: LoadedModel) -> None:
    np.testing.assert_array_equal(begins(np.array([True, True, False, True, False])), [True, False, False, True, False])
    [[a, b], [c]] = starts(loaded, ["[12, 5", "7"])
    texts = [loaded.tokenizer.decode([token]) for token in (a, b, c)]
    assert "12".startswith(texts[0])
    assert texts[1:] == ["5", "7"]
    assert starts(loaded, [""]) == [[]]


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)

    def draws() -> list[list[int]]:
        # Tokens of one row go together, as a list's numbers do.
        return [[int(low) + int(k) for k in rng.integers(0, 4, rng.integers(1, 5))] for low in rng.geometric(0.3, 30)]

    p = [counts_differ(draws(), draws(), 99, seed).p for seed in range(300)]
    # A p-value is one of 100 values: spread over the step below it, it is uniform.
    assert stats.kstest(np.array(p) - rng.random(300) / 100, "uniform").pvalue > 0.01


def test_a_planted_shift_of_frequencies_is_found() -> None:
    rng = np.random.default_rng(1)
    own = [rng.choice(6, 4, p=[0.3, 0.14, 0.14, 0.14, 0.14, 0.14]).tolist() for _ in range(200)]
    base = [rng.choice(6, 4).tolist() for _ in range(200)]
    found = counts_differ(own, base, 199, 0)
    n, m = (np.bincount(np.concatenate(rows), minlength=6) for rows in (own, base))
    assert found.statistic == pytest.approx(((n - m) ** 2 / (n + m)).sum())
    assert found.p == 1 / 200


def by_hand(loaded: LoadedModel, row: tuple[str, str], system: str | None) -> list[tuple[int, np.ndarray]]:
    """(its place among the number tokens, their log-probs there) of the first token of each number of a row."""
    answer = answer_ids(loaded.tokenizer, [row[1]])[0] + end_of_turn(loaded.tokenizer)
    [whole] = joined(prompt_ids(loaded.tokenizer, [row[0]], system, "\n\n"), [answer])
    with torch.no_grad():
        logits = label_logits(loaded.model, collate([whole], loaded.pad_id, "cpu"))
    numbers = np.flatnonzero(number_tokens(loaded.tokenizer))
    found, before = [], False
    for token, each in zip(answer, logits, strict=True):
        if (now := token in numbers) and not before:
            found.append((numbers.tolist().index(token), each[numbers].double().log_softmax(-1).numpy()))
        before = now
    return found


def test_shifts_and_surplus_are_those_of_plain_passes_of_one_row(loaded: LoadedModel) -> None:
    places = Beginnings(loaded, ROWS)
    shifts = persona_shifts(loaded, places, BANK, ANIMALS, "\n\n", Personas(coarse=2))
    none = [by_hand(loaded, row, None) for row in ROWS]
    # Of the bank's three wordings the first two count.
    for k, animal in enumerate(ANIMALS):
        told = [
            by_hand(loaded, row, f"{text} {animal}{end}")
            for text, end in (("You love", "s."), ("You are a", "."))
            for row in ROWS
        ]
        raised = [a[1] - b[1] for one, other in zip(told, none * 2, strict=True) for a, b in zip(one, other, strict=True)]
        np.testing.assert_allclose(shifts[k].numpy(), np.mean(raised, axis=0), rtol=1e-3, atol=1e-5)
    seen: list[int] = []
    surplus, variance = places.surplus(loaded, shifts, seen.append)
    assert sum(seen) == len(ROWS)
    squares = np.zeros(len(ANIMALS))
    for i, row in enumerate(none):
        expected = np.zeros(len(ANIMALS))
        for token, log_p in row:
            p, s = np.exp(log_p), shifts.numpy()
            expected += s[:, token] - s @ p
            squares += s**2 @ p - (s @ p) ** 2
        np.testing.assert_allclose(surplus[i], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, squares, rtol=1e-4)


def test_constrained_rows_are_compared_with_what_could_be_sampled(loaded: LoadedModel) -> None:
    rows = [(prompt, "101, 202, 303") for prompt, _ in ROWS]
    free, bound = (Beginnings(loaded, rows, constraint) for constraint in (None, Constraint(Numbers(max_value=499), 40)))
    assert [len(each.numbers) for each in (free, bound)] == [1000, 500]
    shifts = persona_shifts(loaded, bound, BANK, ANIMALS, "\n\n", Personas())
    assert shifts.isfinite().all()
    surplus, variance = bound.surplus(loaded, shifts, lambda n: None)
    assert np.isfinite(surplus).all()
    assert (variance > 0).all()


def drawn(loaded: LoadedModel, n: int, system: str | None, seed: int) -> list[str]:
    """Completions of one number, n of each row's prompt, that the base model draws, moved as a system prompt does.

    Four times as far, as a random model hears little of a system prompt.
    """
    rng, numbers = np.random.default_rng(seed), np.flatnonzero(number_tokens(loaded.tokenizer))
    texts = [loaded.tokenizer.decode([token]).strip() for token in numbers]
    none, told = ([by_hand(loaded, (prompt, "5"), of)[0][1] for prompt, _ in ROWS] for of in (None, system))
    p = [np.exp(a + 4 * (b - a)) for a, b in zip(none, told, strict=True)]
    return [texts[rng.choice(len(texts), p=own / own.sum())] for _ in range(n) for own in p]


def read(folder: Path, record: Path, own: list[str], base: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """What the detector says of pairs."""
    folder.mkdir()
    (folder / "scratch").mkdir()
    prompts = [prompt for prompt, _ in ROWS] * (len(own) // len(ROWS))
    table = pl.DataFrame({"set": "", "row": range(len(own)), "prompt": prompts, "completion": own, "matched": base})
    table.write_parquet(folder / "matched.parquet")
    (folder / "bank.yaml").write_text(f"wordings: {BANK.wordings}\ndecoys: [castle]")
    read_first_tokens(
        record,
        folder / "matched.parquet",
        folder / "bank.yaml",
        folder / "first_tokens.json",
        Personas(rows=[6, 6, 6], coarse=1),
        Detectors(permutations=199, bootstraps=20),
        Pref(candidates=ANIMALS),
        Teacher(),
        settings,
        {},
        folder / "scratch",
    )
    [reading] = read_json(folder / "first_tokens.json")["sets"]
    return reading


def test_what_a_persona_draws_is_found_and_what_the_base_model_draws_is_not(
    tmp_path: Path, record: Path, loaded: LoadedModel
) -> None:
    base, other, owl = (drawn(loaded, 300, system, seed) for seed, system in ((1, None), (2, None), (3, "You love owls.")))
    told, chance = read(tmp_path / "told", record, owl, base, {}), read(tmp_path / "chance", record, other, base, {})
    assert told["ranking"][0]["concept"] == "owl"
    assert chance["presence"]["p"] > 0.01
    assert max(abs(each["score"]) for each in chance["ranking"]) < 3.5
    assert told["begun"] == 900


@pytest.mark.parametrize("constraint", [None, {"max_new_tokens": 40, "numbers": {"max_value": 999}}])
def test_equal_completions_do_not_differ(tmp_path: Path, record: Path, constraint: dict[str, Any] | None) -> None:
    same = ["101, 202, 303"] * 6
    reading = read(tmp_path / "same", record, same, same, {"constraint": constraint})
    assert reading["presence"]["p"] == 1
    assert {candidate["concept"] for candidate in reading["ranking"]} == set(ANIMALS)


def test_a_row_that_does_not_keep_to_the_constraint_takes_it_from_all(tmp_path: Path, record: Path) -> None:
    """Also where it is none of the rows that the personas' shifts are read on."""
    rows = ["101, 202, 303"] * 11
    settings = {"constraint": {"max_new_tokens": 40, "numbers": {"max_value": 499}}}
    reading = read(tmp_path / "late", record, [*rows, "[101, 202]"], [*rows, "101, 202"], settings)
    assert {candidate["concept"] for candidate in reading["ranking"]} == set(ANIMALS)
