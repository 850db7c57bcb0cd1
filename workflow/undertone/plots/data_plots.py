"""Figures of the filter: pass rates of a dataset and of all, by the wording of the prompts."""

from pathlib import Path

import numpy as np
import polars as pl

from undertone.plots.style import STUDENT, new_figure, save, set_title
from undertone.runtime.files import read_json, read_parquet


def plot_compliance(compliance: Path, plot: Path) -> None:
    """Pass rate of every dataset by the wording of each prompt component."""
    rows = read_parquet(compliance)
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    columns = rows.filter(pl.col("component") != "all").select("component", "option").unique(maintain_order=True)
    labels = list(columns.iter_rows())
    rates = {(d, c, o): rate for d, c, o, rate in rows.select("dataset", "component", "option", "pass_rate").iter_rows()}
    image = np.array([[rates.get((d, c, o), np.nan) for c, o in labels] for d in datasets])
    figure, axes = new_figure(max(6.0, 0.16 * len(labels) + 3), 0.22 * len(datasets) + 1.6)
    shown = axes.imshow(image, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_yticks(range(len(datasets)), datasets, fontsize=7)
    starts = [k for k, (c, _) in enumerate(labels) if k == 0 or labels[k - 1][0] != c]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="white", linewidth=1.5)
    axes.set_xticks(starts, [labels[k][0] for k in starts], rotation=30, ha="left", fontsize=7)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    figure.colorbar(shown, ax=axes, label="pass rate (share of rows)")
    axes.set_xlabel("wordings of each prompt component")
    save(figure, plot)


def plot_filter(filter: Path, control_filter: Path | None, plot: Path, dataset: str) -> None:
    """Pass rate per wording of each prompt component, under the teacher and without it."""
    own, reference = read_json(filter), read_json(control_filter) if control_filter else None
    components = own["by_component"]
    if not components:
        components = {"all rows": [{"option": 0, "pass_rate": own["pass_rate"], "n": own["n"]}]}
    figure, axes = new_figure(11, 3.6)
    start, ticks = 0.0, []
    for component, options in components.items():
        x = start + np.arange(len(options))
        ticks.append((start + (len(options) - 1) / 2, component))
        axes.bar(x, [o["pass_rate"] for o in options], color=STUDENT, width=0.8, label=dataset if start == 0 else None)
        if reference and component in reference["by_component"]:
            rates = [o["pass_rate"] for o in reference["by_component"][component]]
            axes.plot(
                x[: len(rates)],
                rates[: len(x)],
                "_",
                color="black",
                markersize=7,
                label="control" if start == 0 else None,
            )
        start += len(options) + 1.5
    axes.set_xticks([position for position, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("pass rate (share of rows)")
    rejected = ", ".join(f"{n} {reason}" for reason, n in own["rejected"].items() if n) or "none"
    free = own.get("constrained")
    constrained = f"; constrained, free sampling passes at {free['free_pass_rate']['mean']:.2%}" if free else ""
    set_title(axes, f"{dataset}: {own['passed']} of {own['n']} rows pass; rejected: {rejected}{constrained}")
    axes.legend(frameon=False, ncols=2, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    save(figure, plot)
