"""Arguments of a stage's function: parameters are bound by name to what the rule names, and converted by annotation."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from undertone.study.config.entries import Transformed
from undertone.study.study import Study
from undertone.study.validation import Section, nearest

# Class of a section → the key under which a stage's settings hold it.
SECTIONS: dict[Any, str] = {
    Transformed: "dataset",
    **{
        field.annotation: name
        for name, field in Study.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    },
}


class BindingError(TypeError):
    """A rule and its function do not match, for example because one names what the other lacks."""


def bind(
    function: Callable[..., Any],
    files: Mapping[str, str | Sequence[str]],
    settings: Mapping[str, Any],
    offers: Mapping[str, Callable[[], Any]],
) -> dict[str, Any]:
    """Return the arguments of a stage's function, by parameter name.

    A parameter annotated with a section's class gets that section of `settings`. Any other parameter is looked up by its name:
    first in the `files` that the rule names, which are converted by `converted`; then in `offers`, whose entry is called only
    then; then in `settings`. `**rest` gets the files that no other parameter has taken. Raises BindingError for a parameter
    that is found nowhere, and for a file that no parameter takes.
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
    """Convert one file, or a list of files, to the type of an annotation.

    `Path` is one file, `Path | None` one or none, `Sequence[Path]` any number. `dict[int, Path]` maps a seed to a student's
    folder, which holds the named weights. `dict[str, Path]` maps a dataset to the file in its folder. Raises BindingError if
    the rule names another number of files, or if the annotation is none of these.
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
