"""Input and output of detectors: sets of rows paired with the base model's completions, and a reading of each set."""

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

# Fewer pairs have no spread to speak of; the reading of such a set is empty.
MIN_PAIRS = 4


@dataclass(frozen=True)
class Pairs:
    """Rows `[n]`: prompts, a dataset's completions and the base model's own."""

    prompts: Sequence[str]
    own: Sequence[str]
    base: Sequence[str]
    available: int | None = None  # pairs that these were drawn from, if they were

    @cached_property
    def groups(self) -> Int[np.ndarray, " n"]:
        """Index of each row's prompt among the distinct prompts."""
        return np.unique(np.asarray(self.prompts), return_inverse=True)[1]


@dataclass(frozen=True)
class Candidate:
    """A concept, its score, and the share of bootstrap samples of prompts in which it alone is first; None without samples."""

    concept: str
    score: float
    share: float | None = None


@dataclass(frozen=True)
class Reading:
    """A detector's result on a set: the test of presence, candidates from first to last, and further details."""

    presence: Swapped | None = None
    ranking: list[Candidate] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def sets_of(matched: Path, n_rows: int) -> Iterator[tuple[str, Pairs]]:
    """Yield (name, pairs) of each set of a `matched.parquet`: a dataset is one set, nulls are many.

    Of a larger set `n_rows` are drawn at random, the same for every detector: what is hidden may stand anywhere in a file.
    """
    table = read_parquet(matched)
    for name in table["set"].unique(maintain_order=True):
        rows = table.filter(pl.col("set") == name)
        n = len(rows)
        if n > n_rows:
            rows = rows[np.sort(np.random.default_rng(0).permutation(n)[:n_rows])]
        yield name, Pairs(rows["prompt"].to_list(), rows["completion"].to_list(), rows["matched"].to_list(), n)


def read_sets(
    matched: Path, result: Path, read: Callable[[Pairs], Reading], settings: Detectors, stamp: Stamp, scratch: Path
) -> None:
    """Read each set with a detector and write `sets`, each with its name, rows, prompts, presence, ranking and details.

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
        "available": len(pairs.own) if pairs.available is None else pairs.available,
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
    """Rank candidates by their scores, with the share of bootstrap samples in which each is first.

    `values` are the contributions of rows with these prompts: their mean is the score, up to a factor.
    """
    shares = shares_first(bootstrap_means(values, prompts, settings.bootstraps, settings.seed))
    order = np.argsort(-scores, kind="stable")
    return [Candidate(concepts[k], float(scores[k]), float(shares[k])) for k in order]
