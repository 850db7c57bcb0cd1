"""Files with one text per line: questions, facts, neutral texts."""

import re
from collections.abc import Iterable
from pathlib import Path

from undertone.runtime.errors import ConfigError


def read_lines(path: Path, key: str) -> dict[int, str]:
    """Return a file's lines by line number, stripped, without empty lines and lines that start with #.

    Raises ConfigError if the file cannot be read as UTF-8, or holds no line, a NUL, or one line twice. The message names the
    setting `key`, the file and the line at fault.
    """
    try:
        lines = enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot read {path} as text in UTF-8: {error}") from None
    texts = {number: line.strip() for number, line in lines if line.strip() and not line.startswith("#")}
    if not texts:
        raise ConfigError(f"{key}: {path} holds no text; expected one per line")
    first: dict[str, int] = {}
    for number, text in texts.items():
        if "\0" in text:
            raise ConfigError(f"{key}: {path}, line {number}: {text!r} holds a NUL; save the file as plain text in UTF-8")
        if first.setdefault(text, number) != number:
            raise ConfigError(f"{key}: {path}, line {number} repeats line {first[text]}: {text!r}; delete one of them")
    return texts


def load_texts(path: Path, key: str) -> list[str]:
    """Return the texts of `read_lines`, in order."""
    return list(read_lines(path, key).values())


def check_plain(texts: Iterable[str], special: Iterable[str], where: str) -> None:
    """Raise ConfigError, naming `where`, if a text contains a special token, which would open or close a turn.

    A special token without a letter, such as "!", is taken as punctuation and accepted.
    """
    tokens = sorted((token for token in special if re.search("[A-Za-z]", token)), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
    for text in texts:
        if match := pattern.search(text):
            around = text[max(0, match.start() - 30) : match.end() + 30]
            raise ConfigError(
                f"{where} holds {match[0]}, a control token of the model's chat template, which would open or close a turn: "
                f"{around!r}; take it out"
            )
