"""Each figure of a reading has a caption of its own in the report."""

from pathlib import Path
from types import SimpleNamespace

from jinja2 import Environment

from undertone.study.stages import READINGS

REPORT = Path(__file__).parents[1] / "workflow/report"


def caption_of(reading: str) -> str:
    """What Snakemake's environment renders of a reading's caption."""
    text = (REPORT / "reading.rst").read_text()
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(key=reading))).strip()


def test_every_reading_has_a_caption_of_its_own() -> None:
    captions = [caption_of(reading) for reading in READINGS]
    assert all(len(caption) > 100 for caption in captions), dict(zip(READINGS, captions, strict=True))
    assert len(set(captions)) == len(READINGS)


def test_no_caption_is_left_of_a_reading_that_is_gone() -> None:
    assert (REPORT / "reading.rst").read_text().count("if key ==") == len(READINGS)
    assert caption_of("nothing") == ""
