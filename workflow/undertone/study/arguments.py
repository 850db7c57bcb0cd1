"""What a stage's function is called with: its parameters bound by name to what the rule names, converted by annotation."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from undertone.study.config.entries import Transformed
from undertone.study.study import Study
from undertone.study.validation import Section, nearest

# The key under which a stage's settings hold a section, by its class.
SECTIONS: dict[Any, str] = {
    Transformed: "dataset",
    **{
        field.annotation: name
        for name, field in Study.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    },
}


class BindingError(TypeError):
    """A rule and its function do not fit: one names what the other does not."""


def bind(
    function: Callable[..., Any],
    files: Mapping[str, str | Sequence[str]],
    settings: Mapping[str, Any],
    offers: Mapping[str, Callable[[], Any]],
) -> dict[str, Any]:
    """The arguments of a stage's function, by the names of its parameters.

    A parameter annotated with a section's class gets that section of `settings`; any other gets what its name stands for:
    one of the `files` that the rule names, converted as in `converted`, one of `offers`, which is only then made, or a value
    of `settings`. `**rest` gets the files that no other parameter has taken. Raises BindingError for a parameter that nothing
    is offered for, and for a file that no parameter takes.
    """
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            rest = {other: paths for other, paths in files.items() if other not in parameters}
            arguments |= {other: converted(other, paths, hints[name]) for other, paths in rest.items()}
        elif hints[name] in SECTIONS:
            arguments[name] = hints[name].model_validate(settings[SECTIONS[hints[name]]])
        elif name in files:
            arguments[name] = converted(name, files[name], hints[name])
        elif name in offers:
            arguments[name] = offers[name]()
        elif name in settings:
            arguments[name] = settings[name]
        else:
            known = [*files, *offers, *settings]
            raise BindingError(f"{function.__name__} takes {name!r}, which its rule does not offer{nearest(name, known)}")
    if left := [name for name in files if name not in arguments]:
        raise BindingError(f"{function.__name__} takes no {left[0]!r}, which its rule names{nearest(left[0], parameters)}")
    return arguments


def converted(name: str, files: str | Sequence[str], kind: Any) -> Any:
    """One file, or a list of them, as an annotation wants it.

    `Path` is one file, `Path | None` one or none, `Sequence[Path]` any number, `dict[int, Path]` students' folders by seed,
    from their weights, and `dict[str, Path]` files by the dataset in whose folder they are. Raises BindingError where the
    rule names another number of files, or the annotation is none of these.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str) else files)]
    if kind in (Path, Path | None):
        if len(paths) > 1 or (kind is Path and not paths):
            raise BindingError(f"{name!r} is {len(paths)} files, expected one{'' if kind is Path else ' or none'}")
        return paths[0] if paths else None
    if kind == Sequence[Path]:
        return paths
    if kind == dict[int, Path]:
        return {int(path.parent.name): path.parent for path in paths}
    if kind == dict[str, Path]:
        return {path.parent.name: path for path in paths}
    raise BindingError(f"{name!r} is annotated {kind}, which no file can be converted to; see `converted`")
