"""Frequencies of numbers and tokens in a dataset beside those of a reference, and what chance would make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
from scipy import sparse
from transformers import PreTrainedTokenizerBase

from undertone.chat import encode
from undertone.numbers import INTEGER
from undertone.stats import p_value

PERMUTATIONS = 400
SEED = 0


def halves(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of every other prompt, and the rest: a prompt's rows, in whatever dataset, are in the same half."""
    odd = pl.Series([crc32(prompt.encode()) % 2 == 1 for prompt in rows["prompt"]], dtype=pl.Boolean)
    return rows.filter(odd), rows.filter(~odd)


@dataclass(frozen=True)
class Counted:
    """Occurrences of items by row: `counts` `[n_rows, n_items]`, the items' names, and the context `[n_items]` each is in."""

    counts: sparse.csr_array
    names: list[Any]
    context: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], contexts: Sequence[Any] | None = None) -> "Counted":
        """Count each row's items; where every row has a context, an item counts for itself in each context."""
        places = [0] * len(rows) if contexts is None else contexts
        pairs = [(place, item) for place, row in zip(places, rows, strict=True) for item in row]
        found = {pair: k for k, pair in enumerate(sorted(set(pairs)))}
        numbers = {place: k for k, place in enumerate(dict.fromkeys(place for place, _ in found))}
        where = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        what = [found[pair] for pair in pairs]
        counts = sparse.coo_array((np.ones(len(pairs)), (where, what)), shape=(len(rows), len(found))).tocsr()
        return cls(counts, [item for _, item in found], np.array([numbers[place] for place, _ in found], dtype=int))


class Compared:
    """Rows of a dataset and of its reference, told apart by `own` `[n_rows]`; `prompt` `[n_rows]` numbers their prompts.

    Numbers of one row depend on each other, and so may two rows of one prompt: every variance and every permutation is over
    prompts. Raises ValueError where either has no row or no number.
    """

    def __init__(self, own: pl.DataFrame, control: pl.DataFrame, what: str):
        for name, rows in (("the dataset", own), ("its reference", control)):
            if not any(INTEGER.search(text) for text in rows["completion"]):
                raise ValueError(f"{what}: {name} has {len(rows)} rows and no number in them; expected lists of numbers")
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
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Which prompts both have `[n_prompts]`; by prompt 1 or -1 `[1 + PERMUTATIONS, n_prompts]`, as it is and permuted.

        Of a shared prompt, -1 says that the two have changed rows; of any other, that its rows are the reference's.
        """
        has_own, has_other = (np.bincount(self.prompt[side], minlength=self.n_prompts) > 0 for side in (self.own, ~self.own))
        shared = has_own & has_other
        labels = np.tile(np.where(has_own, 1.0, -1.0), (1 + PERMUTATIONS, 1))
        rng = np.random.default_rng(SEED)
        labels[1:, shared] = rng.choice([-1.0, 1.0], size=(PERMUTATIONS, int(shared.sum())))
        labels[1:, ~shared] = rng.permuted(labels[1:, ~shared], axis=1)
        return shared, labels

    def own_counts(self, counts: sparse.csr_array) -> np.ndarray:
        """The dataset's count of every item `[1 + PERMUTATIONS, n_items]`: as it is, then with labels permuted."""
        own, other = self.by_prompt(counts)
        shared, labels = self.sides
        # Half the sum of the counts, plus or minus half of these, is what the dataset has.
        moved = sparse.diags_array(np.where(shared, 1.0, 0.0)) @ (own - other)
        moved += sparse.diags_array(np.where(shared, 0.0, 1.0)) @ (own + other)
        return (counts.sum(0) + (moved.T.tocsr() @ labels.T).T) / 2

    def numbers(self) -> Counted:
        """The integers of every completion."""
        return Counted.of([[int(text) for text in INTEGER.findall(completion)] for completion in self.completions])

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> Counted:
        """The tokens of every completion."""
        return Counted.of(encode(tokenizer, self.completions))

    def first_tokens(self, tokenizer: PreTrainedTokenizerBase) -> Counted:
        """The first token of every completion, whose context is the prompt alone."""
        return Counted.of([ids[:1] for ids in encode(tokenizer, self.completions)])

    def in_context(self, tokenizer: PreTrainedTokenizerBase, min_count: int) -> dict[str, Counted]:
        """`pairs`: the token that begins the second number, by first number, for those that begin at least `min_count` rows of
        the dataset and of the reference. `pooled`: the number tokens of the completions, wherever they stand.
        """
        numeric = number_tokens(tokenizer)
        pooled = [[token for token in ids if numeric[token]] for ids in encode(tokenizer, self.completions)]
        firsts = [match[0] if (match := INTEGER.search(text)) else None for text in self.completions]
        own, other = (
            dict(zip(*np.unique([f for f, s in zip(firsts, side, strict=True) if s and f], return_counts=True), strict=True))
            for side in (self.own, ~self.own)
        )
        often = {first for first in own if min(own[first], other.get(first, 0)) >= min_count}
        seconds = second_tokens(tokenizer, self.completions)
        rows = [second if first in often else [] for first, second in zip(firsts, seconds, strict=True)]
        return {"pairs": Counted.of(rows, [first or "" for first in firsts]), "pooled": Counted.of(pooled)}


