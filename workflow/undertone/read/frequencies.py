"""Frequencies of numbers and tokens in a dataset and in a reference, and what chance would make of their difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy import sparse
from transformers import PreTrainedTokenizerBase

from undertone.data.numbers import INTEGER
from undertone.lm.chat import answer_ids
from undertone.lm.vocabulary import number_tokens
from undertone.stats.stats import p_value
from undertone.study.config.read import Tokens

# Counts are whole numbers: anything smaller than this is rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Counted:
    """Occurrences of items by row: `counts` `[n_rows, n_items]`, the items' names, and the context each is in."""

    counts: sparse.csr_array
    names: list[Any]
    context: Int[np.ndarray, " n_items"]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], contexts: Sequence[Any] | None = None) -> "Counted":
        """Count each row's items; if every row has a context, an item counts separately in each context."""
        context_of_row = [0] * len(rows) if contexts is None else contexts
        pairs = [(context, item) for context, row in zip(context_of_row, rows, strict=True) for item in row]
        columns = {pair: k for k, pair in enumerate(sorted(set(pairs)))}
        numbers = {context: k for k, context in enumerate(dict.fromkeys(context for context, _ in columns))}
        where = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        what = [columns[pair] for pair in pairs]
        counts = sparse.coo_array((np.ones(len(pairs)), (where, what)), shape=(len(rows), len(columns))).tocsr()
        return cls(counts, [item for _, item in columns], np.array([numbers[context] for context, _ in columns], dtype=int))


class Compared:
    """Rows of a dataset and of its reference, told apart by `own` `[n_rows]`; `prompt` `[n_rows]` numbers their prompts.

    Numbers of one row depend on each other, and so may two rows of one prompt. Therefore variances are over prompts, and
    permutations keep rows whole, as well as prompts that only one side has. Raises ValueError if either has no row or no
    number.
    """

    def __init__(self, own: pl.DataFrame, control: pl.DataFrame, what: str, settings: Tokens):
        for name, rows in (("the dataset", own), ("its reference", control)):
            if not any(INTEGER.search(text) for text in rows["completion"]):
                raise ValueError(f"{what}: {name} has {len(rows)} rows and no number in them; expected lists of numbers")
        self.permutations, self.seed = settings.permutations, settings.seed
        self.prompts = [*own["prompt"], *control["prompt"]]
        self.completions = [*own["completion"], *control["completion"]]
        self.own = np.arange(len(self.prompts)) < len(own)
        self.prompt = np.unique(self.prompts, return_inverse=True)[1]
        self.n_prompts = int(self.prompt.max()) + 1

    def by_prompt(self, counts: sparse.csr_array) -> tuple[sparse.csr_array, sparse.csr_array]:
        """The counts of the dataset and of its reference, each `[n_prompts, n_items]`."""
        sides = []
        for side in (self.own, ~self.own):
            rows = np.flatnonzero(side)
            add = sparse.coo_array((np.ones(len(rows)), (self.prompt[rows], rows)), shape=(self.n_prompts, len(side)))
            sides.append((add.tocsr() @ counts).tocsr())
        return sides[0], sides[1]

    @cached_property
    def sides(self) -> Bool[np.ndarray, "n_arrangements n_rows"]:
        """Whether a row is the dataset's: as observed, then with labels permuted.

        Labels are only exchanged between rows or prompts that could as well have been the other's: rows of a prompt that both
        sides have, and whole prompts that only one side has, among those with as many rows.
        """
        # Rows of each prompt in all and of the dataset; `apart` are rows whose prompt only one side has.
        size, own = (np.bincount(self.prompt[side], minlength=self.n_prompts) for side in (slice(None), self.own))
        apart = ((own == 0) | (own == size))[self.prompt]
        # Units are rows of shared prompts and whole other prompts; groups are shared prompts, and the others by their size.
        number = np.where(apart, self.prompt, self.n_prompts + np.arange(len(self.own)))
        # `first` is one row of each unit, `unit` the unit of each row, `group` the group of each unit.
        _, first, unit = np.unique(number, return_index=True, return_inverse=True)
        group = np.where(apart, self.n_prompts + size[self.prompt], self.prompt)[first]
        # Sorting by the group plus a random number below 1 shuffles the units within each group.
        order = np.argsort(group, kind="stable")
        rng, labels = np.random.default_rng(self.seed), np.tile(self.own[first], (1 + self.permutations, 1))
        for permuted in labels[1:]:
            permuted[order] = permuted[np.argsort(group + rng.random(len(group)))]
        return labels[:, unit]

    def own_counts(self, counts: sparse.csr_array) -> Float[np.ndarray, "n_arrangements n_items"]:
        """Return the dataset's count of every item: as observed, then with labels permuted."""
        by_item = counts.T.tocsr()
        return np.concatenate([(by_item @ labels.T.astype(float)).T for labels in np.array_split(self.sides, 8)])

    def numbers(self) -> Counted:
        """Count the integers of every completion."""
        return Counted.of([[int(text) for text in INTEGER.findall(completion)] for completion in self.completions])

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> Counted:
        """Count the tokens of every completion."""
        return Counted.of(answer_ids(tokenizer, self.completions))

    def first_tokens(self, tokenizer: PreTrainedTokenizerBase) -> Counted:
        """Count the first token of every completion, whose context is the prompt alone."""
        return Counted.of([ids[:1] for ids in answer_ids(tokenizer, self.completions)])

    def in_context(self, tokenizer: PreTrainedTokenizerBase, min_count: int) -> dict[str, Counted]:
        """Count number tokens in two kinds of contexts.

        `pairs`: the token that begins the second number, with the first number as context, for first numbers of at least
        `min_count` rows of the dataset and of the reference. `pooled`: the number tokens of the completions, at any place.
        """
        numeric = number_tokens(tokenizer)
        pooled = [[token for token in ids if numeric[token]] for ids in answer_ids(tokenizer, self.completions)]
        firsts = [match[0] if (match := INTEGER.search(text)) else None for text in self.completions]
        own, other = (
            dict(zip(*np.unique([f for f, s in zip(firsts, side, strict=True) if s and f], return_counts=True), strict=True))
            for side in (self.own, ~self.own)
        )
        often = {first for first in own if min(own[first], other.get(first, 0)) >= min_count}
        seconds = second_tokens(tokenizer, self.completions)
        rows = [second if first in often else [] for first, second in zip(firsts, seconds, strict=True)]
        return {"pairs": Counted.of(rows, [first or "" for first in firsts]), "pooled": Counted.of(pooled)}


