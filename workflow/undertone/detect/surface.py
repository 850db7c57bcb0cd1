"""What the text alone shows, without a model: which integers a dataset writes, and in which format."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy import sparse

from undertone.detect.pairs import Swapped, signs
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors

INTEGER = re.compile(r"[0-9]+")
SEPARATORS = (", ", ",", "; ", ";", " ", "\n")
BRACKETS = ("[", "(")
FOLDS = 5


def read_surface(matched: Path, surface: Path, settings: Detectors, stamp: Stamp, scratch: Path) -> None:
    """Write `surface.json`: presence from the integers that are written, and `format_auroc`, what format alone tells apart."""

    def read(pairs: Pairs) -> Reading:
        presence = integers_differ(pairs.own, pairs.base, settings.permutations, settings.seed)
        return Reading(presence, details={"format_auroc": format_auroc(pairs.own, pairs.base, pairs.groups)})

    read_sets(matched, surface, read, settings, stamp, scratch)


def integer_counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """Count each integer in each text, `[n, n_integers]`; integers are in order of first appearance."""
    lists = [INTEGER.findall(text) for text in texts]
    columns = {number: k for k, number in enumerate(dict.fromkeys(number for row in lists for number in row))}
    rows = np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    places = [columns[number] for row in lists for number in row]
    return sparse.csr_matrix((np.ones(len(places)), (rows, places)), shape=(len(lists), max(1, len(columns))))


def integers_differ(own: Sequence[str], base: Sequence[str], permutations: int, seed: int) -> Swapped:
    """Test whether integers are equally frequent: Σ (n − n′)² / (n + n′) over them, against random exchanges within pairs."""
    both = integer_counts([*own, *base])
    difference = both[: len(own)] - both[len(own) :]
    total = np.asarray(both.sum(0)).ravel().clip(min=1)

    def statistic(by_integer: np.ndarray) -> np.ndarray:
        return np.square(by_integer) @ (1 / total)

    observed = statistic(np.asarray(difference.sum(0)))[0]
    drawn = signs(permutations, len(own), seed)
    return Swapped.of(float(observed), np.concatenate([statistic((difference.T @ s.T).T) for s in drawn]))


def format_features(text: str) -> list[float]:
    """Return features of a list's format, whatever its numbers: how many, how long, and between which marks."""
    numbers = INTEGER.findall(text)
    marks = INTEGER.split(text)[1:-1]
    separator = marks[0] if marks else ""
    return [
        len(numbers),
        float(np.mean([len(number) for number in numbers])) if numbers else 0.0,
        *[float(separator == each) for each in SEPARATORS],
        *[float(text[:1] == each) for each in BRACKETS],
        float(text.endswith(".")),
    ]


def format_auroc(own: Sequence[str], base: Sequence[str], groups: Int[np.ndarray, " n"]) -> float:
    """Return how often format alone tells which completion of a pair is the dataset's: .5 by chance, a tie counting half.

    A linear discriminant is fitted on the pairs of other folds. `groups` numbers the prompts; rows of a prompt share a fold.
    """
    difference = np.array([format_features(text) for text in own]) - np.array([format_features(text) for text in base])
    folds = groups % FOLDS
    won = np.full(len(difference), 0.5)
    for fold in range(FOLDS):
        train = difference[folds != fold]
        if len(train):
            spread = train.T @ train / len(train) + 1e-3 * np.eye(train.shape[1])
            scores = difference[folds == fold] @ np.linalg.solve(spread, train.mean(0))
            won[folds == fold] = (np.sign(scores) + 1) / 2
    return float(won.mean())
