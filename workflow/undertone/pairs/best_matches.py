"""Matches between the features of two SAEs: chosen on one half of the text, scored on the other, compared with chance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from undertone.pairs.correlations import Activity, correlations
from undertone.runtime.progress import progress
from undertone.stats.stats import p_value
from undertone.study.config.pair_settings import MOST_ONE_TO_ONE, Matches

# Ways to choose pairs: the best b for each a, the best a for each b, pairs that are both, and one to one at greatest total r.
WAYS = ("best_a", "best_b", "mutual", "one")
# A match is compared with null matches of features that fire about as often: those whose rarer feature is in the same of these
# bins of counts.
BINS = (0, 20, 100, 500, 2_500)
# If chance reaches a match's correlation given the token more often than this, the match says nothing that tokens do not.
LEVEL = 0.05
Pairs = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]


@dataclass(frozen=True)
class Halves:
    """Two SAEs' features on each half of the contexts, and the tokens at which the contexts of a half begin."""

    a: tuple[Activity, Activity]
    b: tuple[Activity, Activity]
    begin: tuple[Int[np.ndarray, " n_contexts"], Int[np.ndarray, " n_contexts"]]

    @classmethod
    def of(cls, a: csr_array, b: csr_array, row: Int[np.ndarray, " n"], word: Int[np.ndarray, " n"]) -> "Halves":
        """Split the contexts by parity; the tokens must be in the order of the contexts."""
        halves = [np.flatnonzero(row % 2 == half) for half in (0, 1)]
        sides = [[Activity.of(acts[half], word[half]) for half in halves] for acts in (a, b)]
        begins = [np.unique(row[half], return_index=True)[1] for half in halves]
        return cls((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]), (begins[0], begins[1]))

    def shifted(self, rng: np.random.Generator) -> "Halves":
        """Shift the second side's features by a random number of contexts, at least a tenth of all."""
        first, second = (side.shifted(shift_of(begin, rng)) for side, begin in zip(self.b, self.begin, strict=True))
        return Halves(self.a, (first, second), self.begin)


