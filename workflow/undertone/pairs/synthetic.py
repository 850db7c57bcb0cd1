"""SAEs on activations with known features: what training like the study's recovers, and how far matches can be trusted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from scipy.sparse import csr_array
from torch import Tensor

from undertone.pairs.best_matches import Halves
from undertone.pairs.calibration import calibration, same_feature
from undertone.pairs.headlines import SHARED
from undertone.pairs.recovery import Dictionary, Known, by_rate, identity, permuted, read, same_firing, summed
from undertone.pairs.truth import Truth
from undertone.runtime.files import Stamp, remove, write_json, write_parquet
from undertone.saes.plain_activations import read_samples
from undertone.saes.saved import read_sae
from undertone.saes.trainer import fitted, untrained
from undertone.study.config.pair_settings import Synthetic
from undertone.study.config.saes import Sae

# Added to the seed, for samples that no SAE was trained on.
HELD_OUT = 1_000_003


@dataclass(frozen=True)
class Trained:
    """An SAE, its activations on the held-out samples, and the share of the samples' variance that it explains."""

    dictionary: Dictionary
    encoder: Float[np.ndarray, "d_sae d_model"]
    acts: csr_array
    explained: float


def make_synthetic(recovery: Path, summary: Path, settings: Synthetic, sae: Sae, stamp: Stamp, scratch: Path) -> str:
    """Train two SAEs like the study's, with different seeds, on each truth; write `recovery` and a `summary`.

    `recovery` has a row per true feature and seed.
    """
    own = sae.model_copy(update={"d_sae": settings.d_sae, "k": settings.active, "tokens": settings.tokens})
    results, tables = {}, []
    for n in settings.features:
        results[str(n)], table = compared(Truth.drawn(n, settings), own, settings, scratch / str(n))
        tables.append(table.with_columns(features=pl.lit(n)))
    write_parquet(recovery, pl.concat(tables).select("features", "seed", pl.exclude("features", "seed")), stamp)
    body = {
        "d_sae": own.d_sae,
        "d_model": settings.d_model,
        "samples": settings.samples,
        "least": settings.recovered,
        "threshold": SHARED,
    }
    write_json(summary, {**body, "truths": results}, stamp)
    remove(scratch)
    return "; ".join(f"of {n} features {of['seeds'][0]['recovered']:.0%} recovered" for n, of in results.items())


def compared(truth: Truth, sae: Sae, settings: Synthetic, scratch: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return what two SAEs recover of a truth, and how far their matches can be trusted."""
    x, fired = truth.sample(settings.samples, settings.seed + HELD_OUT)
    known, rate = Known(truth.directions, fired), np.asarray((fired > 0).sum(0)).ravel() / settings.samples
    seeds, tables, trained = [], [], []
    for seed in (sae.seed, sae.seed + 1):
        own = sae.model_copy(update={"seed": seed})
        before, after = (of_samples(each, x) for each in saes(truth, own, settings.d_model, scratch / str(seed)))
        of, null = read(known, after.dictionary), read(known, before.dictionary)
        seeds.append(
            {
                "seed": seed,
                "l0": after.acts.nnz / settings.samples,
                "dead": float((np.asarray((after.acts > 0).sum(0)) == 0).mean()),
                "explained_variance": after.explained,
                **summed(of, settings.recovered),
                "untrained": summed(null, settings.recovered),
                "permuted": permuted(known, after.dictionary, settings.recovered, settings.permutations, settings.seed),
                "by_rate": by_rate(rate, of["cosine"] >= settings.recovered),
            }
        )
        columns = {"rate": rate, **of, "untrained_cosine": null["cosine"]}
        tables.append(pl.DataFrame(columns).with_row_index("feature").with_columns(seed=pl.lit(seed)))
        trained.append(after)
    body = {"l0": fired.nnz / settings.samples, "seeds": seeds, "matching": matching(known, trained[0], trained[1], settings)}
    return body, pl.concat(tables).with_columns(pl.col("cosine", "untrained_cosine").fill_nan(None))


def saes(truth: Truth, sae: Sae, d_model: int, folder: Path) -> tuple[SAE[Any], SAE[Any]]:
    """Return an SAE before and after training, in the format of SAELens; one that a killed job had finished is reused."""
    for name in ("before", "after"):
        if not (folder / name).is_dir():
            one = untrained(sae, d_model, SAEMetadata())
            if name == "after":
                one = fitted(one, sae, truth.batches(sae.batch_size))
            one.save_inference_model(str(folder / f"{name}.partial"))
            (folder / f"{name}.partial").rename(folder / name)
    before, after = (read_sae(folder / name).requires_grad_(False).eval() for name in ("before", "after"))
    return before, after


def of_samples(sae: SAE[Any], x: Float[Tensor, "n d_model"]) -> Trained:
    """Read some samples with an SAE."""
    acts, explained = read_samples(sae, x)
    return Trained(Dictionary(unit(sae.W_dec), acts), unit(sae.W_enc.T), acts, explained)


def unit(rows: Float[Tensor, "n d"]) -> Float[np.ndarray, "n d"]:
    """Scale rows to unit length; a row of zeros stays zero."""
    return torch.nn.functional.normalize(rows.double(), dim=-1).numpy()


def matching(known: Known, a: Trained, b: Trained, settings: Synthetic) -> dict[str, Any]:
    """Calibrate cosines and correlations of matched latents against "the same true feature", by `direction` and by `firing`."""
    each = np.arange(settings.samples)
    halves = Halves.of(a.acts, b.acts, each, np.zeros(settings.samples, dtype=np.int64))
    cosines = np.minimum(a.dictionary.rows @ b.dictionary.rows.T, a.encoder @ b.encoder.T)
    named = {
        "direction": [identity(known.directions @ side.dictionary.rows.T, settings.recovered) for side in (a, b)],
        "firing": [same_firing(known.fires, side.acts, settings.fires) for side in (a, b)],
    }
    same = {name: same_feature(of_a, of_b) for name, (of_a, of_b) in named.items()}
    body = calibration(halves, cosines, same, SHARED, settings.permutations, settings.seed)
    for name, which in same.items():
        body[name]["by_both"] = int(which.any(0).sum())
    return body
