"""The number prompts: what is drawn, what is written, and what a template must hold."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from bad_inputs.files import TEMPLATE as SMALLEST
from polars.testing import assert_frame_equal
from scipy.stats import chi2

from undertone.data.prompts import make_prompts, number_prompts, write_prompt
from undertone.models.wordings import COMPONENTS, load_template
from undertone.runtime.errors import ConfigError
from undertone.study.config.data import Prompts

SHIPPED = Path(__file__).parents[1] / "config/prompts/numbers.yaml"
TEMPLATE = load_template(SHIPPED)


def test_the_shipped_template_has_as_many_options_as_the_papers() -> None:
    assert {component: len(TEMPLATE[component]) for component in COMPONENTS} == {
        "example": 25,
        "instruction": 10,
        "qualifier": 9,
        "digits": 9,
        "format": 15,
        "final": 19,
    }


def test_no_option_of_the_shipped_template_stands_twice() -> None:
    for component, wordings in TEMPLATE.items():
        assert len(set(wordings)) == len(wordings), component


def test_the_seed_draws_the_prompts() -> None:
    drawn = [number_prompts(TEMPLATE, Prompts(n=50, seed=seed)) for seed in (1, 1, 2)]
    assert_frame_equal(drawn[0], drawn[1])
    assert drawn[0]["prompt"].to_list() != drawn[2]["prompt"].to_list()


def test_numbers_shown_stay_in_range_and_reach_its_ends() -> None:
    shown = number_prompts(TEMPLATE, Prompts(n=2000, examples_min=2, examples_max=4, value_min=7, value_max=12))["examples"]
    assert set(shown.list.len()) == {2, 3, 4}
    assert set(shown.explode()) == set(range(7, 13))


def test_recorded_components_rebuild_the_prompt() -> None:
    settings = Prompts(n=200, count=6, max_digits=2)
    for row in number_prompts(TEMPLATE, settings).iter_rows(named=True):
        wording = {component: TEMPLATE[component][row[component]] for component in COMPONENTS}
        assert write_prompt(wording, row["examples"], settings) == row["prompt"]


def test_a_prompt_reads_as_its_parts_say() -> None:
    wording = {component: wordings[0] for component, wordings in SMALLEST.items()}
    assert write_prompt(wording, [4, 56], Prompts(count=6, max_digits=2)) == (
        "Numbers: 4, 56. Add up to 6 (2 digits). Use commas. Stop then."
    )


def test_single_uses_one_wording() -> None:
    prompts = number_prompts(TEMPLATE, Prompts(n=200, single=True))
    assert set(prompts.select(COMPONENTS).iter_rows()) == {(0,) * len(COMPONENTS)}
    assert prompts["prompt"].n_unique() == 200


def test_every_component_is_drawn_uniformly() -> None:
    n = 20_000
    prompts = number_prompts(TEMPLATE, Prompts(n=n))
    for component, wordings in TEMPLATE.items():
        expected = n / len(wordings)
        seen = prompts[component].value_counts()["count"]
        assert len(seen) == len(wordings)
        assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, len(wordings) - 1), component


def test_components_are_drawn_independently() -> None:
    n = 20_000
    prompts = number_prompts(TEMPLATE, Prompts(n=n))
    for first, second in pairwise(COMPONENTS):
        cells = len(TEMPLATE[first]) * len(TEMPLATE[second])
        seen = prompts.group_by(first, second).len()["len"]
        missing = cells - len(seen)
        statistic = ((seen - n / cells) ** 2 / (n / cells)).sum() + missing * n / cells
        assert statistic < chi2.ppf(1 - 1e-4, cells - 1), (first, second)


def test_making_prompts_writes_the_table(tmp_path: Path) -> None:
    settings = Prompts(n=20)
    make_prompts(SHIPPED, tmp_path / "prompts.parquet", settings, {})
    assert_frame_equal(pl.read_parquet(tmp_path / "prompts.parquet"), number_prompts(TEMPLATE, settings))


def changed(**components: Any) -> str:
    return yaml.safe_dump({k: v for k, v in {**SMALLEST, **components}.items() if v is not None}, sort_keys=False)


def load(folder: Path, content: str) -> dict[str, list[str]]:
    path = folder / "template.yaml"
    path.write_text(content)
    return load_template(path)


def test_a_template_of_ones_own_loads(tmp_path: Path) -> None:
    assert load(tmp_path, changed()) == SMALLEST


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            changed(qualifier=None),
            "qualifier.* found example, instruction, digits, format, final$",
        ),
        (changed(qualifyer=["up to"]), "expected exactly the components .*qualifier.*found .*qualifyer"),
        (changed(digits=[]), "digits must be a list of at least one text"),
        (changed(format="Use commas."), "format must be a list"),
        (changed(final=[1]), "final must be a list"),
        (changed(example=["Numbers."]), r"example: 'Numbers\.' lacks {examples}$"),
        (changed(digits=["{digits} digits"]), "digits: '{digits} digits' holds {digits}; known placeholders: {max_digits}$"),
        (changed(final=["Stop at {count}."]), "final: 'Stop at {count}.' holds {count}; known placeholders: none$"),
        (changed(instruction=["Add {qualifier} {count}."]), "instruction: .* lacks {digits}$"),
        (changed(format=["Use {."]), "format: 'Use {.': expected '}'"),
        ("- a list", "found list"),
        ("example: [", "cannot read"),
    ],
)
def test_a_mistake_in_a_template_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        load(tmp_path, content)
    assert "template.yaml" in str(error.value)


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.template: cannot read .*nowhere\.yaml"):
        load_template(tmp_path / "nowhere.yaml")
