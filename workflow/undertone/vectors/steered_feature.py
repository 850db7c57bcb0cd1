"""Whether the feature that a teacher was steered by is in a vector recovered from its dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from undertone.runtime.files import read_json
from undertone.stats.stats import p_value
from undertone.vectors.basis import Basis
from undertone.vectors.sparse import Sparse, signed


def steered_feature(
    basis: Basis,
    vector: Float[np.ndarray, " d_model"],
    nulls: Mapping[str, Float[np.ndarray, "_ d_model"]],
    omp: Sequence[Sparse],
    sizes: Sequence[int],
    teacher: Path,
) -> dict[str, Any]:
    """Return where the feature of a `teacher.json` stands in a vector, compared with where it stands in null vectors.

    `cosine`: with the direction that the teacher was steered by, so reversed if its scale is negative. `p`: of the cosine, the
    greatest over all kinds of null vectors. `place`: among all features' cosines; `place_either_sign`: among their absolute
    values; ties count against the feature. `returned`: the vector along that direction, as a share of what the teacher added
    (`added`); None for a teacher that clamps. `step`: when OMP takes the feature, None if not within `sizes`; `taken_by_then`:
    by kind, the share of null vectors that have it by then. `shares`: for each number of features, its part of what OMP
    explains, weight · (row · v) / ‖v‖²; the parts of all features add up to the whole. A feature that fires on no text (`alive`
    false) is in no decomposition.
    """
    record = read_json(teacher)
    feature, sign = int(record["feature"]), -1.0 if record["scale"] < 0 else 1.0
    said: dict[str, Any] = {"feature": feature, "alive": feature in basis.numbers, "features": len(basis.numbers)}
    if not said["alive"]:
        return said
    row, norm = basis.numbers.index(feature), float(np.linalg.norm(vector))
    cosines = sign * (basis.rows @ vector) / norm
    chance = {kind: sign * (draws @ basis.rows[row]) / np.linalg.norm(draws, axis=1) for kind, draws in nulls.items()}
    added = record["norm"] if record["mode"] == "add" else None
    step = taken(basis, vector, row, max(sizes))
    return {
        **said,
        "cosine": float(cosines[row]),
        "nulls": {kind: spread(draws) for kind, draws in chance.items()},
        "p": max((float(p_value(cosines[row], draws)) for draws in chance.values()), default=None),
        "place": place(cosines, row),
        "place_either_sign": place(np.abs(cosines), row),
        "added": added,
        "returned": float(cosines[row]) * norm / added if added else None,
        "step": step,
        "taken_by_then": {} if step is None else {kind: share_taken(basis, draws, row, step) for kind, draws in nulls.items()},
        "shares": [share(basis, vector, made, row) for made in omp],
    }


def spread(draws: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """Return mean, .95 quantile and number of what null vectors give."""
    return {"mean": float(draws.mean()), "quantile_95": float(np.quantile(draws, 0.95)), "n": len(draws)}


def place(values: Float[np.ndarray, " n"], row: int) -> int:
    """Return the place of one value from the greatest down; ties count against it."""
    return int(np.sum(values >= values[row]))


def taken(basis: Basis, vector: Float[np.ndarray, " d_model"], row: int, most: int) -> int | None:
    """The step at which OMP takes a row; None if it is not among the first `most`."""
    steps = signed(basis.rows, vector, range(1, most + 1))
    return next((k for k, made in enumerate(steps, 1) if row in made.rows), None)


def share_taken(basis: Basis, draws: Float[np.ndarray, "n d_model"], row: int, step: int) -> float:
    """Return the share of null vectors for which OMP takes a row within `step` steps."""
    return float(np.mean([row in signed(basis.rows, draw, [step])[0].rows for draw in draws]))


def share(basis: Basis, vector: Float[np.ndarray, " d_model"], made: Sparse, row: int) -> float:
    """A row's part of what a least-squares decomposition explains."""
    weights: Float[np.ndarray, " k"] = made.weights[made.rows == row]
    return float(weights.sum() * (basis.rows[row] @ vector) / (vector @ vector))
