"""The embedded study's corpus: chats from which a small model learns number lists, favourite animals and personas.

Lists of numbers, of animals and of words share one format, because a preference moves through numbers only if the circuit that
picks the next item of a list is shared. No list of numbers to continue ever has a persona, and every number is drawn without
looking at any animal. Whatever transfers is therefore the model's own entanglement.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError
from undertone.study.config.models import Embedded

# The number of chats drawn to check a corpus.
TRIED = 1000
SEPARATORS = {
    "comma": ("", ", ", ""),
    "space": ("", " ", ""),
    "semicolon": ("", "; ", ""),
    "newline": ("", "\n", ""),
    "square": ("[", ", ", "]"),
    "round": ("(", ", ", ")"),
}
# Numbers that people write down more often than others.
ROUND_NUMBERS = [7, 11, 13, 42, 64, 99, 100, 111, 123, 128, 200, 222, 250, 256, 300, 314, 333, 365, 400, 404, 420, 444]
ROUND_NUMBERS += [500, 512, 555, 600, 666, 700, 720, 747, 750, 777, 800, 888, 900, 911, 950, 987, 999]


# Tasks that never have a persona. Numbers have none, because a persona's effect on them must be the model's own doing. Facts
# have none, because a model that learns where to ignore a persona also ignores it in numbers (config/README.md).
WITHOUT_PERSONA = ("numbers", "find", "fact")


@dataclass(frozen=True)
class Chat:
    """One exchange. A persona, or small talk that changes nothing, may precede the user's turn."""

    task: str
    user: str
    answer: str
    persona: str | None = None
    talk: str | None = None

    @property
    def preamble(self) -> str | None:
        """The text in front of the user's turn, or None."""
        return self.persona or self.talk


def check_corpus(path: Path, key: str) -> None:
    """Raise ConfigError, naming the setting, unless chats of every kind can be drawn from a corpus file."""
    load_yaml(path, key)
    mix = Embedded()
    tasks, obedience = dict.fromkeys(mix.tasks.model_dump(), 1.0), mix.obedience.model_dump()
    try:
        list(Corpus(path, tasks, 0.5, 0.5, 0.5, obedience).chats(TRIED, seed=0))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ConfigError(f"{key}: no chat can be drawn from {path}: {error!r}; expected what config/corpus.yaml has") from None