def shift_of(begin: Int[np.ndarray, " n_contexts"], rng: np.random.Generator) -> int:
    """Return the number of tokens in a random number of contexts, at least a tenth of all; `begin` is where contexts begin."""
    least = max(1, len(begin) // 10)
    return int(begin[rng.integers(least, max(least + 1, len(begin) - least))])


def matched(halves: Halves, settings: Matches) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return every pair that any way chooses, and the pairs chosen in shifted text, which are the null.

    Columns: `a`, `b`, `way`, `half0_r` (used for the choice), `r` and `r_token` (on the other half), counts, `p` against pairs
    of shifted text that fire as often, `p_token` and `r_token_null95` of the same pair with its features exchanged among equal
    tokens, `p_a_given_b` and `p_b_given_a`.
    """
    count_a, count_b = (counts(*side) for side in (halves.a, halves.b))
    rng = np.random.default_rng(settings.seed)
    by_chance = []
    with progress(settings.shifts, "shifted text", "shift") as bar:
        for shift in range(settings.shifts):
            drawn = scored(halves.shifted(rng), count_a, count_b, ("best_a", "best_b"))
            by_chance.append(drawn.with_columns(shift=pl.lit(shift)))
            bar.update()
    null = pl.concat(by_chance)
    table = scored(halves, count_a, count_b, WAYS)
    p_token, high = given_token(halves, table, settings.shuffles, rng)
    both, either = conditional(halves, table)
    table = table.with_columns(p=against(table, null), p_token=p_token, r_token_null95=high)
    return table.with_columns(p_a_given_b=both, p_b_given_a=either), null


def given_token(halves: Halves, table: pl.DataFrame, shuffles: int, rng: np.random.Generator) -> tuple[pl.Series, pl.Series]:
    """Return the p-value of each pair's correlation given the token, and the .95 quantile of its null.

    The null exchanges features among the places of the same token. So each pair has a null of its own, in which both features
    still fire on the same tokens.
    """
    a, b = table["a"].to_numpy(), table["b"].to_numpy()
    null = np.zeros((shuffles, len(table)))
    with progress(shuffles, "features exchanged", "draw") as bar:
        for drawn in null:
            drawn[:] = np.nan_to_num(correlations(halves.a[1], halves.b[1].exchanged(rng))[1][a, b])
            bar.update()
    seen = table["r_token"].fill_null(-1).to_numpy()
    p = (1 + (null >= seen - 1e-9).sum(0)) / (1 + shuffles)
    return pl.Series(p), pl.Series(np.quantile(null, 0.95, axis=0))


def counts(first: Activity, second: Activity) -> Int[np.ndarray, " d_sae"]:
    """Count the tokens of both halves on which each feature is active."""
    return np.asarray((first.acts > 0).sum(0) + (second.acts > 0).sum(0)).astype(np.int64)


def scored(
    halves: Halves, count_a: Int[np.ndarray, " d_a"], count_b: Int[np.ndarray, " d_b"], ways: tuple[str, ...]
) -> pl.DataFrame:
    """Choose pairs on half 0, and return them with their correlations on half 1."""
    chosen_by, _ = correlations(halves.a[0], halves.b[0])
    r, r_token = correlations(halves.a[1], halves.b[1])
    tables = []
    for way, (a, b) in chosen(chosen_by, ways):
        values = {"half0_r": chosen_by[a, b], "r": r[a, b], "r_token": r_token[a, b]}
        own = {"a": a, "b": b, "count_a": count_a[a], "count_b": count_b[b]}
        tables.append(pl.DataFrame({**own, **values}).with_columns(way=pl.lit(way)))
    return pl.concat(tables).with_columns(pl.col("half0_r", "r", "r_token").fill_nan(None))


def chosen(r: Float[np.ndarray, "d_a d_b"], ways: tuple[str, ...]) -> Iterator[tuple[str, Pairs]]:
    """Yield the pairs that each way chooses among features that are not constant.

    The way `one` is left out if either SAE has more than `MOST_ONE_TO_ONE` features.
    """
    filled = np.where(np.isnan(r), -2, r)
    some_a, some_b = (np.flatnonzero((filled > -2).any(axis)) for axis in (1, 0))
    best_b, best_a = filled.argmax(1), filled.argmax(0)
    for way in ways:
        if way == "best_a":
            yield way, (some_a, best_b[some_a])
        elif way == "best_b":
            yield way, (best_a[some_b], some_b)
        elif way == "mutual":
            mutual = some_a[best_a[best_b[some_a]] == some_a]
            yield way, (mutual, best_b[mutual])
        elif max(r.shape) <= MOST_ONE_TO_ONE:
            rows, columns = linear_sum_assignment(-filled[np.ix_(some_a, some_b)])
            yield way, (some_a[rows], some_b[columns])


def against(table: pl.DataFrame, null: pl.DataFrame) -> pl.Series:
    """Return the p-value of each pair's r among the pairs of shifted text whose rarer feature fires about as often."""
    own, other = (bins(each) for each in (table, null))
    values, chance = (each["r"].fill_null(0).to_numpy() for each in (table, null))
    p = np.ones(len(table))
    for number in range(len(BINS)):
        of_bin, beside = own == number, chance[other == number]
        p[of_bin] = p_value(values[of_bin], beside if len(beside) else chance)
    return pl.Series(p)


def bins(table: pl.DataFrame) -> Int[np.ndarray, " n"]:
    """The bin of each pair's rarer feature."""
    rarer = table.select(pl.min_horizontal("count_a", "count_b")).to_series().to_numpy()
    return np.searchsorted(BINS, rarer, side="right") - 1


def conditional(halves: Halves, table: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Return P(a active | b active) and the reverse, on half 1; null if the condition is never active there.

    If one is high and the other low, one feature covers more than the other: a partial match.
    """
    a, b = (csr_array(side[1].acts > 0, dtype=np.float64) for side in (halves.a, halves.b))
    together = (a.T @ b).toarray()[table["a"].to_numpy(), table["b"].to_numpy()]
    alone = [np.asarray(side.sum(0))[table[name].to_numpy()] for side, name in ((b, "b"), (a, "a"))]
    shares = [np.divide(together, n, out=np.full(len(n), np.nan), where=n > 0) for n in alone]
    first, second = (pl.Series(share).fill_nan(None) for share in shares)
    return first, second


def trivial(
    table: pl.DataFrame,
    density: tuple[Float[np.ndarray, " d_a"], Float[np.ndarray, " d_b"]],
    junk: tuple[Float[np.ndarray, " d_a"], Float[np.ndarray, " d_b"]],
    settings: Matches,
) -> pl.Series:
    """Return why a match says little, or null: `rare`, `dense`, `junk`, or `token` (given the token, no better than chance)."""

    def either(values: tuple[Float[np.ndarray, " d_a"], Float[np.ndarray, " d_b"]], most: float) -> Bool[np.ndarray, " n"]:
        return np.maximum(*(of[table[name].to_numpy()] for name, of in zip("ab", values, strict=True))) > most

    reasons: dict[str, Bool[np.ndarray, " n"]] = {
        "rare": table.select(pl.min_horizontal("count_a", "count_b") < settings.min_count).to_series().to_numpy(),
        "dense": either(density, settings.max_density),
        "junk": either(junk, settings.max_junk),
        "token": (table["p_token"] > LEVEL).to_numpy() | table["r_token"].is_null().to_numpy(),
    }
    why: list[str | None] = [None] * len(table)
    for reason, holds in reasons.items():
        why = [given or (reason if here else None) for given, here in zip(why, holds.tolist(), strict=True)]
    return pl.Series(why, dtype=pl.String)
