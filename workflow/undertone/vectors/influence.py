"""What a feature of an SAE causes, added or held at multiples of its greatest activation: preference, next tokens and text.

Does it raise in the model the tokens that its decoder row raises by itself? Features that fire about as often, and random
directions, are pushed by the same size, and its greatest effect over all multiples is compared with theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from torch import Tensor

from undertone.lab.one_feature import one_feature
from undertone.lm.attribution import direct_logits
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.lm.steering import Steering
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.saes.features import N_TOKENS, text_of
from undertone.saes.saved import load_sae_at
from undertone.stats.stats import mean_interval, p_value
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Influence
from undertone.vectors.openers import Openers
from undertone.vectors.pushes import LIKE, Push, Strength, pushes, strengths
from undertone.vectors.responses import QUANTILE, means
from undertone.vectors.side_effects import side_effects
from undertone.vectors.steering_by import preferences
from undertone.vectors.streams_of_text import residuals_of, text_rows

# The p-value up to which an effect is attributed to the feature.
LEVEL = 0.05


def measure_influence(
    model: Path,
    sae: Path,
    features: Path,
    summary: Path,
    text: Path,
    questions: Path,
    influence: Path,
    feature: str,
    settings: Influence,
    pref: Pref,
    max_norm: float,
    stamp: Stamp,
) -> str:
    """Write `influence/{feature}.json`; return its verdict for the log.

    All tokens are steered. `features` and `summary` are the SAE's `features.parquet` and `features.json`. Preference is exact;
    KL and loss are on text, in nats per token. The rise of a token is that of its logit against the vocabulary's mean, in nats,
    averaged over openers. Raises ConfigError, before anything is loaded, if the SAE has no such feature or it is dead.
    """
    table, about = read_parquet(features), read_json(summary)
    row = living(table, int(feature), about["tokens"])
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    rows = text_rows(loaded, text, settings.tokens)
    residuals = residuals_of(loaded, rows, at.layer, max_norm)
    own, nulls = pushes(dictionary, at.layer, table, int(feature), residuals, settings.nulls, settings.seed)
    openers, asked = Openers(loaded, settings), strengths(at, settings.multiples)
    measure = preferences(loaded, questions, pref, pref.candidates)
    seen = effects(measure, openers, [own, *(each for of in nulls.values() for each in of)], asked)
    judged = judge(seen, asked, pref.candidates)
    plain, *side = side_effects(loaded, rows, [own.steering(strength) for strength in asked])
    start = preferred(seen.base, pref.candidates) | plain | openers.written(None)
    doses = [
        {
            **strength._asdict(),
            "norm_ratio": own.size(strength, residuals),
            **compared(seen, k, pref.candidates.index(judged["moves"]["candidate"]), nulls),
            **preferred(seen.base + seen.lifts[0, k], pref.candidates),
            "tokens": openers.shown(seen.changes[k]),
            **(side[k] | openers.written(own.steering(strength))),
        }
        for k, strength in enumerate(asked)
    ]
    names = [text_of(loaded, token) for token in raised_by_itself(loaded, own).tolist()]
    said = {"warning": about["warning"], "verdict": sentence(row["feature"], names, judged)}
    head = said | described(row, names, at, own, residuals) | {"like": [push.feature for push in nulls.get(LIKE, [])]}
    write_json(influence, {**head, **judged, "base": start, "doses": doses}, stamp)
    return str(said["verdict"])


def described(
    row: Mapping[str, Any], names: Sequence[str], at: HookPoint, own: Push, residuals: Float[Tensor, "n_tokens d_model"]
) -> dict[str, Any]:
    """Describe the feature, with its tokens, and the norm of what it adds beside the mean residual norm."""
    norms = {"norm": float(own.vector.norm()), "mean_norm": float(residuals.norm(dim=-1).mean())}
    figures = {key: row[key] for key in ("feature", "max", "density")}
    return {**figures, "hook_point": at.name, **norms, "raised_tokens": list(names)}


def living(table: pl.DataFrame, number: int, tokens: int) -> dict[str, Any]:
    """Return the row of a feature that fires. Raises ConfigError for a feature that is dead or does not exist."""
    asked = f"influence/{number}.json"
    row = one_feature(table, number, asked).row(0, named=True)
    if row["dead"]:
        raise ConfigError(
            f"{asked}: feature {number} is dead: fired on 0 of {tokens:,} tokens, so it has no greatest activation to be a "
            "multiple of; ask for one that fires"
        )
    return row


def raised_by_itself(loaded: LoadedModel, push: Push) -> Int[Tensor, " n_tokens"]:
    """Return the ids of the tokens that a direction raises most without later layers: those that a feature's card shows."""
    logits = direct_logits(loaded.model, push.vector)[: len(loaded.tokenizer)]
    return logits.topk(min(N_TOKENS, len(logits))).indices


class Effects(NamedTuple):
    """Effects of pushes, the feature's first, and the preferences of the model itself (`base`).

    `lifts` are changes of every candidate's preference. `rises` are those of the feature's tokens, in nats, and `own` those of
    the tokens that each push raises by itself. `changes` are the rises of every token, for the feature alone.
    """

    base: Float[np.ndarray, "n_questions n_candidates"]
    lifts: Float[np.ndarray, "n_pushes n_strengths n_questions n_candidates"]
    rises: Float[np.ndarray, "n_pushes n_strengths"]
    own: Float[np.ndarray, "n_pushes n_strengths"]
    changes: list[Float[Tensor, " vocab"]]


