"""The table of settings in `config/README.md` and `config/config.schema.json`: `python -m undertone.study.documentation`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

from undertone.study.study import Study
from undertone.study.validation import Section, keys, sections_of


def describe(section: type[Section] = Study, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, default, unit, meaning) of every setting, nested ones by dotted key."""
    for name, field in keys(section).items():
        inner = list(sections_of(field.annotation))
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "" if field.is_required() else json.dumps(field.get_default(call_default_factory=True), default=str)
        nested = f"{prefix}{name}.NAME." if get_origin(field.annotation) is dict else f"{prefix}{name}."
        if not inner or default != "{}":
            yield prefix + name, default, str(extra.get("unit", "")), str(field.description)
        # Kinds of datasets share keys.
        yield from dict.fromkeys(row for part in inner for row in describe(part, nested))


def table() -> str:
    """The table of settings of config/README.md."""
    lines = ["| key | default | unit | meaning |", "|---|---|---|---|"]
    for key, default, unit, meaning in describe():
        shown = default.replace("|", "\\|")
        lines.append(f"| `{key}` | {f'`{shown}`' if shown else 'required'} | {unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def write_documentation(folder: Path) -> None:
    """Write the editor schema and put the table of settings into the README of a config folder."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}
    (folder / "config.schema.json").write_text(json.dumps(schema, indent=1) + "\n")
    readme = folder / "README.md"
    before, start, rest = readme.read_text().partition("<!-- settings -->\n")
    _, end, after = rest.partition("<!-- end of settings -->\n")
    readme.write_text(before + start + table() + end + after)


if __name__ == "__main__":
    write_documentation(Path("config"))
