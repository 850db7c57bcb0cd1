"""Figures of activations: differences between datasets or models, and what training changed on neutral texts."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from undertone.plots.bias_plots import read_pair
from undertone.plots.panels import BOX, LEVEL, Json, bars, empty, heading, layer_ticks, legend, p_text, target_of
from undertone.plots.style import MARKS, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

COMPLETION = "completion"
TABLES = {"acts": "acts, the SAE's activations", "acts_pre": "acts_pre, the same before the activation function"}
PAIRS = {
    "control": (STUDENT, "own − control"),
    "persona": (TEACHER, "teacher − base, same rows"),
    "halves": (SKY, "half − half: chance"),
}


def plot_differences(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot features by |t| for each pair and the dataset's halves, the top features by name, and residual differences."""
    own = read_json(paths["own"])
    pairs, target = own["pairs"], target_of(own, dataset)
    figure, axes = new_panels(2, 3, 16, 8.5)
    for panel, table in zip((axes[0], axes[3]), ("acts", "acts_pre"), strict=True):
        sorted_t(panel, pairs, table, target)
    main = [name for name in ("control", "persona", "halves") if name in pairs]
    tokens = {int(k): [text for text, _ in row["tokens"]["top"]] for k, row in own["features"].items()}
    for k, panel in enumerate((axes[1], axes[4])):
        if k < len(main):
            top_t(panel, pairs[main[k]], main[k], target, tokens)
        else:
            empty(panel, "no other pair")
    norms(axes[2], pairs, own["layer"])
    cosines(axes[5], pairs)
    figure.suptitle(f"{dataset}: differences of activations on completion tokens", x=0.01, ha="left", fontsize=10)
    save(figure, plot)


def sorted_t(axes: Axes, pairs: Json, table: str, target: str | None) -> None:
    """Plot |t| of the top features against their rank; filled if the permutations' greatest |t| is rarely as large."""
    drawn = False
    for name, (color, label) in PAIRS.items():
        features = pairs.get(name, {}).get("classes", {}).get(COMPLETION, {}).get(table)
        if not features:
            continue
        drawn = True
        t = [max(abs(row["t"]), 1e-2) for row in features["top"]]
        label_text = f"{label} ({features['significant']} of {features['tested']} differ, {p_text(features['p'])})"
        axes.plot(range(1, len(t) + 1), t, "-", color=color, linewidth=1, label=label_text)
        for k, row in enumerate(features["top"]):
            face = color if row["p_max"] < LEVEL else "white"
            axes.plot(k + 1, t[k], "o", color=color, markerfacecolor=face, markersize=4)
        row = pairs[name]["animals"].get(target, {}).get(COMPLETION, {}).get(table) if name != "halves" else None
        if row and abs(row["t"]) > 1e-2:
            axes.plot(row["rank"], abs(row["t"]), "*", color=color, markeredgecolor="black", markersize=10)
            axes.annotate(str(target), (row["rank"], abs(row["t"])), fontsize=8, xytext=(5, 3), textcoords="offset points")
    if not drawn:
        empty(axes, "no SAE: no features to compare")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("rank of the feature by |t|")
    axes.set_ylabel("|t| over blocks of rows")
    heading(axes, f"{TABLES[table]}: top features; filled: p < {LEVEL} for all together; star: the target's feature")
    # Below the panel, as the points fall from its upper left to its lower right.
    legend(axes, loc="upper left", bbox_to_anchor=(0, -0.16))


def top_t(axes: Axes, pair: Json, name: str, target: str | None, tokens: dict[int, list[str]]) -> None:
    """Plot a pair's features of the greatest |t|, by name."""
    features = pair["classes"].get(COMPLETION, {}).get("acts")
    if not features or not features["top"]:
        empty(axes, "no SAE feature fires on the completions")
        return
    animals = {animal: row["feature"] for animal, row in pair["animals"].items()}
    bars(axes, [row["feature"] for row in features["top"]], [row["t"] for row in features["top"]], animals, target, tokens)
    axes.set_xlabel("t of the difference of mean activations")
    half = features["split_half"]
    again = f"; of the top on half of the blocks {half['same_sign']:.0%} have the same sign on the other" if half else ""
    heading(axes, f"{PAIRS[name][1]}: top features (acts){again}")
    legend(axes, loc="lower right", frameon=True, framealpha=0.8, edgecolor="none")


def norms(axes: Axes, pairs: Json, sae_layer: int | None) -> None:
    """Plot the norm of each pair's mean residual difference by layer."""
    for name, (color, label) in PAIRS.items():
        layers = pairs.get(name, {}).get("direct", {}).get(COMPLETION, [])
        if layers:
            axes.plot(range(len(layers)), [row["norm"] for row in layers], "o-", color=color, markersize=4, label=label)
            layer_ticks(axes, len(layers))
    if sae_layer is not None:
        axes.axvline(sae_layer, color="black", linewidth=0.8, linestyle=":", label="the SAE's layer")
    axes.set_ylabel("norm of the mean difference\nof resid_post")
    axes.set_ylim(bottom=0)
    heading(axes, "Residual stream, difference by layer (the halves have half the rows each, so more noise)")
    legend(axes)


