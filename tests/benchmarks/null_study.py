"""How often each reader says that something is there where nothing is: datasets cut from a second control, read beside one.

The second control is the base model's own numbers for the study's prompts under another sampling seed. It is cut into
disjoint datasets, which every reader compares with the study's control as it would any dataset of a user's. Run it in
a checkout with the environment active; what is there already (the model, the SAE, the control) is used.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from scipy import stats

ROOT = Path(__file__).parents[2]
SOURCE = "null-source"
READERS = ("tokens", "score", "differences", "feature_bias", "bias_pref")
Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--datasets", type=int, default=20, help="how many datasets are cut")
    parser.add_argument("--rows", type=int, default=250, help="rows of each")
    parser.add_argument("--seed", type=int, default=1, help="sampling seed of the second control; the study's is 0")
    parser.add_argument("--level", type=float, default=0.05, help="p below which a reader says that something is there")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS, help="readers that are tried")
    parser.add_argument("--folder", type=Path, default=Path("scratch/null-study"), help="for datasets and configs")
    parser.add_argument("--out", type=Path, help="also write the figures of every dataset there, as JSON")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    names = [f"null-{k:02}" for k in range(options.datasets)]
    source = configure(options.folder / "source.yaml", source_of(options.seed))
    snakemake([f"results/{SOURCE}/numbers.parquet"], source)
    cut(ROOT / f"results/{SOURCE}/numbers.parquet", options.rows, [options.folder / f"{name}.parquet" for name in names])
    datasets = {name: {"file": str(options.folder / f"{name}.parquet")} for name in names}
    study = configure(options.folder / "study.yaml", {"name": "null-study", "datasets": datasets})
    snakemake([f"results/{name}/{reader}.json" for name in names for reader in options.readers], study)
    p_values = {name: {reader: P_VALUES[reader](read(name, reader)) for reader in options.readers} for name in names}
    if options.out:
        options.out.write_text(json.dumps(p_values, indent=1) + "\n")
    print(table(p_values, options.level))


def source_of(seed: int) -> Json:
    """The config of the second control: all its rows that pass."""
    overrides = {"samples": {"seed": seed}, "numbers": {"max_rows": None}}
    return {"name": "null-study", "datasets": {SOURCE: {"teacher": "none"}}, "overrides": {SOURCE: overrides}}


def configure(path: Path, config: Json) -> Path:
    """Write an overlay."""
    path.write_text(yaml.safe_dump(config))
    return path


def snakemake(targets: list[str], config: Path) -> None:
    """Make targets of the study with an overlay."""
    program = Path(sys.executable).with_name("snakemake")
    subprocess.run([program, *targets, "--configfile", config], cwd=ROOT, check=True)


def cut(numbers: Path, n_rows: int, parts: list[Path]) -> None:
    """Write disjoint datasets of `n_rows` rows each, in random order. Raises ValueError where there are too few rows."""
    rows = pl.read_parquet(numbers).select("prompt", "completion").sample(fraction=1, shuffle=True, seed=0)
    if len(rows) < n_rows * len(parts):
        raise ValueError(f"{numbers} has {len(rows)} rows, {len(parts)} datasets of {n_rows} need {n_rows * len(parts)}")
    for k, part in enumerate(parts):
        rows[k * n_rows : (k + 1) * n_rows].write_parquet(part)


def read(dataset: str, reader: str) -> Json:
    """A reader's result for a dataset."""
    result: Json = json.loads((ROOT / f"results/{dataset}/{reader}.json").read_text())
    return result


def of_tokens(result: Json) -> list[float]:
    """Of the frequencies of numbers."""
    return [result["presence"]["number"]["p"]]


def of_score(result: Json) -> list[float]:
    """Of Hotelling's T² of the layers."""
    return [layer["presence"]["p"] for layer in result["layers"]]


def of_differences(result: Json) -> list[float]:
    """Of the greatest |t| of any feature, of the classes and tables that are tested against the control."""
    classes = result["pairs"]["control"]["classes"].values()
    return [tests[name]["p"] for tests in classes for name in ("acts", "acts_pre")]


def of_feature_bias(result: Json) -> list[float]:
    """Of the gain on held-out rows of the first bias in mode `project`, one-sided; 1 where the bias is 0 and gains nothing."""
    gain = result["modes"]["project"]["loss"][0]["held_out"]["gain"]
    if gain["mean"] == 0:
        return [1.0]
    return [gain["p"] / 2 if gain["mean"] > 0 else 1 - gain["p"] / 2]


def of_bias_pref(result: Json) -> list[float]:
    """Of the lifts over the control of the candidates under the residual biases at all layers."""
    row = next(row for row in result["biases"] if row["name"] == "residual bias, all layers")
    return [lift["p"] for lift in row["lift_over_control"].values()]


P_VALUES: dict[str, Callable[[Json], list[float]]] = {
    "tokens": of_tokens,
    "score": of_score,
    "differences": of_differences,
    "feature_bias": of_feature_bias,
    "bias_pref": of_bias_pref,
}


def bonferroni(p_values: list[float]) -> float:
    """The p-value of the smallest of several."""
    return min(1.0, len(p_values) * min(p_values))


def table(p_values: dict[str, dict[str, list[float]]], level: float) -> str:
    """Markdown: how many datasets each reader calls, how many 95 % of such tests at this level would, and the tests one by one.

    `p_values` holds those of every single test, by dataset and reader.
    """
    low, high = (int(stats.binom.ppf(q, len(p_values), level)) for q in (0.025, 0.975))
    lines = [
        f"| reader | datasets of {len(p_values)} with p < {level} | chance: {low} to {high} | median p "
        f"| tests of each | p < {level}, of all tests |",
        "|---|---|---|---|---|---|",
    ]
    for reader in next(iter(p_values.values())):
        tests = np.array([rows[reader] for rows in p_values.values()])
        values = np.array([bonferroni(list(row)) for row in tests])
        said = int((values < level).sum())
        where = "inside" if low <= said <= high else "OUTSIDE"
        cells = (f"`{reader}`", said, where, f"{np.median(values):.2f}", tests.shape[1], f"{(tests < level).mean():.3f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
