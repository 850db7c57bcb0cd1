"""What makes a result stale, key by key: the settings, modules and files in which two stamps differ."""

import ast
from collections.abc import Iterable, Iterator
from typing import Any

# The number of changes that are named, the rest being counted, and of letters of a value that are shown.
SHOWN, WIDTH = 6, 60
# Maps (stage of a dataset or "", key) of each leaf of a stamp to its value.
Leaves = dict[tuple[str, str], str]


def changes(old: Iterable[str], new: Iterable[str]) -> str:
    """Say where a job's recorded and present parameters differ, old → new; "" if they do not hold two stamps."""
    was, now = (dict(leaf for text in texts for leaf in _leaves(text)) for texts in (old, new))
    if not was or not now:
        return ""
    stages: dict[str, list[str]] = {}
    for stage, key in sorted(was.keys() | now.keys()):
        before, after = (leaves.get((stage, key), "nothing") for leaves in (was, now))
        if before != after:
            stages.setdefault(f"{key}: {_short(before)} → {_short(after)}", []).append(stage)
    listed = [f"{change}{_of(names)}" for change, names in stages.items()]
    return ", ".join([*listed[:SHOWN], *([f"and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else [])])


def _leaves(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """The leaves of a stamp as Snakemake records it, a Python literal; none of anything else."""
    try:
        stamp = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return
    if isinstance(stamp, dict) and stamp.keys() == {"settings", "code", "files"}:
        for stage, settings in stamp["settings"].items():
            yield from (((stage, key), value) for key, value in _flat(settings))
        for part, name in (("code", "code of"), ("files", "content of")):
            yield from ((("", f"{name} {path}"), version) for path, version in stamp[part].items())


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings by dotted key."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, repr(inner)


def _short(value: str) -> str:
    """A value that is too long to show, by its ends."""
    return value if len(value) <= WIDTH else f"{value[: WIDTH // 2]} … {value[-WIDTH // 2 :]} ({len(value)} letters)"


def _of(stages: list[str]) -> str:
    """The stages that a change concerns, in brackets; code and files belong to none."""
    more = f" and {len(stages) - 3} more" if len(stages) > 3 else ""
    return f" ({', '.join(stages[:3])}{more})" if stages[0] else ""
