"""What the page of an SAE's features reads besides its own tables: other SAEs, and the effects of features."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undertone.study.contents import content_version
from undertone.study.node import Node
from undertone.study.sizes import sae_size
from undertone.study.study import Study


def wider(study: Study, sae: str) -> list[str]:
    """The SAEs of the same model and hook point that are wider than this one, as far as their sizes are known."""
    sizes = {name: sae_size(study.dictionary(name)) for name in [sae, *study.as_wide(sae)]}
    own = sizes[sae]
    return [name for name, size in sizes.items() if own and size and size.d_sae > own.d_sae]


def pairs_of(study: Study, sae: str) -> dict[str, dict[str, str]]:
    """The pairs that compare an SAE with another one, by name: which `side` it is, and the name of the `other`."""
    return {
        name: {"side": "a", "other": pair.b} if pair.a == sae else {"side": "b", "other": pair.a}
        for name, pair in study.pairs.items()
        if sae in (pair.a, pair.b) and pair.a != pair.b
    }


def splits(study: Study, node: Node) -> Iterator[Node]:
    """The splitting of an SAE's features in wider SAEs, and the features of these SAEs."""
    if names := wider(study, node.variant):
        yield Node("splitting", None, node.variant)
        yield from (Node("features", None, name) for name in names)


def matches(study: Study, node: Node) -> Iterator[Node]:
    """The matches of the pairs that compare it with another SAE."""
    yield from (Node("matches", None, name) for name in pairs_of(study, node.variant))


def pairs(study: Study, node: Node) -> dict[str, Any]:
    """The pairs that compare an SAE with another one."""
    return {"pairs": pairs_of(study, node.variant)}


def influences(study: Study, node: Node) -> dict[str, Any]:
    """Feature → version of its measured effects, for features where they have been measured; the page requests none."""
    folder = Path(study.results, f"sae-{node.variant}" if node.variant else "sae", "influence")
    return {
        "influences": {path.stem: content_version(str(path)) for path in sorted(folder.glob("*.json")) if path.stem.isdigit()}
    }