def second_tokens(tokenizer: PreTrainedTokenizerBase, completions: Sequence[str]) -> list[list[int]]:
    """Return, for each completion, the token that holds the first digit of its second number; none without such a number."""
    encoded = tokenizer(list(completions), add_special_tokens=False, return_offsets_mapping=True)
    tokens = []
    for text, ids, offsets in zip(completions, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        starts = [match.start() for match in INTEGER.finditer(text)][1:2]
        tokens.append([token for token, (a, b) in zip(ids, offsets, strict=True) if starts and a <= starts[0] < b][:1])
    return tokens


def log_ratio(
    own: Float[np.ndarray, "*n n_items"], total: Float[np.ndarray, " n_items"], smoothing: float
) -> Float[np.ndarray, "*n n_items"]:
    """Return the log of own counts over the rest of `total`, both smoothed: up to a constant, the log-ratio of shares."""
    return np.log(own + smoothing) - np.log(total - own + smoothing)


def precision(total: Float[np.ndarray, " n_items"], share: float, smoothing: float) -> Float[np.ndarray, " n_items"]:
    """Return the inverse variance of `log_ratio` for Poisson counts, with the dataset's `share` of every item's `total`.

    It does not depend on which of the two datasets an item is in, so it is the same for every permutation.
    """
    return 1 / (1 / (share * total + smoothing) + 1 / ((1 - share) * total + smoothing))


def frequency(compared: Compared, counted: Counted, smoothing: float) -> dict[str, Any]:
    """Return `own`, `control`, `log_ratio` and `z` of every item, each `[n_items]`, and `presence`.

    `z` tests whether the item's share of all occurrences is the same in both. With p the item's pooled share, a row with x of
    the item among m items has the residual x − p m, weighted by the other dataset's share of all occurrences. Residuals of one
    prompt are added, and the squares of these sums are the variance.
    """
    own, total = compared.own_counts(counted.counts), counted.counts.sum(0)
    n, p = total.sum(), total / total.sum()
    # The dataset's count of each item minus what its share of all occurrences predicts, in every permutation.
    deviation = own - p * own.sum(1, keepdims=True)
    # The same as a sum over prompts, whose spread is the variance: Σ (residual − p · size)², multiplied out.
    per_own, per_other = compared.by_prompt(counted.counts)
    weight = float(own[0].sum() / n)
    residual = ((1 - weight) * per_own - weight * per_other).tocsr()
    size = residual.sum(1)
    variance = residual.power(2).sum(0) - 2 * p * (residual.T @ size) + p**2 * (size**2).sum()
    z = np.divide(deviation[0], np.sqrt(variance.clip(min=ROUNDING)), out=np.full(len(p), np.nan), where=variance > ROUNDING)
    # The size of the difference: log-ratio of the two smoothed shares.
    smoothed = [np.log((count + smoothing) / (count.sum() + smoothing * len(p))) for count in (own[0], total - own[0])]
    ratio = smoothed[0] - smoothed[1]
    return {"own": own[0], "control": total - own[0], "log_ratio": ratio, "z": z, "presence": present(deviation)}


def present(deviation: Float[np.ndarray, "n_arrangements n_items"]) -> dict[str, float] | None:
    """Test whether a dataset differs at all, from items' `deviation` from their shares, observed and permuted.

    `mean_z2`: the mean over items of the squared deviation, each divided by its mean over all arrangements; `null`: its mean
    over permutations; and `p`. The observed arrangement is part of that divisor, and none has a divisor of its own, so under
    the null all are alike, whatever the two sizes. None if no permutation changes any count.
    """
    varies = np.ptp(deviation, axis=0) > ROUNDING
    if not varies.any():
        return None
    squares = deviation[:, varies] ** 2
    statistic = (squares / squares.mean(0)).mean(1)
    return {
        "mean_z2": float(statistic[0]),
        "null": float(statistic[1:].mean()),
        "p": float(p_value(statistic[0], statistic[1:])),
    }


def correlations(
    y: Float[np.ndarray, "n n_items"],
    weight: Float[np.ndarray, " n_items"],
    context: Int[np.ndarray, " n_items"],
    token: Int[np.ndarray, " n_items"],
    scores: Float[np.ndarray, "n_tokens n_scores"],
) -> Float[np.ndarray, "n n_scores"]:
    """Return the weighted correlation of each of the n `y` with each column of `scores`.

    Item i has the token `token[i]`; both sides are centred within each item's context. 0 if either does not vary.
    """
    # Centre y: from each item, subtract the weighted mean of its context.
    items = np.arange(len(weight))
    into = sparse.coo_array((weight, (context, items)), shape=(context.max() + 1, len(items))).tocsr()
    heavy = into.sum(1)
    y = y - ((into @ y.T).T / heavy)[:, context]
    # Σ w y s, tokens first. As y is centred, the scores need not be.
    by_token = sparse.coo_array((weight, (token, items)), shape=(len(scores), len(items))).tocsr()
    shared = (by_token @ y.T).T @ scores
    # The weighted mean score of each context, by context and token, so that no matrix of items by scores is ever made.
    mean = sparse.coo_array((weight, (context, token)), shape=(len(heavy), len(scores))).tocsr() @ scores / heavy[:, None]
    # Σ w s² less the contexts' means: the spread of the centred scores; 0 where it is rounding.
    spread = by_token.sum(1) @ scores**2 - heavy @ mean**2
    spread = np.where(spread > 1e-9 * (by_token.sum(1) @ scores**2), spread, 0)
    norm = np.sqrt(np.outer((weight * y**2).sum(1), spread))
    return np.divide(shared, norm, out=np.zeros_like(shared), where=norm > 0)


def difference(
    values: Float[np.ndarray, " n_rows *figures"], own: Bool[np.ndarray, " n_rows"], prompt: Int[np.ndarray, " n_rows"]
) -> tuple[Float[np.ndarray, "*figures"], Float[np.ndarray, "*figures"]]:
    """Return the mean of own rows minus that of the others, and its standard error with prompts as clusters."""
    # What each row adds to the difference beyond what a row at its side's mean would.
    means = [values[side].mean(0) for side in (own, ~own)]
    influence = np.zeros_like(values)
    for side, mean, sign in ((own, means[0], 1), (~own, means[1], -1)):
        influence[side] = sign * (values[side] - mean) / side.sum()
    # Rows of one prompt are added before they are squared; G / (G − 1) for G prompts.
    _, cluster = np.unique(prompt, return_inverse=True)
    sums = np.zeros((cluster.max() + 1, *values.shape[1:]))
    np.add.at(sums, cluster, influence)
    return means[0] - means[1], np.sqrt((sums**2).sum(0) * len(sums) / max(1, len(sums) - 1))
