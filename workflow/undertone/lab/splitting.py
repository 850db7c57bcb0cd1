"""Whether features of an SAE recur in a wider one, unchanged or split into several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse import csc_matrix

from undertone.lab.context_table import read_contexts
from undertone.lab.firings import first_contexts, read_firings
from undertone.lab.neighbours import random_bound
from undertone.lab.reading import Reader
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.files import Stamp, write_json
from undertone.saes.saved import load_sae_at
from undertone.stats.partners import unit
from undertone.study.config.lab import Splitting

# What a feature of the larger SAE can be.
KINDS = ("split", "same", "near", "novel")


@dataclass(frozen=True)
class Fired:
    """An SAE's unit decoder rows, and where its features fire on the scored half of the text."""

    rows: Float[np.ndarray, "d_sae d_model"]
    fires: csc_matrix
    alive: Bool[np.ndarray, " d_sae"]


def make_splitting(
    model: Path,
    sae: Path,
    text: Path,
    others: Sequence[Path],
    splitting: Path,
    settings: Splitting,
    max_norm: float,
    stamp: Stamp,
) -> str:
    """Compare an SAE with each of the `others`, which are as wide or wider; return a message for the log.

    An SAE of equal width is a baseline, another training of the same: only what a wider SAE splits in excess is splitting.
    """
    loaded = load(model)
    contexts = first_contexts(read_contexts(text), settings.tokens)
    own = fired(loaded, sae, contexts, max_norm, settings.min_count)
    by_name = {
        name_of(other): compared(own, fired(loaded, other, contexts, max_norm, settings.min_count), settings)
        for other in others
    }
    width = len(own.rows)
    equal = [name for name, each in by_name.items() if each["d_sae"] == width]
    for name, each in by_name.items():
        each["excess"] = excess(each, [by_name[other] for other in equal if other != name]) if name not in equal else None
    result = {"d_sae": width, "alive": int(own.alive.sum()), "same": settings.same, "split": settings.split}
    write_json(splitting, {**result, "baselines": equal, "others": by_name}, stamp)
    return "; ".join(f"{name}: {said(each)}" for name, each in by_name.items()) or "no SAE to compare with"


def name_of(sae: Path) -> str:
    """Return an SAE's name from the path of its `sae.json`; the study's own is called `sae`."""
    return sae.parent.name.removeprefix("sae-")


def said(each: dict[str, Any]) -> str:
    """Return a message with the share of the other SAE's features of each kind."""
    if not each["shares"]:
        return "no living feature"
    return ", ".join(f"{each['shares'][kind]:.0%} {kind}" for kind in KINDS)


def fired(loaded: LoadedModel, sae: Path, contexts: list[list[int]], max_norm: float, least: int) -> Fired:
    """Read an SAE's rows and firings; a feature that fires on fewer than `least` tokens is not alive here."""
    dictionary, at = load_sae_at(sae, loaded)
    firings = read_firings(Reader(loaded, dictionary, at, contexts, max_norm, 0, 0))
    fires = (firings.of(firings.half == 1) > 0).astype(np.float64)
    rows = unit(dictionary.W_dec.detach().double().cpu().numpy())
    return Fired(rows, fires, np.diff(fires.indptr) >= least)


def compared(small: Fired, large: Fired, settings: Splitting) -> dict[str, Any]:
    """Find which features of `large` are part of a `split` one of `small`, the `same` as one, `near` one, or `novel`.

    A feature's parent is its nearest in `small` by cosine. It is novel if its cosine with the parent is below `settings.split`.
    Otherwise it is split if the parent has another such feature. If it is the only one, it is the same if its cosine is
    `settings.same` or more, else near.
    """
    parents, children = np.flatnonzero(small.alive), np.flatnonzero(large.alive)
    if not len(parents) or not len(children):
        return {
            "d_sae": len(large.rows),
            "alive": len(children),
            "null95": None,
            "shares": None,
            "split_parents": 0,
            "trees": [],
        }
    cosines = large.rows[children] @ small.rows[parents].T
    nearest, height = cosines.argmax(1), cosines.max(1)
    close = height >= settings.split
    family = np.bincount(nearest[close], minlength=len(parents))
    kinds = kinds_of(height, family[nearest], settings)
    trees = [tree(parents[k], children[(nearest == k) & close], small, large, settings) for k in np.flatnonzero(family >= 2)]
    return {
        "d_sae": len(large.rows),
        "alive": len(children),
        "null95": random_bound(large.rows.shape[1], len(parents) + 1),
        "shares": {kind: float((kinds == kind).mean()) for kind in KINDS},
        "split_parents": len(trees) / len(parents),
        "hierarchies": sum(each["hierarchy"] for each in trees) / len(parents),
        "trees": sorted(trees, key=lambda each: (-len(each["children"]), each["parent"])),
    }


def kinds_of(height: Float[np.ndarray, " n"], siblings: Int[np.ndarray, " n"], settings: Splitting) -> Shaped[np.ndarray, " n"]:
    """Return the kind of each feature of the larger SAE, by its cosine with its parent and the number close to that parent."""
    alone = np.where(height >= settings.same, "same", "near")
    return np.where(height < settings.split, "novel", np.where(siblings >= 2, "split", alone))


def tree(
    parent: int | np.integer, children: Int[np.ndarray, " n"], small: Fired, large: Fired, settings: Splitting
) -> dict[str, Any]:
    """Describe a parent and its children by where they fire and where their rows lie.

    `contained`: the share of a child's tokens on which the parent fires. `coverage`: the share of the parent's tokens on which
    any child fires. `hierarchy`: whether `contained` is at least `settings.contained` for every child. `place`: the child's row
    minus the parent's, in the plane of the children's greatest spread.
    """
    own = np.asarray(small.fires[:, [parent]].todense())[:, 0] > 0
    fires = large.fires[:, children]
    shared = np.asarray(fires.T @ own.astype(float))
    contained = shared / np.diff(fires.indptr)
    covered = (np.asarray(fires.sum(1))[:, 0] > 0) & own
    away = large.rows[children] - small.rows[parent]
    places = away @ np.linalg.svd(away, full_matrices=False)[2][:2].T
    return {
        "parent": int(parent),
        "coverage": float(covered.sum() / own.sum()),
        "hierarchy": bool((contained >= settings.contained).all()),
        "children": [
            {
                "feature": int(child),
                "cosine": float(large.rows[child] @ small.rows[parent]),
                "contained": float(contained[k]),
                "place": places[k].tolist(),
            }
            for k, child in enumerate(children.tolist())
        ],
    }


def excess(each: dict[str, Any], baselines: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return how much more is split than by SAEs of equal width, on average; None without such an SAE to compare with."""
    known = [baseline for baseline in baselines if baseline["shares"]]
    if not known or not each["shares"]:
        return None
    return {
        "children": each["shares"]["split"] - float(np.mean([baseline["shares"]["split"] for baseline in known])),
        "parents": each["split_parents"] - float(np.mean([baseline["split_parents"] for baseline in known])),
        "hierarchies": each["hierarchies"] - float(np.mean([baseline["hierarchies"] for baseline in known])),
    }
