"""Which features a vector consists of: sparse decompositions against null vectors, and how much of its effect they keep."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import normalize

from undertone.lm.loading import LoadedModel, load
from undertone.lm.tensors import stored
from undertone.runtime.files import Stamp, read_json, write_json
from undertone.saes.decoder import directions
from undertone.saes.features import extreme_tokens
from undertone.saes.saved import load_sae
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Decomposition, MakeVector, Vector
from undertone.vectors.basis import Basis
from undertone.vectors.contrast import Contrast, Read, mean_residuals, over_others
from undertone.vectors.faithful import Faithful, Part
from undertone.vectors.origins import asked
from undertone.vectors.sparse import METHODS, Method, Sparse, by_size, explained
from undertone.vectors.steered_feature import steered_feature
from undertone.vectors.steering_by import GAUSSIAN, Direction, strength
from undertone.vectors.streams_of_text import gaussian, residuals_of, text_rows

MEANS = "difference of means"
# Features of a decomposition that are shown, and tokens that each of them raises most.
SHOWN, TOKENS = 10, 4


def decompose(
    model: Path,
    text: Path,
    prompts: Path | None,
    questions: Path,
    sae: Path,
    vector: Path,
    dose: Path,
    teacher: Path | None,
    decomposition: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> str:
    """Write `decomposition.json` of a vector in the features of an SAE of its layer; return a line for the log.

    `teacher` is the `teacher.json` of the teacher whose dataset the vector was recovered from, if it was steered by a feature.
    Raises ValueError for an SAE of another layer, or one whose features have no fixed directions.
    """
    loaded, cfg = load(model), Decomposition.model_validate(settings["decomposition"])
    direction, own = Direction.read(vector), dict(stored(vector.with_suffix(".safetensors")))
    dictionary, layer = load_sae(sae, loaded)
    if layer != direction.layer:
        raise ValueError(
            f"{sae} is of layer {layer}, and {vector} of layer {direction.layer}: decompose it in an SAE of its own layer"
        )
    making = MakeVector.model_validate(settings["vector"])
    residuals = residuals_of(loaded, text_rows(loaded, text, making.tokens), layer, making.max_norm)
    basis, target = Basis.of(dictionary, residuals), own["vector"].double().numpy()
    nulls = null_vectors(residuals, direction, cfg, making.seed)
    methods = {name: [*compared(basis, target, method, nulls, cfg)] for name, method in METHODS.items()}
    head: dict[str, Any] = {"layer": layer, "d_sae": dictionary.cfg.d_sae, "alive": len(basis.numbers)}
    head["encode"] = encoded_as_is(dictionary, own["vector"], direction)
    if teacher:
        head["steered"] = steered_feature(basis, target, nulls, [made for made, _ in methods["OMP"]], cfg.sparsities, teacher)
    if settings["entry"]["kind"] == "contrast":
        sides = asked(loaded, settings, prompts, questions if prompts else None, making)
        exact, head["difference"] = of_means(loaded, settings["entry"], sides, dictionary, basis, target)
        parts = [exact.top(k) for k in cfg.sparsities]
        methods[MEANS] = [(part, {"explained": explained(target, part.vector(basis.rows))}) for part in parts]
        pairs = own["pairs"] if read_json(vector)["paired"] else own["pairs"][:0]
        for (_, entry), share in zip(methods["OMP"], stability(basis, pairs, target, cfg, making.seed), strict=True):
            entry["stability"] = share
    if direction.target is not None:
        scale, has_window = strength(read_json(dose), None)
        steer = Faithful(loaded, questions, Pref.model_validate(settings["pref"]), direction, scale, has_window)
        head |= steer.read(basis, target, methods, text_rows(loaded, text, cfg.tokens), cfg)
    body = {name: [entry | named(basis, made) for made, entry in parts] for name, parts in methods.items()}
    head["tokens"] = tokens_of(loaded, dictionary, body)
    write_json(decomposition, {"sparsities": cfg.sparsities, **head, "methods": body}, stamp)
    return sentence(body, cfg.sparsities)


def null_vectors(
    residuals: Float[Tensor, "n_tokens d_model"], direction: Direction, cfg: Decomposition, seed: int
) -> dict[str, Float[np.ndarray, "_ d_model"]]:
    """Return unit vectors without meaning, by kind: what features explain of them, they explain by chance."""
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = {
        **direction.nulls,
        "isotropic": torch.randn(cfg.nulls, residuals.shape[1], generator=generator),
        GAUSSIAN: gaussian(residuals, cfg.nulls, generator),
    }
    return {kind: normalize(null.double(), dim=-1).numpy() for kind, null in drawn.items() if len(null)}


def compared(
    basis: Basis,
    vector: Float[np.ndarray, " d_model"],
    method: Method,
    nulls: dict[str, Float[np.ndarray, "_ d_model"]],
    cfg: Decomposition,
) -> Iterator[Part]:
    """Yield a vector's decompositions by one method, each with the share that it explains, against null vectors.

    `excess` and `z` are relative to the kind of null vectors of which most is explained.
    """

    def scores(each: Float[np.ndarray, " d_model"]) -> list[float]:
        return [explained(each, made.vector(basis.rows)) for made in method(basis.rows, each, cfg.sparsities)]

    null = {kind: np.array([scores(each) for each in draws]) for kind, draws in nulls.items()}
    for k, made in enumerate(method(basis.rows, vector, cfg.sparsities)):
        value = explained(vector, made.vector(basis.rows))
        kinds = {
            kind: {"mean": float(draws[:, k].mean()), "quantile_95": float(np.quantile(draws[:, k], 0.95)), "n": len(draws)}
            for kind, draws in null.items()
        }
        hardest = max(kinds, key=lambda kind: kinds[kind]["mean"], default=None)
        excess = None if hardest is None else value - kinds[hardest]["mean"]
        sd = 0.0 if hardest is None or len(null[hardest]) < 2 else float(null[hardest][:, k].std(ddof=1))
        z = excess / sd if excess is not None and sd > 0 else None
        yield made, {"explained": value, "nulls": kinds, "excess": excess, "z": z}


def named(basis: Basis, made: Sparse) -> dict[str, Any]:
    """Return a decomposition's features by their numbers, and the share of negative weights."""
    pairs = zip(made.rows.tolist(), made.weights.tolist(), strict=True)
    return {
        "features": [{"feature": basis.numbers[row], "weight": weight} for row, weight in pairs],
        "negative": float((made.weights < 0).mean()) if len(made.weights) else None,
    }


