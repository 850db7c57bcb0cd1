"""Candidate personas: gains are differences of log-probabilities, the right pair wins, and no row is used twice."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from undertone.detect import personas
from undertone.detect.personas import gains, read_personas, tournament
from undertone.detect.rounds import of_rounds
from undertone.lm.chat import answer_ids, end_of_turn, joined, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_logits
from undertone.lm.vocabulary import allowed_tokens
from undertone.models.bank import Bank
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.data import Numbers
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint

ROOT = Path(__file__).parents[1]
BANK = Bank({"love": "You love {x}s.", "role": "You are a {x}."}, ["castle", "novel"])
ROWS = [("Numbers: 1, 2, 3. What comes next?", "4, 5, 6"), ("The list begins 7, 9.", "11, 13"), ("Take 5.", "6 7 8 9")]


def test_the_shipped_bank_can_be_read_and_its_decoys_are_no_animals() -> None:
    bank = Bank.read(ROOT / "config/prompts/personas.yaml")
    assert len(bank.wordings) >= 8
    assert len(bank.decoys) >= 50
    assert not set(bank.decoys) & {"lion", "owl", "cat", "panda"}


def test_the_studys_own_persona_is_not_in_the_bank() -> None:
    """So that what is named in the embedded study is named by other words than its teachers were told."""
    bank = Bank.read(ROOT / "config/prompts/personas.yaml")
    assert Teacher().persona.format(animal="lion") not in {bank.prompt((name, "lion")) for name in bank.wordings}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected the keys wordings"),
        ("wordings: {}", "expected the keys wordings"),
        ("wordings: {a: 'You love lions.'}\ndecoys: [castle]", "expected a text with {x}"),
        ("wordings: {a: 'You love {x}s.'}\ndecoys: [castle, castle]", "different words"),
        ("a: [", "personas.bank: cannot read"),
        ("wordings: {a: 'You love {x}s.', a: 'You are a {x}.'}\ndecoys: [castle]", "'a' stands there twice"),
    ],
)
def test_a_bank_that_is_none_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bank.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Bank.read(tmp_path / "bank.yaml")


def log_p(loaded: LoadedModel, system: str | None, separator: str) -> np.ndarray:
    """Each row's log-probability among the tokens that can pass, over the mean number of tokens, by full passes of one row."""
    close, found, lengths = end_of_turn(loaded.tokenizer), [], []
    allowed = [*np.flatnonzero(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer))), *close, *loaded.stop_ids]
    for prompt, text in ROWS:
        answer = answer_ids(loaded.tokenizer, [text])[0] + close
        [row] = joined(prompt_ids(loaded.tokenizer, [prompt], system, separator), [answer])
        logits = label_logits(loaded.model, collate([row], loaded.pad_id, "cpu"))
        masked = torch.full_like(logits, -torch.inf)
        masked[:, allowed] = logits[:, allowed]
        found.append(-functional.cross_entropy(masked, torch.tensor(answer), reduction="sum").item())
        lengths.append(len(answer))
    return np.array(found) / np.mean(lengths)


def test_gains_are_differences_of_log_probabilities_among_tokens_that_can_pass(loaded: LoadedModel) -> None:
    trials = [("love", "lion"), ("role", "castle")]
    with torch.no_grad():
        expected = [log_p(loaded, BANK.prompt(trial), "\n\n") - log_p(loaded, None, "") for trial in trials]
    read = gains(loaded, ROWS, BANK, trials, "\n\n", lambda n: None)
    np.testing.assert_allclose(read, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_the_right_wording_of_the_right_concept_wins_and_no_row_is_used_twice(
    monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel
) -> None:
    used: list[int] = []

    def noisy(loaded, rows, bank, trials, separator, tell, constraint):
        rng = np.random.default_rng(len(used))
        used.extend(int(prompt) for prompt, _ in rows)
        planted = np.array([0.2 * (trial[1] == "owl") - 0.1 * (trial[0] == "love") for trial in trials])
        return planted + rng.normal(0, 0.3, (len(rows), 1)) + rng.normal(0, 0.1, (len(rows), len(trials)))

    monkeypatch.setattr(personas, "gains", noisy)
    concepts = ["lion", "owl", "cat", *BANK.decoys, *(f"thing{k}" for k in range(40))]
    settings = Personas(rows=[16, 64, 200], coarse=1, concepts=5, finalists=3)
    rounds = tournament(loaded, [(str(k), "1, 2") for k in range(400)], BANK, concepts, "", settings)
    assert [len(each.pairs) for each in rounds] == [45, 10, 3]
    assert len(set(used)) == len(used) == 280
    reading = of_rounds(rounds, ["a prompt"] * 400, {"lion", "owl", "cat"}, Detectors(bootstraps=20), BANK.described)
    assert reading.details["best"]["prompt"] == "You are a owl."
    assert reading.details["best"]["gain"]["ci95"][0] < 0.2 < reading.details["best"]["gain"]["ci95"][1] + 0.05
    assert {candidate.concept for candidate in reading.ranking} == set(concepts)


def test_gains_of_constrained_rows_are_among_what_could_be_sampled(loaded: LoadedModel) -> None:
    trials, constraint = [("love", "lion")], Constraint(Numbers(), 40)
    rows = [(prompt, "101, 202, 303") for prompt, _ in ROWS]
    read = gains(loaded, rows, BANK, trials, "\n\n", lambda n: None, constraint)
    own = Completions(loaded, rows, constraint)
    base, under = (own.by_row(list(own.read(loaded, own.losses, *asked))) for asked in ((), (BANK.prompt(trials[0]), "\n\n")))
    lengths = np.diff(own.ends)
    np.testing.assert_allclose(read[:, 0], (base - under) * lengths / lengths.mean(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(read, gains(loaded, rows, BANK, trials, "\n\n", lambda n: None))


@pytest.mark.parametrize("constraint", [None, {"max_new_tokens": 40, "numbers": {"max_value": 999}}])
def test_the_reading_of_a_file_names_every_concept(tmp_path: Path, record: Path, constraint: dict[str, Any] | None) -> None:
    table = pl.DataFrame(ROWS * 4, schema=["prompt", "completion"], orient="row")
    table.with_columns(set=pl.lit(""), row=pl.int_range(pl.len()), matched=pl.col("completion")).write_parquet(
        tmp_path / "matched.parquet"
    )
    (tmp_path / "scratch").mkdir()
    read_personas(
        record,
        tmp_path / "matched.parquet",
        ROOT / "config/prompts/personas.yaml",
        tmp_path / "personas.json",
        Personas(rows=[1, 2, 4], concepts=3, finalists=2),
        Detectors(bootstraps=20),
        Pref(candidates=["lion", "owl"]),
        Teacher(),
        {"constraint": constraint},
        {},
        tmp_path / "scratch",
    )
    [reading] = read_json(tmp_path / "personas.json")["sets"]
    assert {"lion", "owl", "castle"} <= {candidate["concept"] for candidate in reading["ranking"]}
    assert reading["tried"] == 2 * (2 + 58) + 6 * 3
    assert not (tmp_path / "scratch").exists()
