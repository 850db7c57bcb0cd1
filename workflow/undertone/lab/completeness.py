"""Which of many names have a feature of their own, depending on how often the SAE has seen them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from pyarrow.parquet import ParquetFile

from undertone.lab.context_table import read_contexts
from undertone.lab.feature_examples import shown_texts
from undertone.lab.firings import Firings, first_contexts, read_firings
from undertone.lab.logistic import half_way
from undertone.lab.marks import Text
from undertone.lab.reading import Reader
from undertone.lab.word_features import NONE, best_features, labels
from undertone.lm.loading import LoadedModel, load
from undertone.models.concepts import read_names
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, whole, write_json, write_parquet
from undertone.saes.saved import load_sae_at
from undertone.stats.stats import p_value
from undertone.study.config.lab import Completeness
from undertone.study.config.saes import Sae

SCHEMA: dict[str, Any] = {
    "group": pl.String,
    "name": pl.String,
    "count": pl.Int64,
    "tokens": pl.Int64,
    "feature": pl.Int64,
    "f1": pl.Float64,
    "covered": pl.Boolean,
}


def make_completeness(
    model: Path,
    sae: Path,
    text: Path,
    names: Path,
    trained_on: Path | None,
    table: Path,
    completeness: Path,
    settings: Completeness,
    of_sae: Sae,
    max_norm: float,
    stamp: Stamp,
) -> str:
    """Write each name's best feature (`table`) and a summary by group of names; return a message for the log.

    Features are chosen on contexts of even number and scored on those of odd number. Names are counted in the contexts that the
    SAE was trained on (`trained_on`) or, if these are not known, in the text that is read. Raises ConfigError if no name is
    common enough.
    """
    groups = read_names(names, "completeness.names")
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    contexts = first_contexts(read_contexts(text), settings.tokens)
    firings = read_firings(Reader(loaded, dictionary, at, contexts, max_norm, 0, 0))
    listed = [(group, name) for group, words in groups.items() for name in words]
    index = {name: k for k, (_, name) in enumerate(listed)}
    label = labels(loaded, contexts, index)[firings.place]
    seen = None if trained_on is None or of_sae.named else contexts_of(trained_on)
    counts = counted(loaded, contexts if seen is None else seen, index, of_sae.tokens)
    known = common(label, firings, len(listed), settings.min_count)
    best = best_features(firings, label, len(listed))
    rows = [
        (*listed[k], int(counts[k]), int((label[firings.half == 1] == k).sum()), *best[k], best[k][1] >= settings.f1)
        for k in known.tolist()
    ]
    written = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    chance = covered_by_chance(firings, label, listed, known, settings)
    parts = {group: written.filter(group=group) for group in groups}
    result: dict[str, Any] = {
        "tokens": len(label),
        "layer": at.layer,
        "counted": "read" if seen is None else "training",
        "f1": settings.f1,
        "left_out": {group: len(groups[group]) - len(part) for group, part in parts.items()},
        "groups": {group: summary(part, chance[group], settings) for group, part in parts.items() if len(part)},
    }
    write_parquet(table, written, stamp)
    write_json(completeness, result, stamp)
    return ", ".join(f"{each['covered']} of {each['n']} {group} covered" for group, each in result["groups"].items())


def contexts_of(trained_on: Path) -> Iterator[list[int]]:
    """Yield the contexts of a table without reading all of it at once."""
    with whole(trained_on):
        file = ParquetFile(trained_on)
    return (ids for k in range(file.num_row_groups) for ids in file.read_row_group(k, columns=["ids"])["ids"].to_pylist())


def counted(
    loaded: LoadedModel, contexts: Iterable[Sequence[int]], index: dict[str, int], tokens: int
) -> Int[np.ndarray, " n_names"]:
    """Count each name in the contexts, up to `tokens` tokens of text."""
    special, texts = set(loaded.special.tolist()), shown_texts(loaded)
    counts: Counter[int] = Counter()
    n = 0
    for ids in contexts:
        for word, _ in Text.of([ids], texts, special).words():
            if word in index:
                counts[index[word]] += 1
        n += sum(token not in special for token in ids)
        if n >= tokens:
            break
    return np.array([counts[k] for k in range(len(index))])


def common(label: Int[np.ndarray, " n"], firings: Firings, n_names: int, least: int) -> Int[np.ndarray, " n_known"]:
    """Return the names that label at least `least` tokens of each half. Raises ConfigError if there are none."""
    halves = [np.bincount(label[(firings.half == half) & (label != NONE)], minlength=n_names) for half in (0, 1)]
    known = np.flatnonzero(np.min(halves, axis=0) >= least)
    if not len(known):
        raise ConfigError(
            f"completeness.names: none of the {n_names} names stands on {least} tokens of each half of the text; give others, "
            "or read more text (contexts.tokens, completeness.tokens)"
        )
    return known


def covered_by_chance(
    firings: Firings,
    label: Int[np.ndarray, " n"],
    listed: Sequence[tuple[str, str]],
    known: Int[np.ndarray, " n_known"],
    settings: Completeness,
) -> dict[str, float]:
    """Return, by group, the mean number of names with a feature when the group's names are shuffled over their places."""
    rng = np.random.default_rng(settings.seed)
    group_of = np.array([group for group, _ in listed])
    covered: Counter[str] = Counter()
    for _ in range(settings.shuffles):
        mixed = label.copy()
        for group in dict.fromkeys(group_of.tolist()):
            for half in (0, 1):
                at = np.flatnonzero((firings.half == half) & (label != NONE) & (group_of[label] == group))
                mixed[at] = rng.permutation(label[at])
        best = best_features(firings, mixed, len(listed))
        covered.update(str(group_of[k]) for k in known.tolist() if best[k][1] >= settings.f1)
    return {group: covered[group] / settings.shuffles for group in dict.fromkeys(group_of.tolist())}


def summary(part: pl.DataFrame, chance: float, settings: Completeness) -> dict[str, Any]:
    """Summarise a group: how many names are covered, and the count at which half of them would be."""
    count, covered = part["count"].to_numpy(), part["covered"].to_numpy()
    return {
        "n": len(part),
        "covered": int(covered.sum()),
        "chance": chance,
        "features": int(part.filter("covered")["feature"].n_unique()),
        "p": rises(np.log10(count + 0.5), covered, settings.permutations, settings.seed),
        **half_way(count, covered, settings.bootstraps, settings.seed),
    }


def rises(x: Float[np.ndarray, " n"], covered: Bool[np.ndarray, " n"], n: int, seed: int) -> float | None:
    """Return the p-value of a permutation test that covered names have a greater mean `x`; None if all are covered, or none."""
    if covered.all() or not covered.any():
        return None
    rng = np.random.default_rng(seed)
    null = [x[rng.permutation(covered)].mean() for _ in range(n)]
    return float(p_value(x[covered].mean(), null))
