"""How alike the decoders of two SAEs are once their features are matched, whatever axes either model has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.saes.decoder import directions
from undertone.saes.saved import read_sae
from undertone.stats.partners import unit
from undertone.stats.similarities import similarities
from undertone.study.config.pair_settings import Similarity

# Fewer pairs than this span no space that could be compared.
LEAST = 30
# Of more pairs than this, fewer shuffles are tried: each looks at every pair of pairs.
MANY, SHUFFLES = 2_000, 200
Rows = Float[np.ndarray, "n d_model"]


def make_similarity(
    saes: Sequence[Path], matches: Path, summary: Path, similarity: Path, settings: Similarity, stamp: Stamp
) -> str:
    """Write how alike the decoder rows of matched features lie, beside shuffled matches; returns a line for the log.

    Taken are the matches that are not trivial: `one`, one to one, and `best`, each feature's of b with its best of a, which may
    be the same for several and then looks more alike than it is. Where there are fewer than 30 nothing is said.
    """
    table, body = read_parquet(matches), read_json(summary)
    rows = [unit_rows(sae) for sae in saes]
    spaces = {name: space(table, way, rows, settings) for name, way in (("one", "one"), ("best", "best_b"))}
    kept = {
        key: body[key] for key in ("tokens", "aligned", "same_model", "identity", "a", "b", "warnings", "counts", "headline")
    }
    write_json(similarity, {**kept, "spaces": spaces}, stamp)
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


def space(table: pl.DataFrame, way: str, rows: Sequence[Rows], settings: Similarity) -> dict[str, Any]:
    """The similarities of the features that a way matches, and of how many."""
    kept = table.filter(pl.col("trivial").is_null(), way=way)
    if len(kept) < LEAST:
        return {"pairs": len(kept), "measures": None}
    x, y = (side[kept[name].to_numpy()] for side, name in zip(rows, "ab", strict=True))
    permutations = settings.permutations if len(kept) <= MANY else min(SHUFFLES, settings.permutations)
    return {"pairs": len(kept), "measures": similarities(x, y, settings.k, settings.variance, permutations, settings.seed)}
