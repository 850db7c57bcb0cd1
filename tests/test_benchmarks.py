"""The benchmark of a model of true size: it runs from end to end on a tiny one, and its floors are what they say."""

import json
import sys
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_gpu import pretended

from undertone.lm.loading import LoadedModel

BENCHMARKS = Path(__file__).parent / "benchmarks"
TINY = {
    "layers": 3,
    "width": 64,
    "heads": 2,
    "kv-heads": 1,
    "head-dim": 32,
    "mlp": 128,
    "vocab": 1500,
    "hook": 1,
    "d-sae": 96,
    "prompt": 24,
    "shared": 12,
    "completion": 8,
    "new-tokens": 5,
    "student-batch": 4,
    "steps": 2,
    "bias-batch": 4,
    "activations-batch": 4,
    "repeats": 1,
}


@pytest.fixture
def real_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import real_size

    return real_size


def moved(made: LoadedModel, real_size, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The model on the GPU, where everything else is made from then on."""
    monkeypatch.setattr(real_size, "DEVICE", "cuda")
    return replace(made, model=made.model.to("cuda", torch.bfloat16))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_way_is_timed_beside_its_floor(real_size, device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cuda":
        # A default device is set beneath what pretends one; and what is measured there first is large.
        make = real_size.random_gemma
        monkeypatch.setattr(real_size, "random_gemma", lambda told: moved(make(told), real_size, monkeypatch))
        monkeypatch.setattr(real_size.Machine, "measured", lambda loaded: real_size.Machine(1e12, 1e12))
    sizes = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    more = ["--sampling-batches", "3", "6", "--also", "static", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["real_size.py", *sizes, *more])
    with pretended() if device == "cuda" else nullcontext():
        real_size.main()
    table = json.loads((tmp_path / "out.json").read_text())["table"]
    names = [row["what"] for row in table]
    assert names == [
        *(
            f"sampling, {n} rows: {how}"
            for n in (3, 6)
            for how in ("undertone", "model.generate, dynamic", "model.generate, static")
        ),
        "activations, 4 rows",
        "feature bias's step after layer 1, 4 rows",
        *(f"student, 2 steps of 4 rows{how}" for how in (("", ", LoRA in TF32") if device == "cuda" else ("",))),
    ]
    assert all(row["s"] > row["floor, s"] > 0 for row in table)
    assert all(row["tokens/s"] == pytest.approx(15 / row["s"]) for row in table[:3])


def test_a_way_that_does_not_run_says_why(real_size) -> None:
    def broken() -> None:
        raise ValueError("no such attention on this device\nmore")

    assert real_size.row("continuous", broken, 8, 0.5, 1) == [
        "continuous: ValueError no such attention on this device",
        "",
        "",
        0.5,
        "",
        "",
    ]


def test_the_floor_of_decoding_is_the_weights_and_the_cache_or_the_products(real_size, loaded) -> None:
    told = Namespace(layers=2, kv_heads=2, head_dim=16, prompt=10, shared=4, new_tokens=3)
    n = sum(p.numel() for p in loaded.model.parameters())
    head = loaded.model.get_output_embeddings().weight.numel()
    slow_memory, slow_products = real_size.Machine(1e30, 100.0), real_size.Machine(100.0, 1e30)
    cached = 2 * 2 * 2 * 16 * torch.float32.itemsize
    read = [4 * n + 5 * cached * (10 + k) for k in (1, 2)]
    assert real_size.sampling_floor(loaded, told, 5, slow_memory) == pytest.approx(sum(read) / 100)
    products = 2 * 5 * ((n - head) * 6 + head) + 2 * (2 * n * 5)
    assert real_size.sampling_floor(loaded, told, 5, slow_products) == pytest.approx(products / 100)


def test_an_order_of_stored_tokens_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sae_training

    n = 20_000
    kept = sae_training.order(np.arange(n))
    assert (kept["p"], kept["neighbours"]) == (0, 1)
    contexts = np.random.default_rng(0).permutation(n // 100)
    assert sae_training.order((contexts[:, None] * 100 + np.arange(100)).ravel())["neighbours"] > 0.98
    drawn = sae_training.order(np.random.default_rng(0).permutation(n))
    assert drawn["p"] > 1e-3
    assert drawn["neighbours"] < 1e-3
