"""Which features of two SAEs match, and how well compared with chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.sparse import csr_array

from undertone.pairs.activity import Side, features, read_sides
from undertone.pairs.best_matches import WAYS, Halves, matched, trivial
from undertone.pairs.fired_on import FiredOn, fired_on
from undertone.pairs.headlines import SHARED, headlines
from undertone.pairs.neuron_matches import neuron_matches
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.saes.cautions import MOST_DEAD
from undertone.saes.decoder import directions
from undertone.saes.plain_activations import quality_of_samples
from undertone.study.config.pair_settings import Matches

# For a figure: pairs of each kind, meaningful and trivial, whose activations are written, and tokens of each pair.
DRAWN, POINTS = 4, 300


def make_matches(
    models: Sequence[Path],
    saes: Sequence[Path],
    texts: Sequence[Path],
    matches: Path,
    points: Path,
    summary: Path,
    settings: Matches,
    stamp: Stamp,
) -> str:
    """Write every match (`matches`), activations of some of them (`points`) and a summary; returns a line for the log.

    `models`, `saes` and `texts` are those of the two sides. Raises ValueError for an SAE whose features have no fixed
    directions.
    """
    aligned, a, b, outliers = read_sides(models, saes, texts, settings.tokens, settings.max_norm)
    acts = (features(a), features(b))
    halves = Halves.of(*acts, aligned.row, aligned.word)
    table, null = matched(halves, settings)
    about = [fired_on(side.loaded, aligned, k, some) for k, (side, some) in enumerate(zip((a, b), acts, strict=True))]
    density = tuple(np.asarray((side > 0).sum(0)) / side.shape[0] for side in acts)
    table = table.with_columns(trivial=trivial(table, (density[0], density[1]), (about[0].junk, about[1].junk), settings))
    table = beside_weights(table, a, b, same_model=models[0] == models[1])
    table = table.with_columns(tokens_a=named(about[0], table["a"]), tokens_b=named(about[1], table["b"])).sort(
        "way", "r", descending=[False, True], nulls_last=True
    )
    seen = [quality_of_samples(side.sae, torch.from_numpy(side.residuals)) for side in (a, b)]
    body = {
        "tokens": len(aligned.row),
        "aligned": aligned.share,
        "outliers": outliers,
        "same_model": models[0] == models[1],
        "identity": saes[0] == saes[1],
        "a": {"model": read_json(models[0])["name"], "layer": a.layer, **seen[0]},
        "b": {"model": read_json(models[1])["name"], "layer": b.layer, **seen[1]},
        "warnings": [line for name, of in zip("ab", seen, strict=True) for line in warnings(name, of)],
        "counts": {way: reasons(table.filter(way=way)) for way in WAYS},
        "headline": {way: headlines(table.filter(way=way), null, settings) for way in WAYS},
        "neurons": neuron_matches(a, b, aligned, settings),
    }
    write_parquet(matches, table, stamp)
    write_parquet(points, drawn(table, acts, settings.seed), stamp)
    write_json(summary, body, stamp)
    return line(body)


def beside_weights(table: pl.DataFrame, a: Side, b: Side, same_model: bool) -> pl.DataFrame:
    """Add cosines of decoder rows and encoder columns, and whether both exceed .7; null for two models, which share no axes."""
    columns = ("decoder_cosine", "encoder_cosine")
    if not same_model:
        empty = [pl.lit(None, dtype=pl.Float64).alias(name) for name in columns]
        return table.with_columns(*empty, shared=pl.lit(None, dtype=pl.Boolean))
    weights = ([directions(side.sae) for side in (a, b)], [side.sae.W_enc.T.float() for side in (a, b)])
    cosines = {name: pair_cosines(sides[0], sides[1], table) for name, sides in zip(columns, weights, strict=True)}
    both = np.minimum(*cosines.values())
    return table.with_columns(**{name: pl.Series(values) for name, values in cosines.items()}, shared=pl.Series(both > SHARED))


def pair_cosines(
    x: Float[torch.Tensor, "n_a d"], y: Float[torch.Tensor, "n_b d"], table: pl.DataFrame
) -> Float[np.ndarray, " n"]:
    """Return the cosine of each pair's rows."""
    unit = [torch.nn.functional.normalize(side.double().cpu(), dim=-1) for side in (x, y)]
    return (unit[0][table["a"].to_numpy()] * unit[1][table["b"].to_numpy()]).sum(-1).numpy()


