"""Progress bars that suit a terminal and a log file alike."""

import sys
from typing import Any

from tqdm import tqdm


def progress(total: int, what: str, unit: str, initial: int = 0) -> "tqdm[Any]":
    """Return a progress bar on standard error with rate and time left, redrawn every ten seconds if it is no terminal."""
    seconds = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=what, unit=unit, initial=initial, mininterval=seconds, dynamic_ncols=True)
