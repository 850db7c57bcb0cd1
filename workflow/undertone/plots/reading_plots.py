"""Figures of a dataset's readings. What a study lacks (an SAE, a target, the control's own control) is left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from undertone.plots.activation_plots import plot_differences, plot_lens
from undertone.plots.bias_plots import plot_bias_pref, plot_feature_bias, plot_residual_bias, read_pair
from undertone.plots.panels import LEVEL, Json, bars, empty, heading, legend, mark_target, p_text, shown, target_of
from undertone.plots.reading_panels import (
    ALLOWED,
    number_logits,
    personas,
    presence,
    table_of_losses,
    table_of_models,
    without_twins,
)
from undertone.plots.style import BASE, MARKS, STUDENT, error_bars, n_of, new_panels, save
from undertone.runtime.files import read_json

MAX_MODELS = 40
CONTEXTS = {"first": ("o", "first tokens"), "pairs": ("s", "after a number"), "pooled": ("D", "all places pooled")}


def plot_score(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot presence by layer, the features of the highest z, and the animals' features, beside the control's halves."""
    own, control = read_pair(paths)
    figure, (left, middle, right) = new_panels(1, 3, 15.5, 4.4)
    presence(left, own, control, dataset)
    if own["features"]:
        score_features(middle, own, dataset)
        score_animals(right, own, control, dataset)
    else:
        empty(middle, "no SAE: no features to score")
        empty(right, "no SAE: no features to score")
    save(figure, plot)


def score_features(axes: Axes, own: Json, dataset: str) -> None:
    """Plot the features of the highest z, and a line where the false discovery rate reaches `LEVEL`."""
    tested = own["features"]
    animals = {animal: row["feature"] for animal, row in tested["animals"].items()}
    bars(axes, [row["feature"] for row in tested["top"]], [row["z"] for row in tested["top"]], animals, target_of(own, dataset))
    low = [row["z"] for row in tested["top"] if row["q"] < LEVEL]
    high = [row["z"] for row in tested["top"] if row["q"] >= LEVEL]
    if low and high:
        axes.axvline((min(low) + max(high)) / 2, color="black", linestyle="--", linewidth=0.8, label=f"q = {LEVEL}")
    state = "" if low and high else f"; all shown have q < {LEVEL}" if low else f"; none has q < {LEVEL}"
    axes.set_xlabel("z of the score along the feature")
    differ = f"{tested['different']} of {tested['n']} features differ"
    heading(axes, f"Layer {tested['layer']}: highest z; {differ}, up or down{state}")
    legend(axes, loc="lower right", frameon=True, framealpha=0.8, edgecolor="none")


