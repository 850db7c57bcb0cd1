"""Figures of all datasets' readings: confusions of animals by entangled tokens, and what every dataset's biases do."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from undertone.plots.bias_plots import acting, lifts, row_name
from undertone.plots.panels import Json, box, draw_map, greatest, heading, heat, p_text
from undertone.plots.style import n_of, new_figure, new_panels, save, set_title
from undertone.runtime.files import read_json, read_parquet
from undertone.study.config.entries import CONTROL

CONTROL_BIAS = "control's bias"


def plot_entangled(entangled_table: Path, entangled: Path, plot: Path) -> None:
    """Draw datasets against animals for each metric of `entangled.parquet`; boxes mark targets, dots a row's highest score.

    The control's row, its scoring half against itself, shows chance. Titles are from `entangled.json`.
    """
    rows, metrics_json = read_parquet(entangled_table), read_json(entangled)["metrics"]
    metrics = rows["metric"].unique(maintain_order=True).to_list()
    targets = dict(rows.select("dataset", "target").unique(maintain_order=True).iter_rows())
    order = list(dict.fromkeys(target for target in targets.values() if target))
    n_animals = rows["animal"].n_unique()
    columns = math.ceil(math.sqrt(len(metrics)))
    lines = math.ceil(len(metrics) / columns)
    width, height = max(4.4, 0.26 * n_animals + 2.4), max(3.2, 0.17 * len(targets) + 1.9)
    figure, axes = new_panels(lines, columns, min(20.0, columns * width), min(20.0, lines * height))
    limit = greatest(rows["score"].drop_nulls().to_numpy())
    for panel, metric in zip(axes, metrics, strict=False):
        image = draw_matrix(panel, rows.filter(pl.col("metric") == metric), targets, order, limit)
        heading(panel, f"{metric}: {identity(metrics_json.get(metric))}")
    figure.colorbar(image, ax=axes, label="correlation of number frequencies with the animal's scores", shrink=0.6)
    for panel in axes[len(metrics) :]:
        panel.set_axis_off()
    marks = {
        "target of the dataset": Rectangle((0, 0), 1, 1, fill=False, edgecolor="black", linewidth=1.5),
        "animal of the highest score": Line2D([], [], marker=".", color="black", linewidth=0),
    }
    figure.legend(list(marks.values()), list(marks), loc="outside lower left", frameon=False, ncols=2)
    save(figure, plot)


def draw_matrix(axes: Axes, rows: pl.DataFrame, targets: dict[str, str | None], order: list[str], limit: float) -> AxesImage:
    """Draw one metric's scores, with columns in the order of the datasets' targets, so that targets lie on a diagonal."""
    axes.set_xlabel("animal whose entangled tokens are asked for")
    axes.set_ylabel("dataset")
    known = rows["animal"].unique(maintain_order=True).to_list()
    animals = [animal for animal in order if animal in known] + [animal for animal in known if animal not in order]
    datasets = [name for name in targets if name in set(rows["dataset"])]
    scores = {(d, a): s for d, a, s in rows.select("dataset", "animal", "score").iter_rows()}
    image = np.array([[scores.get((d, a), np.nan) for a in animals] for d in datasets], dtype=float)
    drawn = draw_map(axes, image, animals, datasets, limit)
    for line, dataset in enumerate(datasets):
        if (target := targets[dataset]) in animals:
            box(axes, animals.index(str(target)), line)
        if dataset != CONTROL and np.isfinite(image[line]).any():
            axes.plot(int(np.nanargmax(image[line])), line, ".", color="black", markersize=4)
    return drawn


def identity(identified: dict[str, Any] | None) -> str:
    """Say how often the target comes first and its mean rank, beside chance, raw and minus each animal's mean."""
    if identified is None:
        return "nothing to identify"
    scores = identified["all"]
    n, chance = scores["datasets"], scores["chance"]
    parts = [
        f"{name} first {row['first']} of {n}, mean rank {row['mean_rank']:.1f}, {p_text(row['p'])}"
        for name, row in (("raw", scores["raw"]), ("centred", scores["centred"]))
        if row
    ]
    return "; ".join([*parts, f"chance {chance['first']:.1f}, rank {chance['mean_rank']:.1f}"])


