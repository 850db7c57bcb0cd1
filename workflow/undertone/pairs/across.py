"""Test whether two base models' datasets for one animal share a direction, once one model is rotated into the other."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from undertone.data.rows import dataset_rows
from undertone.detect.gradient import differences
from undertone.detect.pairs import Whitened
from undertone.detect.sets import Pairs, sets_of
from undertone.pairs.activity import Side, read_sides
from undertone.pairs.rotation import Streams, by_chance, fitted
from undertone.read.residuals import token_residuals
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, write_json
from undertone.runtime.progress import progress
from undertone.stats.partners import partners
from undertone.study.config.pair_settings import Across, Matches, Rotation

# With fewer animals there are too few permutations of their names.
LEAST = 4
WHOLE, EVEN, ODD = range(3)
# The comparisons: (reader, writer, rows) of each side. Two readers of one dataset each read one half of its rows.
COMPARED = {
    "across": (("a", "a", WHOLE), ("b", "b", WHOLE)),
    "one_dataset_a": (("a", "a", EVEN), ("b", "a", ODD)),
    "one_dataset_b": (("a", "b", EVEN), ("b", "b", ODD)),
    "one_reader_a": (("a", "a", WHOLE), ("a", "b", WHOLE)),
    "one_reader_b": (("b", "a", WHOLE), ("b", "b", WHOLE)),
    "halves_a": (("a", "a", EVEN), ("a", "a", ODD)),
    "halves_b": (("b", "b", EVEN), ("b", "b", ODD)),
}
Directions = Float[np.ndarray, "3 n d"]
# By (reader, writer), then by kind (`activations` or `bias`): the directions of all animals' datasets.
Read = dict[tuple[str, str], dict[str, Directions]]


def compare_across(
    models: Sequence[Path],
    saes: Sequence[Path],
    texts: Sequence[Path],
    own: Sequence[Path],
    others: Sequence[Path],
    across: Path,
    matches: Matches,
    rotation: Rotation,
    settings: Across,
    stamp: Stamp,
) -> str:
    """Write whether datasets of one animal are more alike across models than those of two animals; return a line for the log.

    `own` and `others` are the `matched.parquet` files of the same animals' datasets, written by model a and by model b. Each
    lies in a folder named after its animal. Raises ConfigError if too few animals have enough rows on both sides.
    """
    animals, tables = enough(own, others, settings)
    aligned, *sides, _ = read_sides(models, saes, texts, matches.tokens, matches.max_norm)
    read = directions(dict(zip("ab", sides, strict=True)), tables, settings)
    streams = Streams.of(aligned, *sides)
    maps = {name: each.there for name, each in fitted(streams, rotation).items() if name in ("identity", "procrustes")}
    chance = [each.there for each in by_chance(streams, rotation)]
    body = {
        "animals": animals,
        "layers": [side.layer for side in sides],
        "rows": {writer: [len(pairs.prompts) for pairs in each] for writer, each in tables.items()},
        "left_out": [path.parent.name for path in own if path.parent.name not in animals],
        "of": {kind: compared(read, kind, maps, chance, settings) for kind in read["a", "a"]},
    }
    write_json(across, body, stamp)
    return sentence(body)


def enough(own: Sequence[Path], others: Sequence[Path], settings: Across) -> tuple[list[str], dict[str, list[Pairs]]]:
    """Return the animals with at least `min_rows` rows in both datasets, and by writer their rows, at most `rows` of each."""
    every = {
        path.parent.name: [next(sets_of(each, settings.rows))[1] for each in (path, other)]
        for path, other in zip(own, others, strict=True)
    }
    kept = {animal: both for animal, both in every.items() if all(len(pairs.prompts) >= settings.min_rows for pairs in both)}
    if len(kept) < LEAST:
        raise ConfigError(
            f"{len(kept)} of {len(every)} animals have {settings.min_rows} rows on both sides, expected {LEAST}: lower "
            "across.min_rows, raise prompts.n, or name more animals"
        )
    return list(kept), {writer: [both[k] for both in kept.values()] for k, writer in enumerate("ab")}


def directions(sides: dict[str, Side], tables: dict[str, list[Pairs]], settings: Across) -> Read:
    """Return the directions that each model reads in each writer's datasets."""
    n = len(sides) * sum(map(len, tables.values()))
    with progress(n, "datasets", "dataset") as bar:

        def of(side: Side, each: Sequence[Pairs]) -> Iterator[dict[str, Float[np.ndarray, "3 d"]]]:
            for pairs in each:
                yield read_by(side, pairs, settings)
                bar.update()

        read = {(reader, writer): [*of(sides[reader], tables[writer])] for reader, writer in product("ab", "ab")}
    return {at: {kind: np.stack([one[kind] for one in each], axis=1) for kind in each[0]} for at, each in read.items()}


