"""SAEs of several widths, each fully trained on the same tokens and measured on held-out text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from undertone.lab.training_cost import flops
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint, check_point
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, remove, write_json, write_parquet
from undertone.saes.plain_activations import quality_of_samples
from undertone.saes.sae_metrics import context_rows, quality
from undertone.saes.trainer import activations, fitted, steps_of, untrained, usual
from undertone.study.config.saes import Sae

# Metrics of each SAE.
MEASURED = ("explained_variance", "loss_recovered", "dead", "l0", "pca")


@dataclass(frozen=True)
class Run:
    """SAEs of several widths trained on the same `tokens` tokens and measured on `held_out` tokens of text.

    A feature that is silent for the share `revived` of a training is revived. With `gaussian`, activations are normal vectors.
    """

    d_sae: tuple[int, ...]
    tokens: int
    seed: int
    gaussian: bool
    revived: float
    held_out: int


def train_runs(
    loaded: LoadedModel,
    batches: Iterator[Sequence[Row]],
    text: Path,
    runs: Path,
    run: Run,
    sae: Sae,
    stamp: Stamp,
    scratch: Path,
) -> str:
    """Train a TopK SAE of each width on the same tokens, each with a full decay of the learning rate; write a row for each.

    SAEs are trained on `batches`. If the run is `gaussian`, activations are replaced by normal vectors of the same mean and
    covariance, in which nothing is sparse. A killed job resumes after the SAEs that it finished. Raises ConfigError for a
    width below `sae.k`.
    """
    if sae.k > min(run.d_sae):
        raise ConfigError(f"scaling.d_sae {min(run.d_sae)}: sae.k is {sae.k}; expected widths of at least {sae.k} features")
    check_point(HookPoint.of(sae), loaded.model)
    rows = context_rows(text, run.held_out)
    pending = [d_sae for d_sae in run.d_sae if not row_of(scratch, d_sae).exists()]
    if pending:
        x = read_activations(loaded, batches, sae, run.tokens)
        x, held = gaussian(x, run.held_out, run.seed) if run.gaussian else (x, None)
        for d_sae in pending:
            write_json(row_of(scratch, d_sae), measured(loaded, x, held, rows, of_width(sae, run, d_sae)), {})
    made = [read_json(row_of(scratch, d_sae)) for d_sae in run.d_sae]
    write_parquet(runs, as_table(made, run, loaded.model.config.get_text_config().hidden_size), stamp)
    remove(scratch)
    return "\n".join(f"{row['d_sae']} features: {row['explained_variance']:.3f} explained" for row in made)


def as_table(made: Sequence[dict[str, Any]], run: Run, d_model: int) -> pl.DataFrame:
    """Return a table with a row for each SAE, with its metrics and the run's settings."""
    schema = {"d_sae": pl.Int64, **dict.fromkeys(MEASURED, pl.Float64)}
    return pl.DataFrame([{name: row[name] for name in schema} for row in made], schema).with_columns(
        tokens=pl.lit(run.tokens),
        seed=pl.lit(run.seed),
        gaussian=pl.lit(run.gaussian),
        flops=pl.Series([flops(d_sae, run.tokens, d_model) for d_sae in run.d_sae]),
        d_model=pl.lit(d_model),
    )


def row_of(scratch: Path, d_sae: int) -> Path:
    """Return the path where an SAE's metrics wait for the others."""
    return scratch / f"{d_sae}.json"


def of_width(sae: Sae, run: Run, d_sae: int) -> Sae:
    """Return the settings of one SAE; a feature is revived after the same share of each training, however long it is."""
    own = sae.model_copy(update={"architecture": "topk", "d_sae": d_sae, "tokens": run.tokens, "seed": run.seed})
    return own.model_copy(update={"dead_steps": max(1, round(run.revived * steps_of(own)))})


def read_activations(loaded: LoadedModel, batches: Iterator[Sequence[Row]], sae: Sae, n: int) -> Float[Tensor, "n d_model"]:
    """Return the activations at the SAE's hook point on the first `n` text tokens of some batches, in float32 on the CPU."""
    parts, left = [], n
    for part in usual(activations(loaded, batches, HookPoint.of(sae)), sae.max_norm):
        parts.append(part[:left].cpu())
        left -= len(parts[-1])
        if left == 0:
            break
    return torch.cat(parts)


def gaussian(x: Float[Tensor, "n d_model"], held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw as many normal vectors, with the mean and covariance of `x`, and `held_out` others for the measurement."""
    mean = x.double().mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T))
    root = (vectors * values.clamp(min=0).sqrt()).float()
    drawn = torch.randn(len(x) + held_out, len(mean), generator=torch.Generator().manual_seed(seed)) @ root.T + mean.float()
    return drawn[: len(x)], drawn[len(x) :]


def measured(
    loaded: LoadedModel,
    x: Float[Tensor, "n d_model"],
    held: Float[Tensor, "_ d_model"] | None,
    rows: Sequence[Row],
    settings: Sae,
) -> dict[str, Any]:
    """Train an SAE on `x`; measure it on held-out text or, if given, on `held`, vectors that no model computed."""
    sae = untrained(settings, x.shape[1], SAEMetadata()).to(loaded.model.device)
    trained = fitted(sae, settings, in_order(x, settings, str(loaded.model.device))).eval().requires_grad_(False)
    if held is None:
        seen = quality(loaded, trained, HookPoint.of(settings), rows, settings.max_norm)
        names = ("explained_variance", "loss_recovered", "dead", "l0")
        return {"d_sae": settings.d_sae, **{name: seen[name] for name in names}, "pca": seen["pca"]["explained_variance"]}
    drawn = quality_of_samples(trained, held)
    return {**drawn, "d_sae": settings.d_sae, "loss_recovered": None, "dead": drawn["dead"] / settings.d_sae}


def in_order(x: Float[Tensor, "n d_model"], settings: Sae, device: str) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Yield batches of activations in an order that the seed draws anew for each pass; an incomplete last batch is dropped."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_size, len(x))
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - size + 1, size):
            yield x[order[start : start + size]].to(device)
