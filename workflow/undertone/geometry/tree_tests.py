"""Statistics of a tree of concepts in a space of words, each on words that its vectors were not made from, and their nulls.

Nested sets share words, so the vectors of parent and child agree even in noise: in a random matrix, too, the difference between
a child's and its parent's vector is orthogonal to the parent's. So words are split, and parent and child are estimated from
different ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata, spearmanr

from undertone.data.tree import Tree
from undertone.stats.partners import unit
from undertone.stats.stats import p_value

# Sets with fewer words are left out, whatever the settings say: they are too small to be halved.
LEAST = 4
# With fewer concepts a mean over them says little, whatever its nulls.
FEWEST = 10
# A spread below which draws differ by rounding alone.
ROUNDING = 1e-9
Direction = Callable[[np.ndarray], np.ndarray]
# What a statistic is compared with: words exchanged among all sets, sets redrawn from their parents', a random matrix.
NULLS = {
    "words": "words exchanged among all sets, sizes and nesting kept",
    "siblings": "the words of the smallest sets exchanged among siblings",
    "noise": "a random matrix",
}


@dataclass(frozen=True)
class Space:
    """The words' vectors, `[n_words, d]`, and how a concept's vector is made from those of its words."""

    x: Float[np.ndarray, "n_words d"]
    direction: Direction


def statistics(space: Space, tree: Tree, rng: np.random.Generator, splits: int) -> dict[str, float]:
    """Return every statistic, averaged over random splits of the words; nan if the tree has nothing that it applies to.

    existence: AUROC of the projections of a set's other words, among all words. distance: Spearman's ρ between the cosine of
    two sets' vectors and minus their distance in the tree. orthogonality: cos(child − parent, parent), 0 in a hierarchy.
    grandparents: cos(child − parent, parent − grandparent). simplex: the share of a parent's squared vector in the span of the
    differences of its children's vectors, minus the share of a random vector.
    """
    drawn = [_of_split(space, tree, rng) for _ in range(splits)]
    return {name: float(np.mean([each[name] for each in drawn])) for name in drawn[0]}


def vectors_of(space: Space, tree: Tree) -> Float[np.ndarray, "n_sets d"]:
    """Every concept's vector, from all of its words."""
    return _vectors(space, tree, np.ones(len(tree.words), dtype=bool))


def cosines(space: Space, tree: Tree, rng: np.random.Generator) -> Float[np.ndarray, "n_sets n_sets"]:
    """Return cosines of concepts' vectors, the two made from different words, averaged over both ways."""
    a, b = (unit(_vectors(space, tree, part)) for part in parts(tree, rng, 2))
    both = a @ b.T
    symmetric: np.ndarray = (both + both.T) / 2
    return symmetric


def naive_orthogonality(space: Space, tree: Tree) -> float:
    """Return mean cos(child − parent, parent) with parent and child made from the same words: noise passes this as well."""
    vectors = vectors_of(space, tree)
    return _mean(_cosine(vectors[c] - vectors[p], vectors[p]) for p, children in tree.children.items() for c in children)


