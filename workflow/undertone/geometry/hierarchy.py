"""Test against nulls whether a model's spaces represent the concepts of a tree as a hierarchy: `geometry-NAME/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from undertone.data.tree import Tree, integers_tree, load_tree
from undertone.geometry.decoder_rows import decoder_rows
from undertone.geometry.siblings import interventions
from undertone.geometry.spaces import VIEWS, located, residuals, spaces, unembedding
from undertone.geometry.tree_tests import (
    LEAST,
    NULLS,
    Space,
    cosines,
    families,
    naive_orthogonality,
    vectors_of,
    with_families,
    with_nulls,
)
from undertone.lab.context_table import read_contexts
from undertone.lm.chat import special_ids
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, replacing, write_json
from undertone.runtime.progress import progress
from undertone.study.config.geometry import ReadHierarchy


def read_hierarchy(
    model: Path,
    text: Path | None,
    sae: Path | None,
    tree: Path | None,
    geometry: Path,
    vectors: Path,
    contexts: list[str],
    settings: ReadHierarchy,
    max_norm: float,
    stamp: Stamp,
) -> None:
    """Write every test in every space to `geometry.json`, and the concepts' vectors and cosines to `vectors.safetensors`.

    `text` holds contexts: the unembedding's covariance is over their tokens, and in them words have features of `sae`. Without
    `text` the covariance is over the whole vocabulary. `tree` is the file of words, if there is one. Raises ConfigError if too
    few words are one token.
    """
    loaded = load(model)
    layers = layers_of(loaded, settings)
    whole = load_tree(tree) if tree else integers_tree()
    words = located(loaded, whole.words, contexts)
    used, underpowered = readable(whole, words.kept, settings.min_words)
    streams, last = residuals(loaded, words, layers, settings.batch_size)
    by_layer = dict(zip(layers, streams, strict=True))
    seen = seen_tokens(loaded, text) | set(words.commonest)
    own, others = (unembedding(loaded, tokens) for tokens in (words.commonest, sorted(seen)))
    made = spaces(own, others, by_layer, last, settings.floor)
    rows = decoder_rows(loaded, sae, text, used, made["unembedding"], settings, max_norm) if sae and text else None
    parts = [("", made, used), *([("decoder.", rows.spaces, rows.tree)] if rows and rows.tree else [])]
    results = {name: of for _, some, of_tree in parts for name, of in all_tested(some, of_tree, settings).items()}
    added = interventions(loaded, words, by_layer, used, settings)
    write_vectors(vectors, parts, settings.seed)
    description = {
        "words": {"given": len(whole.words), "read": len(used.words), "dropped": words.dropped},
        "underpowered": underpowered,
        "sets": used.described,
        "left_out": sorted({*whole.names} - {*used.names}),
        "covariance_of": {"tokens": len(seen), "of": "text" if text else "vocabulary"},
        "contexts": contexts,
        "views": VIEWS,
        "nulls": NULLS,
        "permutations": settings.permutations,
    }
    shown = projection(made["unembedding"], used)
    body = {**description, "spaces": results, "decoder": rows and rows.said, "interventions": added, "projection": shown}
    write_json(geometry, body, stamp)


def layers_of(loaded: LoadedModel, settings: ReadHierarchy) -> list[int]:
    """Return the layers to read. Raises ConfigError for a layer that the model does not have."""
    n = len(decoder_layers(loaded.model))
    if beyond := [layer for layer in settings.layers if layer >= n]:
        raise ConfigError(f"hierarchy.layers {beyond[0]}: the model has layers 0 to {n - 1}")
    return settings.layers or list(range(n))


def readable(whole: Tree, kept: list[int], min_words: int) -> tuple[Tree, bool]:
    """Return the concepts with enough of the kept words, and whether these concepts are too few to say much.

    Raises ConfigError if no concept has two such concepts below it.
    """
    within = with_families(whole, kept, min_words)
    if within is None:
        raise ConfigError(
            f"hierarchies: {len(kept)} of {len(whole.words)} words are one token of this model, and no concept has two below "
            f"it with {LEAST} of them; give words that it has tokens for, or more of them"
        )
    return within


def seen_tokens(loaded: LoadedModel, text: Path | None) -> set[int]:
    """Return the tokens of a text, whose unembedding rows were trained, or of the vocabulary; without special tokens."""
    seen = (token for ids in read_contexts(text) for token in ids) if text else range(len(loaded.tokenizer))
    return {*seen} - special_ids(loaded.tokenizer)


def all_tested(made: Mapping[str, Space], tree: Tree, settings: ReadHierarchy) -> dict[str, Any]:
    """Test every space: {SPACE: {tests, naive_orthogonality}}. Spaces of the same shape share the null of random matrices."""
    results = {}
    noise: dict[Any, Any] = {}
    with progress(len(made), "spaces", "space") as bar:
        for name, space in made.items():
            shape = (space.x.shape, space.direction)
            tests, noise[shape] = with_nulls(
                space, tree, settings.seed, settings.splits, settings.permutations, noise.get(shape)
            )
            results[name] = {"tests": tests, "naive_orthogonality": naive_orthogonality(space, tree)}
            bar.update(1)
    return results


def write_vectors(path: Path, parts: Sequence[tuple[str, Mapping[str, Space], Tree]], seed: int) -> None:
    """Write each space's concept vectors, `SPACE` `[n_sets, d]`, and their cosines, `SPACE.cosines` `[n_sets, n_sets]`.

    The two vectors of a cosine come from different words. `SPACE.exchanged` holds the cosines after words were exchanged among
    all sets. `parts` holds, for each tree, the prefix of the name of its `distances`, its spaces and the tree.
    """
    rng = np.random.default_rng(seed)
    tensors = {f"{prefix}distances": torch.tensor(tree.distances) for prefix, _, tree in parts}
    for name, space, tree in ((name, space, tree) for _, of_tree, tree in parts for name, space in of_tree.items()):
        exchanged = Space(space.x[rng.permutation(len(space.x))], space.direction)
        for suffix, value in (
            ("", vectors_of(space, tree)),
            (".cosines", cosines(space, tree, rng)),
            (".exchanged", cosines(exchanged, tree, rng)),
        ):
            tensors[name + suffix] = torch.tensor(value, dtype=torch.float32).contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def projection(space: Space, tree: Tree) -> dict[str, Any]:
    """Project every word on a concept's vector, and on the difference of the vectors of its two largest children.

    The concept is the one with most words, apart from the root. Projections are in units of the vectors' lengths; `within`
    gives each word the concept that it belongs to, if any.
    """
    parent, children = max(families(tree, 2), key=lambda family: (family[0] > 0, tree.sizes[family[0]]))
    one, other = sorted(children, key=lambda child: -tree.sizes[child])[:2]
    vectors = vectors_of(space, tree)
    axes = np.stack([vectors[parent], vectors[one] - vectors[other]])
    points = space.x @ (axes / np.square(axes).sum(1, keepdims=True)).T
    within = np.full(len(tree.words), None, dtype=object)
    for node in (parent, one, other):
        within[tree.members[node]] = tree.names[node]
    return {
        "parent": tree.names[parent],
        "one": tree.names[one],
        "other": tree.names[other],
        "words": [
            {"word": word, "within": of, "x": float(x), "y": float(y)}
            for word, of, (x, y) in zip(tree.words, within, points, strict=True)
        ],
    }
