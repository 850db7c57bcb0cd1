"""A steering vector: how it is made, its error, and the null vectors that all readings of it are compared with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from undertone.lm.loading import LoadedModel, load
from undertone.runtime.files import Stamp, provenance, replacing, write_json
from undertone.saes.features import extreme_tokens
from undertone.study.config.vectors import MakeVector, Vector
from undertone.vectors.origins import Made, asked, check_layer, of_contrast, of_feature, of_file, of_parts
from undertone.vectors.streams_of_text import gaussian, residuals_of, text_rows


def make_vector(
    model: Path,
    text: Path,
    prompts: Path | None,
    questions: Path | None,
    sae: Path | None,
    teacher: Path | None,
    source: Path | None,
    parts: Sequence[Path],
    vector: Path,
    tensors: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> str:
    """Write `vector.safetensors`, and what is known of the vector to `vector.json`; return a line for the log.

    Tensors: `vector` [d_model]; `null`, null vectors of its own kind, made orthogonal to the vector unless they are features;
    `gaussian`, draws from N(0, Cov) of the residuals; for contrasts `pairs`. All null vectors have the vector's norm. Norms and
    covariance are of `text`. Raises ValueError for a vector that the model cannot have: of another width or layer, without
    length, or not finite.
    """
    loaded, entry, making = load(model), Vector.model_validate(settings["entry"]), MakeVector.model_validate(settings["vector"])
    generator = torch.Generator().manual_seed(making.seed)
    if entry.kind in ("contrast", "pca"):
        made = of_contrast(loaded, entry, asked(loaded, settings, prompts, questions, making), making, generator)
    elif entry.kind == "feature":
        made = of_feature(loaded, entry, sae, teacher, making, generator)
    else:
        made = of_parts(entry, parts) if entry.kind == "sum" else of_file(entry, source)
    check(loaded, made, entry)
    residuals = residuals_of(loaded, text_rows(loaded, text, making.tokens), made.layer, making.max_norm)
    norm, mean_norm = float(made.vector.norm()), float(residuals.norm(dim=-1).mean())
    save(made, nulls_of(made, entry, residuals, making, generator), tensors, stamp)
    body = {
        "kind": entry.kind,
        "target": settings["target"],
        "layer": made.layer,
        "positions": entry.positions,
        "norm": norm,
        "mean_norm": mean_norm,
        "norm_ratio": norm / mean_norm,
        "tokens_read": len(residuals),
        **made.known,
        "null": described(made),
        "tokens": extreme_tokens(loaded, made.vector),
    }
    write_json(vector, body, stamp)
    return f"layer {made.layer}, norm {norm:.3g}, {norm / mean_norm:.2f} of the mean residual's"


def nulls_of(
    made: Made, entry: Vector, residuals: Float[Tensor, "n_tokens d_model"], making: MakeVector, generator: torch.Generator
) -> dict[str, Float[Tensor, "_ d_model"]]:
    """Null vectors of the vector's own kind (`null`) and draws from N(0, Cov) of residuals (`gaussian`), of its norm."""
    own = made.null if entry.kind == "feature" else orthogonal(made.null, made.vector)
    nulls = {"null": own, "gaussian": gaussian(residuals, making.nulls, generator)}
    return {name: made.vector.norm() * normalize(null, dim=-1) for name, null in nulls.items()}


def save(made: Made, nulls: dict[str, Tensor], path: Path, stamp: Stamp) -> None:
    """Write a vector, its null vectors and the pairs that it is made from, with their stamp."""
    tensors = {"vector": made.vector, **nulls, **({} if made.pairs is None else {"pairs": made.pairs})}
    content = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(content, temporary, metadata={"undertone": json.dumps(provenance(stamp))})


def orthogonal(null: Float[Tensor, "n_nulls d_model"], vector: Float[Tensor, " d_model"]) -> Float[Tensor, "n_nulls d_model"]:
    """Remove a vector's direction from null vectors: scaled to its norm, a small part of it would become a large one."""
    unit = normalize(vector, dim=0)
    return null - (null @ unit).unsqueeze(-1) * unit


def described(made: Made) -> dict[str, Any] | None:
    """Describe the null vectors, and how similar to the vector they were when drawn; None without any."""
    if made.null_of is None:
        return None
    cosine = cosine_similarity(made.null, made.vector.unsqueeze(0), dim=-1)
    return {
        "of": made.null_of,
        "n": len(made.null),
        "cosine_mean": float(cosine.mean()),
        "cosine_greatest": float(cosine.abs().max()),
    }


def check(loaded: LoadedModel, made: Made, entry: Vector) -> None:
    """Raise ValueError for a vector that the model cannot have, that is not finite, or that has no length."""
    check_layer(loaded, made.layer, entry)
    width = loaded.model.config.get_text_config().hidden_size
    if made.vector.shape != (width,):
        raise ValueError(
            f"the vector has {list(made.vector.shape)} numbers, the model's residual stream has {width}: it is another model's"
        )
    if not torch.isfinite(made.vector).all():
        raise ValueError("the vector holds NaN or infinities; expected finite numbers")
    if float(made.vector.norm()) == 0:
        raise ValueError(
            f"the vector of kind {entry.kind} has no length: what it is made of does not differ; give other prompts or parts"
        )
