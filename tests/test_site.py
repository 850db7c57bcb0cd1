"""The documentation's site: links that are right in the repository are right there, too."""

import re
import sys
from pathlib import Path

import pytest

from undertone.study.stages import READINGS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/scripts"))

import results  # noqa: E402
from cells import interval, number, p_value, whole  # noqa: E402
from extracts import EXTRACTS  # noqa: E402
from links import LINK, PAGES, rewritten  # noqa: E402

PARTS = ["**Question.**", "## Method", "## Output", "## How to read the figure", "## What it cannot say"]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "config/README.md", ROOT / "tests/slurm/README.md"]


@pytest.mark.parametrize(
    ("link", "made"),
    [
        ("[models](../docs/models.md)", "[models](../models.md)"),
        ("[what](../docs/models.md#what-was-tested)", "[what](../models.md#what-was-tested)"),
        ("![lift](../docs/figures/transfer.png)", "![lift](../figures/transfer.png)"),
        ("[settings](README.md#teachers)", "[settings](config.md#teachers)"),
        ("[here](#below)", "[here](#below)"),
        ("[there](https://example.org/a)", "[there](https://example.org/a)"),
        ("[the profile](../profiles/slurm/profile.yaml)", "the profile (`profiles/slurm/profile.yaml`)"),
        ("[`tests/slurm`](../tests/slurm)", "`tests/slurm`"),
        ("[nothing](../tests/nothing.py)", "[nothing](../tests/nothing.py)"),
    ],
)
def test_links_of_a_page_from_elsewhere_become_links_of_the_site(link: str, made: str) -> None:
    assert rewritten(f"See {link}.", "config/README.md", "reference/config.md", ROOT) == f"See {made}."


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_figure_is_there(document: Path) -> None:
    for _, _, target in LINK.findall(document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links {target}"
        assert not anchor or anchor in anchors(file), f"{document.name} links {target}"


def test_pages_from_elsewhere_are_there() -> None:
    assert all((ROOT / source).is_file() for source in PAGES)


def test_the_scripts_serve_every_page_of_the_site() -> None:
    """A page that no menu lists is refused by mkdocs; a page of the menu that is gone is, too."""
    named = re.findall(r"^ +- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} | set(PAGES.values())
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("page", results.PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_results_are_what_the_script_makes_of_the_extracts(page: Path) -> None:
    text = page.read_text()
    assert "<!-- table: " in text
    assert results.filled(text, results.DATA) == text, "run `make docs`"


def test_every_extract_has_a_table_on_a_page() -> None:
    assert set(results.TABLES) == set(EXTRACTS)
    shown = "".join(page.read_text() for page in results.PAGES)
    assert set(re.findall(r"<!-- table: (\w+) -->", shown)) == {*EXTRACTS, "main"}


def test_a_changed_figure_and_an_unclosed_table_are_noticed() -> None:
    text = results.PAGES[0].read_text()
    assert results.filled(text.replace("| horse | ", "| house | ", 1), results.DATA) == text
    with pytest.raises(ValueError, match="'teachers' has no end"):
        results.filled("<!-- table: teachers -->\n", results.DATA)


def test_numbers_are_shown_without_their_zero_and_rounded_half_up() -> None:
    assert [number(value, 1) for value in (4.25, 12.5, 0.05, -0.31, -1.25, -0.04)] == ["4.3", "12.5", ".1", "−.3", "−1.3", ".0"]
    assert interval({"mean": 0.0136, "ci95": [-0.003, 0.9999]}) == ".014 [−.003, 1.000]"
    assert [p_value(p) for p in (0.86, 0.043, 0.0025, 0.0005, 1e-9)] == [".86", ".043", ".0025", ".00050", "< .0001"]
    assert [whole(rank) for rank in (3.0, 256.5)] == ["3", "256.5"]


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_analysis_has_a_page_with_the_same_parts() -> None:
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/analyses").glob("*.md") if path.stem != "index"}
    assert set(pages) >= {*READINGS, "activations", "entangled", "readings"}
    for name, text in pages.items():
        parts = [part for part in PARTS if part in text]
        assert parts == PARTS, name