def with_nulls(
    space: Space, tree: Tree, seed: int, splits: int, permutations: int, noise: list[dict[str, float]] | None = None
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return each statistic with its nulls, {value, nulls: {NAME: {mean, sd, low, high, z, p}}}, and the random matrix's draws.

    p is the share of draws that are as great or greater, the value itself included. `noise` holds draws made for another space
    of the same shape, which are valid for this one as well.
    """
    seen = statistics(space, tree, np.random.default_rng(seed), splits)
    drawn: dict[str, list[dict[str, float]]] = {"noise": noise} if noise else {}
    for number, name in enumerate(NULLS):
        if name not in drawn:
            rngs = [np.random.default_rng([seed, number, draw]) for draw in range(permutations)]
            drawn[name] = [statistics(*_null(name, space, tree, rng), rng, splits) for rng in rngs]
    tests = {
        statistic: {
            "value": value if np.isfinite(value) else None,
            "nulls": {name: beside(value, [each[statistic] for each in drawn[name]]) for name in NULLS},
        }
        for statistic, value in seen.items()
    }
    return tests, drawn["noise"]


def beside(value: float, null: Sequence[float]) -> dict[str, float | None]:
    """Summarise a value against draws of its null."""
    if not np.isfinite(value):
        return dict.fromkeys(("mean", "sd", "low", "high", "z", "p"))
    mean, sd = float(np.mean(null)), float(np.std(null, ddof=1))
    low, high = np.quantile(null, [0.025, 0.975])
    z = (value - mean) / sd if sd > ROUNDING else None
    return {"mean": mean, "sd": sd, "low": float(low), "high": float(high), "z": z, "p": float(p_value(value, null))}


def whitened(
    x: Float[np.ndarray, "n_rows d"], floor: float, over: Float[np.ndarray, "n_other d"] | None = None
) -> Float[np.ndarray, "n_rows d"]:
    """Return Cov^(−½) (x − x̄), with mean and covariance of `over` (by default of `x`): Park et al. 2024, section 3.

    Eigenvalues below `floor` of the largest are raised to it; otherwise directions in which nothing varies would dominate.
    """
    values, vectors, mean = spectrum(x if over is None else over, floor)
    return (x - mean) @ (vectors / np.sqrt(values)) @ vectors.T


def spectrum(
    x: Float[np.ndarray, "n_rows d"], floor: float
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """Eigenvalues (floored) and eigenvectors of the covariance, and the mean."""
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    return np.maximum(values, floor * values[-1]), vectors, mean


def _null(name: str, space: Space, tree: Tree, rng: np.random.Generator) -> tuple[Space, Tree]:
    """Return a space and a tree for which the hypothesis does not hold."""
    if name == "words":
        return Space(space.x[rng.permutation(len(space.x))], space.direction), tree
    if name == "siblings":
        return space, tree.redrawn(rng)
    return Space(rng.standard_normal(space.x.shape), space.direction), tree


def _of_split(space: Space, tree: Tree, rng: np.random.Generator) -> dict[str, float]:
    """Compute every statistic for one split of the words into halves, and one into thirds."""
    one, other = parts(tree, rng, 2)
    a, b = _vectors(space, tree, one), _vectors(space, tree, other)
    return {
        "existence": _existence(space, tree, a, other),
        "distance": _distance(tree, a, b),
        "orthogonality": _mean(_cosine(b[c] - a[p], a[p]) for p, children in families(tree, 2) for c in children),
        "grandparents": _grandparents(space, tree, rng),
        "simplex": _mean(_in_span(a[p], b[children]) for p, children in families(tree, 3)),
    }


def parts(tree: Tree, rng: np.random.Generator, n: int) -> list[Bool[np.ndarray, " n_words"]]:
    """Split the words into `n` parts, each with about as many words of every set; return a mask per part."""
    deepest = np.zeros(len(tree.words), dtype=int)
    for node, members in enumerate(tree.members):
        deepest[members] = node
    order = np.lexsort((rng.random(len(deepest)), deepest))
    part = np.empty(len(deepest), dtype=int)
    part[order] = np.arange(len(deepest)) % n
    return [part == k for k in range(n)]


def with_families(tree: Tree, kept: Sequence[int], min_words: int) -> tuple[Tree, bool] | None:
    """Return the concepts with enough of the kept words, and whether these concepts are too few to say much.

    If only concepts with fewer words (at least `LEAST`) have two below them, those are returned; None if none have.
    """
    some = tree.of_words(kept, LEAST)
    enough = some.of_words(range(len(some.words)), min_words)
    used = enough if families(enough, 2) else some
    return (used, used is not enough or len(used.names) < FEWEST) if families(used, 2) else None


def families(tree: Tree, least: int) -> list[tuple[int, list[int]]]:
    """Return the sets with at least `least` children, and these children."""
    return [(parent, children) for parent, children in tree.children.items() if len(children) >= least]


def _vectors(space: Space, tree: Tree, part: Bool[np.ndarray, " n_words"]) -> Float[np.ndarray, "n_sets d"]:
    """Return every set's vector from its words in a part; sets with equally many words are computed together."""
    own = [members[part[members]] for members in tree.members]
    vectors = np.empty((len(own), space.x.shape[1]))
    for size in {len(each) for each in own}:
        alike = [k for k, each in enumerate(own) if len(each) == size]
        vectors[alike] = space.direction(space.x[np.stack([own[k] for k in alike])])
    return vectors


def _existence(space: Space, tree: Tree, vectors: Float[np.ndarray, "n_sets d"], part: Bool[np.ndarray, " n_words"]) -> float:
    """Return the mean AUROC over sets of their own words in a part among all words of the part."""
    places = np.flatnonzero(part)
    ranks = rankdata(space.x[places] @ vectors.T, axis=0)
    own = np.stack([np.isin(places, members) for members in tree.members])
    n = own.sum(1)
    proper = (n > 0) & (n < len(places))
    sums = np.einsum("sw,ws->s", own.astype(float), ranks)
    return _mean((sums[k] - n[k] * (n[k] + 1) / 2) / (n[k] * (len(places) - n[k])) for k in np.flatnonzero(proper))


def _distance(tree: Tree, a: Float[np.ndarray, "n_sets d"], b: Float[np.ndarray, "n_sets d"]) -> float:
    """Return Spearman's ρ over pairs of sets between the cosine (of vectors from different words) and minus the distance."""
    if len(a) < 3:
        return float("nan")
    cosines = unit(a) @ unit(b).T
    pairs = np.triu_indices(len(a), 1)
    return float(spearmanr(((cosines + cosines.T) / 2)[pairs], -tree.distances[pairs]).statistic)


def _grandparents(space: Space, tree: Tree, rng: np.random.Generator) -> float:
    """Return mean cos(child − parent, parent − grandparent), each vector from a different third of the words."""
    lines = [(g, p, c) for g, below in tree.children.items() for p in below for c in tree.children.get(p, [])]
    if not lines:
        return float("nan")
    first, second, third = (_vectors(space, tree, part) for part in parts(tree, rng, 3))
    return _mean(_cosine(third[c] - second[p], second[p] - first[g]) for g, p, c in lines)


def _in_span(vector: Float[np.ndarray, " d"], points: Float[np.ndarray, "n_points d"]) -> float:
    """Return the share of a squared vector in the span of the points' differences, minus the share of a random vector."""
    basis = np.linalg.qr((points[1:] - points[0]).T)[0]
    return float(((basis.T @ vector) ** 2).sum() / (vector @ vector) - basis.shape[1] / len(vector))


def _cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
    """The cosine of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _mean(values: Iterator[float]) -> float:
    """Return the mean; nan without values."""
    kept = list(values)
    return float(np.mean(kept)) if kept else float("nan")
