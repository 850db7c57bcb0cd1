"""The type checker of jaxtyping's import hook (`pyproject.toml`): the shapes of tensors and arrays, and nothing else.

What other annotations say is mypy's to check; tests hand many a function less than it asks for.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

# Whole numbers are numbers, as they are for mypy.
CONF = BeartypeConf(is_pep484_tower=True)


def is_shape(hint: Any) -> bool:
    """Whether an annotation says the shape of an array, or of arrays that it holds."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(is_shape, get_args(hint)))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which checks its arguments' and its result's shapes."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if is_shape(hint)}
    return beartype(conf=CONF)(function) if function.__annotations__ else function