def read_by(side: Side, pairs: Pairs, settings: Across) -> dict[str, Float[np.ndarray, "3 d"]]:
    """Return the direction of a dataset in a model: from all rows, and from each half of the prompts.

    `activations`: the mean difference between the residuals of its completions and those of the base completions. `bias`: one
    natural-gradient step of a constant added to every token, towards the dataset's rows and away from the base completions.
    """
    odd = torch.tensor([crc32(prompt.encode()) % 2 == 1 for prompt in pairs.prompts])
    means = row_means(side, pairs, pairs.own, settings) - row_means(side, pairs, pairs.base, settings)
    slopes = differences(side.loaded, pairs, settings.batch_size)[:, side.layer]
    parts = [torch.ones_like(odd), ~odd, odd]
    return {
        "activations": torch.stack([means[part].mean(0) for part in parts]).numpy(),
        "bias": torch.stack([Whitened.of(slopes[part], settings.ridge).step() for part in parts]).numpy(),
    }


def row_means(side: Side, pairs: Pairs, completions: Sequence[str], settings: Across) -> Float[Tensor, "n d_model"]:
    """Return each row's mean residual over its completion's tokens, after the SAE's layer."""
    rows = dataset_rows(side.loaded, pl.DataFrame({"prompt": pairs.prompts, "completion": completions}))
    with progress(len(rows), "residuals", "row") as bar:
        read = token_residuals(side.loaded, rows, side.layer, settings.batch_size, bar)
    written = read["place"] >= 0
    row = read["row"][written]
    sums = torch.zeros(len(rows), read["resid_post"].shape[1], dtype=torch.float64)
    return sums.index_add(0, row, read["resid_post"][written].double()) / torch.bincount(row, minlength=len(rows)).unsqueeze(1)


def compared(
    read: Read,
    kind: str,
    maps: dict[str, Float[np.ndarray, "d_b d_a"]],
    chance: Sequence[Float[np.ndarray, "d_b d_a"]],
    settings: Across,
) -> dict[str, Any]:
    """Return each comparison, of the directions as they are (`plain`) and minus the animals' mean (`centred`).

    Directions of two models are compared through each of the maps. `shifted` is the advantage through rotations fitted on text
    that does not belong together.
    """

    def both(x: Float[np.ndarray, "n d_a"], y: Float[np.ndarray, "n d_a"]) -> dict[str, Any]:
        return {
            "plain": partners(x, y, settings.permutations, settings.seed),
            "centred": partners(centred(x), centred(y), settings.permutations, settings.seed),
        }

    result: dict[str, Any] = {}
    for name, (left, right) in COMPARED.items():
        x, y = (read[reader, writer][kind][rows] for reader, writer, rows in (left, right))
        if left[0] == right[0]:
            result[name] = both(x, y)
            continue
        drawn = [partners(centred(x), centred(y @ each), 1, settings.seed)["advantage"]["mean"] for each in chance]
        result[name] = {
            **{each: both(x, y @ there) for each, there in maps.items()},
            "shifted": {"mean": float(np.mean(drawn)), "greatest": float(np.max(drawn)), "n": len(drawn)},
        }
    return result


def centred(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Subtract the mean row: what all animals' datasets have in common identifies none of them."""
    return x - x.mean(0)


def sentence(body: dict[str, Any]) -> str:
    """Say for the log for how many animals the nearest dataset of b is that of the same animal."""
    said = []
    for kind, of in body["of"].items():
        turned = of["across"]["procrustes"]["centred"]
        said.append(
            f"{kind}: {turned['first']['k']} of {turned['first']['n']} animals nearest to their own, p {turned['p']:.2g}"
        )
    return "; ".join(said)
