"""Matches of features where the truth is known: copies, tokens, noise, parts, and two ways to cut one text."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from jaxtyping import Float
from scipy.sparse import csr_array
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from undertone.pairs import best_matches
from undertone.pairs.aligned import align, read_aligned
from undertone.pairs.best_matches import Halves, matched, trivial
from undertone.pairs.correlations import Activity, correlations
from undertone.pairs.matches import drawn
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import write_parquet
from undertone.study.config.pair_settings import Matches

N, CONTEXTS, WORDS, FEATURES = 12_000, 400, 300, 40
SETTINGS = Matches(shifts=5, shuffles=39, min_count=50, bootstraps=20)
RNG = np.random.default_rng(0)
ROW = np.sort(RNG.integers(0, CONTEXTS, N))
FREQUENCY = 1 / np.arange(1, WORDS + 1)
WORD = RNG.choice(WORDS, N, p=FREQUENCY / FREQUENCY.sum())


def sparse_noise(seed: int, density: float = 0.05) -> Float[np.ndarray, "n d"]:
    rng = np.random.default_rng(seed)
    return (rng.random((N, FEATURES)) < density) * rng.gamma(2, 1, (N, FEATURES))


def lexical(seed: int) -> Float[np.ndarray, "n d"]:
    """Features that are random sets of tokens, with noise of their own."""
    rng = np.random.default_rng(seed)
    weights = (rng.random((WORDS, FEATURES)) < 0.05) * rng.gamma(2, 1, (WORDS, FEATURES))
    return weights[WORD] * (1 + 0.1 * rng.standard_normal((N, 1)))


def matches_of(a: Float[np.ndarray, "n d_a"], b: Float[np.ndarray, "n d_b"]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return matched(Halves.of(csr_array(a), csr_array(b), ROW, WORD), SETTINGS)


def test_correlations_are_those_of_whole_arrays() -> None:
    a, b = sparse_noise(1), lexical(2)
    r, r_token = correlations(Activity.of(csr_array(a), WORD), Activity.of(csr_array(b), WORD))
    plain = np.corrcoef(a.T, b.T)[:FEATURES, FEATURES:]
    left = [side - np.stack([side[word == WORD].mean(0) for word in range(WORDS)])[WORD] for side in (a, b) for word in [WORD]]
    assert np.nanmax(np.abs(r - plain)) < 1e-9
    given = np.corrcoef(left[0].T, left[1].T)[:FEATURES, FEATURES:]
    known = np.isfinite(r_token)
    assert known.mean() > 0.9
    assert np.abs(r_token - given)[known].max() < 1e-9


def test_a_feature_that_is_constant_or_a_token_has_no_correlation_given_it() -> None:
    a = np.stack([np.zeros(N), np.full(N, 2.0), WORD == 3, sparse_noise(3)[:, 0]], axis=1).astype(float)
    r, r_token = correlations(Activity.of(csr_array(a), WORD), Activity.of(csr_array(a), WORD))
    assert np.isnan(r[:2]).all()
    assert np.isnan(r_token[:3]).all()
    assert r[2, 2] == pytest.approx(1)
    assert r_token[3, 3] == pytest.approx(1)


def test_a_permuted_and_rescaled_copy_is_matched_one_to_one_at_1() -> None:
    a = sparse_noise(4)
    order = np.random.default_rng(5).permutation(FEATURES)
    table, _ = matches_of(a, a[:, order] * np.linspace(0.1, 9, FEATURES))
    assert set(table["way"]) == {"best_a", "best_b", "mutual", "one"}
    for _, of_way in table.group_by("way"):
        assert len(of_way) == FEATURES
        assert (order[of_way["b"].to_numpy()] == of_way["a"].to_numpy()).all()
        assert of_way["r"].min() == pytest.approx(1)  # type: ignore[arg-type]
        assert of_way["r_token"].min() == pytest.approx(1)  # type: ignore[arg-type]
    assert (table["p"] == table["p"].min()).all()
    assert table["p_a_given_b"].min() == 1


def test_of_saes_too_wide_for_matches_one_to_one_mutual_ones_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_matches, "MOST_ONE_TO_ONE", FEATURES - 1)
    acts = csr_array(sparse_noise(4))
    table, _ = matched(Halves.of(acts, acts, ROW, WORD), SETTINGS)
    assert set(table["way"]) == {"best_a", "best_b", "mutual"}
    shown = drawn(table.with_columns(trivial=pl.lit(None, dtype=pl.String)), (acts, acts), 0)
    assert (shown["a"] == shown["b"]).all()
    assert (shown["act_a"] == shown["act_b"]).all()
    with pytest.raises(ConfigError, match=r"matches\.tokens higher"):
        drawn(table.with_columns(r=pl.lit(None, dtype=pl.Float64), trivial=pl.lit(None, dtype=pl.String)), (acts, acts), 0)


def test_random_features_match_no_better_than_shifted_ones() -> None:
    table, null = matches_of(sparse_noise(6), sparse_noise(7))
    best = table.filter(pl.col("way").is_in(["best_a", "best_b"]))
    assert abs(float(np.median(best["r"])) - float(np.median(null["r"]))) < 0.01
    assert np.median(best["half0_r"]) > 3 * abs(np.median(best["r"]))  # what the choice itself would have claimed
    assert 0.02 < (best["p"] <= 0.2).mean() < 0.4  # type: ignore[operator]


def test_two_lexical_dictionaries_correlate_and_not_given_the_token() -> None:
    table, null = matches_of(lexical(8), lexical(9))
    best = table.filter(way="best_b")
    assert np.median(best["r"]) > 0.25
    assert np.median(best["r"]) > 5 * np.quantile(null["r"], 0.9)
    assert np.abs(np.median(best["r_token"])) < 0.05
    zeros = np.zeros(FEATURES)
    why = trivial(best, (zeros, zeros), (zeros, zeros), SETTINGS)
    assert (why.fill_null("") == "token").mean() > 0.8  # type: ignore[operator]


def test_a_feature_that_covers_another_is_a_match_in_part() -> None:
    a = sparse_noise(10)
    b = a.copy()
    b[:, 0] = a[:, 0] + a[:, 1]
    table, _ = matches_of(a[:, [0]], b[:, [0]])
    row = table.row(0, named=True)
    assert row["p_b_given_a"] == 1
    assert 0.3 < row["p_a_given_b"] < 0.7
    assert 0.4 < row["r"] < 0.95


@pytest.mark.parametrize(
    ("count", "density", "junk", "expected"),
    [(200, 0.01, 0.1, None), (20, 0.01, 0.9, "rare"), (9_000, 0.5, 0.9, "dense"), (200, 0.01, 0.9, "junk")],
)
def test_a_match_is_trivial_for_one_reason_at_a_time(count: int, density: float, junk: float, expected: str | None) -> None:
    row = {"a": [0], "b": [0], "count_a": [10_000], "count_b": [count], "r_token": [0.9], "p_token": [0.01]}
    ones = (np.array([0.01]), np.array([0.1]))
    why = trivial(pl.DataFrame(row), (ones[0], np.array([density])), (ones[1], np.array([junk])), SETTINGS)
    assert why.to_list() == [expected]


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    vocab = {token: number for number, token in enumerate(["<s>", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<s>", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.add_special_tokens(["<s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    fast.decode = lambda *_, **__: ""  # type: ignore[method-assign]
    return fast


def test_tokens_of_two_tokenizers_are_aligned_where_they_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenizer_of(["ab", "cd", " ab", "e", " cd"])
    second = tokenizer_of(["a", "b", "cd", " a", "e", " cd"])
    text = "<s>abcd ab cd"
    for module in ("aligned",):
        monkeypatch.setattr(f"undertone.pairs.{module}.whole_texts", lambda tokenizer, contexts: [text] * len(contexts))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in (first, second)]
    assert [len(each) for each in ids] == [5, 7]  # <s> ab cd ␣ab ␣cd, and <s> a b cd ␣a b ␣cd
    aligned = align([first, second], [[each] for each in ids], 100)
    assert aligned.at[0].tolist() == [1, 2, 3, 4]
    assert aligned.at[1].tolist() == [2, 3, 5, 6]
    assert aligned.share == 1
    assert len(set(aligned.word.tolist())) == 4


def test_too_few_contexts_to_be_moved_are_refused(record: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "text.parquet", pl.DataFrame({"row": range(9), "ids": [[2, *range(20, 40)]] * 9}), {})
    texts = [tmp_path / "text.parquet"] * 2
    assert len(read_aligned([record] * 2, texts, 80).row) == 80
    with pytest.raises(ConfigError, match=r"60 tokens of text stand in 3 contexts, expected 4 or more: .* to at least 80"):
        read_aligned([record] * 2, texts, 60)


def test_tokenizers_that_cut_text_too_differently_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tokenizer_of(["a", "b"]), tokenizer_of(["abababab", "ab"])
    text = "<s>abababab"
    monkeypatch.setattr("undertone.pairs.aligned.whole_texts", lambda tokenizer, contexts: [text] * len(contexts))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in (first, second)]
    with pytest.raises(ConfigError, match="12% of the tokens end where one of the other model does, expected 50%"):
        align([first, second], [[each] for each in ids], 100)
