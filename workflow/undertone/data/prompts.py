"""The number prompts: six independent components, each drawn uniformly (Cloud et al. 2025, arXiv 2507.14805)."""

from pathlib import Path

import numpy as np
import polars as pl

from undertone.models.wordings import COMPONENTS, load_template
from undertone.runtime.files import Stamp, write_parquet
from undertone.study.config.data import Prompts


def make_prompts(template: Path, prompts: Path, settings: Prompts, stamp: Stamp) -> None:
    """Write the study's prompts from the wordings in `template`."""
    write_parquet(prompts, number_prompts(load_template(template), settings), stamp)


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
