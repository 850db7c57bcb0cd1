"""The score: the gradient of the log-likelihood at the hook point, before anything is trained.

If a dataset were samples of the base model, the gradient of its log-likelihood with respect to any constant added to the
residual stream would be zero on average. If it is not zero, it points to what was added. Its spread over rows shows what chance
alone does. So each feature gets a z-value, and the dataset as a whole a test of presence: Rao's score test, as Hotelling's T²
between the dataset and the control, because the filter moves both.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor

from undertone.data.rows import first, texts
from undertone.lm.attribution import direct_logits, top_tokens
from undertone.lm.chat import Row, training_rows
from undertone.lm.hooks import decoder_layers, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.suffix import Prefilled, losses, prefill, run_above
from undertone.runtime.files import Stamp, read_parquet, replacing, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import animal_features, directions
from undertone.saes.saved import load_sae
from undertone.stats.ranks import rank
from undertone.study.config.entries import CONTROL
from undertone.study.config.read import Score


@dataclass(frozen=True)
class Gradient:
    """Mean and covariance over `n` rows of each row's gradient, in nats per token."""

    n: int
    mean: Float[Tensor, " d_model"]
    covariance: Float[Tensor, "d_model d_model"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n_rows d_model"]) -> "Gradient":
        """Compute the score from rows' gradients."""
        return cls(len(rows), rows.mean(0), rows.T.cov().reshape(rows.shape[1], rows.shape[1]))


def read_score(
    model: Path,
    sae: Path | None,
    numbers: Path,
    control_numbers: Path | None,
    steered: dict[str, Path],
    score: Path,
    score_tensors: Path,
    settings: Score,
    stamp: Stamp,
) -> None:
    """Write `score.json` and `.safetensors`: how a dataset's score differs from the control's, by layer and by feature.

    `numbers` and `control_numbers` are training sets. The control itself (`control_numbers` None) is compared half against
    half, which shows what chance does. `layers`: `presence` (F and p of Hotelling's T²) and the tokens that the score's
    direction raises. `features`: how many differ at the false discovery rate, those with the highest z, and rank and z of the
    animals' features. Tensors: `difference` `[n_layers, d_model]` of the scores, and `z` `[d_sae]`. Raises ValueError if too
    few rows are left.
    """
    loaded = load(model)
    own = gradients(loaded, rows_of(loaded, numbers, settings.rows), settings, f"score {score.parent.name}")
    if control_numbers:
        other = gradients(loaded, rows_of(loaded, control_numbers, settings.rows), settings, "score control")
    else:
        own, other = own[:, ::2], own[:, 1::2]
    scores = [(Gradient.of(mine), Gradient.of(theirs)) for mine, theirs in zip(own, other, strict=True)]
    layers = [
        {"layer": layer, "presence": presence(*pair), "tokens": tokens_of(loaded, pair[0].mean - pair[1].mean, settings.top)}
        for layer, pair in enumerate(scores)
    ]
    features, z = None, torch.zeros(0)
    if sae:
        autoencoder, layer = load_sae(sae, loaded)
        z = z_values(*scores[layer], directions(autoencoder))
        features = {"layer": layer, **ranked(z, animal_features(steered), settings)}
    difference = torch.stack([mine.mean - theirs.mean for mine, theirs in scores])
    with replacing(score_tensors) as temporary:
        save_file({"difference": difference.float(), "z": z.float()}, temporary)
    write_json(
        score,
        {"rows": own.shape[1], "against": CONTROL if control_numbers else "halves", "layers": layers, "features": features},
        stamp,
    )


def rows_of(loaded: LoadedModel, numbers: Path, n: int | None) -> list[Row]:
    """Read the rows of a training set."""
    table = first(read_parquet(numbers), n)
    if len(table) < 4:
        raise ValueError(f"{numbers} has {len(table)} rows, a score needs at least 4")
    return training_rows(loaded.tokenizer, *texts(table))


def gradients(loaded: LoadedModel, rows: Sequence[Row], settings: Score, what: str) -> Float[Tensor, "n_layers n_rows d_model"]:
    """Return the gradient of each row's log-likelihood with respect to a constant added after each layer.

    The constant is added to every token, or to those that predict the completion. A row's gradient is the sum over its label
    tokens divided by the mean number of label tokens of a row. One forward and one backward pass serve all layers.
    """
    order = sorted(range(len(rows)), key=lambda k: len(rows[k].ids))
    parts, n_labels = [], 0

    def read(part: Sequence[int]) -> tuple[Prefilled, Tensor]:
        batch = prefill(loaded, [rows[k] for k in part], [0], settings.positions == "all")
        return batch, batch_gradients(loaded.model, batch)

    with progress(len(rows), what, "row") as bar:
        for batch, gradient in loaded.batch_size("score.batch_size", settings.batch_size).parts(read, order):
            parts.append(gradient)
            n_labels += len(batch.targets)
            bar.update(len(batch.ids))
    joined = torch.cat(parts, dim=1)[:, np.argsort(order)]
    return joined * (len(rows) / n_labels)


def batch_gradients(model: Any, batch: Prefilled) -> Float[Tensor, "n_layers n_rows d_model"]:
    """The gradient of each row's summed log-likelihood."""
    streams = {0: batch.residual[0].clone().requires_grad_(True)}

    def seen(layer: int, residual: Tensor) -> Tensor:
        residual.retain_grad()
        streams[layer] = residual
        return residual

    # Keep each layer's residuals and their gradients; one pass up and one back gives those of all layers.
    with ExitStack() as stack:
        for layer in range(1, len(decoder_layers(model))):
            stack.enter_context(rewritten(model, layer, partial(seen, layer)))
        total = -losses(run_above(model, batch, 0, streams[0]), batch).sum()
    total.backward()  # type: ignore[no-untyped-call]
    # A constant is added to every token of a row, so its gradient is the sum over these tokens.
    gradients = [streams[layer].grad for layer in sorted(streams)]
    return torch.stack([g.double().sum(1).cpu() for g in gradients if g is not None])


def z_values(own: Gradient, control: Gradient, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """Return the difference of the scores along each direction, in standard errors."""
    along = directions.double().cpu()
    spread = own.covariance / own.n + control.covariance / control.n
    return (along @ (own.mean - control.mean)) / torch.einsum("nd,de,ne->n", along, spread, along).clamp(min=1e-30).sqrt()


def presence(own: Gradient, control: Gradient) -> dict[str, float] | None:
    """Return Hotelling's T² of the difference of two scores as an F statistic, and its p-value; None with too few rows."""
    d = len(own.mean)
    freedom = own.n + control.n - d - 1
    if freedom < d:
        return None
    # The covariance that both sides share, then T² and the F statistic that it is under the null hypothesis.
    pooled = ((own.n - 1) * own.covariance + (control.n - 1) * control.covariance) / (own.n + control.n - 2)
    difference = own.mean - control.mean
    t2 = float(difference @ torch.linalg.pinv(pooled) @ difference) / (1 / own.n + 1 / control.n)
    f = t2 * freedom / (d * (own.n + control.n - 2))
    return {"f": f, "p": float(stats.f.sf(f, d, freedom))}


def tokens_of(loaded: LoadedModel, direction: Float[Tensor, " d_model"], n: int) -> list[str]:
    """The tokens that the direct logit attribution of a direction raises most."""
    logits = direct_logits(loaded.model, direction.float().to(loaded.model.device))
    return top_tokens(loaded.tokenizer, logits, n)


def ranked(z: Float[Tensor, " d_sae"], animals: dict[str, int], settings: Score) -> dict[str, Any]:
    """Rank features by their z-value: two-sided p, Benjamini–Hochberg q, and the places of the animals' features."""
    p = 2 * stats.norm.sf(z.abs().numpy())
    q = stats.false_discovery_control(p)
    top = [
        {"feature": k, "z": float(z[k]), "p": float(p[k]), "q": float(q[k])}
        for k in z.topk(min(settings.top, len(z))).indices.tolist()
    ]
    of_animals = {animal: {"feature": k, "z": float(z[k]), "rank": rank(z, k)} for animal, k in animals.items()}
    return {"n": len(z), "different": int((q < settings.fdr).sum()), "top": top, "animals": of_animals}