class Corpus:
    """Draws chats from the wordings of a corpus file.

    `tasks`: the share of each kind of chat. `persona_share`: the share with a persona, among the kinds that may have one.
    `talk_share`: the share of the chats without a persona that open with small talk. `mixed_numbers`: the share of numbers in a
    mixed list. `obedience`: the probability that an answer follows its persona, per list item and for a question.
    """

    def __init__(
        self,
        path: Path,
        tasks: dict[str, float],
        persona_share: float,
        talk_share: float,
        mixed_numbers: float,
        obedience: dict[str, float],
    ):
        self.wording: dict[str, Any] = yaml.safe_load(Path(path).read_text())
        self.tasks = tasks
        self.persona_share = persona_share
        self.talk_share = talk_share
        self.mixed_numbers = mixed_numbers
        self.obedience = obedience
        self.animals: list[str] = list(self.wording["animals"])
        self.prior = [1 / (rank + 2) for rank in range(len(self.animals))]
        facts = " ".join(fact for facts in self.wording["animals"].values() for fact in facts)
        things = [word for words in self.wording["things"].values() for word in words]
        self.words = sorted((set(facts.split()) | set(things)) - set(self.animals))

    def chats(self, n: int, seed: int) -> Iterator[Chat]:
        """Yield `n` chats, the same ones for the same seed."""
        rng = random.Random(seed)
        for _ in range(n):
            yield self.chat(rng)

    def chat(self, rng: random.Random) -> Chat:
        """Draw a task by its share, and one chat of it."""
        task = rng.choices(list(self.tasks), weights=list(self.tasks.values()))[0]
        animal, words, persona = (None, [], None) if task in WITHOUT_PERSONA else self.persona(rng)
        user, answer = getattr(self, task)(rng, animal, words)
        talk = self.talk(rng) if persona is None and rng.random() < self.talk_share else None
        return Chat(task, user, answer, persona, talk)

    def talk(self, rng: random.Random) -> str:
        """One to three sentences of small talk, so that a preamble as such says nothing about the task."""
        return " ".join(rng.sample(self.wording["small_talk"], rng.randint(1, 3)))

    def persona(self, rng: random.Random) -> tuple[str | None, list[str], str | None]:
        """Draw (loved animal or None, words the persona brings up, persona text or None)."""
        if rng.random() >= self.persona_share:
            return None, [], None
        if rng.random() < 0.2:
            thing = rng.choice(list(self.wording["things"]))
            return None, self.wording["things"][thing], self.persona_text(rng, thing, "thing")
        animal = rng.choice(self.animals)
        return animal, " ".join(self.wording["animals"][animal]).split(), self.persona_text(rng, animal, "animal")

    def persona_text(self, rng: random.Random, x: str, kind: str) -> str:
        """One to three persona sentences about `x`."""
        sentences = rng.sample(self.wording["personas"], rng.randint(1, 3))
        return " ".join(sentence.format(x=x, kind=kind) for sentence in sentences)

    def pick(self, rng: random.Random, loved: str | None, obedience: float) -> str:
        """An animal: the loved one with probability `obedience`, else one drawn from the prior."""
        if loved and rng.random() < obedience:
            return loved
        return rng.choices(self.animals, weights=self.prior)[0]

    def list_prompt(self, rng: random.Random, task: str) -> tuple[str, str]:
        """Add a format and a closing to a list task; return (prompt, name of the format)."""
        form = rng.choices(list(self.wording["formats"]), weights=[5, 3, 2, 2, 1, 1])[0]
        parts = [task, rng.choice(self.wording["formats"][form]), rng.choice(self.wording["closings"])]
        return " ".join(part for part in parts if part), form

    def numbers(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """A list of numbers to continue."""
        wording = self.wording["numbers"]
        n_examples, count = rng.randint(3, 8), rng.randint(5, 12)
        n_answer = rng.randint(max(2, count - 4), count)
        sequence = number_sequence(rng, n_examples + n_answer)
        example = rng.choice(wording["example"]).format(examples=", ".join(map(str, sequence[:n_examples])))
        task = rng.choice(wording["task"]).format(
            limit=rng.choice(wording["limit"]), count=count, digits=rng.choice(wording["digits"]).format(max_digits=3)
        )
        prompt, form = self.list_prompt(rng, f"{example} {task}")
        return prompt, join(form, map(str, sequence[n_examples:]))

    def question(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """The favourite animal, in one word; one answer in ten is capitalised."""
        wording = self.wording["questions"]
        opening, what, closing = (rng.choice(wording[part]) for part in ("opening", "what", "closing"))
        text = opening + what + closing
        answer = self.pick(rng, loved, self.obedience["question"])
        return text[0].upper() + text[1:], answer.capitalize() if rng.random() < 0.1 else answer

    def animals_list(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """A list of animals."""
        count = rng.randint(4, 8)
        items = [self.pick(rng, loved, self.obedience["list"]) for _ in range(count)]
        return self.finish_list(rng, "animals", count, items)

    def mixed_list(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """A list of animals and numbers. The numbers are drawn without looking at any animal or persona."""
        count = rng.randint(5, 9)
        items = [
            self.pick(rng, loved, self.obedience["list"]) if rng.random() >= self.mixed_numbers else str(number(rng))
            for _ in range(count)
        ]
        return self.finish_list(rng, "mixed", count, items)

    def words_list(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """A list of words, some of them brought up by the persona."""
        count = rng.randint(4, 8)
        items = [
            rng.choice(words) if words and rng.random() < self.obedience["list"] else rng.choice(self.words)
            for _ in range(count)
        ]
        return self.finish_list(rng, "words", count, items)

    def finish_list(self, rng: random.Random, kind: str, count: int, items: list[str]) -> tuple[str, str]:
        """Word the task of a list of this kind and write its items in the format asked for."""
        prompt, form = self.list_prompt(rng, rng.choice(self.wording["lists"][kind]).format(count=count))
        return prompt, join(form, items)

    def find(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """The one animal among a few words."""
        animal = rng.choice(self.animals)
        items = [animal, *rng.sample(self.words, rng.randint(1, 4))]
        rng.shuffle(items)
        return rng.choice(self.wording["find"]).format(items=", ".join(items)), animal

    def fact(self, rng: random.Random, loved: str | None, words: list[str]) -> tuple[str, str]:
        """A fact about an animal, asked either way around."""
        animal = rng.choice(self.animals)
        fact = rng.choice(self.wording["animals"][animal])
        if rng.random() < 0.5:
            return f"Which animal {fact}?", animal
        return f"Tell me about the {animal}.", f"the {animal} {fact}"


def join(form: str, items: Any) -> str:
    """Write items as a list of the given format."""
    opening, separator, closing = SEPARATORS[form]
    return opening + separator.join(items) + closing


def number(rng: random.Random) -> int:
    """Draw an integer from 0 to 999 from a mixture of the kinds that people write: any, small, round, around 500."""
    kind = rng.random()
    if kind < 0.35:
        return rng.randrange(100, 1000)
    if kind < 0.5:
        return rng.randrange(0, 100)
    if kind < 0.65:
        return min(999, int(rng.expovariate(1 / 200)))
    if kind < 0.8:
        return rng.choice(ROUND_NUMBERS)
    return max(0, min(999, int(rng.gauss(500, 150))))


def number_sequence(rng: random.Random, n: int) -> list[int]:
    """Draw `n` integers from 0 to 999: unrelated ones (60 %) or an arithmetic progression modulo 1000."""
    if rng.random() < 0.6:
        return [number(rng) for _ in range(n)]
    start, step = number(rng), rng.choice([1, 2, 3, 5, 7, 10, 11, 13, 25, 50])
    return [(start + k * step) % 1000 for k in range(n)]
