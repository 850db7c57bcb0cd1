"""Whether a bias carries the trait: what the base model prefers under each bias that was trained on a dataset."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from undertone.lm.answers import MIN_PROBABILITY, Scores, exact_scorer
from undertone.lm.loading import load
from undertone.read.interventions import SPLICED, Readings, of_difference, of_features, of_residuals
from undertone.runtime.files import Stamp, read_json, write_json
from undertone.runtime.progress import progress
from undertone.stats.ranks import rank_of
from undertone.stats.stats import difference_interval, log_odds, mean_interval
from undertone.study.config.measure import Pref


def measure_biases(
    model: Path,
    sae: Path | None,
    questions: Path,
    feature_bias_tensors: Path | None,
    residual_bias_tensors: Path | None,
    differences_tensors: Path | None,
    control_bias_pref: Path | None,
    bias_pref: Path,
    target: str | None,
    settings: Pref,
    stamp: Stamp,
) -> None:
    """Measure the base model's preferences under each bias and write `bias_pref.json`.

    `base` and, for each of `biases`, `animals`: the preference for every candidate (probability, mean over the questions), with
    a t interval over the biases' seeds, which differ in the rows they were trained on. `lift_over_control`: the same minus the
    preference under the control's bias of that name and layer. It is also given in log-odds, which determine the target's
    `rank` among the candidates; without a rank, `no_rank` is the reason. `unranked` are the candidates that a bias says nothing
    about: those below the floor of the log-odds under either bias, or all. The spliced-in SAE is the same for the control, and
    has neither lift nor rank. `control_bias_pref` is the control's `bias_pref.json`, None for the control itself.
    """
    loaded = load(model)
    files = Readings(sae, feature_bias_tensors, residual_bias_tensors, differences_tensors)
    score = exact_scorer(questions, settings, settings.candidates)
    interventions = list(chain(of_features(loaded, files), of_residuals(loaded, files), of_difference(loaded, files)))
    measured: dict[tuple[str, int | None], list[np.ndarray]] = {}
    filled = {(each.name, each.layer) for each in interventions if not each.empty}
    with progress(len(interventions), f"bias preference {bias_pref.parent.name}", "model") as bar:
        for intervention in interventions:
            with intervention.enter() as prompted:
                measured.setdefault((intervention.name, intervention.layer), []).append(means(score(prompted.loaded)))
            bar.update()
    biases = read_json(control_bias_pref)["biases"] if control_bias_pref else []
    reference = {(row["name"], row["layer"]): row for row in biases if row["name"] != SPLICED}
    rows = []
    for of, values in measured.items():
        row = described(values, settings.candidates, reference.get(of), target, of not in filled)
        rows.append({"name": of[0], "layer": of[1], **row})
    base = dict(zip(settings.candidates, means(score(loaded)).tolist(), strict=True))
    write_json(bias_pref, {"target": target, "base": base, "log_odds_floor": MIN_PROBABILITY, "biases": rows}, stamp)


def means(scores: Scores) -> Float[np.ndarray, " n_candidates"]:
    """Return the mean of exact scores over the questions."""
    return scores["exact"].mean(0)


def described(
    values: Sequence[Float[np.ndarray, " n_candidates"]],
    candidates: Sequence[str],
    control: dict[str, Any] | None,
    target: str | None,
    empty: bool = False,
) -> dict[str, Any]:
    """Return preferences under one bias, by seed, and their lift over the control's.

    A bias that is 0 for all seeds (`empty`), or that lifts no candidate, names nobody.
    """
    by_seed = dict(zip(candidates, np.stack(values, axis=1).tolist(), strict=True))
    figures: dict[str, Any] = {
        "animals": {animal: {**mean_interval(own).as_dict(), "by_seed": own} for animal, own in by_seed.items()},
        "mass": float(np.stack(values).sum(1).mean()),
    }
    if control is None:
        return figures
    reference = {animal: row["by_seed"] for animal, row in control["animals"].items()}
    lifts = {animal: difference_interval(by_seed[animal], reference[animal]).with_p() for animal in candidates}
    log_lifts = {
        a: float(log_odds(by_seed[a], MIN_PROBABILITY).mean() - log_odds(reference[a], MIN_PROBABILITY).mean())
        for a in candidates
    }
    low = [animal for animal in candidates if min(*by_seed[animal], *reference[animal]) < MIN_PROBABILITY]
    return {
        **figures,
        "lift_over_control": lifts,
        "log_odds_lift_over_control": log_lifts,
        **ranked(log_lifts, target, low, empty),
    }


def ranked(lifts: dict[str, float], target: str | None, low: list[str], empty: bool) -> dict[str, Any]:
    """Return the target's `rank` by its lift, and the `unranked` candidates: those too `low` for a lift, or all.

    Without a rank, `no_rank` is the reason.
    """
    among = {animal: lift for animal, lift in lifts.items() if animal not in low}
    reason = None
    if empty:
        reason = "the bias is 0"
    elif len(among) < 2:
        reason = "fewer than two candidates lie above the floor of the log-odds"
    elif not any(among.values()):
        reason = "no candidate's preference differs from that under the control's bias"
    if reason:
        return {"unranked": [*lifts], "rank": None, "no_rank": reason}
    if target not in among:
        reason = "the target lies below the floor of the log-odds" if target else "no target"
    return {"unranked": low, "rank": rank_of(among, target), "no_rank": reason}
