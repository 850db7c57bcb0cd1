"""Trees of concepts: planted ones are seen, noise is not, where the naive test passes it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import kstest
from sklearn.covariance import ledoit_wolf

from undertone.data.tree import Tree, integers_tree, load_tree
from undertone.geometry.directions import linear_discriminant, mean_vector
from undertone.geometry.spaces import spaces
from undertone.geometry.tree_tests import (
    Space,
    cosines,
    naive_orthogonality,
    parts,
    spectrum,
    statistics,
    vectors_of,
    whitened,
    with_nulls,
)
from undertone.runtime.errors import ConfigError

D = 64


def planted_tree(n_children: int = 4, per_child: int = 12) -> Tree:
    """Two kinds, each with children."""
    content = {
        f"kind{k}": {f"child{k}{c}": [f"w{k}.{c}.{i}" for i in range(per_child)] for c in range(n_children)} for k in (0, 1)
    }
    return tree_of(content)


def tree_of(content: object, folder: Path | None = None) -> Tree:
    path = (folder or Path("/tmp")) / "tree.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_tree(path)


def planted(tree: Tree, rng: np.random.Generator, size: float = 1.0) -> np.ndarray:
    """Words of noise, and of each concept a vector orthogonal to those above it."""
    x = rng.standard_normal((len(tree.words), D))
    offsets = np.zeros((len(tree.names), D))
    for node, parent in enumerate(tree.parents):
        if parent < 0:
            continue
        offset, above = rng.standard_normal(D), []
        while parent > 0:
            above.append(offsets[parent])
            parent = tree.parents[parent]
        for each in above:
            offset -= (offset @ each) / (each @ each) * each
        offsets[node] = offset / np.linalg.norm(offset) * size * np.sqrt(D)
        x[tree.members[node]] += offsets[node]
    return x - x.mean(0)


def test_a_planted_tree_passes_every_test() -> None:
    tree = planted_tree()
    tests, _ = with_nulls(Space(planted(tree, np.random.default_rng(0)), linear_discriminant), tree, 0, 4, 60)
    assert tests["existence"]["value"] > 0.8
    assert tests["orthogonality"]["value"] > -0.2
    for name in ("existence", "distance", "orthogonality", "grandparents"):
        assert tests[name]["nulls"]["words"]["z"] > 5, name
        assert tests[name]["nulls"]["words"]["p"] == pytest.approx(1 / 61)
    # That siblings are what they are, and not any parts of their parent, shows where their words are exchanged.
    assert tests["existence"]["nulls"]["siblings"]["z"] > 5


def test_whitening_by_the_words_own_covariance_takes_a_planted_tree_away() -> None:
    """What the words of a concept share is most of what they vary by, and whitening makes all directions vary alike."""
    tree = planted_tree(4, 24)
    x = planted(tree, np.random.default_rng(0))
    seen, own = (
        statistics(Space(each, linear_discriminant), tree, np.random.default_rng(0), 4)["orthogonality"]
        for each in (x, whitened(x, 1e-6))
    )
    assert seen > -0.15
    assert own < -0.3


def test_noise_passes_the_naive_test_and_no_other() -> None:
    """Parent and child of the same words are orthogonal in any matrix; from different words they are not."""
    tree = planted_tree()
    naive, z, existence = [], [], []
    for seed in range(12):
        space = Space(whitened(np.random.default_rng(seed).standard_normal((len(tree.words), D)), 1e-6), linear_discriminant)
        naive.append(naive_orthogonality(space, tree))
        tests, _ = with_nulls(space, tree, seed, 2, 30)
        z.append([tests[name]["nulls"]["words"]["z"] for name in ("existence", "distance", "orthogonality", "grandparents")])
        existence.append(tests["existence"]["value"])
        assert tests["orthogonality"]["value"] < -0.2
        assert abs(tests["simplex"]["value"]) < 0.1
    assert np.abs(naive).max() < 0.1
    assert np.mean(existence) == pytest.approx(0.5, abs=0.05)
    assert (np.abs(z) < 3).mean() > 0.95


def test_p_is_uniform_on_noise() -> None:
    tree = planted_tree(3, 6)
    p = []
    for seed in range(120):
        space = Space(np.random.default_rng(seed).standard_normal((len(tree.words), 16)), mean_vector)
        seen = statistics(space, tree, np.random.default_rng(seed), 1)["orthogonality"]
        null = [
            statistics(Space(space.x[rng.permutation(len(space.x))], mean_vector), tree, rng, 1)["orthogonality"]
            for rng in (np.random.default_rng([seed, k]) for k in range(19))
        ]
        p.append((1 + sum(value >= seen for value in null)) / 20)
    assert kstest(np.array(p) - np.random.default_rng(0).random(120) / 20, "uniform").pvalue > 0.01


def test_of_few_words_no_view_is_made_that_estimates_a_matrix_of_all_dimensions() -> None:
    """Few words are whitened to be equally far apart, and mapped to wherever they are to be, whatever they mean."""
    x = np.random.default_rng(0).standard_normal((20, 8))
    assert "layer.0.whitened" in spaces(x, x, {0: x}, x, 1e-6)
    few = spaces(x[:12], x, {0: x[:12]}, x[:12], 1e-6)
    assert set(few) == {"unembedding", "layer.0.euclidean", "layer.0.mean"}


def test_a_layer_that_is_the_last_one_rotated_is_mapped_to_it() -> None:
    rng = np.random.default_rng(0)
    last, rotation = rng.standard_normal((400, 8)), np.linalg.qr(rng.standard_normal((8, 8)))[0]
    seen = rng.standard_normal((300, 8))
    causal = spaces(last, seen, {0: last @ rotation}, last, 1e-6)["layer.0.causal"].x
    values, vectors, _ = spectrum(seen, 1e-6)
    np.testing.assert_allclose(causal, (last - last.mean(0)) @ (vectors * np.sqrt(values)) @ vectors.T, atol=0.1)


@pytest.mark.parametrize("n", [5, 40, 200])
def test_the_discriminant_is_that_of_sklearns_covariance(n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((3, n, D)) * np.linspace(0.5, 2, D) + 1
    for words, made in zip(x, linear_discriminant(x), strict=True):
        unit = np.linalg.solve(ledoit_wolf(words)[0], words.mean(0))
        unit /= np.linalg.norm(unit)
        np.testing.assert_allclose(made, (unit @ words.mean(0)) * unit, atol=1e-9)


def test_of_words_that_are_all_the_same_the_discriminant_is_the_word() -> None:
    x = np.tile(np.arange(1.0, 5), (1, 6, 1))
    np.testing.assert_allclose(linear_discriminant(x)[0], np.arange(1.0, 5))


def test_directions_that_never_vary_are_not_all_that_is_seen() -> None:
    """Rows that were never trained are constant; whitened without a floor, their rounding would be as large as anything."""
    x = np.random.default_rng(0).standard_normal((500, D)) * np.r_[np.ones(40), np.full(24, 1e-9)]
    assert np.abs(whitened(x, 1e-6)[:, 40:]).max() < 1e-4
    assert whitened(x, 1e-6)[:, :40].std() == pytest.approx(1, abs=0.01)


def test_a_covariance_of_other_rows_is_theirs() -> None:
    rng = np.random.default_rng(0)
    over = rng.standard_normal((400, 8)) * 3 + 2
    x = over[:10]
    np.testing.assert_allclose(whitened(x, 1e-6, over), whitened(over, 1e-6)[:10])


def test_words_are_split_so_that_every_concept_has_about_as_many_in_each_part() -> None:
    tree = integers_tree()
    for n in (2, 3):
        split = parts(tree, np.random.default_rng(0), n)
        assert np.array_equal(np.sum(split, 0), np.ones(1000))
        for members in tree.members:
            shares = [part[members].sum() for part in split]
            assert max(shares) - min(shares) <= max(1, len(members) // 10)


def test_sets_of_equal_size_computed_together_are_those_computed_alone() -> None:
    tree = planted_tree(3, 5)
    space = Space(np.random.default_rng(0).standard_normal((len(tree.words), D)), linear_discriminant)
    alone = np.stack([linear_discriminant(space.x[members][None])[0] for members in tree.members])
    np.testing.assert_allclose(vectors_of(space, tree), alone)
    assert cosines(space, tree, np.random.default_rng(0)).shape == (len(tree.names),) * 2


def test_the_integers_stand_in_tens_hundreds_and_digits() -> None:
    tree = integers_tree()
    sizes = dict(zip(tree.names, tree.sizes, strict=True))
    assert (sizes["all words"], sizes["1 digit"], sizes["2 digits"], sizes["3 digits"]) == (1000, 10, 90, 900)
    assert (sizes["10 to 19"], sizes["300 to 399"], sizes["340 to 349"]) == (10, 100, 10)
    place = {name: k for k, name in enumerate(tree.names)}
    assert [tree.words[k] for k in tree.members[place["340 to 349"]]] == [str(k) for k in range(340, 350)]
    assert tree.names[tree.parents[place["340 to 349"]]] == "300 to 399"
    assert tree.distances[place["340 to 349"], place["350 to 359"]] == 2
    assert tree.distances[place["340 to 349"], place["10 to 19"]] == 5


def test_a_concept_of_too_few_words_goes_with_those_below_it(tmp_path: Path) -> None:
    tree = tree_of({"animal": {"bird": list("abcdef"), "fish": list("gh")}, "plant": list("ijklm")}, tmp_path)
    kept = tree.of_words([k for k in range(13) if k != 2], 4)
    assert kept.names == ("all words", "animal", "bird", "plant")
    assert kept.words == tuple("abdefghijklm")
    assert [kept.words[k] for k in kept.members[2]] == list("abdef")
    # Without the fish an animal is a bird.
    assert tree.of_words([k for k in range(13) if k not in (6, 7)], 4).names == ("all words", "animal", "plant")


def test_redrawn_siblings_keep_their_sizes_and_their_parent() -> None:
    tree = planted_tree(3, 6)
    redrawn = tree.redrawn(np.random.default_rng(0))
    assert redrawn.sizes == tree.sizes
    for parent, children in tree.children.items():
        together = np.sort(np.concatenate([redrawn.members[child] for child in children]))
        assert np.array_equal(together, tree.members[parent])
    assert any(not np.array_equal(a, b) for a, b in zip(tree.members, redrawn.members, strict=True))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "expected names of concepts"),
        ({"a": {"b": "word"}}, "expected names or a list of words, found 'word'"),
        ({"a": ["x"], "b": ["x"]}, "the word 'x' stands there twice"),
        ({"a": {"a": ["x"]}}, "the concept 'a' stands there twice"),
        ({"a": [False, "maybe"]}, "write words such as no and 007 in quotes"),
    ],
)
def test_what_is_no_tree_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tree_of(content, tmp_path)
