"""One page on a dataset, read without a student: is something there, what is it, does it act."""

import textwrap
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes

from undertone.plots.bias_plots import lowered, mass, single_layers, top_features
from undertone.plots.panels import Json, empty, heading, legend, p_text, target_of
from undertone.plots.reading_panels import number_logits, personas, presence, table_of_losses, target_by_layer, without_twins
from undertone.plots.style import new_panels, save
from undertone.runtime.files import read_json
from undertone.study.stages import SUMMARISED

N_MODELS, N_CANDIDATES = 14, 16


def make_summary(plot: Path, dataset: str, **readings: Path | None) -> None:
    """Draw the page from readings' JSON files by name (`stages.SUMMARISED`), and from the control's, `control_NAME`.

    A panel whose reading is None or not given says so. Raises ValueError for any other name.
    """
    if unknown := {name.removeprefix("control_") for name in readings} - {*SUMMARISED}:
        raise ValueError(f"a summary has no place for {', '.join(sorted(unknown))}; expected some of {', '.join(SUMMARISED)}")
    own = {name: read_json(path) for name in SUMMARISED if (path := readings.get(name))}
    other = {name: read_json(path) for name in SUMMARISED if (path := readings.get(f"control_{name}"))}
    targets = [target_of(result, dataset) for result in own.values()]
    target = next(filter(None, targets), None)
    figure, axes = new_panels(2, 3, 15.2, 10.2)
    for panel, (name, draw) in zip(axes, PANELS.items(), strict=True):
        reading = name.split()[0]
        if reading in own:
            draw(panel, own[reading], other.get(reading), dataset, target)
        else:
            empty(panel, f"no {reading} of {dataset}")
    title = f"{dataset}: target {target}" if target else f"{dataset}: no target is known"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(textwrap.fill(in_figures(own, other, target), 210), x=0.01, ha="left", fontsize=8)
    save(figure, plot)


def presence_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """Does the dataset differ from the control's?"""
    presence(axes, own, control, dataset)


def features_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """Which features, if they were boosted, would make it likelier?"""
    top_features(axes, own, "project" if "project" in own["modes"] else next(iter(own["modes"])), target)


def bias_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """Does a bias that makes it likelier make the base model prefer the target?"""
    if target not in own["base"]:
        mass(axes, own, dataset)
        return
    target_by_layer(axes, own, control, dataset, str(target))
    heading(axes, f"What the base model prefers under biases: {target}")


def losses_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """How likely is it under the models that say something?"""
    table_of_losses(axes, short(without_twins(own["models"])))
    heading(axes, f"{own['rows']} rows held out of {own['held_out']}; of biases by layer that of the lowest loss here")
    legend(axes)


def short(models: list[Json]) -> list[Json]:
    """Return the table's models: the layer of the lowest loss of each name, without models with a spliced SAE."""
    first: dict[str, Json] = {}
    for row in sorted(models, key=lambda row: float(row["loss_allowed"]["mean"])):
        if "spliced" not in row["name"] and "replace" not in row["name"]:
            first.setdefault(row["name"], row)
    return list(first.values())[:N_MODELS]


def personas_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """Whose persona would have written it?"""
    personas(axes, own, target, N_CANDIDATES)


def tokens_panel(axes: Axes, own: Json, control: Json | None, dataset: str, target: str | None) -> None:
    """What the numbers alone say of each animal."""
    number_logits(axes, own, control, dataset)
    heading(axes, "What the numbers alone say: logits of animal tokens over the control's")


def in_figures(own: dict[str, Json], control: dict[str, Json], target: str | None) -> str:
    """Return the line under the panels, with results that no panel shows."""
    parts = []
    if "residual_bias" in own:
        best = {
            name: best_gain(readings["residual_bias"])
            for name, readings in (("own", own), ("control", control))
            if "residual_bias" in readings
        }
        parts.append("Residual biases, loss on held-out rows: " + "; ".join(f"{name}: {text}" for name, text in best.items()))
    if "tokens" in own:
        test = own["tokens"]["presence"]["number"]
        if test:
            parts.append(
                f"Numbers' frequencies against {own['tokens']['reference']}: mean z² {test['mean_z2']:.2f} "
                f"({test['null']:.2f} by permutation, {p_text(test['p'])})"
            )
        ranks = {name: row for name, row in (own["tokens"]["identity"] or {}).items() if row}
        if ranks:
            parts.append(
                f"Rank of {target} by tokens: " + ", ".join(f"{n} {r['rank']:g} of {r['of']}" for n, r in ranks.items())
            )
    return ". ".join(parts)


def best_gain(reading: Json) -> str:
    """Say which layer's biases lower the held-out loss most, mean over seeds, and what all layers together do."""
    gains = {row["layer"]: mean_change(row) for row in single_layers(reading)}
    many = next((mean_change(row) for row in reading["biases"] if row["layer"] == "multi"), None)
    parts = (
        [f"{min(gains.values()):+.4f} at layer {min(gains, key=lambda k: gains[k])}, the best of {len(gains)}"] if gains else []
    )
    return ", ".join(parts + ([f"{many:+.4f} at all layers"] if many is not None else [])) + " (nats per token)"


def mean_change(row: Json) -> float:
    """Return the change of the held-out loss under a layer's biases, mean over seeds."""
    changes = [float(lowered(report["held_out"]["gain"])["mean"]) for report in row["loss"]]
    return sum(changes) / len(changes)


PANELS: dict[str, Callable[[Axes, Json, Json | None, str, str | None], None]] = {
    "score": presence_panel,
    "feature_bias": features_panel,
    "bias_pref": bias_panel,
    "losses": losses_panel,
    "losses personas": personas_panel,
    "tokens": tokens_panel,
}
