"""A page that shows the maps of two SAEs side by side, each with a layout of its own, with their matches marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from undertone.lab.page import OWN, rendered, short
from undertone.runtime.files import read_json, read_parquet, replacing

# The ways to choose a partner that the page offers: each feature's best, which is two ways of the table, and one to one.
BEST, ONE = ("best_a", "best_b"), ("one",)
COLUMNS = ("r", "p", "r_token", "r_token_null95", "p_a_given_b", "p_b_given_a", "decoder_cosine")
Json = dict[str, Any]


def write_pair_map(
    matches: Path, summary: Path, maps: Sequence[Path], map_summaries: Sequence[Path], page: Path, pair: dict[str, str]
) -> str:
    """Write the page; return a line for the log.

    `maps` are the `map.parquet` files of the two SAEs, in the order of the pair, and `pair` holds the SAEs' names. A feature
    that is not on its map is in the list nevertheless, and a feature without a match is on the map.
    """
    content = page_data(read_parquet(matches), [read_parquet(each) for each in maps])
    about = read_json(summary)
    content["about"] = described(about, [read_json(each) for each in map_summaries], [pair[side] for side in "ab"])
    text = rendered(Path(__file__).with_suffix(".html"), "Features of two SAEs", content)
    with replacing(page) as temporary:
        temporary.write_text(text)
    n = [len(of) for of in content["features"].values()]
    return f"{n[0]} and {n[1]} features, {len(content['pairs'])} pairs, {len(text) / 1e6:.1f} MB"


def page_data(matches: pl.DataFrame, maps: Sequence[pl.DataFrame]) -> Json:
    """Return the page's data: token texts (`strings`), a list of `features` by side, and `pairs` with their ways and figures.

    Tokens are indices into `strings`. A pair's `ways` are the ways of the table that choose it.
    """
    strings: dict[str, int] = {}
    features: dict[str, list[Json]] = {}
    for side, places in zip("ab", maps, strict=True):
        own: dict[int, Json] = {}
        for row in matches.unique(side, maintain_order=True).iter_rows(named=True):
            tokens = [strings.setdefault(text, len(strings)) for text in row[f"tokens_{side}"]]
            own[row[side]] = {"id": row[side], "count": row[f"count_{side}"], "tokens": tokens}
        for number, x, y in places.select("feature", "x", "y").iter_rows():
            own.setdefault(number, {"id": number, "count": None, "tokens": []})["at"] = [short(x), short(y)]
        features[side] = [own[number] for number in sorted(own)]
    chosen = matches.filter(pl.col("way").is_in([*BEST, *ONE]))
    figures = [pl.col(name).first() for name in (*COLUMNS, "trivial")]
    pairs = chosen.group_by("a", "b", maintain_order=True).agg(pl.col("way").alias("ways"), *figures)
    shown = [
        {**{key: row[key] for key in ("a", "b", "ways", "trivial")}, **{key: short(row[key]) for key in COLUMNS}}
        for row in pairs.iter_rows(named=True)
    ]
    return {"features": features, "pairs": shown, "strings": list(strings)}


def described(about: Json, maps: Sequence[Json], sides: Sequence[str]) -> Json:
    """Return the page's description of the pair, of each SAE and of its layout."""
    one = about["headline"]["one"]
    chance, meaningful = one["by_chance"]["frequent"]["q95"], one["meaningful"]
    parts = [f"matched on {about['tokens']:,} tokens, chosen on half of the contexts and scored on the other"]
    if meaningful["r"]:
        parts.append(f"median r of {meaningful['n']} matches one to one that are not trivial: {meaningful['r']['median']:.2f}")
    if chance is not None:
        parts.append(f"by chance, in text that does not belong together, .95 of them lie below {chance:.2f}")
    return {
        "sentence": " · ".join(parts),
        "warnings": about["warnings"],
        "sides": {
            side: {
                "title": f"{side}: {name or OWN}",
                "about": f"{about[side]['model'] or 'embedded model'}, layer {about[side]['layer']}, "
                f"{about[side]['features']:,} features, {about[side]['dead']:,} of them dead",
                "trust": short(layout.get("trust")),
                "chance": short(layout.get("trust_chance")),
                "reason": layout["reason"],
            }
            for side, name, layout in zip("ab", sides, maps, strict=True)
        },
    }
