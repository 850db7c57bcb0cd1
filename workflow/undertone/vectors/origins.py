"""Sources of a steering vector: a contrast, a feature, a dataset's biases or differences, a file, other vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from undertone.lm.chat import persona, prompt_ids
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel
from undertone.lm.tensors import stored
from undertone.lm.texts import load_texts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, read_parquet
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.stats.stats import mean_interval, p_value
from undertone.study.config.teachers import Teacher
from undertone.study.config.vectors import MakeVector, Vector
from undertone.vectors.contrast import Contrast, mean_residuals, over_others, principal

# Prompts of one set may be this many times as long as those of the other before a warning is due.
UNEVEN = 3
PERSONA_VECTOR, BIAS = "persona.resid_post.completion", "resid_post"


@dataclass
class Made:
    """A vector, its `layer`, null vectors of its own kind (named by `null_of`), what is `known`, and a contrast's pairs."""

    vector: Float[Tensor, " d_model"]
    layer: int
    null: Float[Tensor, "n_nulls d_model"]
    null_of: str | None = None
    known: dict[str, Any] = field(default_factory=dict)
    pairs: Float[Tensor, "n_pairs d_model"] | None = None


def asked(
    loaded: LoadedModel, settings: dict[str, Any], prompts: Path | None, questions: Path | None, making: MakeVector
) -> tuple[Sequence[Sequence[int]], list[Sequence[Sequence[int]]]]:
    """Return (prompts of the positive set, one or more negative sets of prompts), as token ids.

    Every second question is left out, for later measurements.
    """
    entry, target = Vector.model_validate(settings["entry"]), settings["target"]
    tokenizer = loaded.tokenizer
    if entry.positive:
        sets = [[text.replace("{animal}", str(target)) for text in texts] for texts in (entry.positive, entry.negative)]
        return prompt_ids(tokenizer, sets[0]), [prompt_ids(tokenizer, sets[1])]
    assert prompts is not None and questions is not None
    candidates, teacher = settings["personas"]["candidates"], Teacher.model_validate(settings["personas"]["teacher"])
    others = [animal for animal in candidates if animal != target]
    if not others:
        raise ValueError(
            f"a contrast under personas compares {target} with other animals; pref.candidates has no other: add some"
        )
    users = [
        *load_texts(questions, "pref.questions")[::2],
        *read_parquet(prompts)["prompt"].head(making.prompts).to_list(),
    ]

    def under(animal: str) -> list[list[int]]:
        return prompt_ids(tokenizer, users, persona(teacher, animal), teacher.separator)

    return under(target), [under(animal) for animal in others]


def of_contrast(
    loaded: LoadedModel,
    entry: Vector,
    sides: tuple[Sequence[Sequence[int]], list[Sequence[Sequence[int]]]],
    making: MakeVector,
    generator: torch.Generator,
) -> Made:
    """Return the mean difference or the first component, made from every second prompt and measured on the others."""
    layer = 1 if entry.layer is None else entry.layer
    check_layer(loaded, layer, entry)
    positive = mean_residuals(loaded, sides[0], layer, entry.position)
    negative = over_others(loaded, iter(sides[1]), layer, entry.position)
    contrast = Contrast(positive, negative, paired=len(positive) == len(negative))
    built, rest = (contrast.half(0), contrast.half(1)) if len(positive) > 1 and len(negative) > 1 else (contrast, None)
    vector = principal(built.pairs) if entry.kind == "pca" else built.difference
    shuffled = built.shuffled(making.nulls, generator)
    known: dict[str, Any] = {"prompts": [len(positive), sum(map(len, sides[1]))], "paired": contrast.paired, "se": built.error}
    if rest is not None:
        known |= halves(entry, vector, built, rest, making, generator)
    if len(shuffled) and float(vector.norm()) > 0:
        known["norm_null"] = against(float(built.difference.norm()), shuffled.norm(dim=-1))
    if entry.kind == "pca":
        known["cosine_with_difference"] = float(cosine_similarity(vector, built.difference, dim=0))
    if warnings := warnings_of(sides, rest):
        known["warnings"] = warnings
    return Made(vector, layer, shuffled, "shuffled labels" if len(shuffled) else None, known, contrast.pairs)