def plot_bias_map(bias_prefs: Sequence[Path], plot: Path) -> None:
    """Draw every dataset's own target under every bias: log-odds over the control's bias of the same name and layer.

    `bias_prefs` are the `bias_pref.json` of datasets with a target. A star marks a lift in probability whose 95 % Welch
    interval over bias seeds lies above 0. The control has no function vector, so a dataset's function vector is shown over the
    base model, without a star. Raises ValueError if no file has a target and a lift.
    """
    every = {path.parent.name: read_json(path) for path in map(Path, bias_prefs)}
    results = {
        name: own for name, own in every.items() if own["target"] and any("lift_over_control" in b for b in own["biases"])
    }
    if not results:
        raise ValueError(
            f"found no bias_pref.json with a target and a control among {len(bias_prefs)}; give a dataset a target and the "
            "study a control"
        )
    kept = {name: {row_name(row, CONTROL_BIAS): row for row in acting(own)} for name, own in results.items()}
    first = {name: row for rows in kept.values() for name, row in rows.items()}
    names = sorted(first, key=lambda name: order(first[name]))
    image = np.full((len(names), len(results)), np.nan)
    figure, axes = new_figure(max(7.0, 0.36 * len(results) + 4), max(4.0, 0.24 * len(names) + 2))
    for column, (dataset, own) in enumerate(results.items()):
        for name, row in kept[dataset].items():
            image[names.index(name), column] = lifts(row, own).get(own["target"], np.nan)
            if above_zero(row, own["target"]):
                axes.text(column, names.index(name), "*", ha="center", va="center", fontsize=9)
    untested = [name for name in names if not any(tested(rows.get(name)) for rows in kept.values())]
    labels = [f"{name} (one seed: no interval)" if name in untested else name for name in names]
    heat(
        axes,
        image,
        "log-odds of the target over the control's bias\n(where a row says so, over the base model)",
        list(results),
        labels,
        shared_limit(image),
    )
    axes.set_xlabel("dataset, asked for its own target")
    set_title(axes, counts(results))
    save(figure, plot)


def shared_limit(image: Float[np.ndarray, "n_rows n_columns"]) -> float:
    """Return the limit of a map's colours: the 98 % quantile of absolute values, so that no single one pales the others."""
    finite = np.abs(image[np.isfinite(image)])
    return max(1e-9, float(np.quantile(finite, 0.98))) if len(finite) else 1.0


def tested(row: Json | None) -> bool:
    """Whether a bias has an interval over its seeds, or has no control to compare with."""
    if row is None:
        return False
    lifts_ = row.get("lift_over_control")
    return lifts_ is None or any(estimate["ci95"] for estimate in lifts_.values())


def above_zero(row: Json, target: str) -> bool | None:
    """Whether the interval of a target's lift lies above 0; None if there is none, or the bias names nobody."""
    ends = row.get("lift_over_control", {}).get(target, {}).get("ci95")
    return ends[0] > 0 if ends and row["rank"] is not None else None


def counts(results: dict[str, Json]) -> str:
    """Return the map's title: in how many cells the target is raised, is first, and has an interval above 0, beside chance.

    Cells that name nobody, such as those of a bias of 0, are only counted as such.
    """
    every = [(row, own) for own in results.values() for row in acting(own) if "lift_over_control" in row]
    cells = [(row, own) for row, own in every if row["rank"] is not None]
    raised = sum(lifts(row, own)[own["target"]] > 0 for row, own in cells)
    leading = sum(row["rank"] == 1 for row, _ in cells)
    chance = sum(1 / len(lifts(row, own)) for row, own in cells)
    silent = f", {len(every) - len(cells)} name nobody" if len(cells) < len(every) else ""
    stars = [star for row, own in cells if (star := above_zero(row, own["target"])) is not None]
    return (
        f"Target under every bias, {n_of(len(results), 'dataset')}: above the control's bias in {raised} of {len(cells)} "
        f"cells{silent}, first of the candidates in {leading} (chance {chance:.1f}); *: 95 % interval over bias seeds above 0, "
        f"{sum(stars)} of the {len(stars)} that have one ({0.025 * len(stars):.1f} expected by chance), uncorrected"
    )


def order(row: Json) -> tuple[int, int]:
    """Return the sort key of a bias in the map: its kind, then its layer."""
    kinds = ["residual bias", "residual bias, all layers", "feature bias, project", "feature bias, replace", "function vector"]
    return kinds.index(row["name"]) if row["name"] in kinds else len(kinds), row["layer"] or 0
