"""Activations on disk: each token is tied to its context, the order is uniform, and a killed job ends with the same bytes."""

import shutil
from collections import namedtuple
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import chisquare, kstest, spearmanr

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint, read_at
from undertone.lm.training import collate
from undertone.models.model import corpus_of
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, read_parquet
from undertone.saes import store as module
from undertone.saes.sae import CHATS_SEED, corpus_rows, make_sae
from undertone.saes.saved import load_sae
from undertone.saes.store import make_store
from undertone.saes.store_chats import make_store_chats
from undertone.saes.stored import places, read_shard, stored_batches
from undertone.saes.text import SCHEMA, table
from undertone.saes.trainer import activations, usual
from undertone.study.config.models import Embedded, Model
from undertone.study.config.saes import Sae, Store
from undertone.study.formats import SAE_FILES
from undertone.study.study import load as load_study
from workflow import Project

AT = HookPoint(1)
N_SHARDS = 5
SMALL: dict[str, Any] = {"d_sae": 48, "k": 4, "batch_size": 256, "layer": 1}


@pytest.fixture(scope="module")
def text(record: Path, tiny_settings: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "text.parquet"
    make_store_chats(record, Path(tiny_settings.corpus), path, 40_000, Model(embedded=tiny_settings), {"of": "chats"})
    return path


def make(record: Path, text: Path, home: Path, at: HookPoint = AT, n: int = N_SHARDS, **settings: Any) -> list[Path]:
    (home / "scratch").mkdir(parents=True, exist_ok=True)
    shards = [home / "store" / f"{k}.safetensors" for k in range(n)]
    of_store = Store(**{"dtype": "float32", **settings})
    make_store(record, text, shards, home / "store/store.json", at.point, at.layer, of_store, {"of": "store"}, home / "scratch")
    return shards


@pytest.fixture(scope="module")
def shards(record: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make(record, text, tmp_path_factory.mktemp("store"))


def joined(shards: list[Path]) -> tuple[torch.Tensor, np.ndarray]:
    parts = [read_shard(path) for path in shards]
    return torch.cat([x for x, _ in parts]), torch.cat([token for _, token in parts]).numpy()


@pytest.mark.parametrize("at", [AT, HookPoint(0, "mlp_out")])
def test_a_token_leads_back_to_its_context(
    record: Path, loaded: LoadedModel, text: Path, at: HookPoint, tmp_path: Path
) -> None:
    x, token = joined(make(record, text, tmp_path, at))
    contexts = read_parquet(text)["ids"].to_list()
    row, position = places(token, np.array([len(ids) for ids in contexts]))
    for k in np.random.default_rng(0).choice(len(token), 1_000, replace=False):
        batch = collate([Row(contexts[row[k]][: position[k] + 1], 0)], loaded.pad_id, "cpu")
        torch.testing.assert_close(x[k], read_at(loaded.model, at, batch)[0, -1].float(), rtol=1e-4, atol=1e-4)


def test_every_text_token_but_first_ones_is_there_once(loaded: LoadedModel, text: Path, shards: list[Path]) -> None:
    special, expected, start = set(loaded.special.tolist()), [], 0
    for ids in read_parquet(text)["ids"].to_list():
        expected += [start + k for k, token in enumerate(ids) if k and token not in special]
        start += len(ids)
    x, token = joined(shards)
    assert sorted(token.tolist()) == expected
    about = read_json(shards[0].with_name("store.json"))
    assert about["tokens"] == len(expected) == sum(about["by_shard"])
    assert (about["hook_point"], about["d_model"]) == (AT.name, 32)
    assert about["bytes"] == x.numel() * 4 + len(token) * 8


def test_where_a_token_comes_is_uniform_whatever_it_was_before(shards: list[Path]) -> None:
    _, token = joined(shards)
    before = np.argsort(np.argsort(token))  # its place among the text's tokens
    n, tenths = len(token), 10
    cells = np.zeros((tenths, tenths))
    np.add.at(cells, (before * tenths // n, np.arange(n) * tenths // n), 1)
    # Of a uniform permutation the table's rows and columns are near equal: (tenths − 1)² degrees of freedom.
    assert chisquare(cells.ravel(), ddof=2 * tenths - 2).pvalue > 1e-3
    assert abs(spearmanr(before, np.arange(n)).statistic) < 4 / np.sqrt(n)
    # Neighbours in the text are as far apart as any two tokens: |u − v| of uniform ones has the density 2(1 − d).
    after = np.argsort(before)
    apart = np.abs(np.diff(after)) / n
    assert kstest(apart[::2], lambda d: 1 - (1 - d) ** 2).pvalue > 1e-3


def test_a_shuffle_within_windows_would_be_seen(shards: list[Path]) -> None:
    _, token = joined(shards)
    n = len(token)
    order = np.concatenate([part + np.random.default_rng(0).permutation(1_000) for part in range(0, n - 1_000, 1_000)])
    cells = np.zeros((10, 10))
    np.add.at(cells, (order * 10 // n, np.arange(len(order)) * 10 // n), 1)
    assert chisquare(cells.ravel(), ddof=18).pvalue < 1e-6


def test_another_seed_gives_another_order_of_the_same(record: Path, text: Path, shards: list[Path], tmp_path: Path) -> None:
    _, token = joined(shards)
    _, other = joined(make(record, text, tmp_path, seed=1))
    assert sorted(token) == sorted(other)
    assert (token[:1_000] != other[:1_000]).mean() > 0.99


class KilledError(Exception):
    """Stands for a SIGKILL, behind which nothing is written."""


def killed(patch: pytest.MonkeyPatch, function: str, calls: int) -> None:
    """Let a function of the module end the job instead of returning from its next call but `calls`."""
    real, count = getattr(module, function), iter(range(calls))

    def dies(*args: Any, **kwargs: Any) -> Any:
        if next(count, None) is None:
            raise KilledError
        return real(*args, **kwargs)

    patch.setattr(module, function, dies)


@pytest.mark.parametrize(
    ("function", "calls"),
    [("read_contexts", 0), ("read_contexts", 3), ("permute", 0), ("permute", 3), ("move", 2)],
    ids=["at once", "in the first pass", "between", "at shard 3", "while it puts them in place"],
)
@pytest.mark.parametrize("noted", [0.0, 1e9], ids=["noted each time", "noted at the end"])
def test_a_killed_job_ends_with_the_same_bytes(
    record: Path,
    text: Path,
    shards: list[Path],
    function: str,
    calls: int,
    noted: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NOTED_AFTER_S", noted)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        killed(patch, function, calls)
        make(record, text, tmp_path)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)  # as Snakemake does with what a killed job leaves
    read: list[Any] = []
    real = module.read_contexts
    monkeypatch.setattr(module, "read_contexts", lambda *args: read.append(args) or real(*args))
    again = make(record, text, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in shards]
    assert not (tmp_path / "scratch").exists()
    groups = len(read_parquet(text)) // 256
    done = {"read_contexts": calls if noted == 0 else 0, "permute": groups, "move": 0}[function]
    assert len(read) == groups - done


def test_files_that_are_shorter_than_noted_are_begun_anew(
    record: Path, text: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        killed(patch, "permute", 2)
        make(record, text, tmp_path)
    (tmp_path / "scratch/4.x").write_bytes(b"")
    again = make(record, text, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in shards]


def test_float16_holds_the_same_to_its_precision(record: Path, text: Path, shards: list[Path], tmp_path: Path) -> None:
    half = make(record, text, tmp_path, dtype="float16")
    assert read_shard(half[0])[0].dtype == torch.float16
    torch.testing.assert_close(read_shard(half[0])[0].float(), read_shard(shards[0])[0], rtol=1e-3, atol=1e-4)


def test_a_store_that_the_disk_cannot_hold_is_refused_before_any_work(
    record: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_contexts", lambda *args: pytest.fail("the model was run"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    expected = r"^the store of [\d,]+ tokens of 32 numbers needs 0\.\d\d GB on the disk of .*, which has 0\.00 GB free; free"
    with pytest.raises(ConfigError, match=expected):
        make(record, text, tmp_path)


@pytest.mark.parametrize(
    ("value", "dtype", "complaint"),
    [
        (7e4, "float16", "blocks.1.hook_resid_post reaches 70000, beyond what float16 holds; set store.dtype: float32"),
        (torch.nan, "float32", "blocks.1.hook_resid_post is NaN or infinite"),
    ],
)
def test_what_no_number_of_its_precision_is_stops_it(
    record: Path, text: Path, value: float, dtype: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*args: Any) -> torch.Tensor:
        x = read_at(*args)
        x[..., 0] = value
        return x

    monkeypatch.setattr(module, "read_at", spoilt)
    with pytest.raises(ConfigError, match=complaint):
        make(record, text, tmp_path, dtype=dtype)


def test_a_small_text_fills_fewer_shards_than_there_are(record: Path, tmp_path: Path) -> None:
    with table(tmp_path / "text.parquet", {}) as writer:
        writer.write_table(pa.Table.from_pylist([{"row": 0, "source": 0, "ids": [2, 20, 30]}], SCHEMA))
    shards = make(record, tmp_path / "text.parquet", tmp_path)
    assert sorted(len(read_shard(path)[0]) for path in shards)[:3] == [0, 0, 0]
    batches = stored_batches(shards, Sae(**SMALL | {"batch_size": 3}), torch.device("cpu"))
    assert [len(next(batches)) for _ in range(3)] == [3, 3, 3]


def test_chats_are_those_that_an_sae_is_trained_on(record: Path, tiny_settings: Embedded, text: Path) -> None:
    ids = read_parquet(text)["ids"].to_list()
    corpus = corpus_of(Path(tiny_settings.corpus), tiny_settings)
    rows = [row.ids for batch in islice(corpus_rows(load(record), corpus, CHATS_SEED), 3) for row in batch]
    assert ids[: len(rows)] == rows[: len(ids)]


def test_each_token_is_trained_on_once_before_any_is_again(shards: list[Path]) -> None:
    x, _ = joined(shards)
    batches = stored_batches(shards, Sae(**SMALL | {"max_norm": 1e9}), torch.device("cpu"))
    epochs = torch.cat(list(islice(batches, 2 * len(x) // 256)))
    assert epochs.dtype == torch.float32
    first, second = (torch.sort(part[:, 0]).values for part in (epochs[: len(x)], epochs[len(x) :]))
    assert torch.equal(first, torch.sort(x[:, 0]).values)
    assert not torch.equal(epochs[:1_000], epochs[len(x) : len(x) + 1_000])
    assert torch.isin(second, first).all()
    other = next(stored_batches(shards, Sae(**SMALL | {"seed": 1}), torch.device("cpu")))
    assert not torch.equal(other, epochs[:256])


def test_vectors_far_longer_than_others_are_left_out(shards: list[Path]) -> None:
    x, _ = joined(shards)
    settings = Sae(**SMALL | {"max_norm": 1.001})
    kept = sum(len(part) for part in usual((read_shard(path)[0] for path in shards), 1.001))
    batches = stored_batches(shards, settings, torch.device("cpu"))
    epoch = torch.cat(list(islice(batches, kept // 256)))
    assert kept < len(x)
    assert epoch.norm(dim=1).max() < x.norm(dim=1).max()


def test_an_sae_from_the_store_is_as_good_as_one_from_the_same_tokens_as_they_are_made(
    record: Path, tiny_settings: Embedded, loaded: LoadedModel, text: Path, tmp_path: Path
) -> None:
    tokens = 40_000
    stored, explained = make(record, text, tmp_path / "made", dtype="float16"), {}
    corpus = corpus_of(Path(tiny_settings.corpus), tiny_settings)
    held = next(activations(loaded, corpus_rows(loaded, corpus, 7_000_000), AT))
    for seed in (0, 1, 2):
        for name, store in (("made", []), ("stored", stored)):
            home = tmp_path / f"{name}-{seed}"
            (home / "scratch").mkdir(parents=True)
            saved = home / "sae/sae.json"
            files, settings = [saved.with_name(file) for file in SAE_FILES], Sae(**SMALL | {"tokens": tokens, "seed": seed})
            of_model = Model(embedded=tiny_settings)
            make_sae(record, Path(tiny_settings.corpus), store, saved, files, settings, of_model, {}, home / "scratch")
            sae, _ = load_sae(saved, loaded)
            error = (held - sae(held)).square().sum() / (held - held.mean(0)).square().sum()
            explained.setdefault(name, []).append(1 - float(error))
    apart = np.mean(explained["stored"]) - np.mean(explained["made"])
    assert np.mean(explained["made"]) > 0.3
    assert abs(apart) < 0.03


@pytest.fixture(scope="module")
def finished(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = base.copy(tmp_path_factory.mktemp("stored") / "project")
    project.configure(sae={"cached": True}, saes={"seed1": {"seed": 1}, "fresh": {"cached": False}}, store={"shards": 3})
    project.forked("results/sae/sae.json", "results/sae-seed1/sae.json")
    yield project


def test_saes_of_one_point_share_a_store(finished: Project) -> None:
    results = finished.root / "results"
    assert sorted(path.name for path in (results / "store/resid_post.0").iterdir()) == [
        "0.safetensors",
        "1.safetensors",
        "2.safetensors",
        "store.json",
    ]
    assert (results / "sae/sae_weights.safetensors").read_bytes() != (
        results / "sae-seed1/sae_weights.safetensors"
    ).read_bytes()
    assert finished.planned("results/sae-fresh/sae.json") == {"Prepare the SAE"}
    assert finished.planned("results/sae/sae.json") == set()


@pytest.mark.parametrize(
    ("edit", "planned"),
    [
        ({"store": {"seed": 1}}, {"Store the activations at resid_post.0", "Prepare the SAE"}),
        ({"sae": {"lr": 2e-3}}, {"Prepare the SAE"}),
    ],
    ids=["store", "sae"],
)
def test_an_edit_makes_stale_what_it_concerns(
    finished: Project, edit: dict[str, Any], planned: set[str], tmp_path: Path
) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(**edit)
    assert project.planned("results/sae/sae.json") == planned


def test_the_stores_of_a_study_are_those_of_its_saes() -> None:
    saes = {"out": {"point": "mlp_out", "layer": 2}, "wide": {"d_sae": 1024}, "foreign": {"model": "other"}}
    study = load_study({"saes": saes, "models": {"other": {"embedded": {"seed": 3}}}})
    assert study.stores == ["resid_post.1", "mlp_out.2", "resid_post.1-other"]
    found = {"release": "a", "id": "b"}
    assert load_study({"model": {"name": "a/model", "revision": "a" * 40}, "sae": found}).stores == []
    with pytest.raises(ConfigError, match="cached is for training, and release or folder name an SAE that exists"):
        load_study({"model": {"name": "a/model", "revision": "a" * 40}, "sae": {**found, "cached": True}})
