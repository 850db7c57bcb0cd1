"""What a failed job says: one line at the end of its log and of the whole run, without a traceback where it is ours."""

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from undertone.runtime.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# Begins the last part of a failed job's log.
FAILED = "Failed: "
# How Snakemake names the logs of a job that failed.
LOGS_OF_FAILED = re.compile(r"^ +log: (.+) \(check log file", re.MULTILINE)


def is_sentence(error: BaseException) -> bool:
    """Whether an error is one of this project's own, which says what was found and what to do."""
    if isinstance(error, ConfigError):
        return True
    if type(error) is not ValueError or not (raised := traceback.extract_tb(error.__traceback__)):
        return False
    # A built-in function has no frame of its own: what it raises seems to come from the line that called it.
    return Path(raised[-1].filename).is_relative_to(PACKAGE) and (raised[-1].line or "").startswith("raise")


def said(error: BaseException) -> str:
    """An error in one line: the sentence, or a library's words with the kind of error."""
    words = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return words if is_sentence(error) else f"{type(error).__name__}: {words}".removesuffix(": ")


def failures(logs: Iterable[str | Path]) -> list[str]:
    """A line for each failed job that Snakemake's own logs name and that left word of it: what it said and its log."""
    named = LOGS_OF_FAILED.findall("\n".join(Path(log).read_text(errors="replace") for log in logs))
    paths = dict.fromkeys(path for paths in named for path in paths.split(", "))
    return [f"{word} ({path})" for path in paths if (word := last_word(Path(path)))]


def last_word(log: Path) -> str:
    """What a job's log says of its failure, "" if it does not."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    *_, last = text.rstrip("\n").split("\n")
    return last.removeprefix(FAILED) if last.startswith(FAILED) else ""
