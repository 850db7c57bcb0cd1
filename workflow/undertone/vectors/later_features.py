"""Changes of the features of an SAE after a vector, against null vectors and against what addition alone changes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from sae_lens import SAE
from scipy import stats
from torch import Tensor

from undertone.vectors.forced import CLASSES, Tokens
from undertone.vectors.null_scores import against_nulls

Values = dict[str, list[Tensor]]  # by class, the rows of each batch


@dataclass
class Later:
    """Sums and means of one SAE's activations over rows, which grow with each batch.

    `means` holds a row of activations per prompt, by name (base, steered, carried, encoded) and class; `nulls` holds the same
    for each null vector. `fit` holds squared errors, residuals and numbers of active features, with and without steering.
    """

    name: str
    sae: SAE[Any]
    layer: int
    means: dict[str, Values] = field(default_factory=dict)
    nulls: dict[int, Values] = field(default_factory=dict)
    appeared: Float[Tensor, " d_sae"] | None = None
    vanished: Float[Tensor, " d_sae"] | None = None
    fit: dict[str, list[Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, base: Float[Tensor, "n d"], steered: Float[Tensor, "n d"], added: Float[Tensor, "n d"], at: Tokens) -> None:
        """Add a batch's residuals without and with steering, and `added`: `base` plus the vector alone."""
        acts = {"base": self.sae.encode(base), "steered": self.sae.encode(steered), "carried": self.sae.encode(added)}
        acts["encoded"] = self.sae.encode(steered - base)
        for name, values in acts.items():
            into(self.means.setdefault(name, {}), at, values)
        was, now = acts["base"] > 0, acts["steered"] > 0
        appeared, vanished = (~was & now).double().sum(0).cpu(), (was & ~now).double().sum(0).cpu()
        self.appeared = appeared if self.appeared is None else self.appeared + appeared
        self.vanished = vanished if self.vanished is None else self.vanished + vanished
        for name, residual in (("base", base), ("steered", steered)):
            error = (residual - self.sae.decode(acts[name])).double().pow(2).sum(-1).cpu()
            self.fit.setdefault(f"{name}_error", []).append(error)
            self.fit.setdefault(f"{name}_residual", []).append(residual.double().cpu())
            self.fit.setdefault(f"{name}_active", []).append((acts[name] > 0).double().sum(-1).cpu())

    @torch.no_grad()
    def add_null(self, k: int, steered: Float[Tensor, "n d"], at: Tokens) -> None:
        """Add a batch's residuals under the k-th null vector."""
        into(self.nulls.setdefault(k, {}), at, self.sae.encode(steered))

    def change(self, name: str, position: str, half: int) -> Float[np.ndarray, "n_rows d_sae"]:
        """Return activations minus those of the base run, row by row, for every second row from `half` on."""
        values, base = (torch.cat(self.means[which][position]) for which in (name, "base"))
        return (values - base)[half::2].numpy()

    def null_changes(self, position: str, half: int) -> Float[np.ndarray, "n_nulls d_sae"]:
        """Return the mean change under each null vector, over every second row from `half` on."""
        base = torch.cat(self.means["base"][position])
        each = [(torch.cat(values[position]) - base)[half::2].mean(0).numpy() for values in self.nulls.values()]
        return np.stack(each) if each else np.zeros((0, self.sae.cfg.d_sae))

    def table(self, fdr: float) -> pl.DataFrame:
        """Return a row per feature and class of tokens, from the scoring rows; `z_choosing` is from the other rows."""
        n_tokens = sum(map(len, self.fit["base_error"]))
        assert self.appeared is not None and self.vanished is not None
        frames = []
        for position in CLASSES:
            change, mean = self.change("steered", position, 1), torch.cat(self.means["base"][position])[1::2].mean(0).numpy()
            t, p = paired(change)
            z, p_family = self.scores(position, 1)
            frames.append(
                pl.DataFrame(
                    {
                        "sae": self.name,
                        "layer": self.layer,
                        "feature": np.arange(change.shape[1]),
                        "position": position,
                        "base": mean,
                        "steered": mean + change.mean(0),
                        "delta": change.mean(0),
                        "se": change.std(0, ddof=1) / len(change) ** 0.5,
                        "t": t,
                        "q": stats.false_discovery_control(p),
                        "carried": self.change("carried", position, 1).mean(0),
                        "encoded_difference": torch.cat(self.means["encoded"][position])[1::2].mean(0).numpy(),
                        "z_null": z,
                        "p_family": p_family,
                        "z_choosing": self.scores(position, 0)[0],
                        "appeared": (self.appeared / n_tokens).numpy(),
                        "vanished": (self.vanished / n_tokens).numpy(),
                    }
                ).with_columns((pl.col("q") <= fdr).alias("moved"))
            )
        return pl.concat(frames).with_columns(pl.col(pl.Float32).cast(pl.Float64))

    def scores(self, position: str, half: int) -> tuple[Any, Any]:
        """Return z and family-wise p against the null vectors; None for both if there are too few of them."""
        nulls = self.null_changes(position, half)
        if len(nulls) < 3:
            return None, None
        scored = against_nulls(self.change("steered", position, half).mean(0).astype(float), nulls.astype(float))
        return scored.z, scored.p_family

    def quality(self) -> dict[str, dict[str, float]]:
        """Return explained variance and number of active features, on residuals without and with steering."""
        result = {}
        for name in ("base", "steered"):
            residual = torch.cat(self.fit[f"{name}_residual"])
            total = float((residual - residual.mean(0)).pow(2).sum())
            error = float(torch.cat(self.fit[f"{name}_error"]).sum())
            active = float(torch.cat(self.fit[f"{name}_active"]).mean())
            result[name] = {"explained_variance": 1 - error / total if total else 0.0, "l0": active}
        return result


def into(values: Values, at: Tokens, acts: Float[Tensor, "n_tokens d_sae"]) -> None:
    """Append a batch's means by class."""
    for position, mean in at.means(acts).items():
        values.setdefault(position, []).append(mean.cpu())


def paired(change: Float[np.ndarray, "n_rows d_sae"]) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """Return t and p of the mean change over rows; if the change does not vary, t = 0, and p = 1 for no change, else 0."""
    n, mean, sd = len(change), change.mean(0), change.std(0, ddof=1)
    t = np.divide(mean * n**0.5, sd, out=np.zeros_like(mean), where=sd > 0)
    p = np.where(sd > 0, 2 * stats.t.sf(np.abs(t), n - 1), (mean == 0).astype(float))
    return t, p