def of_means(
    loaded: LoadedModel,
    settings: dict[str, Any],
    sides: tuple[Sequence[Sequence[int]], list[Sequence[Sequence[int]]]],
    sae: SAE[Any],
    basis: Basis,
    vector: Float[np.ndarray, " d_model"],
) -> tuple[Sparse, dict[str, float]]:
    """Return the difference of mean activations over the contrast's own prompts; plus the SAE's error it is exactly the vector.

    `error_share` is ‖error‖² / ‖v‖²; `mismatch` is the greatest difference between the vector and the sum of both.
    """
    entry = Vector.model_validate(settings)
    layer = 1 if entry.layer is None else entry.layer

    def encode(residual: Tensor) -> Tensor:
        return sae.encode(residual)

    def error(residual: Tensor) -> Tensor:
        return residual - sae.decode(sae.encode(residual))

    def difference(read: Read) -> Tensor:
        positive = mean_residuals(loaded, sides[0], layer, entry.position, read)
        negative = over_others(loaded, iter(sides[1]), layer, entry.position, read)
        contrast = Contrast(positive, negative, paired=len(positive) == len(negative))
        return (contrast.half(0) if len(positive) > 1 and len(negative) > 1 else contrast).difference.double()

    acts, rest = difference(encode), difference(error).numpy()
    whole = (acts @ directions(sae).cpu().double()).numpy() + rest
    known = by_size(np.arange(len(basis.numbers)), acts[basis.numbers].numpy() * basis.norms)
    return known, {
        "error_share": float(rest @ rest) / float(vector @ vector),
        "mismatch": float(np.abs(whole - vector).max()),
        "features": int((acts != 0).sum()),
    }


