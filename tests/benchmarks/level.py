"""How often the tests of `tokens.json` find a difference where there is none, and where a small one is planted.

python tests/benchmarks/level.py --draws 400

Rows are lists of numbers, half of them the same for all rows of a prompt, so that rows of one prompt depend on each other.
Under the null both datasets are drawn from one distribution; the planted shift changes the log-odds of every number in one of
them.
"""

import argparse
from itertools import product

import numpy as np
import polars as pl

from undertone.data.numbers import INTEGER
from undertone.read.frequencies import Compared, Counted, frequency
from undertone.runtime.progress import progress
from undertone.study.config.read import Tokens

SIZES = {"1:1": (500, 500), "1:4": (250, 1000), "1:20": (100, 2000), "20:1": (2000, 100)}
PROMPTS = ("shared", "apart", "shared, 5 rows each of the smaller")
NUMBERS, PER_ROW = np.arange(100, 1000), 8
LEVEL, MIN_PROBABILITY, MOST = 0.05, 0.02, 0.08


def dataset(rng: np.random.Generator, prompts: np.ndarray, seeds: int, shift: float) -> pl.DataFrame:
    """A row for each of `prompts` `[n_rows]`; prompts of one number have the same half of their numbers in all datasets."""
    base, change = np.random.default_rng(0).normal(size=(2, len(NUMBERS)))
    odds = np.exp(base + shift * change)
    drawn = rng.choice(NUMBERS, size=(len(prompts), PER_ROW), p=odds / odds.sum())
    drawn[:, 1::2] = np.random.default_rng(seeds).choice(NUMBERS, size=(int(prompts.max()) + 1, PER_ROW // 2))[prompts]
    return pl.DataFrame({"prompt": [f"prompt {k}" for k in prompts], "completion": [", ".join(map(str, row)) for row in drawn]})


def pair(rng: np.random.Generator, sizes: tuple[int, int], prompts: str, shift: float) -> Compared:
    """A dataset and its reference."""
    own, control = (np.arange(n) for n in sizes)
    if prompts == "apart":
        control = control + len(own)
    if prompts.endswith("of the smaller"):
        small = own if len(own) <= len(control) else control
        small //= 5
    seeds = int(rng.integers(2**31))
    return Compared(dataset(rng, own, seeds, shift), dataset(rng, control, seeds, 0), "level", Tokens())


def p_values(compared: Compared) -> dict[str, float]:
    """The p-value of presence, of all numbers and of every row's first."""
    first = Counted.of([INTEGER.findall(text)[:1] for text in compared.completions])
    found = {"numbers": compared.numbers(), "first": first}
    return {name: frequency(compared, counted, 0.5)["presence"]["p"] for name, counted in found.items()}


def share(told: argparse.Namespace, sizes: tuple[int, int], prompts: str, shift: float, draws: int) -> dict[str, float]:
    """The share of draws in which each p-value is below the level."""
    hits: dict[str, int] = {}
    for draw in range(draws):
        rng = np.random.default_rng((told.seed, draw, bool(shift), *sizes, PROMPTS.index(prompts)))
        for name, p in p_values(pair(rng, sizes, prompts, shift)).items():
            hits[name] = hits.get(name, 0) + (p < LEVEL)
    return {name: n / draws for name, n in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="null datasets of each cell")
    parser.add_argument("--shifted", type=int, default=40, help="datasets of each cell with the shift planted")
    parser.add_argument("--shift", type=float, default=1.0, help="standard deviation of the change of log-odds that is planted")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    cells = list(product(SIZES, PROMPTS))
    print("| own : control | rows | prompts | numbers | first numbers | within | shift: numbers | shift: first numbers |")
    print("|---|---|---|---|---|---|---|---|")
    with progress(len(cells), "level", "cell") as bar:
        for size, prompts in cells:
            null = share(told, SIZES[size], prompts, 0.0, told.draws)
            found = share(told, SIZES[size], prompts, told.shift, told.shifted)
            within = "yes" if all(MIN_PROBABILITY <= share <= MOST for share in null.values()) else "no"
            shares = [*(f"{x:.3f}" for x in null.values()), within, *(f"{x:.2f}" for x in found.values())]
            print("| " + " | ".join([size, "{} : {}".format(*SIZES[size]), prompts, *shares]) + " |", flush=True)
            bar.update()


if __name__ == "__main__":
    main()
