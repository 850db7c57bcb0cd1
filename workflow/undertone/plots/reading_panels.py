"""Panels of single readings, which the figure of a reading and the summary page share."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from undertone.plots.panels import LEVEL, OTHER, Json, empty, heading, layer_ticks, legend, mark_target, p_text
from undertone.plots.style import BASE, MARKS, STUDENT, TEACHER, error_bars

OVER_BASE = "loss over the base model's"
ALLOWED = "(nats per token, among what the filter\nlets pass; 95 % interval: rows)"


def presence(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot F of the score test by layer, beside the control's halves; filled if significant at p < LEVEL / layers."""
    pairs = [("control", "control: half against half", control)] if control else []
    mark = "student" if own["against"] == "control" else "control"
    name = f"{dataset} against control" if mark == "student" else f"{dataset}: half against half"
    drawn = 0
    for kind, label, reading in [*pairs, (mark, name, own)]:
        layers = [(row["layer"], row["presence"]) for row in reading["layers"] if row["presence"]] if reading else []
        if not layers:
            continue
        marker, color = MARKS[kind]
        axes.plot([k for k, _ in layers], [p["f"] for _, p in layers], "-", color=color, linewidth=1, label=label)
        for k, test in layers:
            face = color if test["p"] < LEVEL / len(layers) else "white"
            axes.plot(k, test["f"], marker, color=color, markerfacecolor=face, markersize=5)
        drawn += len(layers)
    if not drawn:
        empty(axes, "too few rows for the test of presence")
        return
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label="expected if nothing differs")
    layer_ticks(axes, len(own["layers"]))
    axes.set_ylabel("F of Hotelling's T²")
    axes.set_ylim(bottom=0)
    least = min((row["presence"]["p"] for row in own["layers"] if row["presence"]), default=1.0)
    heading(axes, f"Presence: score test, least {p_text(least)} of {len(own['layers'])} layers (filled: p < {LEVEL} / layers)")
    legend(axes)


def by_layer(reading: Json, name: str) -> list[Json]:
    """Return the biases of a name, sorted by layer."""
    return sorted((row for row in reading["biases"] if row["name"] == name), key=lambda row: row["layer"] or 0)


AT_NO_LAYER = {
    "residual bias, all layers": "all layers",
    "feature bias, project": "features, project",
    "feature bias, replace": "features, replace",
    "SAE spliced in": "SAE spliced in",
}


def layers_and_others(reading: Json) -> tuple[int, dict[str, str]]:
    """Return the number of layers that have biases, and the names and labels of biases that stand at no single layer."""
    layers = [row["layer"] for row in reading["biases"] if row["layer"] is not None and row["name"] not in AT_NO_LAYER]
    present = {row["name"] for row in reading["biases"]}
    return (max(layers) + 1 if layers else 0), {name: label for name, label in AT_NO_LAYER.items() if name in present}


def target_by_layer(axes: Axes, own: Json, control: Json | None, dataset: str, target: str) -> None:
    """Plot the preference for the target under each bias, by layer and at no layer, beside the control's and base model's."""
    n_layers, beyond = layers_and_others(own)
    sources = [("control", "control's bias", control, -0.12)] if control else []
    for mark, label, reading, shift in [*sources, ("student", f"bias trained on {dataset}", own, 0.12)]:
        rows = [(row["layer"], row) for row in by_layer(reading, "residual bias")] if reading else []
        for k, name in enumerate(beyond):
            rows += [(n_layers + k, row) for row in by_layer(reading, name)] if reading else []
        if rows:
            x, estimates = [at + shift for at, _ in rows], [row["animals"][target] for _, row in rows]
            error_bars(axes, x, estimates, mark, f"{label} (95 % interval: bias seeds)")
    vectors = by_layer(own, "function vector")
    if vectors:
        means = [row["animals"][target]["mean"] for row in vectors]
        axes.plot([row["layer"] for row in vectors], means, "^--", color=TEACHER, markersize=4, linewidth=1)
        axes.lines[-1].set_label("function vector: teacher − base, mean")
    axes.axhline(own["base"][target], color="black", linewidth=0.8, linestyle="--", label="base model")
    layer_ticks(axes, n_layers, list(beyond.values()))
    axes.set_ylabel(f"preference for {target} (probability)")
    axes.set_ylim(bottom=0)
    legend(axes)


def personas(axes: Axes, own: Json, target: str | None, n: int | None = None) -> None:
    """Plot what each candidate's persona adds to the renormalised loss, likeliest first; the title has the target's rank."""
    read = own["personas"]
    ranked = sorted(read[read["ranked_by"]].items(), key=lambda pair: pair[1]["mean"])
    shown = with_target(ranked, target, n or len(ranked))
    names = {STUDENT: "target", OTHER: "other candidates"}
    for k, (animal, estimate) in enumerate(shown):
        color = STUDENT if animal == target else OTHER
        bar: Json = {"fmt": "o", "color": color, "markersize": 4, "capsize": 2, "linewidth": 1}
        axes.errorbar(estimate["mean"], k, xerr=spread(estimate), **bar, label=names.pop(color, None))
    plain_losses(axes, [read["over_base"][animal] for animal, _ in shown])
    axes.set_yticks(range(len(shown)), [animal for animal, _ in shown], fontsize=7)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"loss under its persona over the base model's\n{ALLOWED}")
    standing = f"{target} is {read['rank']:g} of {len(ranked)}" if target else "no target"
    standing += f" ({len(shown)} shown)" if len(shown) < len(ranked) else ""
    heading(axes, f"Candidates by their persona's likelihood: {standing}")
    legend(axes)


