"""The type checker of jaxtyping's import hook (`pyproject.toml`): the shapes of tensors and arrays, and nothing else.

What other annotations say is mypy's to check; tests hand many a function less than it asks for.
"""

from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

# Whole numbers are numbers, as they are for mypy.
CONF = BeartypeConf(is_pep484_tower=True)


def is_shape(hint: Any) -> bool:
    """Whether an annotation says the shape of an array, or of arrays that it holds."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(is_shape, get_args(hint)))


def says_shapes(each: Any) -> bool:
    """Whether a function, method, property or class of fields says the shape of any array."""
    function = getattr(each, "fget", None) or getattr(each, "__func__", each)
    return any(map(is_shape, getattr(function, "__annotations__", {}).values()))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which checks its arguments' and its result's shapes."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if is_shape(hint)}
    return beartype(conf=CONF)(function)


def only_shapes(*, typechecker: Any) -> Callable[[Any], Any]:
    """The decorator that the hook gives to every function: those without shapes stay as they are.

    To wrap a function takes a millisecond, which a function within a function costs at every call.
    """
    return lambda each: jaxtyped(each, typechecker=typechecker) if says_shapes(each) else each


jaxtyped = jaxtyping.jaxtyped
jaxtyping.jaxtyped = only_shapes
