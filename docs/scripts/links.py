"""Hooks of mkdocs: pages whose source is elsewhere in the repository, and links to files that are no pages."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Source in the repository → page of the site.
PAGES = {"config/README.md": "reference/config.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source is outside docs/, where it stands."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        if (root / source).is_file():
            files.append(File.generated(config, page, content=(root / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links, which are right in the repository, turned into those of the site."""
    sources = {page: source for source, page in PAGES.items()}
    uri = page.file.src_uri
    return rewritten(markdown, sources.get(uri, f"docs/{uri}"), uri, Path(config.docs_dir).parent)


def rewritten(markdown: str, source: str, page: str, root: Path) -> str:
    """Turn links that are right in the file `source` of the repository `root` into links of the site's `page`.

    A link to a page stays one. A link to any other file of the repository, such as a test, becomes its path in code type, as
    the site does not hold it. A link to a file that is not there stays as it is, so that mkdocs refuses it.
    """

    def replaced(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        to = PAGES.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
        if to:
            return f"{mark}[{text}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{hash_}{anchor})"
        if not (root / found).exists():
            return match[0]
        return f"`{found}`" if text.strip("`") in (found, path) else f"{text} (`{found}`)"

    return LINK.sub(replaced, markdown)