def number_tokens(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """`[vocab]`: the tokens that are a number or a digit, white space aside."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], skip_special_tokens=True)
    return np.array([bool(INTEGER.fullmatch(text.strip())) for text in texts])


def second_tokens(tokenizer: PreTrainedTokenizerBase, completions: Sequence[str]) -> list[list[int]]:
    """For each completion the token that holds the first digit of its second number; none where there is no such number."""
    encoded = tokenizer(list(completions), add_special_tokens=False, return_offsets_mapping=True)
    found = []
    for text, ids, offsets in zip(completions, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        starts = [match.start() for match in INTEGER.finditer(text)][1:2]
        found.append([token for token, (a, b) in zip(ids, offsets, strict=True) if starts and a <= starts[0] < b][:1])
    return found


def log_ratio(own: np.ndarray, total: np.ndarray, smoothing: float) -> np.ndarray:
    """Logarithm of own counts over the others of `total`, both smoothed; a constant aside, that of the ratio of shares."""
    return np.log(own + smoothing) - np.log(total - own + smoothing)


def precision(total: np.ndarray, share: float, smoothing: float) -> np.ndarray:
    """Inverse variance of `log_ratio` of Poisson counts, at the counts expected if only a `share` of all rows told them apart.

    It does not look at which of the two datasets an item is in, so that it is the same for every permutation.
    """
    return 1 / (1 / (share * total + smoothing) + 1 / ((1 - share) * total + smoothing))


def frequency(compared: Compared, counted: Counted, smoothing: float) -> dict[str, Any]:
    """`own`, `control`, `log_ratio` and `z` of every item, each `[n_items]`, and `presence`.

    `z` tests whether the item's share of all occurrences is the same in both. With p its pooled share, a row that has x of it
    among m items has the residual x − p m, weighted by the other dataset's share of all occurrences; residuals of one
    prompt are added, and the squares of these sums are the variance. `presence`: `mean_z2`, the mean of z², beside its
    mean over permutations (`null`), and `p`.
    """
    own, total = compared.own_counts(counted.counts), counted.counts.sum(0)
    n, p = total.sum(), total / total.sum()
    n_own = own.sum(1, keepdims=True)
    per_own, per_other = compared.by_prompt(counted.counts)
    weight = float(n_own[0, 0] / n)
    residual = ((1 - weight) * per_own - weight * per_other).tocsr()
    size = residual.sum(1)
    variance = residual.power(2).sum(0) - 2 * p * (residual.T @ size) + p**2 * (size**2).sum()
    informative = variance > 1e-9
    deviation = (own - p * n_own)[:, informative]
    squares = (deviation**2 / variance[informative]).mean(1) if informative.any() else np.zeros(len(own))
    z = np.full(len(p), np.nan)
    z[informative] = deviation[0] / np.sqrt(variance[informative])
    smoothed = [np.log((count + smoothing) / (count.sum() + smoothing * len(p))) for count in (own[0], total - own[0])]
    presence = {"mean_z2": float(squares[0]), "null": float(squares[1:].mean()), "p": float(p_value(squares[0], squares[1:]))}
    return {"own": own[0], "control": total - own[0], "log_ratio": smoothed[0] - smoothed[1], "z": z, "presence": presence}


def correlations(y: np.ndarray, weight: np.ndarray, context: np.ndarray, token: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Weighted correlation `[n, n_scores]` of each `y` `[n, n_items]` with each column of `scores` `[n_tokens, n_scores]`.

    Item i is of token `token[i]`; both sides are centred within each item's context. 0 where either does not vary.
    """
    items = np.arange(len(weight))
    into = sparse.coo_array((weight, (context, items)), shape=(context.max() + 1, len(items))).tocsr()
    heavy = into.sum(1)
    y = y - ((into @ y.T).T / heavy)[:, context]
    by_token = sparse.coo_array((weight, (token, items)), shape=(len(scores), len(items))).tocsr()
    shared = (by_token @ y.T).T @ scores
    # By context and token, so that no matrix of items by scores is ever made.
    mean = sparse.coo_array((weight, (context, token)), shape=(len(heavy), len(scores))).tocsr() @ scores / heavy[:, None]
    spread = by_token.sum(1) @ scores**2 - heavy @ mean**2
    spread = np.where(spread > 1e-9 * (by_token.sum(1) @ scores**2), spread, 0)
    norm = np.sqrt(np.outer((weight * y**2).sum(1), spread))
    return np.divide(shared, norm, out=np.zeros_like(shared), where=norm > 0)


def difference(values: np.ndarray, own: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of own rows of `values` `[n_rows, …]` minus that of the others, and its standard error with prompts as clusters."""
    means = [values[side].mean(0) for side in (own, ~own)]
    influence = np.zeros_like(values)
    for side, mean, sign in ((own, means[0], 1), (~own, means[1], -1)):
        influence[side] = sign * (values[side] - mean) / side.sum()
    _, cluster = np.unique(prompt, return_inverse=True)
    sums = np.zeros((cluster.max() + 1, *values.shape[1:]))
    np.add.at(sums, cluster, influence)
    return means[0] - means[1], np.sqrt((sums**2).sum(0) * len(sums) / max(1, len(sums) - 1))
