"""Figure of a decomposition: what is explained against null vectors, what is kept of the effect, and which features it has."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from undertone.plots.panels import empty, feature_labels, heading
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

COLOURS = {"OMP": STUDENT, "lasso": "#E69F00", "non-negative": TEACHER, "cosine": "#CC79A7", "difference of means": "black"}
# Features that are shown for each of two methods, from the largest decomposition with no more than this many.
FEATURES = 8


def plot_decomposition(decomposition: Path, plot: Path) -> None:
    """Draw the explained share and the share of the lift kept, by number of features, and the greatest features."""
    result = read_json(decomposition)
    figure, (left, middle, right) = new_panels(1, 3, 13, 4.8)
    draw_explained(left, result)
    draw_kept(middle, result)
    draw_features(right, result)
    for axes in (left, middle):
        axes.set_xscale("log", base=2)
        axes.set_xticks(result["sparsities"], [str(k) for k in result["sparsities"]])
        axes.set_xlabel("features")
    labelled: dict[str, Any] = {}
    for axes in (left, middle):
        handles, labels = axes.get_legend_handles_labels()
        labelled = {**dict(zip(labels, handles, strict=True)), **labelled}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    name = plot.parents[1].name
    about = f"{name}, layer {result['layer']}: {result['alive']} of {result['d_sae']} features of the SAE fire on text"
    figure.suptitle(about, fontsize=9, x=0.01, ha="left")
    save(figure, plot)


def draw_explained(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the explained share of the vector's squared norm by number of features, and what OMP explains of null vectors."""
    sizes, entries = result["sparsities"], result["methods"]["OMP"]
    if kinds := entries[0]["nulls"]:
        hardest = max(kinds, key=lambda kind: entries[-1]["nulls"][kind]["mean"])
        mean, high = ([entry["nulls"][hardest][key] for entry in entries] for key in ("mean", "quantile_95"))
        label = f"OMP of {kinds[hardest]['n']} null vectors ({hardest}): mean to 95 %"
        axes.fill_between(sizes, mean, high, color=SKY, alpha=0.4, linewidth=0, label=label)
    for name, parts in result["methods"].items():
        axes.plot(
            sizes, [part["explained"] for part in parts], "o-", color=COLOURS[name], markersize=3, linewidth=1, label=name
        )
    encoded = result["encode"]["as long as a residual"]
    axes.axhline(
        encoded["explained"],
        color=BASE,
        linestyle=":",
        linewidth=1,
        label=f"encode(v) as long as a residual, {encoded['features']} features: no method",
    )
    axes.set_ylim(min(-0.05, max(-0.5, encoded["explained"] - 0.05)), 1.05)
    axes.set_ylabel("explained share of ‖v‖²")
    heading(axes, "What features explain")


def draw_kept(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the share of the vector's lift that each decomposition keeps at the vector's size."""
    if not result.get("effect", {}).get("window"):
        empty(axes, "the vector lifts no target more than null vectors do: there is no effect that its parts could keep")
        return
    sizes, effect = result["sparsities"], result["effect"]
    low, high = ([row[key]["lift_kept"] for row in result["random_rows"]] for key in ("mean", "quantile_95"))
    n = result["random_rows"][0]["n"]
    axes.fill_between(sizes, low, high, color=SKY, alpha=0.4, linewidth=0, label=f"{n} draws of random features: mean to 95 %")
    for name, parts in result["methods"].items():
        axes.plot(
            sizes, [part["lift_kept"] for part in parts], "o-", color=COLOURS[name], markersize=3, linewidth=1, label=name
        )
    rest = [row["lift_kept"] for row in result["rest"]]
    axes.plot(sizes, rest, "x--", color=BASE, markersize=4, linewidth=1, label="what OMP leaves")
    for at in (0, 1):
        axes.axhline(at, color="black", linewidth=0.6)
    axes.set_ylabel("share of the lift kept")
    heading(axes, f"What they do: the lift of {effect['lift']:.2f} at {effect['scale']:g} of the mean norm")


def draw_features(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the greatest weights by OMP, and in the difference of means if there is one."""
    sizes = result["sparsities"]
    k = max((at for at, size in enumerate(sizes) if size <= FEATURES), default=0)
    shown = {
        name: result["methods"][name][k]["features"][:FEATURES]
        for name in ("OMP", "difference of means")
        if name in result["methods"]
    }
    features = list(dict.fromkeys(each["feature"] for entries in shown.values() for each in entries))
    height = 0.8 / len(shown)
    for at, (name, entries) in enumerate(shown.items()):
        weights = {each["feature"]: each["weight"] for each in entries}
        places = [features.index(feature) + (at - (len(shown) - 1) / 2) * height for feature in weights]
        label = f"OMP, {sizes[k]} features" if name == "OMP" else name
        axes.barh(places, list(weights.values()), height, color=COLOURS[name], label=label)
    tokens = {int(feature): words for feature, words in result["tokens"].items()}
    axes.set_yticks(range(len(features)), feature_labels(features, {}, tokens), fontsize=7)
    axes.set_ylim(len(features) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("weight of the feature's unit direction")
    heading(axes, "Which they are, with the tokens they raise")
    axes.legend(frameon=False, fontsize=7)