def named(about: FiredOn, numbers: pl.Series) -> pl.Series:
    """Return the texts of the tokens with most of each feature's activation."""
    return pl.Series([about.tokens[number] for number in numbers], dtype=pl.List(pl.String))


def warnings(name: str, quality: dict[str, Any]) -> list[str]:
    """Return warnings about an SAE whose matches say little."""
    said = []
    if quality["dead"] > MOST_DEAD * quality["features"]:
        said.append(f"SAE {name}: {quality['dead']} of {quality['features']} features are dead on these tokens")
    if quality["explained_variance"] < quality["pca"]:
        said.append(
            f"SAE {name} explains {quality['explained_variance']:.0%} of the variance, and as many principal components as "
            f"features are active {quality['pca']:.0%}"
        )
    return said


def reasons(table: pl.DataFrame) -> dict[str, int]:
    """Count all pairs, and the trivial ones by reason."""
    counted = dict(table["trivial"].drop_nulls().value_counts().iter_rows())
    return {"pairs": len(table), **{reason: int(counted.get(reason, 0)) for reason in ("rare", "dense", "junk", "token")}}


def drawn(table: pl.DataFrame, acts: tuple[csr_array, csr_array], seed: int) -> pl.DataFrame:
    """Return activations of the best one-to-one matches, meaningful and trivial, on tokens where either feature is active.

    For SAEs too wide for one-to-one matches, mutual matches are taken. `only_a`, `only_b` and `both` count the tokens on which
    only one or both are active.
    """
    one = table.filter(way="one" if "one" in table["way"] else "mutual")
    parts = []
    for kind, some in (("meaningful", one.filter(pl.col("trivial").is_null())), ("trivial", one.drop_nulls("trivial"))):
        for a, b in some.drop_nulls("r").head(DRAWN).select("a", "b").iter_rows():
            x, y = (side[:, [k]].toarray()[:, 0] for side, k in zip(acts, (a, b), strict=True))
            active = np.flatnonzero((x > 0) | (y > 0))
            shown = np.random.default_rng(seed).permutation(active)[:POINTS]
            number = {
                "only_a": ((x > 0) & (y == 0)).sum(),
                "only_b": ((x == 0) & (y > 0)).sum(),
                "both": ((x > 0) & (y > 0)).sum(),
            }
            part = pl.DataFrame({"act_a": x[shown], "act_b": y[shown]})
            own = {"kind": kind, "a": a, "b": b, **{name: int(n) for name, n in number.items()}}
            parts.append(part.with_columns(**{name: pl.lit(value) for name, value in own.items()}))
    if not parts:
        raise ConfigError("no feature of either SAE is active on enough tokens for a match; set matches.tokens higher")
    return pl.concat(parts)


def line(body: dict[str, Any]) -> str:
    """Describe the matches in a line for the log."""
    way, name = ("one", "one to one") if body["counts"]["one"]["pairs"] else ("mutual", "with one another")
    one, n = body["headline"][way], body["counts"][way]["pairs"]
    best, chance = one["meaningful"]["r"], one["by_chance"]["frequent"]["median"]
    said = f"of {one['meaningful']['n']} that are not trivial r is {best['median']:.2f}" if best else "all are trivial"
    beside = "" if chance is None else f", of shifted text {chance:.2f}"
    return f"{n} features matched {name} on {body['tokens']:,} tokens; {said}{beside}"
