"""The figure of a hierarchy of concepts: each test by layer beside its null, maps of cosines, and projections of words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from safetensors.numpy import load_file

from undertone.plots.panels import heading, legend
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json, whole

Json = dict[str, Any]
TESTS = {
    "existence": "AUROC of a concept's other words",
    "distance": "Spearman's ρ, cosine and closeness",
    "orthogonality": "cos(child − parent, parent)",
    "grandparents": "cos(child − parent, parent − grandparent)",
    "simplex": "share of parent in siblings' span − chance",
}
# Gap between the last layer and what stands to its right, in layers.
GAP = 0.3
COLOURS = {"whitened": STUDENT, "causal": TEACHER, "euclidean": SKY, "mean": "black"}
# What stands to the right of the last layer: label on the axis, label in the legend, colour.
BEHIND = {
    "unembedding": ("unembedding", "unembedding", BASE),
    "decoder": ("features", "decoder rows of words' features", "#CC79A7"),
    "decoder.unembedding": ("their words", "unembedding of these words", "#F0E442"),
}


def plot_hierarchy(geometry: Path, vectors: Path, plot: Path) -> None:
    """Draw the tests of `geometry.json` by layer, and from `vectors.safetensors` the cosines in the unembedding."""
    result = read_json(geometry)
    with whole(vectors):
        tensors = load_file(vectors)
    figure, panels = new_panels(2, 5, 21, 7.5)
    for axes, (name, label) in zip(panels, TESTS.items(), strict=False):
        draw_test(axes, result["spaces"], name, label)
    legend(panels[0], loc="best")
    draw_interventions(panels[5], result["interventions"]["layers"])
    draw_words(panels[6], result["projection"])
    maps = {"minus distance in the tree": -tensors["distances"].astype(float)}
    maps["cosines, unembedding"] = tensors["unembedding.cosines"]
    maps["cosines, words exchanged"] = tensors["unembedding.exchanged"]
    for axes, (title, image) in zip(panels[7:], maps.items(), strict=True):
        draw_cosines(axes, image, [each["name"] for each in result["sets"]], title)
    n = result["words"]
    power = "; underpowered: few concepts have enough words" if result["underpowered"] else ""
    figure.suptitle(
        f"{n['read']:,} of {n['given']:,} words, {len(result['sets'])} concepts{power}. Dotted: 95 % of "
        f"{result['permutations']} draws with words exchanged. Maps: concepts estimated from different words.",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    save(figure, plot)


def draw_test(axes: Axes, spaces: Mapping[str, Json], test: str, label: str) -> None:
    """Draw a test by layer: a line for each view, with its null's range in its colour; spaces without a layer to the right."""
    layers = sorted({int(name.split(".")[1]) for name in spaces if name.startswith("layer.")})
    for view, colour in COLOURS.items():
        named = [f"layer.{layer}.{view}" for layer in layers]
        tests = [spaces[name]["tests"][test] for name in named if name in spaces]
        if tests:
            draw_line(axes, np.arange(len(layers)), tests, colour, view)
    behind = {name: len(layers) + GAP + k for k, name in enumerate(name for name in BEHIND if name in spaces)}
    for name, place in behind.items():
        _, said, colour = BEHIND[name]
        draw_line(axes, np.array([place]), [spaces[name]["tests"][test]], colour, said)
    heading(axes, label)
    names = [*map(str, layers), *(BEHIND[name][0] for name in behind)]
    axes.set_xticks([*range(len(layers)), *behind.values()], names, fontsize=8 if len(behind) == 1 else 6)
    axes.set_xlim(right=max(behind.values()) + GAP)
    axes.set_xlabel("layer")


def draw_line(axes: Axes, x: Float[np.ndarray, " n"], tests: Sequence[Json], colour: str, label: str) -> None:
    """Draw values, and the 95 % range of the null as dotted lines; nothing if the tree has nothing to test."""
    if any(test["value"] is None for test in tests):
        return
    axes.plot(x, [test["value"] for test in tests], "o-", color=colour, markersize=4, label=label)
    for end in ("low", "high"):
        null = [test["nulls"]["words"][end] for test in tests]
        axes.plot(x, null, ":" if len(x) > 1 else "_", color=colour, linewidth=1)


def draw_interventions(axes: Axes, layers: Mapping[str, Json]) -> None:
    """Plot by layer how far adding two siblings' difference moves their words against each other, and words around them."""
    x = np.arange(len(layers))
    for key, colour, label in (
        ("moved", STUDENT, "one sibling's words against the other's"),
        ("around", SKY, "their parent's against all others, size"),
    ):
        read = [each[key] for each in layers.values()]
        if any(each["value"] is None for each in read):
            continue
        axes.plot(x, [each["value"] for each in read], "o-", color=colour, markersize=4, label=label)
        for end in ("low", "high"):
            axes.plot(x, [each["null"][end] for each in read], ":", color=colour, linewidth=1)
    axes.set_xticks(x, [*layers], fontsize=8)
    axes.set_xlabel("layer after which siblings' difference is added")
    heading(axes, "rise of words' log-probability, nats")
    legend(axes, loc="best")


def draw_cosines(axes: Axes, image: Float[np.ndarray, "n_sets n_sets"], names: Sequence[str], title: str) -> None:
    """Draw a map of pairs of concepts, in the order of the tree; colours span the middle 96 % of values off the diagonal."""
    off = image[~np.eye(len(image), dtype=bool)]
    axes.imshow(image, cmap="viridis", vmin=float(np.quantile(off, 0.02)), vmax=float(np.quantile(off, 0.98)))
    heading(axes, title)
    step = max(1, len(names) // 24)
    axes.set_yticks(range(0, len(names), step), names[::step], fontsize=6)
    axes.set_xticks([])


def draw_words(axes: Axes, projection: Json) -> None:
    """Plot each word's projections on a concept's vector and on the difference of two below it, in units of the vectors."""
    colours = {projection["one"]: STUDENT, projection["other"]: SKY, projection["parent"]: TEACHER, None: BASE}
    for name, colour in reversed(colours.items()):
        words = [word for word in projection["words"] if word["within"] == name]
        axes.plot(
            [word["x"] for word in words],
            [word["y"] for word in words],
            "o",
            color=colour,
            markersize=3,
            alpha=0.7,
            label=name or "other words",
        )
    heading(axes, f"unembedding: {projection['one']} − {projection['other']}, on {projection['parent']}")
    axes.set_xlabel(f"along {projection['parent']}")
    axes.set_ylabel("along the difference")
    legend(axes, loc="best")
