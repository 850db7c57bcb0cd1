"""A stage of one dataset and variant: what a stamp is made for."""

from collections.abc import Mapping
from typing import NamedTuple


def variant_of(wildcards: Mapping[str, str]) -> str:
    """Return the variant in a job's wildcards: the key of a sweep, the name of a variant, or a vector and its SAE.

    A vector and an SAE are written `VECTOR/SAE`, or `VECTOR` if the SAE is the study's own.
    """
    first = wildcards.get("key", wildcards.get("variant", "")).removeprefix("-")
    return "/".join(filter(None, [first, wildcards.get("sae", "").removeprefix("-")]))


class Node(NamedTuple):
    """A stage of a dataset (None for a stage of the whole study) and a variant ("" is the study's own)."""

    stage: str
    dataset: str | None = None
    variant: str = ""

    @property
    def key(self) -> str:
        """The name under which a stamp holds the stage's settings."""
        stage = f"{self.stage}-{self.variant}" if self.variant else self.stage
        return f"{self.dataset}/{stage}" if self.dataset else stage
