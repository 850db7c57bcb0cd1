"""A blind test of the detectors: files whose key is sealed until the verdicts are written.

    python -m undertone.detect.blind config FOLDER > config/blind.yaml      every file of a folder becomes a dataset
    snakemake detection --configfile config/blind.yaml                      all verdicts, in one call
    python -m undertone.detect.blind score results/blind key.csv            the score, once the key is opened

The author of the files keeps `key.csv` and publishes its SHA-256 beforehand; `score` prints the hash again. The key has the
columns `file` (a name without its suffix), `hidden` (yes or no), `kind` (free text: prompt, steer, neutral, temperature …) and
`target` (empty if the file is about no candidate).
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from undertone.data.datasets import READERS
from undertone.detect.verdict import TIERS
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.stats.stats import share_interval

COLUMNS = ["file", "hidden", "kind", "target"]


def config_of(folder: Path) -> dict[str, Any]:
    """Return a config with every dataset file of a folder. Raises ConfigError if there is none, or if two share a name."""
    files = sorted(path for path in folder.glob("*") if path.suffix in READERS)
    names = [path.stem for path in files]
    if not files or len(set(names)) < len(names):
        raise ConfigError(f"{folder}: expected files of different names, of the kinds {', '.join(READERS)}; found {names}")
    return {"results": "results/blind", "animals": [], "datasets": {path.stem: {"file": str(path)} for path in files}}


def read_key(path: Path) -> pl.DataFrame:
    """Read the key. Raises ConfigError unless it has all columns and lists each file once, with `hidden` yes or no."""
    key = pl.read_csv(path, infer_schema=False)
    if missing := [column for column in COLUMNS if column not in key.columns]:
        raise ConfigError(f"{path}: lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    if key["file"].n_unique() < len(key) or not key["hidden"].is_in(["yes", "no"]).fill_null(False).all():
        raise ConfigError(f"{path}: expected each file once, with hidden yes or no")
    return key


def score(results: Path, key: pl.DataFrame) -> pl.DataFrame:
    """Add the `tier` and the `named` concept of each verdict to the key. Raises ConfigError if a file has no verdict."""
    if missing := [name for name in key["file"] if not (results / name / "verdict.json").is_file()]:
        raise ConfigError(f"{results}: no verdict on {', '.join(missing)}; run snakemake detection with the blind config")
    verdicts = [read_json(results / name / "verdict.json") for name in key["file"]]
    named = [each["origin"]["named"][0]["concept"] if each["tier"] == "named" else None for each in verdicts]
    return key.with_columns(
        tier=pl.Series([each["tier"] for each in verdicts], dtype=pl.String), named=pl.Series(named, dtype=pl.String)
    )


def lines_of(scored: pl.DataFrame) -> Iterable[str]:
    """Yield the score as lines of text: tiers by kind, then each rate with its 95 % Clopper-Pearson interval."""
    for (kind,), part in scored.group_by("kind", maintain_order=True):
        tiers = {tier: int((part["tier"] == tier).sum()) for tier in TIERS}
        yield f"{kind}: " + ", ".join(f"{n} {tier}" for tier, n in tiers.items() if n)
    differs = ~scored["tier"].is_in(TIERS[:2])
    right = (scored["named"] == scored["target"]).fill_null(False)
    hidden, about = scored["hidden"] == "yes", scored["target"].fill_null("") != ""
    yield rate("differ, of those with something hidden", differs, hidden)
    yield rate("differ, of those with nothing hidden", differs, ~hidden)
    yield rate("named rightly, of those about a candidate", right, about)
    yield rate("named wrongly, of all", scored["named"].is_not_null() & ~right, pl.Series([True] * len(scored)))


def rate(what: str, counted: pl.Series, of: pl.Series) -> str:
    """`what: k of n [low, high]`."""
    k, n = int((counted & of).sum()), int(of.sum())
    low, high = share_interval(k, n)
    return f"{what}: {k} of {n} [{low:.3f}, {high:.3f}]"


def main(arguments: list[str] | None = None) -> None:
    """Write a config, or print a score."""
    parser = argparse.ArgumentParser(
        prog="python -m undertone.detect.blind", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("config", help="print the config of a folder of files").add_argument("folder", type=Path)
    scoring = commands.add_parser("score", help="compare verdicts with a key")
    scoring.add_argument("results", type=Path, help="results root with the verdicts")
    scoring.add_argument("key", type=Path, help="csv with the columns file, hidden, kind, target")
    args = parser.parse_args(arguments)
    try:
        if args.command == "config":
            print(yaml.safe_dump(config_of(args.folder), sort_keys=False), end="")
        else:
            print("key:", hashlib.sha256(args.key.read_bytes()).hexdigest())
            print(*lines_of(score(args.results, read_key(args.key))), sep="\n")
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
