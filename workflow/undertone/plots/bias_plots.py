"""Figures of trained biases: what they are made of, what they gain, and what the base model prefers under them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.pyplot import colormaps

from undertone.plots.panels import (
    N_BARS,
    Json,
    bars,
    box,
    empty,
    heading,
    heat,
    layer_ticks,
    legend,
    listed,
    mark_target,
    target_of,
)
from undertone.plots.reading_panels import by_layer, layers_and_others, target_by_layer
from undertone.plots.style import MARKS, SKY, STUDENT, error_bars, n_of, new_panels, save
from undertone.runtime.files import read_json
from undertone.stats.ranks import rank_of
from undertone.stats.stats import log_odds

N_LISTED = 12  # layers whose tokens are listed


def plot_feature_bias(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot for each mode the top features, the animals' features beside the control's, and the gain on held-out rows."""
    own, control = read_pair(paths)
    target = target_of(own, dataset)
    figure, axes = new_panels(len(own["modes"]), 3, 15, 3.8 * len(own["modes"]))
    for k, mode in enumerate(own["modes"]):
        top_features(axes[3 * k], own, mode, target)
        animals_biases(axes[3 * k + 1], own, control, mode, target)
        gains(axes[3 * k + 2], own["modes"][mode], control["modes"][mode] if control else None, dataset)
    figure.suptitle(
        f"{dataset}: feature bias at layer {own['layer']}, positions: {own['positions']}, {n_of(len(own['seeds']), 'seed')}",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    save(figure, plot)


def read_pair(paths: dict[str, Path]) -> tuple[Json, Json | None]:
    """Read the dataset's reading, and the control's if there is one."""
    control = paths.get("control")
    return read_json(paths["own"]), read_json(control) if control else None


def top_features(axes: Axes, own: Json, mode: str, target: str | None) -> None:
    """Plot the features with the highest bias minus the control's (the bias itself without a control), with their tokens."""
    of_mode = own["modes"][mode]
    ranked = of_mode.get("minus_control", of_mode)
    nonzero = [row for row in ranked["features"] if row["bias"]]
    if not nonzero:
        empty(axes, f"{mode}: the bias of every feature is 0")
        return
    animals = {animal: row["feature"] for animal, row in of_mode["animals"].items()}
    features = [row["feature"] for row in nonzero]
    tokens = {row["feature"]: row["tokens"] for row in nonzero}
    bars(axes, features, [row["bias"] for row in nonzero], animals, target, tokens)
    plain = {row["feature"]: row["bias"] for row in of_mode["features"]}
    known = [(k, plain[feature]) for k, feature in enumerate(features[:N_BARS]) if feature in plain]
    if ranked is not of_mode and known:
        axes.plot([bias for _, bias in known], [k for k, _ in known], "k|", markersize=7)
        axes.lines[-1].set_label("bias itself, where among the top")
    what = "bias − control's bias" if ranked is not of_mode else "bias"
    axes.set_xlabel(f"{what} (activation)")
    heading(axes, f"{mode}: highest {what}; {placed(ranked['animals'], target)}")
    legend(axes, loc="lower right", frameon=True, framealpha=0.8, edgecolor="none")


def placed(animals: dict[str, Any], target: str | None) -> str:
    """`lion's feature 463: rank 1`."""
    if target not in animals:
        return "no feature stands for a target"
    return f"{target}'s feature {animals[target]['feature']}: rank {animals[target]['rank']:g}"


def animals_biases(axes: Axes, own: Json, control: Json | None, mode: str, target: str | None) -> None:
    """Plot the biases of the animals' features beside the control's."""
    animals = own["modes"][mode]["animals"]
    if not animals:
        empty(axes, "no steered teacher has a feature that stands for an animal")
        return
    for name, reading, shift in (("control", control, -0.12), ("student", own, 0.12)):
        if reading:
            features = reading["modes"][mode]["animals"]
            points = [(k + shift, features[animal]["bias"]) for k, animal in enumerate(animals) if animal in features]
            marker, color = MARKS[name]
            label = ("control" if name == "control" else "this dataset") if points else "_"
            axes.plot([x for x, _ in points], [y for _, y in points], marker, color=color, markersize=5, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    mark_target(axes, list(animals), target)
    axes.set_ylabel("bias of its feature (activation)")
    heading(axes, f"{mode}: features of the steered teachers (mean over seeds)")
    legend(axes)


def gains(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot the loss with the bias minus that without it, on the rows it was trained on and on held-out ones, for each seed."""
    offset = 0.0
    for mark, label, reading in (("control", "control's bias, control's rows", control), ("student", dataset, own)):
        for seed, report in enumerate(reading["loss"] if reading else []):
            parts = [part for part in ("train", "held_out") if part in report]
            x = [k + offset for k in range(len(parts))]
            error_bars(axes, x, [lowered(report[part]["gain"]) for part in parts], mark, label if not seed else "_")
            offset += 0.08
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--", label="without the bias")
    axes.set_xticks([0.1, 1.1], ["trained on", "held out"])
    axes.set_xlim(-0.4, 1.8)
    axes.set_ylabel("loss over that without the bias\n(nats per token)")
    before = [report["held_out"]["before"] for report in own["loss"] if "held_out" in report]
    without = f", held out without it {np.mean(before):.3f}" if before else ""
    heading(axes, f"Loss: one point a seed (95 % interval: rows){without}")
    legend(axes)


def lowered(gain: Json) -> Json:
    """Turn a gain, which is a fall of the loss, into a change of the loss."""
    ends = gain["ci95"]
    return {"mean": -gain["mean"], "ci95": [-ends[1], -ends[0]] if ends else None}


def plot_residual_bias(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot held-out loss by layer, how sparse the biases are in the SAE's decoder, and the tokens that they raise."""
    own, control = read_pair(paths)
    figure, (left, middle, right) = new_panels(1, 3, 16, 4.6)
    held_out_losses(left, own, control, dataset)
    sparsity(middle, own, control)
    token_list(right, own, control)
    save(figure, plot)


def single_layers(reading: Json, point: str = "resid_post") -> list[Json]:
    """Return the biases at a hook point that act at a single layer."""
    return [row for row in reading["biases"] if row["point"] == point and row["layer"] != "multi"]


def held_out_losses(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot held-out loss minus the base model's by layer and hook point; the control's biases are read on its own rows."""
    points = list(dict.fromkeys(row["point"] for row in own["biases"]))
    n_layers = max((len(single_layers(own, point)) for point in points), default=0)
    colors = dict(zip(points, (STUDENT, "#CC79A7", "#E69F00", "#0072B2"), strict=False))
    for point in points:
        for reading, shift in ((control, -0.2), (own, 0.1)):
            if reading is None or (reading is control and point != points[0]):
                continue
            color, marker = (SKY, "o") if reading is control else (colors.get(point, STUDENT), "D")
            label = f"control's bias, control's rows ({point})" if reading is control else f"{dataset} ({point})"
            for row in (row for row in reading["biases"] if row["point"] == point):
                layer = n_layers if row["layer"] == "multi" else row["layer"]
                for seed, report in enumerate(row["loss"]):
                    gain = lowered(report["held_out"]["gain"])
                    ends = gain["ci95"] or [gain["mean"]] * 2
                    x = layer + shift + 0.1 * seed + 0.04 * points.index(point)
                    axes.plot([x, x], ends, color=color, linewidth=1)
                    axes.plot(x, gain["mean"], marker, color=color, markersize=4, label=label)
                    label = "_"
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--", label="base model")
    multi = ["all layers"] if any(row["layer"] == "multi" for row in own["biases"]) else []
    layer_ticks(axes, n_layers, multi)
    axes.set_ylabel("held-out loss over the base model's\n(nats per token)")
    before = [report["held_out"]["before"] for row in own["biases"] for report in row["loss"]]
    base = f"; base {np.mean(before):.3f}" if before else ""
    heading(axes, f"{dataset}: residual bias, one point a seed (95 % interval: held-out rows{base})")
    legend(axes)


def sparsity(axes: Axes, own: Json, control: Json | None) -> None:
    """Plot the share of each layer's squared bias norm that a few decoder rows explain, beside the control's."""
    rows = [row for row in single_layers(own) if row.get("reconstruction")]
    if not rows:
        empty(axes, "no SAE: biases are not decomposed")
        return
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(rows)))
    others = {row["layer"]: row for row in single_layers(control)} if control else {}
    for row, color in zip(rows, colors, strict=True):
        for style, bias, name in (("-o", row, f"layer {row['layer']}"), ("--", others.get(row["layer"]), "_")):
            if bias and bias.get("reconstruction"):
                parts = bias["reconstruction"]
                axes.plot(
                    [p["n"] for p in parts], [p["explained"] for p in parts], style, color=color, markersize=3, label=name
                )
    axes.set_xscale("log", base=2)
    ticks = sorted({part["n"] for row in rows for part in row["reconstruction"]})
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xlabel("decoder rows used")
    axes.set_ylabel("share of the bias's squared norm explained")
    axes.set_ylim(0, 1)
    heading(axes, "How sparse each layer's bias is in features" + (" (dashed: the control's bias)" if others else ""))
    legend(axes, ncols=1 + len(rows) // 10)


def token_list(axes: Axes, own: Json, control: Json | None) -> None:
    """List the tokens that the biases, minus the control's if there is one, raise and lower."""
    rows = [row for row in single_layers(own) if "tokens" in row]
    axes.set_axis_off()
    if not rows:
        empty(axes, "no bias of resid_post")
        return
    chosen = [rows[k] for k in np.unique(np.linspace(0, len(rows) - 1, N_LISTED).round().astype(int))]
    subtracted = all("minus_control" in row for row in chosen)
    for k, row in enumerate(chosen):
        described = row["minus_control"] if subtracted else row
        y = 1 - (k + 0.5) / max(len(chosen), 4)
        texts = [listed(described["tokens"][side][start : start + 3]) for start in (0, 3) for side in ("up", "down")]
        axes.text(0, y, f"{row['layer']}", fontsize=8, va="center", transform=axes.transAxes)
        axes.text(0.08, y, f"{texts[0]}\n{texts[2]}", fontsize=7, va="center", color=STUDENT, transform=axes.transAxes)
        axes.text(0.56, y, f"{texts[1]}\n{texts[3]}", fontsize=7, va="center", color="#0072B2", transform=axes.transAxes)
    heading(axes, "Tokens raised (left) and lowered (right) by layer, bias" + (" − control's bias" if subtracted else ""))


def plot_bias_pref(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot the target's preference under each bias, and every candidate's lift over the control's bias."""
    own, control = read_pair(paths)
    target = target_of(own, dataset)
    n_layers, _ = layers_and_others(own)
    figure, (left, right) = new_panels(1, 2, max(13, 0.3 * len(own["base"]) + 9), max(4.8, 0.18 * len(own["biases"]) + 2))
    if target in own["base"]:
        target_by_layer(left, own, control, dataset, str(target))
        heading(left, f"{dataset}: what the base model prefers under biases at {n_layers} layers")
    else:
        mass(left, own, dataset)
    lift_map(right, own, target)
    save(figure, plot)


def mass(axes: Axes, own: Json, dataset: str) -> None:
    """Plot, if there is no target, the probability of any candidate: it shows whether the model still answers."""
    n_layers, beyond = layers_and_others(own)
    rows = [(row["layer"], row) for row in by_layer(own, "residual bias")]
    rows += [(n_layers + k, row) for k, name in enumerate(beyond) for row in by_layer(own, name)]
    marker, color = MARKS["student"]
    axes.plot([x for x, _ in rows], [row["mass"] for _, row in rows], marker, color=color, markersize=5, label="under the bias")
    axes.axhline(sum(own["base"].values()), color="black", linewidth=0.8, linestyle="--", label="base model")
    layer_ticks(axes, n_layers, list(beyond.values()))
    axes.set_ylabel("probability of any candidate")
    axes.set_ylim(0, 1.05)
    heading(axes, f"{dataset}: no target; how much of the answers the candidates have (mean over seeds)")
    legend(axes)


def row_name(row: Json, over: str = "") -> str:
    """Return a name like `residual bias @3`; it says so if a row is over the base model in a map over the control's biases."""
    other = " (over base)" if over == "control's bias" and "log_odds_lift_over_control" not in row else ""
    return row["name"] + ("" if row["layer"] is None else f" @{row['layer']}") + other


def lift_map(axes: Axes, own: Json, target: str | None) -> None:
    """Draw interventions against candidates: log-odds over the control's bias, or over the base model if there is none."""
    animals = list(own["base"])
    rows = acting(own)
    if not rows:
        empty(axes, "no bias was trained")
        return
    over = "control's bias" if any("log_odds_lift_over_control" in row for row in rows) else "base model"
    by_row = [lifts(row, own) for row in rows]
    image = np.array([[values.get(animal, np.nan) for animal in animals] for values in by_row])
    heat(axes, image, f"log-odds over the {over}", animals, [row_name(row, over) for row in rows])
    text = "no target"
    if target in animals:
        box(axes, animals.index(str(target)), 0, len(rows))
        ranked = [values for values in by_row if target in values]
        first, chance = sum(rank_of(values, target) == 1 for values in ranked), sum(1 / len(values) for values in ranked)
        text = f"boxed: {target}, first in {first} of {len(ranked)} rows (chance {chance:.1f})"
        text += f", {len(rows) - len(ranked)} name nobody" if len(ranked) < len(rows) else ""
    heading(axes, f"Every candidate under every bias, over the {over}; {text}")


def acting(own: Json) -> list[Json]:
    """Return the biases without the spliced SAE, which is the same for every dataset."""
    return [row for row in own["biases"] if row["name"] != "SAE spliced in"]


def lifts(row: Json, own: Json) -> dict[str, float]:
    """Return each candidate's log-odds minus those under the control's bias, or the base model's if there is no such bias.

    Candidates that the bias says nothing about are left out.
    """
    if "log_odds_lift_over_control" in row:
        return {animal: lift for animal, lift in row["log_odds_lift_over_control"].items() if animal not in row["unranked"]}
    least, pairs = own["log_odds_floor"], {a: (row["animals"][a]["mean"], p) for a, p in own["base"].items()}
    return {a: float(np.subtract(*log_odds(pair, least))) for a, pair in pairs.items() if min(pair) >= least}
