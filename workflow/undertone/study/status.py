"""The status of a study: files present, stale and missing by dataset and by rule, and what to run next.

snakemake all read --summary [--configfile CONFIG] | python -m undertone.study.status [CONFIG]
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from undertone.study.config.entries import CONTROL
from undertone.study.paths import RESERVED

STATES = ("present", "stale", "missing")
STUDY = "study"  # stands for files of no single dataset
HEADER = "output_file\t"
RESULT = "pref.json"  # the result of a dataset that one usually asks for first


def read_summary(lines: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of `snakemake --summary`, one per file. Raises ValueError if there are none."""
    text = list(lines)
    start = next((k for k, line in enumerate(text) if line.startswith(HEADER)), len(text))
    rows = [row for row in csv.DictReader(text[start:], delimiter="\t") if row.get("plan")]
    if not rows:
        raise ValueError("Snakemake gave no summary: what it printed above says why. By hand: make status")
    return rows


def state(row: dict[str, str]) -> str:
    """Missing: the file does not exist. Stale: it exists, and Snakemake would make it again. Present: it is up to date."""
    if row["status"] == "missing":
        return "missing"
    return "stale" if row["plan"] == "update pending" else "present"


def dataset_of(path: str, root: str) -> str:
    """The dataset whose folder under the results root holds a file, or `study`."""
    folder, *below = PurePath(path).relative_to(root).parts
    return STUDY if not below or folder in RESERVED or folder.startswith("model-") else folder


def table(title: str, counts: dict[str, Counter[str]], names: Iterable[str]) -> str:
    """One line per name with the number of its files in each state, and their total."""
    names = list(names)
    total = sum(counts.values(), Counter[str]())
    lines = [(title, *STATES)] + [(name, *(str(counts[name][each]) for each in STATES)) for name in names]
    lines += [("total", *(str(total[each]) for each in STATES))]
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{line[0]:<{width}}" + "".join(f"{cell:>9}" for cell in line[1:]) for line in lines)


def next_step(rows: list[dict[str, str]], datasets: dict[str, Counter[str]], config: str) -> str:
    """The command to run next: for the preference of the dataset that has most of its files, or else for all pending files."""
    quoted = f'"{config}"' if " " in config else config
    study = f" CONFIG={quoted}" if config else ""
    # A missing file need not be made if only finished results were made from it.
    pending = [PurePath(row["output_file"]) for row in rows if row["plan"] == "update pending"]
    if not pending:
        return f"Nothing is pending. See it on one page: make report{study}"
    rest = f"{len(pending)} file{'s' * (len(pending) > 1)}"
    results = [path for path in pending if path.name == RESULT]
    if not results:
        return f"Next: make all read{study}   ({rest})"
    present = {name: counts["present"] for name, counts in datasets.items()}
    nearest = max(sorted(results), key=lambda path: (path.parent.name != CONTROL, present.get(path.parent.name, 0)))
    # make only knows files below results.
    asked = f"make {nearest}{study}" if nearest.parts[0] == "results" else f"snakemake '{nearest}'{configfile(config)}"
    return f"Next: {asked}\nThen: make all read{study}   ({rest})"


def configfile(config: str) -> str:
    """The option that names a study's configs to Snakemake."""
    return f" --configfile {config}" if config else ""


def status(rows: list[dict[str, str]], config: str = "") -> str:
    """Return a table of datasets (the study's own files, the control, the others), a table of rules, and what to run next.

    `config` holds the paths of the study's configs, separated by spaces; "" is the embedded study.
    """
    root = os.path.commonpath([str(PurePath(row["output_file"]).parent) for row in rows])
    datasets: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    for row in rows:
        for counts, name in ((datasets, dataset_of(row["output_file"], root)), (rules, row["rule"])):
            counts.setdefault(name, Counter())[state(row)] += 1
    order = sorted(datasets, key=lambda name: (name != STUDY, name != CONTROL, name))
    tables = [table("dataset", datasets, order), table("rule", rules, sorted(rules))]
    return "\n\n".join([*tables, next_step(rows, datasets, config)])


if __name__ == "__main__":
    try:
        print(status(read_summary(sys.stdin), " ".join(sys.argv[1:])))
    except ValueError as error:
        sys.exit(str(error))
