"""How similar the decoders of two SAEs are once their features are matched, whatever the axes of either model."""

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
# With more pairs than this fewer shuffles are drawn, because each one looks at every pair of pairs.
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
    """Write how similar the decoder rows of matched features are, against shuffled matches; return a line for the log.

    Only matches that are not trivial count: `one` are the one-to-one matches, and `best` pairs each feature of b with its best
    of a. Several features of b may share a best, which makes the spaces look more alike than they are. With fewer than 30
    matches there is no result. The result's `concepts` holds, by kind of concept, the one-to-one matches of features of a whose
    best concept (`units`, by `specificity`) is of that kind; they are also compared with as many other matches. Raises
    ConfigError if the file of concepts is invalid.
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
    """Return the similarities of matched features, and the number of matches; None for `measures` if these are too few."""
    if len(kept) < LEAST:
        return {"pairs": len(kept), "measures": None}
    x, y = clouds(kept, rows)
    permutations = settings.permutations if len(kept) <= MANY else min(SHUFFLES, settings.permutations)
    return {"pairs": len(kept), "measures": similarities(x, y, settings.k, settings.variance, permutations, settings.seed)}


def clouds(kept: pl.DataFrame, rows: Sequence[Rows]) -> list[Float[np.ndarray, "n_pairs _"]]:
    """Return each side's decoder rows of the matched features."""
    return [side[kept[name].to_numpy()] for side, name in zip(rows, "ab", strict=True)]


def kinds_of(features: pl.DataFrame, kinds: Mapping[str, str]) -> dict[int, str]:
    """Return the kind of each feature's concept, for features whose concept has a kind."""
    return {unit: kinds[concept] for unit, concept in features.select("unit", "concept").iter_rows() if concept in kinds}


def by_kind(kept: pl.DataFrame, rows: Sequence[Rows], kinds: Mapping[int, str], settings: Similarity) -> dict[str, Any]:
    """Return the similarities of each kind's matches against shuffled ones, and against random matches (`random`)."""
    own, draws = kept["a"].replace_strict(kinds, default=None, return_dtype=pl.String), min(SHUFFLES, settings.permutations)
    x, y = clouds(kept, rows)
    result = {}
    for kind in sorted(set(kinds.values())):
        chosen = (own == kind).arg_true().to_numpy().astype(int)
        result[kind] = space(kept[chosen], rows, settings) | {"random": None}
        if result[kind]["measures"] is not None:
            result[kind]["random"] = beside_random_sets(x, y, chosen, settings.k, settings.variance, draws, settings.seed)
    return result
