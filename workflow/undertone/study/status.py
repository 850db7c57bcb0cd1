"""What of a study is there: files present, stale and missing by dataset and by rule, out of Snakemake's own summary.

snakemake all read --summary | python -m undertone.study.status
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from undertone.study.config import CONTROL
from undertone.study.study import RESERVED

STATES = ("present", "stale", "missing")
STUDY = "study"  # what is no dataset's
HEADER = "output_file\t"


def read_summary(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of `snakemake --summary`, one per file.

    Raises ValueError if there are none.
    """
    text = list(lines)
    start = next((k for k, line in enumerate(text) if line.startswith(HEADER)), len(text))
    rows = [row for row in csv.DictReader(text[start:], delimiter="\t") if row.get("plan")]
    if not rows:
        raise ValueError("found no summary on standard input; run: make status")
    return rows


def state(row: dict[str, str]) -> str:
    """Missing: the file is not there. Stale: it is, and Snakemake would make it again. Present: it is up to date."""
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


def status(rows: list[dict[str, str]]) -> str:
    """Both tables: the study's own files, the control and the other datasets; the rules."""
    root = os.path.commonpath([str(PurePath(row["output_file"]).parent) for row in rows])
    datasets: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    for row in rows:
        for counts, name in ((datasets, dataset_of(row["output_file"], root)), (rules, row["rule"])):
            counts.setdefault(name, Counter())[state(row)] += 1
    order = sorted(datasets, key=lambda name: (name != STUDY, name != CONTROL, name))
    return f"{table('dataset', datasets, order)}\n\n{table('rule', rules, sorted(rules))}"


if __name__ == "__main__":
    try:
        print(status(read_summary(sys.stdin)))
    except ValueError as error:
        sys.exit(str(error))
