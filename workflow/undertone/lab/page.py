"""Self-contained pages: one file with its data, which loads nothing and runs no token's text as code."""

import json
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup

# Title of the SAE without a name.
OWN = "the study's own SAE"


def rendered(template: Path, title: str, content: dict[str, Any]) -> str:
    """Render a page whose `template` fills the blocks of page.html, with `content` as its data."""
    pages = {page.name: page.read_text() for page in (template, Path(__file__).with_suffix(".html"))}
    environment = Environment(autoescape=True, loader=DictLoader(pages))
    return environment.get_template(template.name).render(title=title, data=Markup(as_script(content)))


def as_script(content: dict[str, Any]) -> str:
    """Return JSON that cannot end a script element, whatever text it holds."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def short(value: float | int | None) -> float | int | None:
    """Round a number to four significant digits, more than the page shows."""
    if value is None or isinstance(value, int):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
