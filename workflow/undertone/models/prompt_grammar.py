"""The grammar of system prompts: a prompt is a sequence of sentences, each chosen from several."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError

CONCEPT = "x"
Choices = Mapping[str, str]  # the choice of each slot; a slot is a sentence or a word


@dataclass(frozen=True)
class Grammar:
    """The choices of each sentence, in order, and of the words that sentences name in braces."""

    sentences: dict[str, list[str]]
    words: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path, key: str = "prompt_search.grammar") -> "Grammar":
        """Read a YAML file with `sentences` and `words`.

        Raises ConfigError if it holds anything else, or if a slot has fewer than two different choices.
        """
        entries = load_yaml(path, key)
        try:
            sentences, words = ({str(k): list(v) for k, v in entries[part].items()} for part in ("sentences", "words"))
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}: expected the keys sentences and words, each name: [choices]: {error!r}") from None
        slots = {**sentences, **words}
        for name, choices in slots.items():
            if len(choices) < 2 or not all(isinstance(choice, str) for choice in choices) or len(set(choices)) < len(choices):
                raise ConfigError(f"{path}: {name} is {choices!r}, expected two different texts or more")
        for name, sentence in ((name, sentence) for name, choices in sentences.items() for sentence in choices):
            if unknown := named(sentence) - {CONCEPT, *words}:
                raise ConfigError(
                    f"{path}: in {name} stands {sentence!r}; expected in braces {', '.join([CONCEPT, *words])}, found "
                    f"{sorted(unknown)[0]!r}"
                )
        if not all(f"{{{CONCEPT}}}" in sentence for sentence in next(iter(sentences.values()), [""])):
            raise ConfigError(f"{path}: every choice of the first sentence must hold {{{CONCEPT}}}, where the concept stands")
        return cls(sentences, words)

    @property
    def slots(self) -> dict[str, list[str]]:
        """The choices of each slot, words first."""
        return {**self.words, **self.sentences}

    def first(self) -> dict[str, str]:
        """Return the first choice of every slot."""
        return {name: choices[0] for name, choices in self.slots.items()}

    def wording(self, choices: Choices) -> str:
        """Return the system prompt of some choices, with `{x}` where the concept stands."""
        words = {name: choices[name] for name in self.words}
        sentences = [choices[name] for name in self.sentences if choices[name]]
        return " ".join(sentence.format(**words, x=f"{{{CONCEPT}}}") for sentence in sentences)


def named(sentence: str) -> set[str]:
    """Return the names that stand in braces in a sentence; an unmatched brace stands for itself."""
    try:
        return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}
    except ValueError:
        return {"{", "}"} & set(sentence)
