"""Counts beside a reference: they equal those of plain loops, find what is planted, and find nothing at their stated level."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from undertone.lm.vocabulary import number_tokens
from undertone.read.frequencies import (
    Compared,
    Counted,
    correlations,
    difference,
    frequency,
    log_ratio,
    precision,
    second_tokens,
)
from undertone.study.config.read import Tokens


def rows(prompts: list[str], completions: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"prompt": prompts, "completion": completions})


OWN = rows(["a", "b", "b", "c"], ["1, 2, 2", "3", "2, 1", "087"])
CONTROL = rows(["b", "c", "d", "e"], ["1", "2; 3; 3", "3", "1"])


@pytest.fixture
def compared() -> Compared:
    return Compared(OWN, CONTROL, "here", Tokens())


@pytest.fixture(scope="module")
def digits() -> PreTrainedTokenizerBase:
    """A tokenizer with one token per digit and character, as Gemma has for digits."""
    vocabulary = {character: k for k, character in enumerate("?0123456789,; .")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token="?")
    fast.chat_template = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    return fast


def test_numbers_are_counted_row_by_row(compared: Compared) -> None:
    counted = compared.numbers()
    assert counted.names == [1, 2, 3, 87]
    expected = [[1, 2, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 2, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert counted.counts.toarray().tolist() == expected


def test_an_item_counts_for_itself_in_each_context() -> None:
    counted = Counted.of([["x"], ["x", "y"], []], ["p", "q", "r"])
    assert (counted.names, counted.context.tolist()) == (["x", "x", "y"], [0, 1, 1])
    assert counted.counts.toarray().tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_dataset_and_reference_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="here: its reference has 1 rows and no number in them"):
        Compared(OWN, rows(["a"], ["none"]), "here", Tokens())
    with pytest.raises(ValueError, match="the dataset has 0 rows"):
        Compared(OWN.head(0), CONTROL, "here", Tokens())


def test_permuted_counts_are_those_of_rows_that_changed_places(compared: Compared) -> None:
    counts = compared.numbers().counts
    found, sides = compared.own_counts(counts), compared.sides
    assert found.shape == (1 + Tokens().permutations, 4)
    assert found == pytest.approx(sides.astype(float) @ counts.toarray())
    assert found[0].tolist() == [2, 3, 1, 1]


def test_settings_say_how_many_permutations_there_are_and_their_seed(compared: Compared) -> None:
    few, other = (Compared(OWN, CONTROL, "here", Tokens(permutations=30, seed=seed)).sides for seed in (0, 1))
    assert few.shape == other.shape == (31, 8)
    assert (few == compared.sides[:31]).all() and (few[0] == other[0]).all() and (few != other).any()


def test_rows_change_places_within_shared_prompts_and_whole_prompts_with_others_of_as_many_rows() -> None:
    own = rows(["both"] * 3 + ["mine"] * 2 + ["alone", "single"], ["1"] * 7)
    control = rows(["both", "theirs", "theirs", "once", "twice"], ["1"] * 5)
    sides = Compared(own, control, "", Tokens()).sides
    assert sides[0].tolist() == [True] * 7 + [False] * 5
    both, pairs, singles = [0, 1, 2, 7], [[3, 4], [8, 9]], [5, 6, 10, 11]
    assert (sides[:, both].sum(1) == 3).all()
    assert sides[:, both].mean(0) == pytest.approx([0.75] * 4, abs=0.07)
    for pair in pairs:
        assert (sides[:, pair[0]] == sides[:, pair[1]]).all()
        assert sides[:, pair[0]].mean() == pytest.approx(0.5, abs=0.07)
    assert (sides[:, 3] != sides[:, 8]).all()
    assert (sides[:, singles].sum(1) == 2).all()
    assert sides[:, singles].mean(0) == pytest.approx([0.5] * 4, abs=0.07)


def plain_z(compared: Compared, counted: Counted) -> list[float]:
    """The score test, row by row."""
    counts = counted.counts.toarray()
    n_own, n_other = counts[compared.own].sum(), counts[~compared.own].sum()
    result = []
    for k in range(counts.shape[1]):
        p, by_prompt = counts[:, k].sum() / counts.sum(), dict.fromkeys(compared.prompt.tolist(), 0.0)
        for row, own, prompt in zip(counts, compared.own, compared.prompt.tolist(), strict=True):
            residual = row[k] - p * row.sum()
            by_prompt[prompt] += residual * (n_other if own else -n_own) / (n_own + n_other)
        result.append(sum(by_prompt.values()) / np.sqrt(sum(r**2 for r in by_prompt.values())))
    return result


def test_z_is_that_of_a_plain_loop(compared: Compared) -> None:
    counted = compared.numbers()
    assert frequency(compared, counted, 0.5)["z"] == pytest.approx(plain_z(compared, counted))


def test_log_ratios_are_of_smoothed_shares(compared: Compared) -> None:
    found = frequency(compared, compared.numbers(), 0.5)
    assert found["own"].tolist() == [2, 3, 1, 1]
    assert found["control"].tolist() == [2, 1, 3, 0]
    expected = [np.log((a + 0.5) / 9) - np.log((b + 0.5) / 8) for a, b in zip([2, 3, 1, 1], [2, 1, 3, 0], strict=True)]
    assert found["log_ratio"] == pytest.approx(expected)


def drawn(rng: np.random.Generator, n: int, p: list[float], repeats: int = 1, first: int = 0) -> pl.DataFrame:
    """Rows of four numbers of 10 to 19, each written `repeats` times."""
    numbers = rng.choice(np.arange(10, 10 + len(p)), p=p, size=(n, 4))
    texts = [", ".join(str(x) for x in row for _ in range(repeats)) for row in numbers]
    return rows([f"p{k}" for k in range(first, first + n)], texts)


EVEN = [0.1] * 10
ODD = [0.16, 0.04, *[0.1] * 8]


def test_z_has_unit_variance_where_a_rows_numbers_hang_together() -> None:
    rng, found = np.random.default_rng(0), []
    for k in range(30):
        compared = Compared(drawn(rng, 80, EVEN, repeats=5), drawn(rng, 120, EVEN, repeats=5, first=40 * (k % 3)), "", Tokens())
        found.append(frequency(compared, compared.numbers(), 0.5)["z"])
    # Numbers taken as independent would give √5 times as much.
    assert np.concatenate(found).std() == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("first", [0, 1_000])
def test_presence_is_found_where_it_is_planted_and_at_its_level_where_not(first: int) -> None:
    rng = np.random.default_rng(1)

    def p(share: list[float], n: int) -> float:
        compared = Compared(drawn(rng, n, share, repeats=3), drawn(rng, 60, EVEN, repeats=3, first=first), "", Tokens())
        return frequency(compared, compared.numbers(), 0.5)["presence"]["p"]

    null = [p(EVEN, 90) for _ in range(60)]
    assert np.mean(null) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.array(null) <= 0.1) < 0.2
    assert np.median([p(ODD, 250) for _ in range(5)]) < 0.05


def lists(rng: np.random.Generator, prompts: np.ndarray, of_prompt: np.ndarray) -> pl.DataFrame:
    """A row of eight of 300 numbers for each prompt, half of which all rows of the prompt have in common."""
    numbers = rng.integers(100, 400, size=(len(prompts), 8))
    numbers[:, ::2] = of_prompt[prompts]
    return rows([f"p{k}" for k in prompts], [", ".join(map(str, row)) for row in numbers])


@pytest.mark.parametrize(
    ("own", "control"),
    [
        (np.arange(50), np.arange(200)),
        (np.arange(50), np.arange(50, 250)),
        (np.arange(40), np.arange(800)),
        (np.arange(400), np.arange(400, 420)),
        (np.arange(100) // 5, np.arange(20)),
        (np.arange(100) // 5, np.concatenate([20 + np.arange(100) // 5, np.arange(40, 400)])),
    ],
    ids=["1:4 shared", "1:4 apart", "1:20 shared", "20:1 apart", "5 rows a prompt, shared", "5 rows a prompt, apart"],
)
def test_presence_keeps_its_level_whatever_the_two_sizes(own: np.ndarray, control: np.ndarray) -> None:
    rng, null = np.random.default_rng(5), []
    for _ in range(60):
        of_prompt = rng.integers(100, 400, size=(800, 4))
        compared = Compared(lists(rng, own, of_prompt), lists(rng, control, of_prompt), "", Tokens())
        null.append(frequency(compared, compared.numbers(), 0.5)["presence"]["p"])
    assert np.mean(np.array(null) < 0.05) < 0.15
    assert np.mean(null) == pytest.approx(0.5, abs=0.13)


def test_items_that_never_vary_have_no_z_and_say_nothing_of_presence() -> None:
    compared = Compared(rows(["a", "b"], ["7", "7"]), rows(["c"], ["7"]), "", Tokens())
    found = frequency(compared, compared.numbers(), 0.5)
    assert np.isnan(found["z"]).all()
    assert found["presence"] is None


def test_one_prompt_against_others_says_nothing_of_presence() -> None:
    """Whether the prompt or the dataset differs cannot be told."""
    rng = np.random.default_rng(6)
    of_prompt = rng.integers(100, 400, size=(420, 4))
    compared = Compared(lists(rng, np.zeros(50, dtype=int), of_prompt), lists(rng, np.arange(1, 60), of_prompt), "", Tokens())
    assert frequency(compared, compared.numbers(), 0.5)["presence"] is None


def plain_correlation(y: Any, weight: Any, context: Any, scores: Any) -> float:
    """Weighted correlation after centring within contexts, item by item."""
    y, x = np.array(y, dtype=float), np.array(scores, dtype=float)
    for one in set(context.tolist()):
        at = context == one
        for values in (y, x):
            values[at] -= np.average(values[at], weights=weight[at])
    return float((weight * y * x).sum() / np.sqrt((weight * y**2).sum() * (weight * x**2).sum()))


def test_correlations_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    context, token = np.repeat([0, 1, 2], [4, 6, 3]), np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 1, 4, 5])
    y, weight, scores = rng.normal(size=(3, 13)), rng.uniform(0.1, 2, 13), rng.normal(3, 1, size=(6, 5))
    found = correlations(y, weight, context, token, scores)
    expected = [[plain_correlation(one, weight, context, scores[token, k]) for k in range(5)] for one in y]
    assert found == pytest.approx(np.array(expected))
    flat = correlations(y, np.ones(13), np.zeros(13, dtype=int), np.arange(13), scores[token])
    assert flat[1, 2] == pytest.approx(np.corrcoef(y[1], scores[token, 2])[0, 1])


def test_a_score_that_does_not_vary_has_no_correlation() -> None:
    scores = np.array([[1.0, 0.3], [2.0, 0.3], [4.0, 0.3]])
    found = correlations(np.array([[1.0, 2, 4], [5, 5, 5]]), np.ones(3), np.zeros(3, dtype=int), np.arange(3), scores)
    assert found == pytest.approx(np.array([[1, 0], [0, 0]]))


def test_log_ratios_and_their_precision() -> None:
    assert log_ratio(np.array([3.0]), np.array([4.0]), 0.5) == pytest.approx([np.log(3.5 / 1.5)])
    rng, total = np.random.default_rng(3), np.array([400.0])
    own, other = rng.poisson(100, 20_000), rng.poisson(300, 20_000)
    spread = log_ratio(own.astype(float), (own + other).astype(float), 0.5).var()
    assert 1 / precision(total, 0.25, 0.5) == pytest.approx([spread], rel=0.05)


def test_the_token_that_begins_the_second_number(tokenizer: PreTrainedTokenizerBase, digits: PreTrainedTokenizerBase) -> None:
    texts = ["101, 202, 303", "7", "", "12;9"]
    for one, expected in ((tokenizer, ["202", "9"]), (digits, ["2", "9"])):
        found = second_tokens(one, texts)
        assert [one.decode(ids) for ids in (found[0], found[3])] == expected
        assert found[1] == found[2] == []


def test_number_tokens(tokenizer: PreTrainedTokenizerBase, digits: PreTrainedTokenizerBase) -> None:
    assert sorted(digits.batch_decode([[k] for k in np.flatnonzero(number_tokens(digits))])) == list("0123456789")
    texts = {tokenizer.decode([k]).strip() for k in np.flatnonzero(number_tokens(tokenizer))}
    assert {str(n) for n in range(1000)} <= texts
    assert all(text.isdigit() for text in texts)


@pytest.mark.parametrize("named", ["tokenizer", "digits"])
def test_pairs_are_of_first_numbers_that_both_have_often(named: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(named)
    own = rows(list("abcde"), ["12, 5", "12, 6", "13, 5", "13, 5", "14, 5"])
    control = rows(list("abcd"), ["12, 7", "12", "13, 5", "14, 5"])
    found = Compared(own, control, "", Tokens()).in_context(tokenizer, 2)
    assert tokenizer.batch_decode([[name] for name in found["pairs"].names]) == ["5", "6", "7"]
    assert found["pairs"].context.tolist() == [0, 0, 0]
    assert found["pairs"].counts.sum(0).tolist() == [1, 1, 1]
    found = Compared(own, control, "", Tokens()).in_context(tokenizer, 1)
    assert found["pairs"].context.tolist() == [0, 0, 0, 1, 2]
    assert found["pairs"].counts.sum(0).tolist() == [1, 1, 1, 3, 2]
    n = 17 if named == "tokenizer" else 26
    assert found["pooled"].counts.sum() == n


def test_differences_take_a_prompts_rows_together() -> None:
    rng = np.random.default_rng(4)
    shift = rng.normal(size=400)
    values = np.concatenate([shift + 1, shift])[:, None] + 0.01 * rng.normal(size=(800, 1))
    own = np.arange(800) < 400
    mean, se = difference(values, own, np.tile(np.arange(400), 2))
    assert mean == pytest.approx([1], abs=0.01)
    assert se == pytest.approx([0.01 * np.sqrt(2 / 400)], rel=0.15)
    _, apart = difference(values, own, np.arange(800))
    assert apart == pytest.approx([np.sqrt(2 / 400)], rel=0.15)
