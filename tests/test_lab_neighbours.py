"""The features nearest to each where they are known: rows and firing that were made so, and chance by simulation."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae, saved_sae
from sae_lens import SAE
from scipy import sparse

from undertone.lab.firing import Firing, read_firing, shifted, upper
from undertone.lab.neighbours import (
    co_firing,
    co_firing_by_chance,
    cosines,
    find_neighbours,
    nearest,
    random_bound,
    spread_bound,
)
from undertone.lab.reading import Reader
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.plots.feature_plots import plot_neighbours
from undertone.runtime.files import read_json, write_parquet
from undertone.stats import partners
from undertone.study.config.lab import Neighbours

D_SAE = 64


@pytest.fixture(scope="module")
def contexts(loaded: LoadedModel) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(10, len(loaded.tokenizer), (120, 12), generator=generator).tolist()
    return [[2, *row[: 6 + k % 6]] for k, row in enumerate(drawn)]


def twins(record: Path) -> SAE[Any]:
    """An SAE of which feature 7 is 6 with a decoder row that is 10° off, and 8 fires on none."""
    sae = random_sae(load(record))
    sae.W_enc[:, 7], sae.b_enc[7], sae.b_enc[8] = 2 * sae.W_enc[:, 6], 2 * sae.b_enc[6], -1e9
    row, other = sae.W_dec[6], sae.W_dec[9]
    across = other - (other @ row) * row
    angle = torch.tensor(10.0).deg2rad()
    sae.W_dec[7] = 3 * (angle.cos() * row + angle.sin() * across / across.norm())
    return sae


def made(record: Path, sae: SAE[Any], contexts: list[list[int]], home: Path, **settings: int) -> dict[str, Any]:
    home.mkdir(exist_ok=True)
    text, table, summary = (home / name for name in ("text.parquet", "neighbours.parquet", "neighbours.json"))
    write_parquet(text, pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
    said = find_neighbours(
        record, saved_sae(record, sae, home), text, table, summary, Neighbours(**settings), 1e9, {"of": "it"}
    )
    plot_neighbours(table, summary, home / "plot.png")
    assert (home / "plot.png").stat().st_size > 10_000
    return {"table": pl.read_parquet(table), "summary": read_json(summary), "said": said}


@pytest.fixture(scope="module")
def twin(record: Path, contexts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(record, twins(record), contexts, tmp_path_factory.mktemp("twins") / "lab", k=5)


def nearest_of(made: dict[str, Any], feature: int, by: str) -> dict[str, Any]:
    rows = made["table"].filter((pl.col("feature") == feature) & (pl.col("by") == by))
    assert rows["rank"].to_list() == [1, 2, 3, 4, 5]
    assert rows["value"].to_list() == sorted(rows["value"], reverse=True)
    return rows.row(0, named=True)


def test_planted_twins_are_each_others_nearest_by_every_way_and_beyond_chance(twin: dict[str, Any]) -> None:
    values = {"decoder": float(torch.tensor(10.0).deg2rad().cos()), "encoder": 1, "firing": 1}
    for by, value in values.items():
        for feature, other in ((6, 7), (7, 6)):
            row = nearest_of(twin, feature, by)
            assert (row["neighbour"], row["value"]) == (other, pytest.approx(value, abs=1e-5))
            assert row["value"] > row["null95"]


def test_features_that_never_fire_are_left_out_and_counted(twin: dict[str, Any]) -> None:
    table, summary = twin["table"], twin["summary"]
    alive = D_SAE - summary["dead"]
    assert summary["dead"] >= 1
    assert 8 not in {*table["feature"], *table["neighbour"]}
    assert len(table) == 3 * 5 * alive
    assert summary["decoder"]["features"] == alive
    assert summary["warning"] is None
    assert not (table["feature"] == table["neighbour"]).any()
    assert table.filter(pl.col("by") == "firing")["null95_spread"].null_count() == 5 * alive
    assert twin["said"].startswith(f"{alive} features")


def test_shares_of_common_neighbours_are_those_of_the_sets(twin: dict[str, Any]) -> None:
    sets = {
        way: {feature: set(rows["neighbour"]) for (feature,), rows in part.group_by("feature")}
        for (way,), part in twin["table"].group_by("by")
    }
    same = np.mean([len(sets["decoder"][j] & sets["firing"][j]) / 5 for j in sets["decoder"]])
    assert twin["summary"]["shared"]["decoder_firing"] == pytest.approx(same)
    assert twin["summary"]["shared"]["chance"] == pytest.approx(5 / (len(sets["decoder"]) - 1))


def test_an_sae_with_no_or_one_living_feature_has_tables_and_a_figure(
    record: Path, contexts: list[list[int]], tmp_path: Path
) -> None:
    for n in (0, 1):
        sae = random_sae(load(record))
        sae.b_enc[n:] = -1e9
        silent = made(record, sae, contexts, tmp_path / str(n))
        assert silent["table"].is_empty()
        assert silent["summary"]["decoder"]["median"] is None
        assert silent["summary"]["warning"] == f"{D_SAE - n} of {D_SAE} features are dead on this text"


def test_what_fires_is_read_in_the_order_of_the_text(record: Path, contexts: list[list[int]]) -> None:
    loaded, sae = load(record), random_sae(load(record))
    firing = read_firing(Reader(loaded, sae, HookPoint(0), contexts, 1e9, 0, 0))
    assert firing.token.tolist() == [token for ids in contexts for token in ids[1:]]
    assert firing.position.tolist() == [place for ids in contexts for place in range(1, len(ids))]
    assert firing.context.tolist() == [k for k, ids in enumerate(contexts) for _ in ids[1:]]
    acts = np.concatenate(
        [Reader(loaded, sae, HookPoint(0), contexts, 1e9, 0, 0).read([k]).acts[0, 1:].numpy() for k in range(len(contexts))]
    )
    assert firing.acts.toarray() == pytest.approx(acts, rel=1e-4, abs=1e-4)
    assert firing.counts.tolist() == (acts > 0).sum(0).tolist()


def fired(on: np.ndarray, context: np.ndarray) -> Firing:
    anything = np.zeros(len(on), dtype=np.int64)
    return Firing(sparse.csr_matrix(on.astype(np.float32)), anything, anything, context)


def test_phi_is_the_correlation_of_firing() -> None:
    rng = np.random.default_rng(0)
    on = rng.random((400, 7)) < [0.5, 0.1, 0.3, 0.02, 0.2, 1.0, 0.4]
    on[:, 6] |= on[:, 0]
    fires = sparse.csr_matrix(on.astype(float))
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.corrcoef(on.T))
    assert co_firing(fires, fires)(slice(0, 3)) == pytest.approx(expected[:3], abs=1e-12)
    moved = np.roll(on, -16, axis=0)[:, [0, 1, 2]]
    expected = np.corrcoef(on[:, [0, 1, 2]].T, moved.T)[:3, 3:]
    assert co_firing(fires, sparse.csr_matrix(moved.astype(float)))(slice(0, 3)) == pytest.approx(expected, abs=1e-12)


def test_chance_of_co_firing_keeps_its_level_where_features_last_over_contexts() -> None:
    """Each feature is on in some contexts and off in others: tokens that are shuffled would make any pair seem related."""
    rng = np.random.default_rng(1)
    context = np.repeat(np.arange(150), rng.integers(8, 30, 150))
    on = (rng.random((150, 80)) < 0.15)[context] & (rng.random((len(context), 80)) < 0.5)
    firing = fired(on, context)
    greatest = nearest(co_firing(firing.fires, firing.fires), 80, 1)[1][:, 0]
    bound = upper(co_firing_by_chance(firing, 39, 0))
    assert (greatest > bound).mean() <= 0.15
    order = rng.permutation(len(context))
    shuffled = np.corrcoef(on.T, on[order].T)[:80, 80:].max(1)
    assert (greatest > shuffled).mean() > 0.9


def test_features_of_one_place_in_every_context_meet_by_chance_too() -> None:
    rng = np.random.default_rng(2)
    place = np.tile(np.arange(6), 100)
    on = np.stack([(place == 0) & (rng.random(600) < 0.9) for _ in range(2)] + [rng.random(600) < 0.1 for _ in range(6)], 1)
    firing = fired(on, np.repeat(np.arange(100), 6))
    greatest = nearest(co_firing(firing.fires, firing.fires), 8, 1)[1][:, 0]
    draws = co_firing_by_chance(firing, 19, 0)
    assert greatest[:2] == pytest.approx(draws[:, :2].mean(0), abs=0.1)
    assert greatest[:2].min() > 0.8


def test_each_token_meets_one_at_its_own_place_in_another_context() -> None:
    lengths = np.array([5, 2, 4, 3, 5, 4])
    context = np.repeat([0, 1, 3, 4, 5, 8], lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    seen = []
    for own, met in shifted(context, 99, 0):
        assert (place[own] == place[met]).all()
        assert (context[own] != context[met]).all()
        pairs = {(a, b) for a, b in zip(context[own], context[met], strict=True)}
        assert len(pairs) == 6
        seen.append(pairs)
    assert len(set.union(*seen)) == 30  # each context meets each other one once
    assert len(seen) == 5
    own, met = next(shifted(context, 1, 0))
    assert len(own) == 2 + 3 + 4 + 4 + 5 + 2  # of the first and the last context two tokens meet
    assert [*shifted(np.zeros(4, dtype=int), 3, 0)] == []


@pytest.mark.parametrize("n", [19, 39, 99])
def test_a_further_draw_exceeds_the_bound_once_in_20_times(n: int) -> None:
    draws = np.random.default_rng(n).normal(size=(n, 20_000))
    beyond = np.random.default_rng(n + 1).normal(size=20_000) > upper(draws)
    assert beyond.mean() == pytest.approx(0.05, abs=0.006)
    assert upper(draws[:3]).tolist() == draws[:3].max(0).tolist()


@pytest.mark.parametrize(("d", "n"), [(64, 512), (16, 40)])
def test_chance_of_cosines_is_that_of_random_vectors(d: int, n: int) -> None:
    rng = np.random.default_rng(0)
    greatest = [nearest(cosines(partners.unit(rng.normal(size=(n, d)))), n, 1)[1][:, 0] for _ in range(40)]
    assert random_bound(d, n) == pytest.approx(np.quantile(greatest, 0.95), abs=0.01)
    assert random_bound(64, 512) == pytest.approx(0.445, abs=1e-3)
    assert random_bound(d, 1) is None


def test_rows_in_a_narrow_cloud_are_near_by_chance() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (partners.unit(rng.normal(size=(300, 64)) * scale) for scale in (np.ones(64), np.geomspace(1, 0.02, 64)))
    assert spread_bound(wide, 0) == pytest.approx(random_bound(64, 300), abs=0.05)
    greatest = nearest(cosines(narrow), 300, 1)[1][:, 0]
    assert (greatest > spread_bound(narrow, 0)).mean() < 0.15 < 0.9 < (greatest > random_bound(64, 300)).mean()


def test_neighbours_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = partners.unit(np.random.default_rng(0).normal(size=(50, 8)))
    whole = nearest(cosines(unit), 50, 4)
    monkeypatch.setattr("undertone.lab.neighbours.CHUNK", 7)
    parts = nearest(cosines(unit), 50, 4)
    assert np.array_equal(whole[0], parts[0])
    assert np.allclose(whole[1], parts[1])
