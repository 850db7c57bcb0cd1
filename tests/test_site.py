"""The documentation's site: links that are right in the repository are right there, too."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/scripts"))

from links import LINK, PAGES, rewritten  # noqa: E402

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
