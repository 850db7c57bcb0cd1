"""Relations to other SAEs, for the page of an SAE's features: what a feature splits into, and which feature matches it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from undertone.lab.page import OWN, short
from undertone.runtime.files import read_json, read_parquet

# Data about all features, and data by feature.
Relation = tuple[dict[str, Any], dict[int, Any]]


def parts(splitting: Path | None, wider: Mapping[str, Path]) -> dict[str, Relation]:
    """Return `parts`: a summary of each wider SAE, and by feature and SAE its `children`, [feature, cosine, tokens].

    `wider` are the `features.parquet` of these SAEs by folder; `splitting` is None if there are none. `equal` is the number
    of children that the feature has in each SAE of equal width, `beyond` whether it has more here than in any of these, or
    null if there is no such SAE.
    """
    if splitting is None:
        return {}
    result = read_json(splitting)
    baselines = {name: result["others"][name] for name in result["baselines"] if result["others"][name]["shares"]}
    by_chance = {title(name): {each["parent"]: len(each["children"]) for each in of["trees"]} for name, of in baselines.items()}
    about: dict[str, Any] = {}
    own: dict[int, Any] = {}
    for folder, features in wider.items():
        name = folder.removeprefix("sae-")
        of = result["others"][name]
        excess = of["excess"]
        about[name] = {
            "folder": folder,
            "title": title(name),
            "d_sae": of["d_sae"],
            "split": result["split"],
            "null95": short(of["null95"]),
            "parents": short(of["split_parents"]),
            "parents_null": short(of["split_parents"] - excess["parents"]) if excess else None,
        }
        tokens = tokens_of(features)
        for tree in of["trees"]:
            equal = {baseline: n.get(tree["parent"], 0) for baseline, n in by_chance.items()}
            children = [[each["feature"], short(each["cosine"]), tokens[each["feature"]]] for each in tree["children"]]
            beyond = len(children) > max(equal.values()) if equal else None
            own.setdefault(tree["parent"], {})[name] = {"children": children, "equal": equal, "beyond": beyond}
    return {"parts": (about, own)}


def title(name: str) -> str:
    """Return an SAE's title; the study's own SAE has no name, and is `sae` in splitting.json."""
    return OWN if name in ("", "sae") else name


def tokens_of(features: Path) -> dict[int, list[str]]:
    """Return, by feature, the texts of the tokens that most of its activation falls on."""
    return {
        number: [each["text"] for each in tokens]
        for number, tokens in read_parquet(features).select("feature", "tokens").iter_rows()
    }


def partners(matches: Mapping[str, Path], pairs: Mapping[str, Mapping[str, str]]) -> dict[str, Relation]:
    """Return `partners`: which `side` of each pair the SAE is, and by feature and pair its one-to-one match in the other SAE.

    A match is [feature, r, its p, r given the token, the bound of that by chance, why the match is trivial or null, tokens].
    `matches` are the `matches.parquet` of the pairs by folder.
    """
    if not pairs:
        return {}
    about: dict[str, Any] = {}
    own: dict[int, Any] = {}
    for name, pair in pairs.items():
        side, other = pair["side"], "b" if pair["side"] == "a" else "a"
        folder = f"sae-{pair['other']}" if pair["other"] else "sae"
        about[name] = {"side": side, "folder": folder, "title": title(pair["other"])}
        for row in read_parquet(matches[f"pair-{name}"]).filter(pl.col("way") == "one").iter_rows(named=True):
            figures = [short(row[key]) for key in ("r", "p", "r_token", "r_token_null95")]
            own.setdefault(row[side], {})[name] = [row[other], *figures, row["trivial"], row[f"tokens_{other}"]]
    return {"partners": (about, own)}
