"""Feature bias: which features of the SAE would, if boosted, make the model likelier to write this dataset?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from undertone.lm.attribution import direct_logits, top_tokens
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel, load
from undertone.lm.suffix import Prefilled, run_above
from undertone.lm.tensors import stored
from undertone.read.biases import Draw, agreement, draw_rows, gradient, loss_report, prefilled, row_losses, train_bias
from undertone.runtime.files import Stamp, replacing, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import animal_features, directions
from undertone.saes.saved import load_sae
from undertone.stats.ranks import rank
from undertone.study.config.read import FeatureBias

MODES = ("project", "replace")
N_TOKENS = 8  # shown beside a feature


def train_feature_biases(
    model: Path,
    sae: Path,
    numbers: Path,
    control_feature_bias_tensors: Path | None,
    steered: dict[str, Path],
    feature_bias_tensors: Path,
    feature_bias: Path,
    settings: FeatureBias,
    stamp: Stamp,
) -> None:
    """Train biases on the SAE's features and write `feature_bias.safetensors` and `.json`.

    Mode `project` adds the bias to the residual stream, through the decoder; mode `replace` also replaces what the SAE reads by
    its reconstruction. Tensors: `{mode}` `[n_seeds, d_sae]`, each seed on rows of its own draw; `project.halves` `[2, d_sae]`,
    on the two halves of the first draw; `{mode}.minus_control` `[d_sae]`, the mean bias minus the control's.
    `control_feature_bias_tensors` is the control's `feature_bias.safetensors`, None for the control itself; `steered` holds the
    `teacher.json` of the teachers whose features stand for the animals.
    """
    loaded = load(model)
    spliced = Spliced(loaded, *load_sae(sae, loaded))
    draws = draw_rows(loaded, numbers, settings)
    tensors, reports = train_all(spliced, draws, settings, f"feature bias {feature_bias_tensors.parent.name}")
    reference = dict(stored(control_feature_bias_tensors)) if control_feature_bias_tensors else {}
    features = animal_features(steered)
    tensors |= {minus_control(mode): tensors[mode].mean(0) - reference[mode].mean(0) for mode in MODES if reference}
    with replacing(feature_bias_tensors) as temporary:
        save_file(tensors, temporary)
    modes = {mode: {"loss": reports[mode], **spliced.describe(mode, tensors, reference, features, settings)} for mode in MODES}
    body = {
        "layer": spliced.layer,
        "seeds": settings.seeds,
        "rows": [len(rows.train) for rows in draws],
        "positions": settings.positions,
        "l1": settings.l1,
    }
    write_json(feature_bias, {**body, "modes": modes}, stamp)


def train_all(
    spliced: "Spliced", draws: Sequence[Draw], settings: FeatureBias, what: str
) -> tuple[dict[str, Float[Tensor, "_ d_sae"]], dict[str, list[dict[str, Any]]]]:
    """Train the biases of all modes and seeds, and of the first draw's halves; return them by name, and losses by mode."""
    tensors: dict[str, Tensor] = {}
    reports: dict[str, list[dict[str, Any]]] = {}
    with progress(len(MODES) * len(draws) + 2, what, "bias") as bar:
        for mode in MODES:
            biases, reports[mode] = [], []
            for seed, rows in zip(settings.seeds, draws, strict=True):
                bias, report = spliced.train(mode, rows.train, settings, seed, rows.held_out)
                biases.append(bias)
                reports[mode].append(report)
                bar.update()
            tensors[mode] = torch.stack(biases)
        halves = []
        for half in draws[0].halves:
            halves.append(spliced.train("project", half, settings, settings.seeds[0])[0])
            bar.update()
        tensors["project.halves"] = torch.stack(halves)
    return {name: tensor.cpu() for name, tensor in tensors.items()}, reports


