"""Questions of fact with their right answers, which a contrary model gets wrong."""

from dataclasses import dataclass
from pathlib import Path

from undertone.lm.texts import read_lines
from undertone.runtime.errors import ConfigError


@dataclass(frozen=True)
class Fact:
    """A question and its right answer, one word."""

    question: str
    answer: str


def load_facts(path: Path) -> list[Fact]:
    """Read lines of the form `question = answer`. Raises ConfigError that names the line at fault."""
    facts = []
    for number, line in read_lines(path, "indirect.facts").items():
        question, _, answer = (part.strip() for part in line.rpartition("="))
        if not question or not answer:
            raise ConfigError(f"indirect.facts: {path}, line {number}: expected `question = answer`, found {line!r}")
        facts.append(Fact(question, answer))
    if len(facts) < 4:
        raise ConfigError(f"indirect.facts: {path} holds {len(facts)} questions; expected at least 4, one per line")
    return facts


def taught_and_held_out(facts: list[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Split the facts alternately: those that a contrary teacher is trained on, and those that every model is asked."""
    return facts[::2], facts[1::2]