def stability(
    basis: Basis, pairs: Float[Tensor, "n_pairs d_model"], vector: Float[np.ndarray, " d_model"], cfg: Decomposition, seed: int
) -> list[float | None]:
    """Return the mean Jaccard index of OMP's features with those of vectors from resampled pairs, by number of features.

    None if the prompts are not paired, because both sets then vary on their own.
    """
    built = pairs[::2].double().numpy()
    if len(built) < 2 or not cfg.bootstraps:
        return [None] * len(cfg.sparsities)
    rng = np.random.default_rng(seed)
    whole = METHODS["OMP"](basis.rows, vector, cfg.sparsities)
    shares = []
    for _ in range(cfg.bootstraps):
        drawn = built[rng.integers(len(built), size=len(built))].mean(0)
        again = METHODS["OMP"](basis.rows, drawn, cfg.sparsities)
        shares.append([jaccard(a.rows.tolist(), b.rows.tolist()) for a, b in zip(whole, again, strict=True)])
    return np.mean(shares, axis=0).tolist()


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the share of the members of either set that are in both."""
    return len({*a} & {*b}) / max(1, len({*a} | {*b}))


@torch.no_grad()
def encoded_as_is(sae: SAE[Any], vector: Float[Tensor, " d_model"], direction: Direction) -> dict[str, Any]:
    """Encode the vector with the SAE as if it were a residual: at its own length, and as long as a residual.

    `cosine` compares the vector with its reconstruction minus that of 0; `shared_with_zero` counts its features that
    `encode(0)` has as well. Activations cannot be negative, and a vector is no residual: this is how not to decompose one.
    """
    device = sae.W_dec.device
    rows = directions(sae)
    zero = sae.encode(torch.zeros(1, len(vector), device=device))[0]
    result: dict[str, Any] = {"features_of_zero": int((zero > 0).sum())}
    for name, size in (("as it is", float(vector.norm())), ("as long as a residual", direction.mean_norm)):
        acts = sae.encode((size * direction.unit.to(device)).unsqueeze(0))[0]
        made = (acts - zero) @ rows
        result[name] = {
            "features": int((acts > 0).sum()),
            "shared_with_zero": int(((acts > 0) & (zero > 0)).sum()),
            "cosine": float(torch.cosine_similarity(made.cpu(), vector, dim=0)),
            "explained": explained(vector.double().numpy(), made.cpu().double().numpy() * float(vector.norm()) / size),
        }
    return result


def tokens_of(loaded: LoadedModel, sae: SAE[Any], body: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """The tokens that the greatest features of each decomposition raise most."""
    features = {each["feature"] for made in body.values() for entry in made for each in entry["features"][:SHOWN]}
    return {str(k): [token for token, _ in extreme_tokens(loaded, sae.W_dec[k], TOKENS)["top"]] for k in sorted(features)}


def sentence(body: dict[str, list[dict[str, Any]]], sparsities: Sequence[int]) -> str:
    """Say what OMP explains and keeps at the middle number of features."""
    middle = len(sparsities) // 2
    entry = body["OMP"][middle]
    null = f", null {entry['explained'] - entry['excess']:.2f}" if entry["excess"] is not None else ""
    kept = f", keeps {entry['lift_kept']:.2f} of the lift" if entry.get("lift_kept") is not None else ""
    return f"{sparsities[middle]} features explain {entry['explained']:.2f}{null}{kept}"
