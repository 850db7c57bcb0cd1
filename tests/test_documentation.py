"""The documentation made of the settings is there, whole, and that of today's code."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from undertone.study.documentation import describe, write_documentation
from undertone.study.validation import Section

ROOT = Path(__file__).parents[1]


def sections(section: type[Section] = Section) -> Iterator[type[Section]]:
    for inner in section.__subclasses__():
        yield inner
        yield from sections(inner)


@pytest.mark.parametrize("name", ["config.schema.json", "README.md"])
def test_the_documentation_of_settings_is_what_the_code_generates(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "config/README.md", tmp_path)
    write_documentation(tmp_path)
    assert (tmp_path / name).read_text() == (ROOT / "config" / name).read_text(), (
        f"config/{name} is out of date: run `make docs`"
    )


def test_every_setting_has_a_description() -> None:
    for section in sections():
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_the_table_names_every_setting() -> None:
    keys = [key for key, *_ in describe()]
    assert len(set(keys)) == len(keys)
    assert {"results", "student.lr", "model.embedded.tasks.numbers", "datasets.NAME.file", "verdict.level"} <= set(keys)
