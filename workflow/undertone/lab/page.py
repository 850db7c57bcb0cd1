"""Pages that need nothing beside themselves: one file with its data, which loads nothing and runs no text of a token."""

import json
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup

# What an SAE without a name is.
OWN = "the study's own SAE"


def rendered(template: Path, title: str, content: dict[str, Any]) -> str:
    """A page whose `template` fills the blocks of page.html, with `content` as its data."""
    pages = {page.name: page.read_text() for page in (template, Path(__file__).with_suffix(".html"))}
    environment = Environment(autoescape=True, loader=DictLoader(pages))
    return environment.get_template(template.name).render(title=title, data=Markup(as_script(content)))


def as_script(content: dict[str, Any]) -> str:
    """JSON that ends no script element, whatever text it holds."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def short(value: float | int | None) -> float | int | None:
    """A number with four digits, which is more than is seen."""
    if value is None or isinstance(value, int):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