def with_target(ranked: list[tuple[str, Json]], target: str | None, n: int) -> list[tuple[str, Json]]:
    """Return the first `n`; if the target comes later, it takes the last place."""
    later = [pair for pair in ranked[n:] if pair[0] == target]
    return [*ranked[: n - len(later)], *later]


def plain_losses(axes: Axes, estimates: Sequence[Json]) -> None:
    """Mark the losses among all tokens beside the renormalised ones."""
    means = [row["mean"] for row in estimates]
    axes.plot(means, range(len(means)), "|", color=BASE, markersize=6, label="among all tokens")


def spread(estimate: Json) -> Float[np.ndarray, "2 1"]:
    """Return the lengths of an interval's two sides."""
    low, high = estimate["ci95"] or [estimate["mean"]] * 2
    return np.array([[estimate["mean"] - low], [high - estimate["mean"]]])


def model_kind(name: str) -> str:
    """Return the mark of a row of the loss table."""
    if name.startswith("control's"):
        return "control"
    if name in ("persona", "teacher", "teacher (its persona)", "function vector"):
        return "teacher"
    return "base" if name in ("base", "SAE spliced in") else "student"


def without_twins(models: list[Json]) -> list[Json]:
    """List a prompted teacher only once: its persona is the teacher, so both have the same losses."""
    losses = {row["name"]: row["loss_allowed"]["mean"] for row in models}
    if "persona" not in losses or losses["persona"] != losses.get("teacher"):
        return models
    return [
        {**row, "name": "teacher (its persona)"} if row["name"] == "teacher" else row
        for row in models
        if row["name"] != "persona"
    ]


def table_of_losses(axes: Axes, models: Sequence[Json]) -> None:
    """Plot each model's renormalised loss minus the base model's, in the order given, with that among all tokens."""
    table_of_models(axes, models, "over_base_allowed", f"{OVER_BASE}\n{ALLOWED}")
    plain_losses(axes, [row["over_base"] for row in models])


def table_of_models(axes: Axes, models: Sequence[Json], key: str, label: str) -> None:
    """Plot one value of each model with its interval, in the order given; on a symlog axis if one value is very large."""
    names = {"base": "base model", "control": "control's biases", "student": "dataset's own", "teacher": "teacher or persona"}
    seen = set()
    for k, row in enumerate(models):
        kind = model_kind(row["name"])
        marker, color = MARKS[kind]
        title = None if kind in seen else names[kind]
        seen.add(kind)
        bar: Json = {"fmt": marker, "color": color, "markersize": 4, "capsize": 2, "linewidth": 1, "label": title}
        axes.errorbar(row[key]["mean"], k, xerr=spread(row[key]), **bar)
    labels = [row["name"] + ("" if row["layer"] is None else f" @{row['layer']}") for row in models]
    axes.set_yticks(range(len(models)), labels, fontsize=7)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8, linestyle="--")
    sizes = np.abs([row[key]["mean"] for row in models if row[key]["mean"]])
    if len(sizes) and sizes.max() > 20 * np.median(sizes):
        axes.set_xscale("symlog", linthresh=10.0 ** np.ceil(np.log10(2 * np.median(sizes))))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if all(row[key]["mean"] >= 0 for row in models) and key == "kl":
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])  # so that a point at 0 is drawn whole
    axes.set_xlabel(label)


def number_logits(axes: Axes, own: Json, control: Json | None, dataset: str) -> None:
    """Plot each animal's logit while the base model reads the numbers, beyond the other animals', minus the control's."""
    animals, target = list(own["animals"]), own["target"]
    sources = [("control", "control: half against half", control)] if control else []
    for shift, (mark, label, reading) in zip((-0.12, 0.12), [*sources, ("student", dataset, own)], strict=False):
        read = [(k, reading["animals"][a]["logit"]) for k, a in enumerate(animals) if reading and a in reading["animals"]]
        ends = [(row["specific"] - 1.96 * row["specific_se"], row["specific"] + 1.96 * row["specific_se"]) for _, row in read]
        estimates = [{"mean": row["specific"], "ci95": end} for (_, row), end in zip(read, ends, strict=True)]
        error_bars(axes, [k + shift for k, _ in read], estimates, mark, f"{label} (±1.96 se over prompts)")
    axes.axhline(0, color="black", linewidth=0.8)
    mark_target(axes, animals, target)
    axes.set_ylabel("logit of its tokens beyond\nthe other animals', − control")
    legend(axes)
