"""Chromium without a window, for the pages that a user opens."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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


def asked(page: Path, script: str, *options: str) -> Any:
    """What a script says that runs in the page: it calls `say`."""
    harness = (
        "<script>addEventListener('securitypolicyviolation', () => { document.body.dataset.blocked = 1; });"
        "const say = (what) => { document.body.dataset.said = JSON.stringify(what); };"
        f"(async () => {{ {script} }})().catch((error) => say(String(error)));</script></body>"
    )
    copy = page.with_name("asked.html")
    copy.write_text(page.read_text().replace("</body>", harness))
    dom = browse(copy, "--virtual-time-budget=8000", "--dump-dom", *options)
    body = re.search(r"<body([^>]*)>", dom)
    assert body
    assert "data-hacked" not in body[1]
    assert "data-blocked" not in body[1]
    said = re.search(r'data-said="([^"]*)"', body[1])
    assert said, "the script said nothing"
    text = said[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u00a0")
    return json.loads(text.replace("&amp;", "&"))
