"""Paths of a study's files: its results root, and its logs, benchmarks and unfinished work.

If the results root is in or below `results/`, the last three are in `logs/`, `benchmarks/` and `scratch/` of the working
directory. Otherwise they are inside the results root: so nothing is written outside it, no two studies share a folder, and
unfinished work is on the same disk as the results, where a rename is atomic.
"""

import os
import unicodedata
from pathlib import Path

HOME = "results"
LOGS, BENCHMARKS, SCRATCH = "logs", "benchmarks", "scratch"
# Folders directly under a results root that are not datasets.
RESERVED = ("model", "sae", "nulls", "mixtures", "synthetic", "scaling", "store", "plots", "tables", LOGS, BENCHMARKS, SCRATCH)
# Folders of the project itself besides `results/`.
PROJECT_FOLDERS = ("config", "docs", "profiles", "tests", "workflow", LOGS, BENCHMARKS, SCRATCH)
# Files that every dataset's folder has, and no study's.
OF_DATASETS = ("samples.parquet", "numbers.parquet")


def below_home(results: str) -> Path | None:
    """A results root's path below `results/`, "." for `results` itself; None elsewhere, also if `results` is a link."""
    home, root = Path.cwd() / HOME, Path(results).resolve()
    return root.relative_to(home) if root.is_relative_to(home) else None


def folder_of(results: str, kind: str) -> str:
    """The folder of a study's logs, benchmarks or scratch."""
    below = below_home(results)
    return str(Path(results, kind) if below is None else Path(kind, below))


def sibling(log: str | Path, kind: str) -> Path:
    """`benchmarks/…/JOB`, without suffix, of the job whose log is `logs/…/JOB.log`."""
    parts = list(Path(log).with_suffix("").parts)
    indices = [index for index, part in enumerate(parts[:-1]) if part == LOGS]
    return Path(*parts[: indices[-1]], kind, *parts[indices[-1] + 1 :]) if indices else Path(*parts)


def unfinished(output: str | Path) -> Path:
    """Where unfinished work on a result is kept: in `scratch`, beside the logs of the result's study."""
    path = Path(output)
    home = next((folder for folder in path.parents if (folder / LOGS).is_dir()), Path())
    return home / SCRATCH / path.relative_to(home)


def usable_root(results: str, reserved: tuple[str, ...]) -> str:
    """Return the results root in normal form, without a trailing slash for example.

    `reserved` are the folders that every study has under its root. Raises ValueError if no study can have this root.
    """
    if mistake := _spelling(results):
        raise ValueError(f"{mistake}, found {results!r}; expected a folder such as results, results/NAME or /data/NAME")
    root = os.path.normpath(results)
    if mistake := _unfit(root, reserved):
        raise ValueError(f"{results!r} {mistake}; take a folder such as results, results/NAME or /data/NAME")
    return root


def holds_study(folder: Path) -> bool:
    """Whether a folder is another study's results root, and therefore cannot be a dataset's folder."""
    return (folder / "prompts.parquet").exists()


def _spelling(results: str) -> str:
    """What is wrong with the spelling of a path, or ""."""
    if not results.strip():
        return "the results need a folder of their own"
    if results.startswith("~"):
        return "'~' means nothing here: write the whole path"
    if set("{}") & set(results):
        return "braces are Snakemake's wildcards"
    odd = [letter for letter in results if unicodedata.category(letter).startswith("C")]
    return "control characters cannot stand in a path" if odd or results != results.strip() else ""


def _unfit(root: str, reserved: tuple[str, ...]) -> str:
    """Why a study cannot be there, or ""."""
    here, folder, below = Path.cwd(), Path(root).resolve(), below_home(root)
    if here.is_relative_to(folder):
        return "holds the project itself"
    written = Path(here, root)  # config may be a link
    firsts = {path.relative_to(here).parts[0] for path in (folder, written) if path.is_relative_to(here)} - {".."}
    if own := [first for first in firsts if first in PROJECT_FOLDERS or first.startswith(".")]:
        return f"is in {own[0]}, a folder of the project"
    shared = {*reserved} & {*below.parts} if below else set()
    if shared or below == Path("slurm"):  # the SLURM plugin deletes old logs in logs/slurm
        return f"is in {min(shared or {'slurm'})}, which is no study's own folder"
    file = next((path for path in (Path(root), *Path(root).parents) if path.exists() and not path.is_dir()), None)
    if file:
        return f"cannot be made: {file} is a file"
    if dataset := next((name for name in OF_DATASETS if Path(root, name).exists()), None):
        return f"holds {dataset}: it is the folder of another study's dataset"
    return ""


def finished_jobs(folder: Path) -> list[Path]:
    """Snakemake's records of a study's finished jobs, `folder/RULE/JOB.jsonl`, without those of the rules that add them up."""
    patterns = ("*/*.jsonl", "*/nulls/*.jsonl", "*/mixtures/*.jsonl", "*/study*/*.jsonl")
    records = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return [path for path in records if rule_of(path, folder) not in ("costs", "costs_plot")]


def rule_of(path: Path, folder: Path) -> str:
    """The rule of a record. Records of nulls, mixtures, decompositions and single features are one folder deeper."""
    return path.relative_to(folder).parts[0]
