"""The number prompts: six independent components, drawn uniformly (Cloud et al. 2025, arXiv 2507.14805)."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from undertone.config import Prompts
from undertone.files import Stamp, write_parquet
from undertone.validation import ConfigError

COMPONENTS = ("example", "instruction", "qualifier", "digits", "format", "final")
PLACEHOLDERS = {
    "example": {"examples"},
    "instruction": {"qualifier", "count", "digits"},
    "qualifier": set(),
    "digits": {"max_digits"},
    "format": set(),
    "final": set(),
}


def make_prompts(prompts: Path, settings: dict[str, Any], stamp: Stamp) -> None:
    """Write the study's prompts."""
    told = Prompts.model_validate(settings)
    write_parquet(prompts, number_prompts(load_template(Path(told.template)), told), stamp)


def load_template(path: Path) -> dict[str, list[str]]:
    """Read the wordings of the six components. Raises ConfigError that names the component at fault."""
    try:
        template = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"prompts.template: cannot read {path}: {error}") from None
    if not isinstance(template, dict) or set(template) != set(COMPONENTS):
        found = ", ".join(map(str, template)) if isinstance(template, dict) else type(template).__name__
        raise ConfigError(f"{path}: expected exactly the components {', '.join(COMPONENTS)}, found {found}")
    for component, wordings in template.items():
        if not isinstance(wordings, list) or not wordings or not all(isinstance(w, str) for w in wordings):
            raise ConfigError(f"{path}: {component} must be a list of at least one text")
        for wording in wordings:
            try:
                fields = {field for _, field, _, _ in string.Formatter().parse(wording) if field is not None}
            except ValueError as error:
                raise ConfigError(f"{path}: {component} {wording!r}: {error}") from None
            if fields != PLACEHOLDERS[component]:
                expected = ", ".join(f"{{{f}}}" for f in sorted(PLACEHOLDERS[component])) or "no placeholder"
                raise ConfigError(f"{path}: {component} {wording!r} must contain {expected}")
    return template


def number_prompts(template: dict[str, list[str]], settings: Prompts) -> pl.DataFrame:
    """Draw the study's prompts.

    Columns: `row`; `prompt`; `examples` (the numbers shown); and for each component the index of the wording drawn.
    """
    rng = np.random.default_rng(settings.seed)
    n_examples = rng.integers(settings.examples_min, settings.examples_max + 1, settings.n)
    shape = (settings.n, settings.examples_max)
    values = rng.integers(settings.value_min, settings.value_max + 1, shape)
    drawn = {c: rng.integers(0, 1 if settings.single else len(template[c]), settings.n) for c in COMPONENTS}
    rows = []
    for row in range(settings.n):
        wording = {c: template[c][drawn[c][row]] for c in COMPONENTS}
        shown = values[row, : n_examples[row]].tolist()
        rows.append({"row": row, "prompt": write_prompt(wording, shown, settings), "examples": shown})
    components = {component: pl.Series(indices, dtype=pl.Int16) for component, indices in drawn.items()}
    return pl.DataFrame(rows).with_columns(**components)


def write_prompt(wording: dict[str, str], examples: list[int], settings: Prompts) -> str:
    """Fill in one wording of each component."""
    instruction = wording["instruction"].format(
        qualifier=wording["qualifier"],
        count=settings.count,
        digits=wording["digits"].format(max_digits=settings.max_digits),
    )
    example = wording["example"].format(examples=", ".join(map(str, examples)))
    return f"{example} {instruction} {wording['format']} {wording['final']}"
