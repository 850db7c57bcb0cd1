"""Bounds that keys of several sections share."""

from typing import Annotated, Any

from pydantic import Field

# Bounds beyond which a job would fail after others have run. Arithmetic on seeds stays below 2**64, the limit of torch; the
# other bounds are more than any machine holds.
MAX_SEED = 2**43
MAX_BATCH = 1_000_000
MAX_LAYERS = 1000
MAX_LR = 100
MAX_ROWS = 10_000_000
MAX_STEPS = 10_000_000
MAX_TOKENS = 32_768
MAX_WIDTH = 65_536
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Number = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def none_twice(values: list[Any]) -> list[Any]:
    """Return the list; raise ValueError if it holds an entry twice."""
    if twice := [value for k, value in enumerate(values) if value in values[:k]]:
        raise ValueError(f"named twice: {twice[0]!r}")
    return values


def some_and_none_twice(values: list[Any]) -> list[Any]:
    """Return the list; raise ValueError if it is empty or holds an entry twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"needs at least one entry and none twice, found {values}")
    return values
