"""Effects of a vector on preferences and text by strength, against null vectors, and the strengths where it exceeds them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.runtime.progress import progress
from undertone.stats.stats import mean_interval, p_value
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Dose
from undertone.vectors.side_effects import side_effects
from undertone.vectors.steering_by import Direction, preferences

# A lift above this quantile of the null vectors counts as more than theirs.
QUANTILE = 0.95


def responses(
    loaded: LoadedModel,
    direction: Direction,
    text: Sequence[Row],
    questions: Path,
    settings: Dose,
    pref: Pref,
    what: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the figures without the vector, and a row for each scale, in rising order, of both signs.

    Preference is exact, at the questions that no contrast is built from. KL and loss are on `text` with all tokens steered, in
    nats per token.
    """
    measure = preferences(loaded, questions, pref, pref.candidates)
    base = measure(None)
    scales = sorted(sign * scale for scale in settings.scales for sign in (1, -1))
    rows: list[dict[str, Any]] = []
    with progress(len(scales), what, "scale") as bar:
        lifts = null_lifts(loaded, questions, pref, direction)
        for scale in scales:
            scores = measure(direction.steering(direction.unit, scale))
            rows.append({"scale": scale, **compared(scores, base, pref.candidates, direction.target), "nulls": lifts(scale)})
            bar.update()
    steerings = [direction.steering(direction.unit, scale, everywhere=True) for scale in scales]
    plain, *effects = side_effects(loaded, text, steerings)
    for row, effect in zip(rows, effects, strict=True):
        row |= effect
    return plain | {"preference": means(base, pref.candidates), "mass": float(base.sum(1).mean())}, rows


def compared(
    scores: Float[np.ndarray, "n_questions n_candidates"],
    base: Float[np.ndarray, "n_questions n_candidates"],
    candidates: Sequence[str],
    target: str | None,
) -> dict[str, Any]:
    """Return the preference of every candidate, their sum, and the target's lift over questions; None without a target."""
    own = None if target is None else list(candidates).index(target)
    lift = None if own is None else mean_interval(scores[:, own] - base[:, own]).as_dict()
    return {"preference": means(scores, candidates), "mass": float(scores.sum(1).mean()), "lift": lift}


def null_lifts(
    loaded: LoadedModel, questions: Path, pref: Pref, direction: Direction
) -> Callable[[float], dict[str, list[float]]]:
    """Return a function scale → the target's lift under each null vector, by kind."""
    if direction.target is None:
        return lambda scale: {}
    measure = preferences(loaded, questions, pref, [direction.target])
    base = measure(None)

    def lifts(scale: float) -> dict[str, list[float]]:
        return {
            kind: [float((measure(direction.steering(unit, scale)) - base).mean()) for unit in units]
            for kind, units in direction.nulls.items()
        }

    return lifts


def means(scores: Float[np.ndarray, "n_questions n_candidates"], candidates: Sequence[str]) -> dict[str, float]:
    """Mean preference by candidate."""
    return dict(zip(candidates, scores.mean(0).tolist(), strict=True))


def judge(rows: list[dict[str, Any]], target: str | None, max_kl: float) -> dict[str, Any]:
    """Return the scales at which the target is lifted more than by null vectors at a tolerable KL, and a sentence.

    Rows are changed in place: they get their p, and their `nulls` become mean, quantiles and number. `p_greatest` compares the
    greatest lift at any scale of tolerable KL with that of each null vector at the same scales.
    """
    if target is None:
        return {"window": None, "p_greatest": None, "verdict": "the vector has no target, whose preference could rise"}
    tolerable = [row for row in rows if row["kl"] <= max_kl]
    draws = [[lift for lifts in row["nulls"].values() for lift in lifts] for row in tolerable]
    p = None
    if tolerable and draws[0]:
        p = float(p_value(max(row["lift"]["mean"] for row in tolerable), np.max(draws, axis=0)))
    for row in rows:
        summarise(row)
    window = sorted(row["scale"] for row in tolerable if row["above_null"])
    best = max(tolerable, key=lambda row: row["lift"]["mean"], default=None)
    if not window or best is None:
        sentence = (
            f"no window: at no scale does the preference for {target} rise above null vectors at a KL of at most {max_kl:g}"
        )
        return {"window": None, "p_greatest": p, "verdict": sentence}
    sentence = (
        f"window {', '.join(f'{scale:g}' for scale in window)}: {target} is lifted by {best['lift']['mean']:.3f} at "
        f"{best['scale']:g} of the mean norm, at a KL of {best['kl']:.2f} nats per token"
    )
    return {"window": window, "p_greatest": p, "verdict": sentence}


def summarise(row: dict[str, Any]) -> None:
    """Replace the null vectors' lifts by their mean, quantiles and number, and say whether the lift lies above them."""
    pooled = [lift for lifts in row["nulls"].values() for lift in lifts]
    lift = row["lift"]["mean"]
    row["p"] = float(p_value(lift, pooled)) if pooled else None
    row["nulls"] = {
        kind: {
            "mean": float(np.mean(lifts)),
            "quantile_95": float(np.quantile(lifts, QUANTILE)),
            "quantile_05": float(np.quantile(lifts, 1 - QUANTILE)),
            "n": len(lifts),
        }
        for kind, lifts in row["nulls"].items()
    }
    row["above_null"] = bool(row["nulls"]) and lift > max(0.0, *(null["quantile_95"] for null in row["nulls"].values()))
