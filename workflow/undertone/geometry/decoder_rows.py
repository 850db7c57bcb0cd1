"""The space of SAE decoder rows: each word is represented by what its best feature adds to the residual stream."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from undertone.data.tree import Tree
from undertone.geometry.directions import linear_discriminant
from undertone.geometry.tree_tests import LEAST, Space, with_families
from undertone.lab.context_table import read_contexts
from undertone.lab.firings import Firings, first_contexts, read_firings
from undertone.lab.held import LEVEL
from undertone.lab.matching import of_sparse, scored
from undertone.lab.reading import Reader
from undertone.lab.word_features import NONE, best_features, labels
from undertone.lm.loading import LoadedModel
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae_at
from undertone.stats.partners import unit
from undertone.study.config.geometry import ReadHierarchy

# Why a word has no row of its own.
REASONS = {
    "rare": "stand on fewer than hierarchy.min_count tokens of either half of the text",
    "by_chance": "have no feature that says where they stand beyond chance",
    "shared": "share their feature with a word that it says better",
}


class Decoder(NamedTuple):
    """What is reported of the rows (`said`) and, unless there are too few, the tree of their words and its spaces."""

    said: dict[str, Any]
    tree: Tree | None = None
    spaces: Mapping[str, Space] = {}


class Features(NamedTuple):
    """For each word its best feature, and how well that detects the word; `rare` words have none.

    `f1` is measured on the half of the text that did not choose the feature; `p` is its p-value against shifted text.
    """

    feature: Int[np.ndarray, " n_words"]
    f1: Float[np.ndarray, " n_words"]
    p: Float[np.ndarray, " n_words"]
    rare: list[int]


def decoder_rows(
    loaded: LoadedModel, sae: Path, text: Path, tree: Tree, unembedding: Space, settings: ReadHierarchy, max_norm: float
) -> Decoder:
    """Return the unit decoder rows of the words' best features in a text, and the unembedding of the same words.

    No two words share a feature: the row of several words would be in both halves of a test. If there is no such space,
    `reason` says why: too few words have a feature, or the SAE's features have no fixed directions.
    """
    dictionary, at = load_sae_at(sae, loaded)
    try:
        rows = directions(dictionary)
    except ValueError as error:
        return Decoder({"reason": str(error)})
    contexts = first_contexts(read_contexts(text), settings.tokens)
    firings = read_firings(Reader(loaded, dictionary, at, contexts, max_norm, 0, 0))
    label = labels(loaded, contexts, {word.casefold(): k for k, word in enumerate(tree.words)})[firings.place]
    of_words = word_features(firings, label, len(tree.words), settings)
    kept, dropped = own_features(of_words)
    said: dict[str, Any] = {
        "layer": at.layer,
        "tokens": len(label),
        "words": {"read": len(kept), **{reason: len(words) for reason, words in dropped.items()}},
        "features": {tree.words[k]: int(of_words.feature[k]) for k in kept},
        "f1": float(np.median(of_words.f1[kept])) if kept else None,
    }
    within = with_families(tree, kept, settings.min_words)
    if within is None:
        return Decoder({"reason": too_few(len(kept), len(tree.words)), **said})
    some, underpowered = within
    x = unit(rows[of_words.feature[kept]].double().cpu().numpy())
    spaces = {
        "decoder": Space(x - x.mean(0), linear_discriminant),
        "decoder.unembedding": Space(unembedding.x[kept], unembedding.direction),
    }
    return Decoder({"reason": None, **said, "sets": some.described, "underpowered": underpowered}, some, spaces)


def too_few(kept: int, n: int) -> str:
    """Say why there is no such space."""
    return (
        f"{kept} of {n} words have a feature of their own in this SAE, and no concept has two below it with {LEAST} of them; "
        "a wider SAE, or more text (contexts.tokens, hierarchy.tokens), may have more"
    )


def word_features(firings: Firings, label: Int[np.ndarray, " n_tokens"], n_words: int, settings: ReadHierarchy) -> Features:
    """Return the best feature of each word that occurs often enough in both halves of the text."""
    halves = [firings.half == half for half in (0, 1)]
    counts = [np.bincount(label[half & (label != NONE)], minlength=n_words) for half in halves]
    rare = np.min(counts, axis=0) < settings.min_count
    known = np.where(np.append(rare, True)[label], NONE, label)
    best = best_features(firings, known, n_words)
    acts, named = [firings.of(half) for half in halves], [known[half] for half in halves]
    rng = np.random.default_rng(settings.seed)
    shifts = rng.integers(1, max(2, len(named[1])), settings.shifts).tolist()
    p = np.ones(n_words)
    for k in np.flatnonzero(~rare).tolist():
        active = (of_sparse(acts[0], best[k][0]), of_sparse(acts[1], best[k][0]))
        p[k] = scored(active, (named[0] == k, named[1] == k), 1, shifts)["p"]
    feature, f1 = (np.array(column) for column in zip(*best, strict=True))
    return Features(feature, f1, p, np.flatnonzero(rare).tolist())


def own_features(of_words: Features) -> tuple[list[int], dict[str, list[int]]]:
    """The words with a feature of their own, and the others by `REASONS`."""
    dropped: dict[str, list[int]] = {reason: [] for reason in REASONS} | {"rare": of_words.rare}
    best: dict[int, int] = {}
    for k in np.argsort(-of_words.f1, kind="stable").tolist():
        if k in set(of_words.rare):
            continue
        if of_words.p[k] > LEVEL:
            dropped["by_chance"].append(k)
        elif best.setdefault(int(of_words.feature[k]), k) != k:
            dropped["shared"].append(k)
    return sorted(best.values()), dropped