def effects(
    measure: Callable[[Steering | None], Float[np.ndarray, "n_questions n_candidates"]],
    openers: Openers,
    of: Sequence[Push],
    asked: Sequence[Strength],
) -> Effects:
    """Measure the effects of every push at every strength."""
    base = measure(None)
    lifts, (rises, own) = np.zeros((len(of), len(asked), *base.shape)), np.zeros((2, len(of), len(asked)))
    tokens = [raised_by_itself(openers.loaded, push) for push in of]
    changes: list[Tensor] = []
    with progress(rises.size, "influence", "strength") as bar:
        for n, push in enumerate(of):
            for k, strength in enumerate(asked):
                steering = push.steering(strength)
                rise = openers.rise(steering)
                lifts[n, k], rises[n, k] = measure(steering) - base, float(rise[tokens[0]].mean())
                own[n, k] = float(rise[tokens[n]].mean())
                changes += [] if n else [rise]
                bar.update()
    return Effects(base, lifts, rises, own, changes)


def judge(seen: Effects, asked: Sequence[Strength], candidates: Sequence[str]) -> dict[str, Any]:
    """Return the greatest rise of the feature's tokens when pushed up (`raises`), and the greatest preference change (`moves`).

    Each `p` counts the nulls whose own greatest effect, over the same strengths and all candidates, is as great. The `p` of
    `own` counts the nulls that raise the tokens that they raise by themselves as much as the feature raises its tokens.
    """
    up = [k for k, strength in enumerate(asked) if strength.multiple > 0]
    risen, moved = seen.rises[:, up], seen.lifts.mean(2)
    first = asked[up[int(risen[0].argmax())]]
    place, candidate = np.unravel_index(np.abs(moved[0]).argmax(), moved[0].shape)
    lift = {"candidate": candidates[int(candidate)], "lift": float(moved[0, place, candidate])}
    return {
        "raises": {
            **first._asdict(),
            "rise": float(risen[0].max()),
            **beside(risen.max(1)),
            "own": beside(seen.own[:, up].max(1)),
        },
        "moves": {**asked[int(place)]._asdict(), **lift, **beside(np.abs(moved).max((1, 2)))},
    }


def beside(greatest: Float[np.ndarray, " n_pushes"]) -> dict[str, Any]:
    """Return p of the first value against the others, and their .95 quantile; None without others."""
    own, nulls = greatest[0], greatest[1:]
    if not len(nulls):
        return {"p": None, "null_95": None, "n": 0}
    return {"p": float(p_value(own, nulls)), "null_95": float(np.quantile(nulls, QUANTILE)), "n": len(nulls)}


def compared(seen: Effects, k: int, candidate: int, nulls: Mapping[str, Sequence[Push]]) -> dict[str, Any]:
    """Return the `rise` of the feature's tokens and the `lift` of a preference at a strength, and those of nulls by kind."""
    lifts, rises = seen.lifts[:, k, :, candidate], seen.rises[:, k]
    start, by_kind = 1, {}
    for kind, of in nulls.items():
        those = slice(start, start + len(of))
        by_kind[kind] = {"rise": spread(rises[those]), "lift": spread(lifts[those].mean(1)), "n": len(of)}
        start += len(of)
    return {"rise": float(rises[0]), "lift": mean_interval(lifts[0]).as_dict(), "nulls": by_kind}


def preferred(scores: Float[np.ndarray, "n_questions n_candidates"], candidates: Sequence[str]) -> dict[str, Any]:
    """The mean preference of every candidate, and their sum."""
    return {"preference": means(scores, candidates), "mass": float(scores.sum(1).mean())}


def spread(values: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Mean, .05 and .95 quantile."""
    low, high = np.quantile(values, [1 - QUANTILE, QUANTILE])
    return {"mean": float(values.mean()), "quantile_05": float(low), "quantile_95": float(high)}


def sentence(feature: int, tokens: Sequence[str], judged: Mapping[str, Any]) -> str:
    """Say what the feature causes, and whether nulls do as much."""
    raises, moves = judged["raises"], judged["moves"]
    return (
        f"feature {feature} raises its tokens ({', '.join(map(repr, tokens[:3]))}, …) {beyond(raises)}by up to "
        f"{raises['rise']:.2f} nats ({where(raises)}){beside_own(raises['own'])}; of all preferences it moves that for "
        f"{moves['candidate']} most, {beyond(moves)}by {moves['lift']:+.3f} ({where(moves)})"
    )


def beside_own(own: Mapping[str, Any]) -> str:
    """Say whether nulls raise the tokens that they raise by themselves as much: any direction raises some."""
    return "" if own["p"] is None else f", {'' if own['p'] <= LEVEL else 'no '}more than nulls do their own (p {own['p']:.3f})"


def beyond(judged: Mapping[str, Any]) -> str:
    """Say whether an effect is greater than that of nulls."""
    if judged["p"] is None:
        return ""
    return "beyond nulls, " if judged["p"] <= LEVEL else "no more than nulls do, "


def where(judged: Mapping[str, Any]) -> str:
    """Say where an effect is greatest, and its p."""
    p = "without nulls" if judged["p"] is None else f"p {judged['p']:.3f}"
    return f"{judged['mode']}, {judged['multiple']:g} × maximum, {p}"