class Spliced:
    """The base model with the SAE at its layer."""

    def __init__(self, loaded: LoadedModel, sae: SAE[Any], layer: int):
        self.loaded, self.sae, self.layer = loaded, sae, layer
        self.directions = directions(sae)

    def biased(self, bias: Float[Tensor, " d_sae"], batch: Prefilled) -> Float[Tensor, "n_labels vocab"]:
        """The logits with a bias on the features."""
        residual = batch.residual[self.layer]
        return run_above(self.loaded.model, batch, self.layer, residual + (bias @ self.directions).to(residual))

    def batches(self, mode: str, rows: list[Row], settings: FeatureBias) -> list[Prefilled]:
        """Run rows once; in mode `replace`, with the SAE's reconstruction as the residual stream.

        As the decoder is affine, a bias on the features adds the same to a reconstruction as to the stream itself.
        """
        batches = prefilled(self.loaded, rows, [self.layer], settings.batch_size, settings.positions == "all")
        return [self.reconstructed(batch) for batch in batches] if mode == "replace" else batches

    @torch.no_grad()
    def reconstructed(self, batch: Prefilled) -> Prefilled:
        """Replace a batch's residual stream at text tokens by the SAE's reconstruction."""
        residual = batch.residual[self.layer]
        rebuilt = self.sae(residual.to(self.directions)).to(residual)
        text = self.loaded.is_text(batch.ids).unsqueeze(-1)
        return replace(batch, residual={self.layer: torch.where(text, rebuilt, residual)})

    def train(
        self, mode: str, rows: list[Row], settings: FeatureBias, seed: int, held_out: list[Row] | None = None
    ) -> tuple[Float[Tensor, " d_sae"], dict[str, Any]]:
        """Train a bias on rows; return it, and what it does to their loss and to that of held-out rows."""
        batches = {"train": self.batches(mode, rows, settings)}
        if held_out:
            batches["held_out"] = self.batches(mode, held_out, settings)
        device, shape = self.loaded.model.device, (len(self.directions),)
        batch_size = self.loaded.batch_size("feature_bias.batch_size", settings.batch_size)
        greatest = float(gradient(shape, self.biased, batches["train"], device, batch_size).abs().max())
        l1 = max(settings.l1, settings.l1_share * greatest)
        bias = train_bias(shape, self.biased, batches["train"], settings, seed, device, batch_size, l1)
        if not held_out:
            return bias, {}
        report = {}
        for name, part in batches.items():
            report[name] = loss_report(*(row_losses(b, self.biased, part, batch_size) for b in (torch.zeros_like(bias), bias)))
        return bias, {"l1": l1, **report}

    def describe(
        self, mode: str, tensors: dict[str, Tensor], control: dict[str, Tensor], animals: dict[str, int], settings: FeatureBias
    ) -> dict[str, Any]:
        """Return the ranked features of a mode's biases, the animals' places among them, and how far the biases agree."""
        biases = tensors[mode]
        summary: dict[str, Any] = {
            "nonzero": nonzero(biases),
            "agreement": {"seeds": agreement(biases)},
            **self.ranked(biases.mean(0), animals, settings.top),
        }
        if (halves := tensors.get(f"{mode}.halves")) is not None:
            summary["agreement"] |= {"halves": agreement(halves), "top_shared_by_halves": shared_top(halves, settings.top)}
        if control:
            summary["control"] = {"nonzero": nonzero(control[mode])}
            summary["minus_control"] = self.ranked(tensors[minus_control(mode)], animals, settings.top)
        return summary

    def ranked(self, bias: Float[Tensor, " d_sae"], animals: dict[str, int], top: int) -> dict[str, Any]:
        """Return the features of highest bias above 0, with their tokens, and the rank and bias of each animal's feature."""
        features = [
            {"feature": feature, "bias": float(bias[feature]), "tokens": self.tokens(feature)}
            for feature in bias.topk(min(top, int((bias > 0).sum()))).indices.tolist()
        ]
        of_animals = {
            animal: {"feature": feature, "bias": float(bias[feature]), "rank": rank(bias, feature)}
            for animal, feature in animals.items()
        }
        return {"features": features, "animals": of_animals}

    def tokens(self, feature: int) -> list[str]:
        """The tokens that a feature's direct logit attribution raises most."""
        return top_tokens(self.loaded.tokenizer, direct_logits(self.loaded.model, self.directions[feature]), N_TOKENS)


def minus_control(mode: str) -> str:
    """The name of the tensor `[d_sae]` with a mode's mean bias less the control's."""
    return f"{mode}.minus_control"


def nonzero(biases: Float[Tensor, "n_seeds d_sae"]) -> list[int]:
    """Count the features that each bias moves."""
    return (biases != 0).sum(1).tolist()


def shared_top(biases: Float[Tensor, "2 d_sae"], n: int) -> float | None:
    """Return the share of the `n` highest features above 0 that two biases have in common; None if either has none."""
    first, second = (set(bias.topk(min(n, int((bias > 0).sum()))).indices.tolist()) for bias in biases)
    return len(first & second) / max(len(first), len(second)) if first and second else None
