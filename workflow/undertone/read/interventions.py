"""Intervened models: the base model with what each reader found in a dataset, each as a context that yields the model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from undertone.lm.adapters import finetuned
from undertone.lm.hooks import of_running_call, plus, rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import completion_positions, only_at
from undertone.lm.tensors import stored
from undertone.runtime.files import read_json
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.teachers.teaching import PromptedModel

# The tensor of `differences.safetensors` with the mean difference of teacher and base, `[n_layers, d_model]`.
FUNCTION_VECTOR = "persona.resid_post.completion"
SPLICED = "SAE spliced in"


@dataclass(frozen=True)
class Intervention:
    """A model to measure: what is done to the base model, the layer (None for no or all layers), and the seed, if any.

    `empty` says that a bias stayed 0.
    """

    name: str
    enter: Callable[[], AbstractContextManager[PromptedModel]]
    layer: int | None = None
    seed: int | None = None
    empty: bool = False


@contextmanager
def rewriting(
    loaded: LoadedModel, rewrites: dict[int, Callable[[Tensor], Tensor]], all_positions: bool
) -> Iterator[PromptedModel]:
    """Rewrite the residual stream after each layer in this context, at every token or only where a completion is predicted."""
    with ExitStack() as stack:
        mask = None if all_positions else stack.enter_context(completion_positions(loaded))
        for layer, rewrite in rewrites.items():
            stack.enter_context(rewritten(loaded.model, layer, only_at(mask, rewrite) if mask else rewrite))
        yield PromptedModel(loaded, None, "")


@contextmanager
def splicing(
    loaded: LoadedModel,
    sae: SAE[Any],
    layer: int,
    all_positions: bool,
    vector: Float[Tensor, " d_model"] | None = None,
    error: bool = False,
) -> Iterator[PromptedModel]:
    """Replace the residual stream at text tokens by the SAE's reconstruction inside this context; with `error`, plus its error.

    A `vector` is added to the result, and to special tokens, which keep their residuals.
    """
    with of_running_call(loaded.model, lambda call: loaded.is_text(call["input_ids"])) as text:

        def rewrite(residual: Tensor) -> Tensor:
            stream = residual.to(sae.W_dec)
            rebuilt = sae.decode(sae.encode(stream))
            rebuilt = rebuilt + (stream - rebuilt) if error else rebuilt
            kept = torch.where(text().unsqueeze(-1), rebuilt, stream)
            return (kept if vector is None else kept + vector.to(kept)).to(residual)

        with rewriting(loaded, {layer: rewrite}, all_positions) as prompted:
            yield prompted


@dataclass(frozen=True)
class Readings:
    """The files of a dataset that hold vectors, None for those it lacks; beside each file of biases lies a JSON."""

    sae: Path | None = None
    feature_bias: Path | None = None
    residual_bias: Path | None = None
    differences: Path | None = None


def of_features(loaded: LoadedModel, files: Readings, label: str = "feature bias") -> Iterator[Intervention]:
    """Yield the SAE spliced in where the feature biases act, and the biases in both modes, one of each seed."""
    if files.sae is None:
        return
    sae, layer = load_sae(files.sae, loaded)
    all_positions, seeds, biases = read_biases(files.feature_bias)
    if label == "feature bias":
        yield Intervention(SPLICED, partial(splicing, loaded, sae, layer, all_positions), layer)
    decoder = directions(sae)
    for k, seed in enumerate(seeds):
        for mode in ("project", "replace"):
            vector = biases[mode][k].to(decoder) @ decoder
            projected = partial(rewriting, loaded, {layer: plus(vector)}, all_positions)
            enter = projected if mode == "project" else partial(splicing, loaded, sae, layer, all_positions, vector)
            yield Intervention(f"{label}, {mode}", enter, layer, seed, not vector.any())


def of_residuals(loaded: LoadedModel, files: Readings, label: str = "residual bias") -> Iterator[Intervention]:
    """Yield the residual biases at each layer, and at all layers together, one of each seed."""
    all_positions, seeds, biases = read_biases(files.residual_bias)
    vectors = biases.get("resid_post", torch.zeros(0, 0, 0)).to(loaded.model.device)
    for k, (seed, by_layer) in enumerate(zip(seeds, vectors, strict=False)):  # none without resid_post
        for layer, vector in enumerate(by_layer):
            added = partial(rewriting, loaded, {layer: plus(vector)}, all_positions)
            yield Intervention(label, added, layer, seed, not vector.any())
        if "resid_post.multi" in biases:
            every = {layer: plus(vector) for layer, vector in enumerate(biases["resid_post.multi"][k].to(vectors))}
            added = partial(rewriting, loaded, every, all_positions)
            yield Intervention(f"{label}, all layers", added, None, seed, not biases["resid_post.multi"][k].any())


def read_biases(tensors: Path | None) -> tuple[bool, list[int], dict[str, Tensor]]:
    """Return (whether they act on every token, the seeds, the tensors) of a file with biases."""
    if tensors is None:
        return False, [], {}
    report = read_json(tensors.with_suffix(".json"))
    return report["positions"] == "all", report["seeds"], dict(stored(tensors))


def of_students(loaded: LoadedModel, students: dict[int, Path], files: Readings) -> Iterator[Intervention]:
    """Yield students by seed; with an SAE, also with its reconstruction spliced in, without and with its error.

    It is spliced in at the same tokens as for the base model, `of_features`, so that the two can be compared.
    """
    all_positions, _, _ = read_biases(files.feature_bias)
    for seed, folder in students.items():
        yield Intervention("student", partial(student, loaded, folder), None, seed)
        if files.sae:
            sae, layer = load_sae(files.sae, loaded)
            for name, error in (("student, SAE spliced in", False), ("student, SAE and its error spliced in", True)):
                splice = partial(splicing, sae=sae, layer=layer, all_positions=all_positions, error=error)
                yield Intervention(name, partial(student, loaded, folder, splice), layer, seed)


@contextmanager
def student(
    loaded: LoadedModel, folder: Path, splice: Callable[[LoadedModel], AbstractContextManager[PromptedModel]] | None = None
) -> Iterator[PromptedModel]:
    """Yield a student inside this context, with its residual stream spliced if there is a `splice`."""
    with finetuned(loaded, folder) as model:
        if splice is None:
            yield PromptedModel(model, None, "")
        else:
            with splice(model) as prompted:
                yield prompted


def of_difference(loaded: LoadedModel, files: Readings) -> Iterator[Intervention]:
    """The "function vector": what the teacher's intervention adds to the residual stream on average, at each layer."""
    if files.differences is None:
        return
    vectors = dict(stored(files.differences)).get(FUNCTION_VECTOR)
    for layer, vector in enumerate([] if vectors is None else vectors.to(loaded.model.device)):
        yield Intervention("function vector", partial(rewriting, loaded, {layer: plus(vector)}, False), layer)
