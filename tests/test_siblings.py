"""Differences of concepts, added before a word: planted ones move their own words, exchanged ones do not."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from test_geometry import planted_tree, tree_of

from undertone.data.tree import Tree
from undertone.geometry.siblings import (
    beginnings,
    beginnings_run,
    contrasts,
    differences,
    interventions,
    siblings,
    word_shifts,
)
from undertone.geometry.spaces import Located, located
from undertone.geometry.tree_tests import parts
from undertone.lm.hooks import final_norm, rewritten
from undertone.lm.loading import LoadedModel
from undertone.study.config.geometry import ReadHierarchy

CONTEXTS = ["{word}", "You love {word}s.", "Think of the {word} when you answer."]
HUNTERS, BIRDS = ["lion", "tiger", "wolf", "fox"], ["owl", "eagle", "penguin", "parrot"]
WATER, FARM = ["whale", "shark", "dolphin", "turtle"], ["cat", "dog", "horse", "bear"]
ANIMALS = {"wild": {"hunter": HUNTERS, "bird": BIRDS}, "tame": {"water": WATER, "farm": FARM}}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return tree_of(ANIMALS)


@pytest.fixture(scope="module")
def words(loaded: LoadedModel, tree: Tree) -> Located:
    found = located(loaded, tree.words, CONTEXTS)
    assert len(found.kept) == len(tree.words)
    return found


def test_siblings_are_those_that_follow_each_other(tree: Tree) -> None:
    names = [tuple(tree.names[node] for node in each) for each in siblings(tree)]
    assert sorted(names) == [("all words", "tame", "wild"), ("tame", "farm", "water"), ("wild", "bird", "hunter")]


def test_what_is_added_is_the_difference_of_means_and_null_vectors_are_as_long() -> None:
    tree, rng = planted_tree(), np.random.default_rng(0)
    x, half, pairs = rng.standard_normal((len(tree.words), 8)), parts(tree, rng, 2)[0], siblings(tree)
    made = differences(x, tree, pairs, half, rng, 5)
    for k, (_, one, other) in enumerate(pairs):
        first, second = ([word for word in tree.members[node] if half[word]] for node in (one, other))
        np.testing.assert_allclose(made[0, k], x[first].mean(0) - x[second].mean(0))
    np.testing.assert_allclose(np.linalg.norm(made, axis=2), np.linalg.norm(made[:1], axis=2).repeat(6, 0))
    assert np.abs(made[1:] - made[0]).max(axis=2).min() > 0.01


def test_only_the_token_before_the_word_is_moved(loaded: LoadedModel, words: Located) -> None:
    """Beside the whole text run with the vector at that one place, whatever the number of vectors at once."""
    vectors = np.random.default_rng(0).standard_normal((3, loaded.model.config.hidden_size))
    expected = np.zeros((3, len(words.kept)))
    for beginning, tokens in zip(beginnings(words), words.tokens, strict=True):
        for row, vector in zip(expected, [*vectors], strict=True):

            def add(residual: torch.Tensor, vector: np.ndarray = vector) -> torch.Tensor:
                residual[:, -1] += torch.tensor(vector, dtype=residual.dtype)
                return residual

            ids = torch.tensor([beginning])
            plain = loaded.model(ids).logits[0, -1].log_softmax(-1)
            with rewritten(loaded.model, 0, add):
                moved = loaded.model(ids).logits[0, -1].log_softmax(-1)
            row += (moved - plain)[list(tokens)].numpy() / len(CONTEXTS)
    written = beginnings_run(loaded, words, [0, 1])
    for at_once in (1, 2, 8):
        np.testing.assert_allclose(word_shifts(loaded, written, words.tokens, 0, vectors, at_once), expected, atol=2e-4)


def test_a_text_begins_with_what_stands_before_the_word(loaded: LoadedModel, words: Located) -> None:
    assert [loaded.tokenizer.decode(ids, skip_special_tokens=True).split("\n")[-1].strip() for ids in beginnings(words)] == [
        "",
        "You love",
        "Think of the",
    ]


def test_contrasts_are_of_the_other_words(tree: Tree) -> None:
    part = parts(tree, np.random.default_rng(0), 2)[1]
    wild = [tree.names[parent] for parent, _, _ in siblings(tree)].index("wild")
    shifts = np.zeros((1, 3, len(tree.words)))
    for k, word in enumerate(tree.words):
        shifts[0, wild, k] = 3.0 if word in BIRDS else 1.0 if word in HUNTERS else -2.0
        if not part[k]:
            shifts[0, :, k] = 100  # what vectors were made of is not read
    moved, around = contrasts(shifts, tree, siblings(tree), part)
    assert moved.tolist() == [pytest.approx((0 + 2 + 0) / 3)]
    # The wild's mean is 2, four above all others'; the root has no words around it.
    assert around.tolist() == [pytest.approx((4 + 0) / 2)]


def test_the_unembedding_of_words_moves_them_and_exchanged_words_do_not(
    loaded: LoadedModel, words: Located, tree: Tree
) -> None:
    """After the last layer a logit is a product with the word's row, so that differences of these rows are planted concepts."""
    rng = np.random.default_rng(0)
    scale = 1 + final_norm(loaded.model).weight.double().numpy()
    centres = {name: rng.standard_normal(len(scale)) for name in tree.names}
    last = loaded.model.config.num_hidden_layers - 1
    settings = ReadHierarchy(interventions=19, batch_size=16)
    # Words of a set share a direction of the unembedding only where it is put there.
    weight = loaded.model.get_output_embeddings().weight
    before = weight.detach().clone()
    try:
        for name, members in zip(tree.names, tree.members, strict=True):
            for k in members:
                weight.data[words.commonest[k]] += torch.tensor(centres[name], dtype=weight.dtype)
        planted = weight[words.commonest].double().numpy() / scale
        made = interventions(loaded, words, {last: planted}, tree, settings)["layers"][str(last)]
    finally:
        weight.data.copy_(before)
    assert made["moved"]["value"] > 0
    assert made["moved"]["null"]["p"] == pytest.approx(1 / 20)
    assert made["moved"]["null"]["z"] > 3


def test_p_is_uniform_where_concepts_are_no_more_than_names(loaded: LoadedModel, words: Located, tree: Tree) -> None:
    last = loaded.model.config.num_hidden_layers - 1
    p = []
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((len(words.kept), loaded.model.config.hidden_size))
        settings = ReadHierarchy(interventions=9, batch_size=64, seed=seed)
        p.append(interventions(loaded, words, {last: x}, tree, settings)["layers"][str(last)]["moved"]["null"]["p"])
    assert kstest(np.array(p) - np.random.default_rng(0).random(30) / 10, "uniform").pvalue > 0.01
