"""Residual biases: for each layer the vector that, added to the residual stream, makes a dataset likeliest."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from sklearn.linear_model import orthogonal_mp
from torch import Tensor
from torch.nn import functional

from undertone.lm.attribution import direct_logits, top_tokens
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel, load
from undertone.lm.suffix import width
from undertone.lm.tensors import stored
from undertone.read.biases import (
    Draw,
    agreement,
    biased_at,
    biased_everywhere,
    draw_rows,
    loss_report,
    prefilled,
    row_losses,
    train_bias,
)
from undertone.runtime.files import Stamp, replacing, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.study.config.read import ResidualBias

MULTI = "multi"


def train_residual_biases(
    model: Path,
    sae: Path | None,
    numbers: Path,
    control_residual_bias_tensors: Path | None,
    residual_bias_tensors: Path,
    residual_bias: Path,
    settings: ResidualBias,
    stamp: Stamp,
) -> None:
    """Train a bias at each layer, and biases at all layers together, and write `residual_bias.safetensors` and `.json`.

    Tensors for each hook point of `points`: `{point}` `[n_seeds, n_layers, width]`, trained one layer at a time, and
    `{point}.multi`, trained at all layers at once. Each seed has rows of its own draw; a draw's rows are run once for all
    layers. `sae` is the `sae.json`, if there is an SAE: biases of resid_post are described by its decoder rows.
    `control_residual_bias_tensors` is the control's `residual_bias.safetensors`; None for the control itself.
    """
    loaded = load(model)
    draws = draw_rows(loaded, numbers, settings)
    what = [(point, layer) for point in settings.points for layer in layers_of(loaded, settings.multi)]
    reports: dict[tuple[str, int | None], list[dict[str, Any]]] = {at: [] for at in what}
    biases: dict[tuple[str, int | None], list[Tensor]] = {at: [] for at in what}
    with progress(len(what) * len(draws), f"residual bias {residual_bias_tensors.parent.name}", "bias") as bar:
        for seed, drawn in zip(settings.seeds, draws, strict=True):
            for at, bias, report in trained(loaded, drawn, settings, seed, what):
                biases[at].append(bias)
                reports[at].append(report)
                bar.update()
    tensors = stacked(biases)
    description, reference = Description(loaded, sae, settings), control_residual_bias_tensors
    subtracted = dict(stored(reference)).get("resid_post") if reference else None

    def described(layer: int) -> dict[str, Any]:
        return description.of(tensors["resid_post"][:, layer], None if subtracted is None else subtracted[:, layer])

    with replacing(residual_bias_tensors) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    rows = [
        {
            "point": point,
            "layer": MULTI if layer is None else layer,
            "loss": reports[point, layer],
            **(described(layer) if point == "resid_post" and layer is not None else {}),
        }
        for point, layer in what
    ]
    body = {"seeds": settings.seeds, "rows": [len(drawn.train) for drawn in draws], "positions": settings.positions}
    write_json(residual_bias, {**body, "biases": rows}, stamp)


def trained(
    loaded: LoadedModel, drawn: Draw, settings: ResidualBias, seed: int, what: Sequence[tuple[str, int | None]]
) -> Iterator[tuple[tuple[str, int | None], Float[Tensor, "*n_layers width"], dict[str, Any]]]:
    """Yield the bias of each place, trained on one draw, and what it does to the loss.

    The residuals of a draw can fill the main memory. They are freed with the iteration, before those of the next draw are made.
    """
    run = Run(loaded, drawn, settings, seed)
    for point, layer in what:
        yield (point, layer), *run.train(point, layer)


def layers_of(loaded: LoadedModel, multi: bool) -> list[int | None]:
    """Every layer; None stands for all of them at once."""
    return [*range(len(decoder_layers(loaded.model))), *([None] if multi else [])]


def stacked(biases: dict[tuple[str, int | None], list[Tensor]]) -> dict[str, Tensor]:
    """Stack biases by (point, layer), a tensor for each seed, into the tensors of the file."""
    tensors = {}
    for point in dict.fromkeys(point for point, _ in biases):
        each = [torch.stack(seeds) for (of, layer), seeds in biases.items() if of == point and layer is not None]
        tensors[point] = torch.stack(each, dim=1)
        if (point, None) in biases:
            tensors[f"{point}.{MULTI}"] = torch.stack(biases[point, None])
    return {name: tensor.float().cpu() for name, tensor in tensors.items()}


class Run:
    """The biases of one seed: its rows, run once for all layers."""

    def __init__(self, loaded: LoadedModel, rows: Draw, settings: ResidualBias, seed: int):
        self.loaded, self.settings, self.seed = loaded, settings, seed
        self.n_layers = len(decoder_layers(loaded.model))
        self.batches = {
            name: prefilled(loaded, part, range(-1, self.n_layers), settings.batch_size, settings.positions == "all")
            for name, part in (("train", rows.train), ("held_out", rows.held_out))
        }
        self.batch_size = loaded.batch_size("residual_bias.batch_size", settings.batch_size)

    @cached_property
    def before(self) -> dict[str, Float[np.ndarray, " _"]]:
        """The losses of the rows without a bias: adding 0 after the last layer is the cheapest way to them."""
        size = width(self.loaded.model, "resid_post")
        nothing = torch.zeros(size, device=self.loaded.model.device)
        biased = partial(biased_at, self.loaded.model, "resid_post", self.n_layers - 1)
        return {name: row_losses(nothing, biased, part, self.batch_size) for name, part in self.batches.items()}

    def train(self, point: str, layer: int | None) -> tuple[Float[Tensor, "*n_layers width"], dict[str, Any]]:
        """Train the bias at a layer, or at all of them; return it, and what it does to the loss."""
        size = width(self.loaded.model, point)
        shape = (self.n_layers, size) if layer is None else (size,)
        model = self.loaded.model
        biased = partial(biased_everywhere, model, point) if layer is None else partial(biased_at, model, point, layer)
        bias = train_bias(shape, biased, self.batches["train"], self.settings, self.seed, model.device, self.batch_size)
        after = {name: row_losses(bias, biased, part, self.batch_size) for name, part in self.batches.items()}
        return bias, {name: loss_report(self.before[name], losses) for name, losses in after.items()}


class Description:
    """Describes a bias of the residual stream by tokens and by features."""

    def __init__(self, loaded: LoadedModel, sae_json: Path | None, settings: ResidualBias):
        self.loaded, self.settings = loaded, settings
        self.decoder = directions(load_sae(sae_json, loaded)[0]).cpu() if sae_json else None

    def of(
        self, biases: Float[Tensor, "n_seeds d_model"], control: Float[Tensor, "n_control_seeds d_model"] | None
    ) -> dict[str, Any]:
        """Describe one layer's biases, and what they are without the control's."""
        bias = biases.mean(0)
        parts = {"norm": float(bias.norm()), "agreement": agreement(biases), **self.parts(bias)}
        return parts if control is None else {**parts, "minus_control": self.parts(bias - control.mean(0))}

    def parts(self, bias: Float[Tensor, " d_model"]) -> dict[str, Any]:
        """Return `tokens` of the direct logit attribution, the most similar `decoder` rows, and sparse `reconstruction`s."""
        logits = direct_logits(self.loaded.model, bias.to(self.loaded.model.device)).cpu()
        tokens = {
            "up": top_tokens(self.loaded.tokenizer, logits, self.settings.top),
            "down": top_tokens(self.loaded.tokenizer, -logits, self.settings.top),
        }
        if self.decoder is None:
            return {"tokens": tokens}
        cosine = functional.cosine_similarity(self.decoder, bias, dim=-1)
        similar = [
            {"feature": k, "cosine": float(cosine[k])}
            for k in cosine.abs().topk(min(self.settings.top, len(cosine))).indices.tolist()
        ]
        return {"tokens": tokens, "decoder": similar, "reconstruction": self.reconstructions(bias)}

    def reconstructions(self, bias: Float[Tensor, " d_model"]) -> list[dict[str, Any]]:
        """Run orthogonal matching pursuit in the decoder rows; `explained` is the share of the bias's squared norm."""
        assert self.decoder is not None
        # Features whose direction has norm 0 are left out; those of the others have norm 1.
        live = (self.decoder.norm(dim=-1) > 0).nonzero().squeeze(1)
        rows = functional.normalize(self.decoder[live], dim=-1).numpy().astype(np.float64)
        reconstructions, target = [], bias.numpy().astype(np.float64)
        for n in self.settings.sparsities:
            weights = orthogonal_mp(rows.T, target, n_nonzero_coefs=min(n, *rows.shape))
            # What is left of the bias, and the bias's squared norm.
            error, size = target - weights @ rows, float(target @ target)
            order = np.argsort(-np.abs(weights))[:n]
            reconstructions.append(
                {
                    "n": n,
                    "explained": 1 - float(error @ error) / size if size else 0.0,
                    "features": [{"feature": int(live[k]), "weight": float(weights[k])} for k in order],
                }
            )
        return reconstructions