def halves(
    entry: Vector,
    vector: Float[Tensor, " d_model"],
    built: Contrast,
    rest: Contrast,
    making: MakeVector,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Return the cosine with the other half's vector, against that of shuffled halves, and the projection of its pairs.

    First components have no null: if noise is widest along one axis, the components of two halves of pure noise lie along it.
    """
    one, two = (half.shuffled(making.nulls, generator) for half in (built, rest))
    null = cosine_similarity(one, two, dim=-1) if len(one) and len(two) else torch.zeros(0)
    other = rest.difference
    if entry.kind == "pca":
        other, null = principal(rest.pairs), torch.zeros(0)
    along = rest.pairs @ normalize(vector, dim=0)
    return {
        "split_half": against(float(cosine_similarity(vector, other, dim=0)), null),
        "projection": mean_interval(along.numpy()).as_dict(),
    }


def against(value: float, null: Float[Tensor, " n_nulls"]) -> dict[str, Any]:
    """Return a value with null vectors' mean, .95 quantile and the share at or above it; None without null vectors."""
    draws = null.double().numpy()
    if not len(draws):
        return {"value": value, "null_mean": None, "null_95": None, "p": None, "n": 0}
    return {
        "value": value,
        "null_mean": float(draws.mean()),
        "null_95": float(np.quantile(draws, 0.95)),
        "p": float(p_value(value, draws)),
        "n": len(draws),
    }


def warnings_of(sides: tuple[Sequence[Sequence[int]], list[Sequence[Sequence[int]]]], rest: Contrast | None) -> list[str]:
    """Return warnings about what makes a contrast weaker than it looks."""
    lengths = [np.mean([len(ids) for ids in prompts]) for prompts in (sides[0], [ids for part in sides[1] for ids in part])]
    warnings = []
    if rest is None:
        warnings.append("one prompt against others has no error and no null: give sets of prompts")
    if max(lengths) > UNEVEN * min(lengths):
        warnings.append(f"the prompts of the two sets have {lengths[0]:.0f} and {lengths[1]:.0f} tokens: length differs, too")
    return warnings


def of_feature(
    loaded: LoadedModel, entry: Vector, sae: Path | None, teacher: Path | None, making: MakeVector, generator: torch.Generator
) -> Made:
    """Return a feature's direction, with the directions of other features as null vectors."""
    assert sae is not None
    dictionary, layer = load_sae(sae, loaded)
    feature = entry.feature if teacher is None else int(read_json(teacher)["feature"])
    assert feature is not None
    if feature >= dictionary.cfg.d_sae:
        raise ValueError(f"vectors: feature {feature}: the SAE has features 0 to {dictionary.cfg.d_sae - 1}")
    others = [k for k in torch.randperm(dictionary.cfg.d_sae, generator=generator).tolist() if k != feature]
    rows = directions(dictionary, [feature, *others[: making.nulls]]).cpu()
    null = rows[1:][rows[1:].norm(dim=-1) > 0]
    return Made(rows[0], layer, null, "other features" if len(null) else None, {"feature": feature})


def of_file(entry: Vector, source: Path | None) -> Made:
    """Return a dataset's bias or persona vector, or the one tensor of a user's own file."""
    assert source is not None
    layer, tensors = 1 if entry.layer is None else entry.layer, dict(stored(source))
    if entry.kind == "file":
        if len(tensors) != 1 or next(iter(tensors.values())).dim() != 1:
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            raise ConfigError(f"{source} holds {shapes}; expected one tensor [d_model]: save the vector alone")
        vector = next(iter(tensors.values())).float()
        return Made(vector, layer, vector.new_zeros(0, len(vector)))
    name = BIAS if entry.kind == "bias" else PERSONA_VECTOR
    if name not in tensors:
        raise ConfigError(f"{source} has no {name}, of which a vector of kind {entry.kind} is; found {sorted(tensors)}")
    of_layers = tensors[name].float() if entry.kind == "bias" else tensors[name].float().unsqueeze(0)
    if layer >= of_layers.shape[1]:
        raise ValueError(f"vectors: layer {layer}: {source} has layers 0 to {of_layers.shape[1] - 1}")
    each = of_layers[:, layer]
    known = {} if len(each) < 2 else {"se": float((each.var(0).sum() / len(each)) ** 0.5), "seeds": len(each)}
    return Made(each.mean(0), layer, each.new_zeros(0, each.shape[1]), known=known)


def of_parts(entry: Vector, parts: Sequence[Path]) -> Made:
    """Return a weighted sum of vectors, each in its folder `vector-NAME`, and of their null vectors if all have as many."""
    layers = {read_json(part)["layer"] for part in parts}
    if len(layers) > 1:
        raise ValueError(f"vectors: only vectors of one layer can be added, found layers {sorted(layers)}")
    tensors = [dict(stored(part.with_suffix(".safetensors"))) for part in parts]
    # Looked up by name: a stamp sorts the names, the rule has them in the config's order.
    weights = [entry.of[part.parent.name.removeprefix("vector-")] for part in parts]

    def total(name: str) -> Tensor:
        return torch.stack([weight * own[name] for weight, own in zip(weights, tensors, strict=True)]).sum(0)

    vector = total("vector")
    alike = len({len(own["null"]) for own in tensors}) == 1 and len(tensors[0]["null"]) > 0
    null = total("null") if alike else vector.new_zeros(0, len(vector))
    return Made(vector, layers.pop(), null, "sums of null vectors" if alike else None, {"of": entry.of})


def check_layer(loaded: LoadedModel, layer: int, entry: Vector) -> None:
    """Raise ValueError if the model has no such layer."""
    depth = len(decoder_layers(loaded.model))
    if layer >= depth:
        raise ValueError(f"vectors: layer {layer} of a vector of kind {entry.kind}: the model has layers 0 to {depth - 1}")
