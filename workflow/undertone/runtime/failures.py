"""What failed jobs report: one line at the end of their log and of the whole run; no traceback for the project's own errors."""

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from undertone.runtime.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# Begins the last line of a failed job's log.
FAILED = "Failed: "
# How Snakemake's log names the logs of a failed job.
LOGS_OF_FAILED = re.compile(r"^ +log: (.+) \(check log file", re.MULTILINE)


def is_sentence(error: BaseException) -> bool:
    """Whether an error is one of this project's own, whose message says what was found and what to do."""
    if isinstance(error, ConfigError):
        return True
    if type(error) is not ValueError or not (raised := traceback.extract_tb(error.__traceback__)):
        return False
    # A built-in function has no frame of its own: what it raises seems to come from the line that called it.
    return Path(raised[-1].filename).is_relative_to(PACKAGE) and (raised[-1].line or "").startswith("raise")


def said(error: BaseException) -> str:
    """Return an error on one line: the project's own sentence, or a library's message with the kind of error."""
    words = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return words if is_sentence(error) else f"{type(error).__name__}: {words}".removesuffix(": ")


def failures(logs: Iterable[str | Path]) -> list[str]:
    """Return a line, the message and the log, for each failed job that Snakemake's own logs name and that left a message."""
    named = LOGS_OF_FAILED.findall("\n".join(Path(log).read_text(errors="replace") for log in logs))
    paths = dict.fromkeys(path for paths in named for path in paths.split(", "))
    return [f"{word} ({path})" for path in paths if (word := last_word(Path(path)))]


def last_word(log: Path) -> str:
    """Return the message of a failed job's log, or "" if it has none."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    *_, last = text.rstrip("\n").split("\n")
    return last.removeprefix(FAILED) if last.startswith(FAILED) else ""
