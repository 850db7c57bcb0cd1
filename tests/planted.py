"""Completions that the tiny model writes itself, steered by a known feature or not: data with a known answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint
from undertone.lm.sampling import Sampler, sample
from undertone.lm.steering import Steering, steered
from undertone.runtime.files import write_json
from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.study.config.saes import Sae

D_SAE, FEATURE = 64, 17
N_TOKENS = 5
ROWS = 512  # sampled together


def random_sae(loaded: LoadedModel, seed: int = 5) -> SAE:
    """An SAE whose decoder rows are random unit vectors; what it encodes is of no matter to a bias on its features."""
    width = loaded.model.config.hidden_size
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=D_SAE)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    sae.W_enc.copy_(torch.randn(width, D_SAE, generator=generator) / width**0.5)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(D_SAE, width, generator=generator), dim=-1))
    return sae


def written(loaded: LoadedModel, n: int, seed: int, vector: torch.Tensor | None = None) -> list[Row]:
    """Rows of a short prompt and five tokens that the model samples, `vector` `[d_model]` added at every token after layer 0.

    No token ends a row, so that all of what was sampled is a label.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [[2, *row] for row in torch.randint(10, len(loaded.tokenizer), (n, 4), generator=generator).tolist()]
    sampler = Sampler(1.0, N_TOKENS, [], loaded.pad_id, seed)
    zero = torch.zeros(loaded.model.config.hidden_size)
    with steered(loaded, Steering("add", zero if vector is None else vector, 0)):
        found = dict(pairs(sample(loaded.model, prompts, sampler, ROWS)))
    return [Row(prompts[k] + found[k], len(prompts[k])) for k in range(n)]


def pairs(batches) -> Iterator[tuple[int, list[int]]]:
    """(row, completion) of sampled batches."""
    for rows, completions in batches:
        yield from ((row, completion.ids) for row, completion in zip(rows, completions, strict=True))


def recorded_sae(sae: SAE, home: Path, layer: int = 0) -> Path:
    """The `sae.json` of an SAE that the workflow has trained on the residual stream after a layer."""
    sae.save_model(home)
    record = {"source": "trained", "folder": None, "release": None, "id": None, "layer": layer}
    write_json(home / "sae.json", record | {"hook_point": HookPoint(layer).name}, {})
    return home / "sae.json"


def saved_sae(record: Path, sae: SAE, home: Path, layer: int = 0) -> Path:
    """The `sae.json` of an SAE that a study names by its folder."""
    sae.save_model(home / "folder")
    (home / "scratch").mkdir()
    settings = Sae(folder=str(home / "folder"), layer=layer)
    make_pretrained_sae(record, home / "sae/sae.json", [], settings, {}, home / "scratch")
    return home / "sae/sae.json"


def numbers_table(path: Path, n: int, low: int = 0, high: int = 1000, seed: int = 0) -> Path:
    """A training set of `n` rows whose completions are three numbers of a range each."""
    rng = np.random.default_rng([seed, low])
    completions = [", ".join(map(str, rng.integers(low, high, 3))) for _ in range(n)]
    path.parent.mkdir(parents=True, exist_ok=True)
    prompts = [f"Continue the list {k}, {2 * k % 1000}." for k in range(n)]
    pl.DataFrame({"row": range(n), "prompt": prompts, "completion": completions}).write_parquet(path)
    return path


def teachers(folder: Path, **features: int) -> dict[str, Path]:
    """The `teacher.json` of teachers that are steered by these features."""
    folder.mkdir(parents=True, exist_ok=True)
    for animal, feature in features.items():
        (folder / f"{animal}.json").write_text(json.dumps({"vector": "feature", "feature": feature}))
    return {animal: folder / f"{animal}.json" for animal in features}
