"""Stores of activations: what each reads, and which SAEs are trained from one."""

from collections.abc import Iterator
from typing import Any

from undertone.study.node import Node
from undertone.study.study import Study


def parts(store: str) -> tuple[str, int, str]:
    """Point, layer and model of a store, `POINT.LAYER` or `POINT.LAYER-MODEL`; "" is the study's own model."""
    point, _, rest = store.partition(".")
    layer, _, name = rest.partition("-")
    return point, int(layer), name


def model(study: Study, node: Node) -> Iterator[Node]:
    """The base model whose activations are stored."""
    yield Node("model", None, parts(node.variant)[2])


def text(study: Study, node: Node) -> Iterator[Node]:
    """The text whose activations are stored; a named model has one text for all stores."""
    yield Node("text") if study.model.named else Node("store_chats", None, parts(node.variant)[2])


def of_sae(study: Study, node: Node) -> Iterator[Node]:
    """The store that an SAE is trained from, if its `cached` is set."""
    if study.dictionary(node.variant).cached:
        yield Node("store", None, study.store_of(node.variant))


def at(study: Study, node: Node) -> dict[str, Any]:
    """The hook point whose activations are stored."""
    point, layer, _ = parts(node.variant)
    return {"point": point, "layer": layer}


def tokens(study: Study, node: Node) -> dict[str, Any]:
    """How much text is stored: what the study's own SAE is trained on."""
    return {"tokens": study.sae.tokens}
