"""English text from Debian's packages, for the SAE of docs/results/smollm2.md: four .jsonl files in a folder.

    python docs/scripts/english.py data      # needs apt-get and dpkg, and 60 MB for a while

Sayings (fortunes), the Jargon File, two handbooks of Debian's and a dictionary (GCIDE).
"""

import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path

PACKAGES = ("fortunes", "jargon-text", "debian-handbook", "developers-reference", "dict-gcide")
# Parts of a page that are no prose.
SKIPPED = ("script", "style", "pre", "nav")
# Pieces of a source that stand together in one document, and the fewest characters of one.
SAYINGS, ENTRIES, SHORTEST = 8, 6, 200
# Entries at the start of the dictionary are about the dictionary.
PREFACE = 40


class Prose(HTMLParser):
    """The text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.skipping = "", 0

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """A part that is no prose begins."""
        self.skipping += tag in SKIPPED

    def handle_endtag(self, tag: str) -> None:
        """It ends."""
        self.skipping -= tag in SKIPPED

    def handle_data(self, data: str) -> None:
        """Text."""
        if not self.skipping:
            self.text += data


def main() -> None:
    """Fetch the packages and write the files."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), f"{folder}/files"], check=True)
        share = Path(folder, "files/usr/share")
        for name, documents in {
            "fortunes": together(sayings(share / "games/fortunes"), SAYINGS),
            "jargon": [unwrapped(packed(share / "doc/jargon-text/jargon.txt.gz"))],
            "handbook": [
                prose(page)
                for folder in ("doc/debian-handbook/html/en-US", "developers-reference")
                for page in sorted((share / folder).glob("*.html"))
            ],
            "gcide": together(unwrapped(packed(share / "dictd/gcide.dict.dz")).split("\n\n")[PREFACE:], ENTRIES),
        }.items():
            write(target / f"{name}.jsonl", documents)


def sayings(folder: Path) -> list[str]:
    """The sayings of all files but those that draw."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix not in (".dat", ".u8") and path.name != "ascii-art"]
    return [saying.strip() for path in files for saying in path.read_text(errors="replace").split("\n%\n")]


def packed(path: Path) -> str:
    """The text of a compressed file."""
    with gzip.open(path, "rt", errors="replace") as file:
        return file.read()


def unwrapped(text: str) -> str:
    """A text whose lines go on where the next one is indented."""
    return re.sub(r"\n +", " ", text.replace("\r", ""))


def prose(page: Path) -> str:
    """A page's text, with no more than one empty line."""
    parser = Prose()
    parser.feed(page.read_text(errors="replace"))
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+", " ", parser.text)).strip()


def together(pieces: Sequence[str], n: int) -> list[str]:
    """Pieces in documents of `n`."""
    return ["\n\n".join(pieces[k : k + n]) for k in range(0, len(pieces), n)]


def write(path: Path, documents: Iterable[str]) -> None:
    """One document a line."""
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents if len(each) > SHORTEST))


if __name__ == "__main__":
    main()
