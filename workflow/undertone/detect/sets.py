"""What a detector is given and what it says: sets of rows beside the base model's completions, and a reading of each set."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from undertone.detect.pairs import Swapped, bootstrap_means, shares_first
from undertone.runtime.files import Stamp, read_parquet, remove, replacing, write_json
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors

# Fewer pairs have no spread to speak of; nothing is read of them, and nothing is said.
MIN_PAIRS = 4


@dataclass(frozen=True)
class Pairs:
    """Rows `[n]`: prompts, a dataset's completions and the base model's own."""

    prompts: Sequence[str]
    own: Sequence[str]
    base: Sequence[str]

    @cached_property
    def groups(self) -> Int[np.ndarray, " n"]:
        """The number of each row's prompt."""
        return np.unique(np.asarray(self.prompts), return_inverse=True)[1]


@dataclass(frozen=True)
class Candidate:
    """A concept, its score, and the share of bootstrap samples of prompts in which it alone comes first, if there are any."""

    concept: str
    score: float
    share: float | None = None


@dataclass(frozen=True)
class Reading:
    """What a detector says of a set: presence, candidates from the first to the last, and what else it found."""

    presence: Swapped | None = None
    ranking: list[Candidate] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def sets_of(matched: Path, n_rows: int) -> Iterator[tuple[str, Pairs]]:
    """(name, pairs) of each set of a `matched.parquet`, at most `n_rows` of it: a dataset is one set, nulls are many."""
    table = read_parquet(matched)
    for name in table["set"].unique(maintain_order=True):
        rows = table.filter(pl.col("set") == name).head(n_rows)
        yield name, Pairs(rows["prompt"].to_list(), rows["completion"].to_list(), rows["matched"].to_list())


def read_sets(
    matched: Path, result: Path, read: Callable[[Pairs], Reading], settings: Detectors, stamp: Stamp, scratch: Path
) -> None:
    """Write what a detector says of each set: `sets`, each with its name, rows, prompts, presence, ranking and details.

    Finished sets are kept in `scratch`, from which an interrupted run continues.
    """
    sets = list(sets_of(matched, settings.rows))
    readings = []
    with progress(len(sets), f"{result.stem} {result.parent.name}", "set") as bar:
        for name, pairs in sets:
            path = scratch / f"{name or 'rows'}.json"
            if not path.exists():
                with replacing(path) as temporary:
                    reading = read(pairs) if len(pairs.own) >= MIN_PAIRS else Reading()
                    temporary.write_text(json.dumps(as_json(name, pairs, reading)))
            readings.append(json.loads(path.read_text()))
            bar.update()
    write_json(result, {"sets": readings}, stamp)
    remove(scratch)


def as_json(name: str, pairs: Pairs, reading: Reading) -> dict[str, Any]:
    """A reading of a set as JSON."""
    return {
        "set": name,
        "rows": len(pairs.own),
        "prompts": len(set(pairs.prompts)),
        "presence": asdict(reading.presence) if reading.presence else None,
        "ranking": [asdict(candidate) for candidate in reading.ranking],
        **reading.details,
    }


def ranking(
    concepts: Sequence[str],
    scores: Float[np.ndarray, " k"],
    values: Float[np.ndarray, "n_rows k"],
    prompts: Sequence[str],
    settings: Detectors,
) -> list[Candidate]:
    """Candidates by their scores, with how often each comes first.

    `values` are what rows with these prompts add: their mean, up to a factor, is the score.
    """
    shares = shares_first(bootstrap_means(values, prompts, settings.bootstraps, settings.seed))
    order = np.argsort(-scores, kind="stable")
    return [Candidate(concepts[k], float(scores[k]), float(shares[k])) for k in order]
