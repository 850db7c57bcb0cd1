"""Chromium without a window, for the pages that a user opens."""

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium to show the page in")


def browse(page: Path, *options: str) -> str:
    """Show a page with further options (`--screenshot=FILE`, `--dump-dom`, which returns its elements as they then stand)."""
    assert BROWSER
    headless = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={page.parent}/profile"]
    return subprocess.run(
        [BROWSER, *headless, *options, page.as_uri()], check=True, capture_output=True, text=True, timeout=120
    ).stdout
