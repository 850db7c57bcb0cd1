"""How alike the decoders of two SAEs are once their features are matched, whatever axes either model has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from undertone.lab.held import features_with_concepts
from undertone.models.concepts import read_concepts
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.saes.decoder import directions
from undertone.saes.saved import read_sae
from undertone.stats.partners import unit
from undertone.stats.similarities import beside_random_sets, similarities
from undertone.study.config.pair_settings import Similarity

# Fewer pairs than this span no space that could be compared.
LEAST = 30
# Of more pairs than this, fewer shuffles are tried: each looks at every pair of pairs.
MANY, SHUFFLES = 2_000, 200
Rows = Float[np.ndarray, "n d_model"]


def make_similarity(
    saes: Sequence[Path],
    matches: Path,
    summary: Path,
    units: Path,
    concepts: Path,
    similarity: Path,
    settings: Similarity,
    stamp: Stamp,
) -> str:
    """Write how alike the decoder rows of matched features lie, beside shuffled matches; returns a line for the log.

    Taken are the matches that are not trivial: `one`, one to one, and `best`, each feature's of b with its best of a, which may
    be the same for several and then looks more alike than it is. Where there are fewer than 30 nothing is said. `concepts` are
    the matches one to one of features of a whose best concept (`units`, by `specificity`) is of one kind, also beside as many
    others. Raises ConfigError if the file of concepts is none.
    """
    table, body = read_parquet(matches), read_json(summary)
    rows = [unit_rows(sae) for sae in saes]
    spaces = {name: space(matched(table, way), rows, settings) for name, way in (("one", "one"), ("best", "best_b"))}
    kinds = {name: each.group for name, each in read_concepts(concepts, "specificity.concepts").items() if each.group}
    of_kinds = by_kind(matched(table, "one"), rows, kinds_of(features_with_concepts(units), kinds), settings)
    kept = {
        key: body[key]
        for key in ("tokens", "aligned", "same_model", "identity", "a", "b", "warnings", "counts", "headline", "neurons")
    }
    write_json(similarity, {**kept, "spaces": spaces, "concepts": of_kinds}, stamp)
    values = spaces["one"]["measures"]
    if values is None:
        return (
            f"{spaces['one']['pairs']} matches are not trivial, expected {LEAST}: nothing is said of how alike the spaces are"
        )
    said = (
        f"{name} {of['value']:.2f} (shuffled {of['null_mean']:.2f})" for name, of in values.items() if of["value"] is not None
    )
    return ", ".join(said)


def unit_rows(sae: Path) -> Rows:
    """What each feature of an SAE adds to the residual stream, at unit length."""
    record = read_json(sae)
    folder = Path(record["folder"]) if record["source"] == "folder" else sae.parent
    return unit(directions(read_sae(folder)).double().numpy())


def matched(table: pl.DataFrame, way: str) -> pl.DataFrame:
    """The matches of a way that are not trivial."""
    return table.filter(pl.col("trivial").is_null(), way=way)


def space(kept: pl.DataFrame, rows: Sequence[Rows], settings: Similarity) -> dict[str, Any]:
    """The similarities of matched features, and of how many."""
    if len(kept) < LEAST:
        return {"pairs": len(kept), "measures": None}
    x, y = clouds(kept, rows)
    permutations = settings.permutations if len(kept) <= MANY else min(SHUFFLES, settings.permutations)
    return {"pairs": len(kept), "measures": similarities(x, y, settings.k, settings.variance, permutations, settings.seed)}


def clouds(kept: pl.DataFrame, rows: Sequence[Rows]) -> list[Float[np.ndarray, "n_pairs _"]]:
    """The decoder rows of matched features of either side."""
    return [side[kept[name].to_numpy()] for side, name in zip(rows, "ab", strict=True)]


def kinds_of(features: pl.DataFrame, kinds: Mapping[str, str]) -> dict[int, str]:
    """Of which kind the concept is that a feature holds, of those that hold one of a kind."""
    return {unit: kinds[concept] for unit, concept in features.select("unit", "concept").iter_rows() if concept in kinds}


def by_kind(kept: pl.DataFrame, rows: Sequence[Rows], kinds: Mapping[int, str], settings: Similarity) -> dict[str, Any]:
    """Of each kind of concepts the similarities of its matches beside shuffled ones, and `random`, beside random matches."""
    own, draws = kept["a"].replace_strict(kinds, default=None, return_dtype=pl.String), min(SHUFFLES, settings.permutations)
    x, y = clouds(kept, rows)
    result = {}
    for kind in sorted(set(kinds.values())):
        chosen = (own == kind).arg_true().to_numpy().astype(int)
        result[kind] = space(kept[chosen], rows, settings) | {"random": None}
        if result[kind]["measures"] is not None:
            result[kind]["random"] = beside_random_sets(x, y, chosen, settings.k, settings.variance, draws, settings.seed)
    return result
