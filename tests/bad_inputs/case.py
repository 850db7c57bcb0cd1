"""One bad input and what must be said of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`attempt`, given an empty folder, does what a user would do with the input.

    It must end in a ValueError (ConfigError is one) whose message contains every text of `says` and, without any, it must be
    accepted. A sentence names what was found, what was expected and what to do; a traceback of a library is no sentence.
    """

    name: str
    attempt: Callable[[Path], object]
    says: tuple[str, ...] = ()
