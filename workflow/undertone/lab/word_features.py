"""The feature that best detects each of many words, chosen on one half of a text and scored on the other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csc_matrix, csr_matrix

from undertone.lab.feature_examples import shown_texts
from undertone.lab.firings import Firings
from undertone.lab.marks import Text
from undertone.lab.matching import best_threshold, f1_of, greatest_f1, of_sparse
from undertone.lm.loading import LoadedModel

NONE = -1


def labels(loaded: LoadedModel, contexts: Sequence[Sequence[int]], index: dict[str, int]) -> Int[np.ndarray, " n_tokens"]:
    """Return, for each token, the number of the name that ends there, or -1 for none."""
    text = Text.of(contexts, shown_texts(loaded), set(loaded.special.tolist()))
    label = np.full(text.n, NONE)
    for word, at in text.words():
        if word in index:
            label[at] = index[word]
    return label


def best_features(firings: Firings, label: Int[np.ndarray, " n"], n_names: int) -> list[tuple[int, float]]:
    """Return, for each name, the feature chosen on half 0 and its F1 on half 1."""
    halves = [firings.half == half for half in (0, 1)]
    (chosen, own), (named, others) = ([firings.of(half) for half in halves], [label[half] for half in halves])
    total = np.bincount(named[named != NONE], minlength=n_names)
    held = one_hot(named, n_names)
    scores = np.array([greatest_f1(of_sparse(chosen, j), held, total) for j in range(chosen.shape[1])])
    return [scored(chosen, own, named == k, others == k, int(scores[:, k].argmax())) for k in range(n_names)]


def scored(
    chosen: csc_matrix, own: csc_matrix, held: Bool[np.ndarray, " n_0"], others: Bool[np.ndarray, " n_1"], feature: int
) -> tuple[int, float]:
    """Return a feature and its F1 on half 1, with the threshold chosen on half 0."""
    said = of_sparse(own, feature).at_least(best_threshold(of_sparse(chosen, feature), held))
    return feature, f1_of(said, others, int(others.sum()))


def one_hot(label: Int[np.ndarray, " n"], n_names: int) -> csr_matrix:
    """Mark which token holds which name."""
    token = np.flatnonzero(label != NONE)
    return csr_matrix((np.ones(len(token), dtype=bool), (token, label[token])), shape=(len(label), n_names))
