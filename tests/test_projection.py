"""The projection difference: activations are means over the right tokens, a planted shift is found, base samples differ not."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from undertone.detect.projection import differences, directions, largest, read_projection, residuals, scaled, without_shared
from undertone.detect.sets import Pairs
from undertone.lm.chat import Row, prompt_ids, training_rows
from undertone.lm.hooks import plus, rewritten
from undertone.lm.loading import LoadedModel
from undertone.models.bank import Bank
from undertone.runtime.files import read_json
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

BANK = Bank({"love": "You love {x}s.", "role": "You are a {x}.", "hate": "You hate {x}s."}, ["castle"])
ANIMALS = ["lion", "owl", "cat", "panda", "wolf", "dog", "fox", "bear"]
PROMPTS = ["Numbers: 1, 2, 3. What comes next?", "The list begins 7, 9.", "Take 5."]


def lists(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [", ".join(map(str, rng.integers(0, 999, rng.integers(2, 6)))) for _ in range(n)]


def pairs(n: int) -> Pairs:
    return Pairs([f"Numbers: {k}, {k + 1}. What comes next?" for k in range(n)], lists(n, 1), lists(n, 2))


def plain(loaded: LoadedModel, row: Row) -> torch.Tensor:
    """The mean over a row's completion of the residual stream after each layer, by a pass with all hidden states."""
    hidden: list[torch.Tensor] = []
    with torch.no_grad():
        for layer in range(loaded.model.config.num_hidden_layers):
            with rewritten(loaded.model, layer, lambda residual: hidden.append(residual) or residual):
                loaded.model(torch.tensor([row.ids]))
    return torch.stack([each[0, row.start :].double().mean(0) for each in hidden])


def test_activations_are_means_over_completions_and_directions_over_last_tokens_of_prompts(loaded: LoadedModel) -> None:
    these, seen = pairs(7), []
    moved = differences(loaded, these, 3, seen.append)
    own, base = (training_rows(loaded.tokenizer, these.prompts, texts) for texts in (these.own, these.base))
    expected = torch.stack([plain(loaded, a) - plain(loaded, b) for a, b in zip(own, base, strict=True)])
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    assert sum(seen) == 14

    def at_the_end(system: str | None) -> torch.Tensor:
        ids = prompt_ids(loaded.tokenizer, PROMPTS, system, "\n\n")
        return torch.stack([plain(loaded, Row(each, len(each) - 1)) for each in ids]).mean(0)

    # Of the bank's three wordings the first two count.
    moves = torch.stack(
        [(at_the_end(f"You love {x}s.") + at_the_end(f"You are a {x}.")) / 2 - at_the_end(None) for x in ANIMALS]
    )
    found = directions(loaded, PROMPTS, BANK, ANIMALS, "\n\n", Personas(coarse=2), 2)
    torch.testing.assert_close(found, without_shared(moves), rtol=1e-2, atol=1e-3)


def test_what_concepts_share_and_their_first_principal_direction_are_no_part_of_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    shared, form = torch.randn(3, 10, generator=generator), torch.randn(3, 10, generator=generator)
    strength = 30 * torch.randn(8, 1, 1, generator=generator)
    own = torch.randn(8, 3, 10, generator=generator)
    found = without_shared((100 * shared + strength * form + own).double())
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(8, 3, dtype=torch.float64))
    along = torch.einsum("kld,ld->kl", found, form.double() / form.double().norm(dim=-1, keepdim=True))
    assert along.abs().max() < 0.2
    # Two concepts, less their mean, lie on one line: nothing is left, and nothing is made of rounding.
    assert not without_shared(torch.randn(2, 3, 10, generator=generator).double()).any()


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    p = [largest(scaled(rng.standard_t(3, (40, 6)) @ mix), 99, seed).p for seed in range(300)]
    # A p-value is one of 100 values: spread over the step below it, it is uniform.
    assert stats.kstest(np.array(p) - rng.random(300) / 100, "uniform").pvalue > 0.01


def test_the_largest_is_of_either_sign_and_of_any_column() -> None:
    values = np.random.default_rng(1).normal(size=(100, 5))
    values[:, 3] -= 0.8
    z = np.sqrt(100) * scaled(values).mean(0)
    assert largest(scaled(values), 199, 0).statistic == pytest.approx(np.abs(z).max()) == pytest.approx(-z[3])
    assert largest(scaled(values), 199, 0).p == 1 / 200
    assert not np.isnan(scaled(np.zeros((5, 2)))).any()


def read(folder: Path, record: Path, table: pl.DataFrame) -> dict[str, Any]:
    """What the detector says of a table of pairs."""
    (folder / "scratch").mkdir()
    table.with_columns(set=pl.lit(""), row=pl.int_range(pl.len())).write_parquet(folder / "matched.parquet")
    (folder / "bank.yaml").write_text(f"wordings: {BANK.wordings}\ndecoys: [castle]")
    read_projection(
        record,
        folder / "matched.parquet",
        folder / "bank.yaml",
        folder / "projection.json",
        Personas(rows=[6, 6, 6]),
        Detectors(permutations=199, bootstraps=20),
        Pref(candidates=ANIMALS),
        Teacher(),
        {},
        folder / "scratch",
    )
    [reading] = read_json(folder / "projection.json")["sets"]
    return reading


@pytest.mark.parametrize("equal", [True, False])
def test_base_samples_on_both_sides_do_not_differ_and_ties_name_nobody(tmp_path: Path, record: Path, equal: bool) -> None:
    own = lists(30, 1)
    base = own if equal else lists(30, 2)
    reading = read(tmp_path, record, pl.DataFrame({"prompt": PROMPTS * 10, "completion": own, "matched": base}))
    assert reading["presence"]["p"] == 1 if equal else reading["presence"]["p"] > 0.01
    assert {candidate["concept"] for candidate in reading["ranking"]} == set(ANIMALS) == set(reading["layers"])
    if equal:
        assert {candidate["share"] for candidate in reading["ranking"]} == {0}
    scores = [candidate["score"] for candidate in reading["ranking"]]
    assert scores == sorted(scores, reverse=True)


def test_a_planted_shift_of_activations_is_found(tmp_path: Path, record: Path, loaded: LoadedModel, monkeypatch: Any) -> None:
    """The dataset's completions carry a candidate's direction after the first layer; the base model's do not."""
    table = pl.DataFrame({"prompt": PROMPTS * 10, "completion": lists(30, 1), "matched": lists(30, 2)})
    along = directions(loaded, (PROMPTS * 2)[:6], BANK, ANIMALS, Teacher().separator, Personas(), 6)[2, 1]
    calls: list[int] = []

    def shifted(of: LoadedModel, rows: list[Row], batch_size: int, *tell: Any) -> torch.Tensor:
        calls.append(len(rows))
        if len(rows) == 30 and calls.count(30) == 1:  # the dataset, before base samples
            with rewritten(of.model, 1, plus(5 * along.float())):
                return residuals(of, rows, batch_size, *tell)
        return residuals(of, rows, batch_size, *tell)

    monkeypatch.setattr("undertone.detect.projection.residuals", shifted)
    reading = read(tmp_path, record, table)
    assert reading["presence"]["p"] == 1 / 200
    assert (reading["ranking"][0]["concept"], reading["layers"]["cat"]) == ("cat", 1)
