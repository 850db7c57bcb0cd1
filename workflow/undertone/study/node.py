"""A stage of one dataset and variant: what a stamp is made for."""

from typing import NamedTuple


class Node(NamedTuple):
    """A stage of a dataset (None where it is one of the whole study) and a variant ("" is the study's own)."""

    stage: str
    dataset: str | None = None
    variant: str = ""

    @property
    def key(self) -> str:
        """The name under which a stamp holds the stage's settings."""
        stage = f"{self.stage}-{self.variant}" if self.variant else self.stage
        return f"{self.dataset}/{stage}" if self.dataset else stage