def cosines(axes: Axes, pairs: Json) -> None:
    """Plot the greatest |cosine| of the residual difference with a decoder row, beside what permuted blocks give."""
    drawn = [(name, position, row) for name in PAIRS for position, row in pairs.get(name, {}).get("cosine", {}).items()]
    if not drawn:
        empty(axes, "no SAE: no decoder rows to compare")
        return
    for k, (name, _, row) in enumerate(drawn):
        axes.plot(k, row["max"], "o", color=PAIRS[name][0], markersize=6)
        axes.plot([k - 0.3, k + 0.3], [row["null"]["q95"]] * 2, "k-", linewidth=1.2, label="_" if k else "95 % of permutations")
        above = max(row["max"], row["null"]["q95"])  # so that no line runs through it
        axes.annotate(p_text(row["p"]), (k, above), (0, 5), textcoords="offset points", fontsize=7, ha="center", va="bottom")
    names = {"control": "own −\ncontrol", "persona": "teacher −\nbase", "halves": "half −\nhalf"}
    axes.set_xticks(range(len(drawn)), [f"{names[name]}\n{position}" for name, position, _ in drawn], fontsize=8)
    axes.set_xlim(-0.6, len(drawn) - 0.2)
    axes.set_ylim(0, 1)
    axes.set_ylabel("greatest |cosine|\nwith a decoder row")
    heading(axes, "Is the residual difference one feature?")
    legend(axes)


def plot_lens(paths: dict[str, Path], plot: Path, dataset: str) -> None:
    """Plot what training changed on neutral texts: norm by layer and position, and the target's rank, beside the control's."""
    own, control = read_pair(paths)
    lenses = dict(own["lenses"])
    if "control" not in lenses and control and "student" in control["lenses"]:
        lenses["control"] = control["lenses"]["student"]
    figure, (lines, ranks, student, other) = new_panels(2, 2, 12, 8)
    lens_norms(lines, lenses, own, dataset)
    lens_ranks(ranks, own)
    maps = [
        [[p["norm"] for p in layer["positions"]] for layer in lenses[k]["layers"]]
        for k in ("student", "control")
        if k in lenses
    ]
    limit = max((value for image in maps for row in image for value in row), default=1.0)
    for axes, key in ((student, "student"), (other, "control")):
        if key in lenses:
            lens_map(axes, lenses[key], limit, f"student of {dataset}" if key == "student" else "control student")
        else:
            empty(axes, "no control student beside it")
    save(figure, plot)


def lens_norms(axes: Axes, lenses: Json, own: Json, dataset: str) -> None:
    """Plot each lens's relative norm by layer."""
    names = {
        "student": (STUDENT, "D-", f"student of {dataset}"),
        "control": (SKY, "o-", "control student"),
        "student_minus_control": ("#0072B2", "s--", "student − control student"),
        "teacher": (TEACHER, "^-", "teacher"),
    }
    for key, (color, style, label) in names.items():
        if key in lenses:
            layers = lenses[key]["layers"]
            norms_ = [row["mean"]["norm"] for row in layers]
            axes.plot(range(len(layers)), norms_, style, color=color, markersize=4, linewidth=1, label=label)
            layer_ticks(axes, len(layers))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("norm of the mean difference\n/ norm of the base model's residual")
    heading(axes, f"Difference on the first 5 tokens of {own['texts']} neutral texts (one student of each)")
    legend(axes)


def lens_ranks(axes: Axes, own: Json) -> None:
    """Plot the target's rank by layer in each student, and in each control student, which shows chance."""
    n = len(next(iter(own["lenses"].values()))["layers"][0]["mean"]["animals"]) if own["lenses"] else 0
    drawn = False
    for key, (mark, label) in {"control": ("control", "control students"), "student": ("student", "students")}.items():
        marker, color = MARKS[mark]
        for k, ranks in enumerate(filter(None, own["ranks"].get(key, {}).values())):
            drawn = True
            y = [float("nan") if rank is None else rank for rank in ranks]
            x = np.arange(len(y)) + (0.06 if key == "student" else -0.06)
            axes.plot(x, y, f"{marker}-", color=color, alpha=0.7, markersize=4, linewidth=1, label="_" if k else label)
            layer_ticks(axes, len(y))
    if not drawn:
        empty(axes, "no target to rank")
        return
    axes.axhline((n + 1) / 2, color="black", linewidth=0.8, linestyle=":", label="mean rank by chance")
    axes.axhspan(0.6, 1.4, color=BOX, alpha=0.35, zorder=0, label="first of the candidates")
    axes.set_yticks([1, *range(5, n + 1, 5)])
    axes.set_ylim(n + 0.6, 0.4)
    axes.set_ylabel(f"rank of {own['target']} of {n} (1: highest logit)")
    heading(axes, "The target among the candidates")
    legend(axes)


def lens_map(axes: Axes, lens: Json, limit: float, who: str) -> None:
    """Draw a map of the relative norm by layer and position."""
    image = np.array([[cell["norm"] for cell in layer["positions"]] for layer in lens["layers"]])
    image_drawn = axes.imshow(image.T, vmin=0, vmax=limit, cmap="viridis", aspect="auto", origin="lower")
    layer_ticks(axes, len(lens["layers"]))
    axes.set_yticks(range(image.shape[1]))
    axes.set_ylabel("text token")
    axes.get_figure(root=True).colorbar(image_drawn, ax=axes, label="relative norm")  # type: ignore[union-attr]
    heading(axes, f"{who}: norm by layer and token (same colours)")