def score_animals(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot z of the animals' features, beside z of the same features between the control's halves."""
    animals = own["features"]["animals"]
    if not animals:
        empty(axes, "no steered teacher has a feature that stands for an animal")
        return
    axes.axhspan(-1.96, 1.96, color="#EEEEEE", zorder=0, label="95 % of z if nothing differs")
    for mark, label, reading in (("control", "control: half against half", control), ("student", dataset, own)):
        if reading and reading["features"]:
            features = reading["features"]["animals"]
            marker, color = MARKS[mark]
            points = [(k, features[animal]["z"]) for k, animal in enumerate(animals) if animal in features]
            label = label if points else "_"
            axes.plot([x for x, _ in points], [z for _, z in points], marker, color=color, markersize=5, label=label)
    target, n = target_of(own, dataset), own["features"]["n"]
    mark_target(axes, list(animals), target)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("z of its feature")
    rank_text = f"{target} ranks {animals[target]['rank']:g} of {n} features" if target in animals else "no target among them"
    heading(axes, f"Features of the steered teachers: {rank_text}")
    legend(axes)


def plot_losses(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot each model's loss minus the base model's, its divergence from the teacher, and the candidates' personas."""
    own = read_json(paths["own"])
    known = without_twins(own["models"])
    models = thinned(known)
    divergent = any(row["kl"] for row in models)
    n = 3 if divergent else 2
    figure, axes = new_panels(1, n, 5.5 * n, max(4.5, 0.19 * max(len(models), len(own["personas"]["over_base"])) + 1.6))
    table_of_losses(axes[0], models)
    base = next((row["loss_allowed"]["mean"] for row in models if row["name"] == "base"), None)
    left = f", {len(models)} of {len(known)} models" if len(models) < len(known) else ""
    without = f"; base {base:.3f}" if base is not None else ""
    heading(axes[0], f"{dataset}: {n_of(own['rows'], 'row')} held out of {own['held_out']}{without}{left}")
    legend(axes[0])
    if divergent:
        compared = [row for row in models if row["kl"]]
        table_of_models(axes[1], compared, "kl", f"KL(teacher ‖ model)\n{ALLOWED}")
        heading(axes[1], "Divergence from the teacher")
    personas(axes[-1], own, own["target"])
    save(figure, plot)


def thinned(models: list[Json]) -> list[Json]:
    """Return all models, or if there are more than `MAX_MODELS`, at most six evenly spaced layers of each name."""
    if len(models) <= MAX_MODELS:
        return models
    by_name: dict[str, list[int]] = {}
    for row in models:
        by_name.setdefault(row["name"], []).append(-1 if row["layer"] is None else row["layer"])
    keep = {name: {sorted(of)[round(k)] for k in np.linspace(0, len(of) - 1, 6)} for name, of in by_name.items()}
    return [row for row in models if (-1 if row["layer"] is None else row["layer"]) in keep[row["name"]]]


def plot_tokens(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot numbers that are more or less frequent than in the control, and what tokens alone say of each animal."""
    own, control = read_pair(paths)
    figure, (numbers, present, implied, logits) = new_panels(2, 2, 13, 9)
    number_bars(numbers, own)
    token_presence(present, own, control, dataset)
    implied_correlations(implied, own)
    number_logits(logits, own, control, dataset)
    heading(logits, "Animal tokens' logits while the base model reads the numbers, against the control's")
    save(figure, plot)


def number_bars(axes: Axes, own: Json) -> None:
    """Plot log-ratios of the numbers with the highest and lowest z."""
    numbers = own["frequencies"]["number"]
    rows = [*numbers["more"][:10], *reversed(numbers["less"][:10])]
    if not rows:
        empty(axes, "no number differs")
        return
    colors = [STUDENT if row["z"] > 0 else BASE for row in rows]
    axes.barh(range(len(rows)), [row["log_ratio"] for row in rows], color=colors, height=0.75)
    labels = [f"{shown(row['text'])}  ({row['own']} / {row['control']}, z {row['z']:.1f})" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("log-ratio of shares (nats, smoothed)")
    heading(axes, f"Numbers of the highest and lowest z of {numbers['items']} (counts: own / {own['reference']})")


def token_presence(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot the mean squared z of each kind of item over its mean under permutation, beside the control's halves."""
    sources = (("control", "control: half against half", control), ("student", dataset, own))
    for shift, (mark, label, reading) in zip((-0.1, 0.1), sources, strict=True):
        kinds = [(k, row) for k, row in enumerate(reading["presence"].values()) if row] if reading else []
        marker, color = MARKS[mark]
        for k, row in kinds:
            ratio = row["mean_z2"] / row["null"]
            face = color if row["p"] < LEVEL else "white"
            name = label if (k, row) == kinds[0] else "_"
            axes.plot(k + shift, ratio, marker, color=color, markerfacecolor=face, markersize=6, label=name)
            at = (k + shift, ratio)
            axes.annotate(p_text(row["p"]), at, (6, 3), textcoords="offset points", fontsize=7, va="bottom")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label="mean of the permutations")
    axes.set_xticks(range(len(own["presence"])), list(own["presence"]))
    axes.set_xlim(-0.5, len(own["presence"]) - 0.3)
    axes.set_ylabel("mean z² over its mean under permutation")
    heading(axes, f"Presence: do the frequencies differ at all? (filled: permutation p < {LEVEL})")
    legend(axes)


def implied_correlations(axes: Axes, own: Json) -> None:
    """Plot correlations of logits implied by frequencies with each animal feature's logits, beside the greatest by chance."""
    contexts = {name: implied for name, implied in (own["implied"] or {}).items() if implied and implied["animals"]}
    if not contexts:
        empty(axes, "no SAE, or no feature that stands for an animal")
        return
    animals = list(next(iter(contexts.values()))["animals"])
    for (name, implied), shift, color in zip(contexts.items(), (-0.2, 0.0, 0.2), ("#0072B2", "#CC79A7", STUDENT), strict=False):
        marker, label = CONTEXTS.get(name, ("o", name))
        for k, animal in enumerate(animals):
            row = implied["animals"][animal]
            face = color if row["p"] < LEVEL else "white"
            axes.plot(k + shift, row["correlation"], marker, color=color, markerfacecolor=face, markersize=5)
        limit = implied["max"]["null95"]
        axes.axhline(limit, color=color, linewidth=0.8, linestyle="--")
        axes.axhline(-limit, color=color, linewidth=0.8, linestyle="--")
        axes.plot([], [], marker, color=color, label=label)
    axes.plot([], [], "k--", linewidth=0.8, label="greatest |r| of all features by chance (95 %)")
    axes.axhline(0, color="black", linewidth=0.8)
    mark_target(axes, animals, own["target"])
    axes.set_ylabel("correlation with its feature's logits")
    heading(axes, f"Implied logits against the animals' features (filled: permutation p < {LEVEL}, one-sided, uncorrected)")
    legend(axes)


def plot_sequences(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot what teachers add to the log-prob of the dataset's tokens, by position and by kind of token."""
    own = read_json(paths["own"])
    figure, (left, right) = new_panels(1, 2, 12, 4.4)
    for shift, (name, gain) in zip((-0.1, 0.1), own["gain"].items(), strict=False):
        mark, kind = ("student", "its own teacher") if name == "teacher" else ("teacher", "another teacher")
        label = f"{kind} ({own['kinds'][name]})"
        rows = [row for row in gain["position"] if row["rows"] >= min(5, own["rows"])]
        error_bars(left, [row["position"] + shift for row in rows], rows, mark, label)
        parts = {"all": gain["all"], **gain["kind"]}
        error_bars(right, [k + shift for k in range(len(parts))], list(parts.values()), mark, label)
        right.set_xticks(range(len(parts)), list(parts))
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.8, linestyle="--", label="base model")
        axes.set_ylabel("log-prob over the base model's\n(nats per token)")
        legend(axes)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("token of the completion (places that at least 5 rows reach)")
    right.set_xlabel("kind of token")
    right.set_xlim(-0.5, right.get_xticks()[-1] + 0.5)
    heading(left, f"{dataset}: gain by position, {n_of(own['rows'], 'row')} (95 % interval: rows)")
    heading(right, f"Gain by kind of token; {alike(own['agreement'])}")
    save(figure, plot)


def alike(agreement: Json | None) -> str:
    """Say how alike two teachers' gains are, given the base model's log-prob."""
    correlation = (agreement or {}).get("given_base") or {"mean": None}
    if correlation["mean"] is None:
        return "no other teacher to compare"
    ends = f" [{correlation['ci95'][0]:.2f}, {correlation['ci95'][1]:.2f}]" if correlation["ci95"] else ""
    return f"correlation of the two given the base model {correlation['mean']:.2f}{ends}"


PLOTS: dict[str, Callable[[dict[str, Path], Path, str], None]] = {
    "differences": plot_differences,
    "score": plot_score,
    "feature_bias": plot_feature_bias,
    "residual_bias": plot_residual_bias,
    "bias_pref": plot_bias_pref,
    "losses": plot_losses,
    "tokens": plot_tokens,
    "sequences": plot_sequences,
    "lens": plot_lens,
}


def plot_reading(reading: Path | None, control_reading: Path | None, plot: Path, key: str, dataset: str) -> None:
    """Draw the figure of the reading `key` of a dataset, beside the control's if there is one."""
    paths = {"own": reading, "control": control_reading}
    PLOTS[key]({name: path for name, path in paths.items() if path}, plot, dataset)
