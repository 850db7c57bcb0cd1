"""How adding the difference of two concepts changes which words a model expects next.

The vector between two siblings is the mean residual stream at words of one minus that at words of the other. It is added just
before a word, and what is measured is how much likelier other words of the two become: whether birds move against fish, and
whether animals stay where they are against all other words.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from undertone.data.tree import Tree
from undertone.geometry.spaces import Located
from undertone.geometry.tree_tests import beside, families, parts
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.suffix import Prefilled, prefill, run_above
from undertone.runtime.progress import progress
from undertone.study.config.geometry import ReadHierarchy

# A parent, and two consecutive children of it.
Siblings = tuple[int, int, int]
NULL = "differences of the same words, exchanged between the two siblings, at the same length"


def interventions(
    loaded: LoadedModel,
    words: Located,
    streams: Mapping[int, Float[np.ndarray, "n_words d_model"]],
    tree: Tree,
    settings: ReadHierarchy,
) -> dict[str, Any]:
    """Return `moved` and `around` by layer of `streams`, in nats, with `hierarchy.interventions` null vectors for each pair.

    moved: the rise in log-probability of one sibling's words against the other's, averaged over pairs. around: the absolute
    change in that of their parent's words against all other words. Vectors are made from one half of the words and tested on
    the other, both ways.
    """
    pairs, rng = siblings(tree), np.random.default_rng(settings.seed)
    halves = parts(tree, rng, 2)
    written = beginnings_run(loaded, words, list(streams))
    layers = {}
    with progress(2 * len(streams), "differences added", "half") as bar:
        for layer, x in streams.items():
            read = []
            for half, other in (halves, halves[::-1]):
                vectors = differences(x, tree, pairs, half, rng, settings.interventions)
                shifts = word_shifts(loaded, written, words.tokens, layer, vectors.reshape(-1, x.shape[1]), settings.batch_size)
                read.append(contrasts(shifts.reshape(*vectors.shape[:2], -1), tree, pairs, other))
                bar.update()
            layers[str(layer)] = {
                name: {
                    "value": float(drawn[0]) if np.isfinite(drawn[0]) else None,
                    "null": beside(float(drawn[0]), drawn[1:].tolist()),
                }
                for name, drawn in zip(("moved", "around"), np.mean(read, axis=0), strict=True)
            }
    return {"pairs": len(pairs), "null": NULL, "layers": layers}


def siblings(tree: Tree) -> list[Siblings]:
    """Return every parent with each two consecutive children."""
    below = families(tree, 2)
    return [(parent, *two) for parent, children in below for two in pairwise(children)]


def differences(
    x: Float[np.ndarray, "n_words d"],
    tree: Tree,
    pairs: Sequence[Siblings],
    part: Bool[np.ndarray, " n_words"],
    rng: np.random.Generator,
    n: int,
) -> Float[np.ndarray, "n_and_one n_pairs d"]:
    """Return the vector from each pair's second sibling to its first, then `n` with words exchanged between the two.

    Only words of `part` are used. The `n` null vectors have the length of the first.
    """
    made = np.empty((n + 1, len(pairs), x.shape[1]))
    for k, (_, *two) in enumerate(pairs):
        one, other = (tree.members[node][part[tree.members[node]]] for node in two)
        both = np.concatenate([one, other])
        made[0, k] = x[one].mean(0) - x[other].mean(0)
        for draw in range(1, n + 1):
            mixed = rng.permutation(both)
            null = x[mixed[: len(one)]].mean(0) - x[mixed[len(one) :]].mean(0)
            made[draw, k] = null * np.linalg.norm(made[0, k]) / np.linalg.norm(null)
    return made


def beginnings_run(loaded: LoadedModel, words: Located, layers: Sequence[int]) -> list[Prefilled]:
    """Run the tokens before the word in each context once, ready to be continued above any of the layers."""
    rows = (Row([*ids, loaded.pad_id], len(ids)) for ids in beginnings(words))
    return [prefill(loaded, [row], layers) for row in rows]


def word_shifts(
    loaded: LoadedModel,
    written: Sequence[Prefilled],
    tokens: Int[np.ndarray, "n_contexts n_words"],
    layer: int,
    vectors: Float[np.ndarray, "n_vectors d_model"],
    at_once: int,
) -> Float[np.ndarray, "n_vectors n_words"]:
    """Return how much each word's log-probability rises, in nats, if a vector is added after a layer; mean over contexts.

    `written` holds the contexts up to the word, `tokens` each word's token in each of them. The vector is added only at the
    token before the word.
    """
    total = np.zeros((len(vectors), tokens.shape[1]), dtype=np.float32)
    added = torch.tensor(vectors, dtype=torch.float32, device=loaded.model.device)
    for beginning, own in zip(written, tokens, strict=True):
        total += np.concatenate(list(shifts_behind(loaded, beginning, own.tolist(), layer, added, at_once)))
    return total / len(written)


@torch.no_grad()
def shifts_behind(
    loaded: LoadedModel,
    beginning: Prefilled,
    tokens: Sequence[int],
    layer: int,
    vectors: Float[torch.Tensor, "n_vectors d_model"],
    at_once: int,
) -> Iterator[Float[np.ndarray, "n_rows n_words"]]:
    """Yield the shifts after one beginning of a text, for as many vectors at once as fit."""
    batch = Prefilled.joined([beginning] * min(at_once, len(vectors)))

    def read(some: Sequence[torch.Tensor]) -> Float[torch.Tensor, "n_rows n_words"]:
        these = batch.part(slice(0, len(some)))
        residual = these.residual[layer]
        moved = residual + torch.stack([*some])[:, None].to(residual)
        return run_above(loaded.model, these, layer, moved).log_softmax(-1)[:, list(tokens)]

    plain = read([torch.zeros_like(vectors[0])])
    for shifted in loaded.batch_size("vectors added", len(batch.ids)).parts(read, [*vectors]):
        yield (shifted - plain).cpu().numpy()


def beginnings(words: Located) -> list[list[int]]:
    """Return the tokens before the word in each context; if they differ between words, the most common ones."""
    before = [
        Counter(tuple(ids[: len(ids) - 1 - ids[::-1].index(token)]) for ids, token in zip(rows, own.tolist(), strict=True))
        for rows, own in zip(words.rows, words.tokens, strict=True)
    ]
    return [list(each.most_common(1)[0][0]) for each in before]


def contrasts(
    shifts: Float[np.ndarray, "n_draws n_pairs n_words"],
    tree: Tree,
    pairs: Sequence[Siblings],
    part: Bool[np.ndarray, " n_words"],
) -> tuple[Float[np.ndarray, " n_draws"], Float[np.ndarray, " n_draws"]]:
    """Return (moved, around) of each draw, on the words of a part; around is nan if no pair has other words around it."""
    moved, around = [], []
    for k, (parent, one, other) in enumerate(pairs):
        own, against, inside = (np.intersect1d(tree.members[node], np.flatnonzero(part)) for node in (one, other, parent))
        outside = np.setdiff1d(np.flatnonzero(part), inside)
        moved.append(shifts[:, k, own].mean(1) - shifts[:, k, against].mean(1))
        if len(outside):
            around.append(np.abs(shifts[:, k, inside].mean(1) - shifts[:, k, outside].mean(1)))
    return np.mean(moved, axis=0), np.mean(around, axis=0) if around else np.full(len(shifts), np.nan)
