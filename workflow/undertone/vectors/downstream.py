"""Effects of a vector downstream: on the residual stream of every later layer, and on the features of the SAEs there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel, load
from undertone.lm.steering import Steering
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.features import extreme_tokens
from undertone.saes.saved import load_sae
from undertone.stats.correlation import pearson
from undertone.study.config.vectors import Downstream
from undertone.vectors.forced import Tokens, batches, run_once, unbuilt
from undertone.vectors.last_token import AtLast
from undertone.vectors.later_features import Later
from undertone.vectors.later_layers import Stream
from undertone.vectors.steering_by import Direction, strength

# An SAE whose explained variance falls by more than this on steered residuals is off its distribution.
ALARM = 0.1
# Tokens that are shown for each feature.
TOKENS = 4


def read_downstream(
    model: Path,
    prompts: Path,
    questions: Path,
    vector: Path,
    dose: Path,
    saes: dict[str, Path],
    downstream: Path,
    table: Path,
    settings: Downstream,
    used_prompts: int,
    stamp: Stamp,
) -> str:
    """Write `downstream.json` and `downstream.parquet`, which has a row per feature; return a line for the log.

    `saes` are the `sae.json` files of SAEs at the vector's layer or later. Prompts are questions and number prompts that no
    vector is built from: the first `used_prompts` of the latter may be, and are skipped. Both runs read the base model's own
    greedy continuations of the prompts.
    """
    loaded, direction = load(model), Direction.read(vector)
    scale, has_window = strength(read_json(dose), settings.scale)
    rows = unbuilt(loaded, prompts, questions, used_prompts, settings)
    later = [Later(name, *load_sae(path, loaded)) for name, path in saes.items()]
    read = Reading(loaded, direction, scale, later)
    with progress(len(rows), f"downstream {downstream.parent.name}", "prompt") as bar:
        for batch in batches(loaded, rows):
            read.add(batch)
            bar.update(len(batch["input_ids"]))
    tables = [sae.table(settings.fdr) for sae in sorted(later, key=lambda each: each.layer)]
    write_parquet(table, pl.concat(tables) if tables else pl.DataFrame(), stamp)
    body = {
        "target": direction.target,
        "layer": direction.layer,
        "scale": scale,
        "window": has_window,
        "rows": len(rows),
        "null_vectors": len(read.nulls),
        "fdr": settings.fdr,
        "kl": read.kl(),
        "layers": [stream.as_dict(loaded, read.added.vector) for stream in read.streams.values()],
        "saes": [
            described(loaded, sae, own, settings)
            for sae, own in zip(sorted(later, key=lambda each: each.layer), tables, strict=True)
        ],
    }
    write_json(downstream, body, stamp)
    return sentence(body)


class Reading:
    """Readings of one vector and its null vectors, collected batch by batch."""

    def __init__(self, loaded: LoadedModel, direction: Direction, scale: float, later: Sequence[Later]):
        self.loaded, self.layer, self.later = loaded, direction.layer, later
        self.streams = {layer: Stream(layer) for layer in range(direction.layer, len(decoder_layers(loaded.model)))}
        self.added = direction.steering(direction.unit.to(loaded.model.device), scale)
        self.nulls: list[Steering] = [
            direction.steering(unit.to(loaded.model.device), scale) for units in direction.nulls.values() for unit in units
        ]
        self.sums: dict[int | None, list[float]] = {}

    def add(self, batch: dict[str, Tensor]) -> None:
        """Run a batch without steering, with the vector, and with each null vector; compare streams at steered tokens."""
        at, layers = Tokens.of(batch), list(self.streams)
        reached = at.last if isinstance(self.added, AtLast) else torch.ones_like(at.last)
        base = run_once(self.loaded, batch, layers)
        for null, steering in self.steerings():
            own = run_once(self.loaded, batch, layers, steering)
            kl = (own.log_probs.exp() * (own.log_probs - base.log_probs)).sum(-1)
            self.sums.setdefault(null, []).extend(kl.double().tolist())
            for layer, stream in self.streams.items():
                stream.add(base.residual[layer][reached], own.residual[layer][reached], steering.vector, null)
                if null is None:
                    stream.differences.append(at.means(own.residual[layer] - base.residual[layer])["all"].cpu())
            for sae in self.later:
                before, after = base.residual[sae.layer], own.residual[sae.layer]
                if null is None:
                    sae.add(before, after, before + reached.unsqueeze(-1) * steering.vector.to(before), at)
                else:
                    sae.add_null(null, after, at)

    def steerings(self) -> Iterator[tuple[int | None, Steering]]:
        """The vector, then each null vector with its number."""
        yield None, self.added
        yield from enumerate(self.nulls)

    def kl(self) -> dict[str, Any]:
        """Return mean KL(steered ‖ base) at the tokens that predict the answer, in nats per token, and that of null vectors."""
        null = [float(np.mean(values)) for k, values in self.sums.items() if k is not None]
        ends = {"null_mean": float(np.mean(null)), "null_95": float(np.quantile(null, 0.95))} if null else {}
        return {"value": max(0.0, float(np.mean(self.sums[None]))), **ends}


def greatest(table: pl.DataFrame) -> pl.Expr:
    """Return how much features move: |z| against null vectors on prompts not used for scoring, or |t| with too few nulls."""
    return pl.col("z_choosing" if table["z_choosing"].count() else "t").abs()


def described(loaded: LoadedModel, sae: Later, own: pl.DataFrame, settings: Downstream) -> dict[str, Any]:
    """Describe one SAE: how many features move, which move most, and what addition and encoding the change would give."""
    every = own.filter(position="all")
    fit = sae.quality()
    judged = every["p_family"].null_count() == 0
    ranked = every.sort(greatest(every), descending=True)
    top = ranked.filter(pl.col("delta") != 0).head(settings.top)
    seen, carried, encoded = (every[name].to_numpy() for name in ("delta", "carried", "encoded_difference"))
    return {
        "sae": sae.name,
        "layer": sae.layer,
        "features": len(every),
        "moved_t": int(every["moved"].sum()),
        "beyond_nulls": int((every["p_family"] <= settings.fdr).sum()) if judged else None,
        "energy": float(seen @ seen),
        "carried_energy": float(carried @ carried),
        "carried_correlation": pearson(seen, carried),
        "encoded_correlation": pearson(seen, encoded),
        **fit,
        "off_distribution": fit["steered"]["explained_variance"] < fit["base"]["explained_variance"] - ALARM,
        "top": [
            {
                name: row[name]
                for name in ("feature", "base", "steered", "delta", "carried", "z_null", "p_family", "q", "appeared")
            }
            | {"tokens": [token for token, _ in extreme_tokens(loaded, sae.sae.W_dec[row["feature"]], TOKENS)["top"]]}
            for row in top.iter_rows(named=True)
        ],
    }


def sentence(body: dict[str, Any]) -> str:
    """Say how many features move in the SAEs, and how much of the vector reaches the last layer."""
    last = body["layers"][-1]
    counts = ", ".join(f"{each['beyond_nulls']} of {each['features']} in {each['sae']}" for each in body["saes"])
    moved = f"; features moved beyond null vectors: {counts}" if counts else ""
    carried = f"{last['carried']:.2f} of the vector is carried to layer {last['layer']}"
    return f"{carried}, {last['share']:.2f} of what differs there{moved}"
