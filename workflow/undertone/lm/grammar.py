"""A finite automaton over token ids that accepts what the filter lets pass, so that nothing else is sampled.

The automaton is built over characters from the filter's settings. It is lifted to tokens by running all its states through each
token's text. It knows the plain forms only: numbers with one of `SEPARATORS` between them, at most a full stop at the end, and
no number with more digits than the largest one has. Every completion it accepts passes the filter, strict or lenient. It leaves
out lists in brackets or with other white space, which the filter lets pass too.

Why no library: a step of 1,000 rows has to be a few tensor operations, and a row must end before `max_new_tokens`. xgrammar
(0.2.8) and outlines-core (0.2.14) hold one matcher object per row. Python loops over them at every step, and each fills a mask
over the whole vocabulary on the CPU. Neither library knows how many tokens it takes to finish. Here a row's state is one
number.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import answer_ids, end_of_turn, inner_texts, token_texts
from undertone.runtime.errors import ConfigError
from undertone.study.config.data import Numbers

# What can separate two numbers; a row uses one of these throughout. They include all that `numbers.canonical` can ask for.
SEPARATORS = (", ", ",", "; ", ";", " ", "\n", ",\n", ";\n")
DIGITS = "0123456789"
# Two states of every automaton: no passing completion can follow (`DEAD`), and the row has ended (`ENDED`).
DEAD, ENDED = 0, 1
# More tokens than any completion has.
NEVER = 2**30

# By the number of digits still to come: the smallest and largest number that they can form, and the banned numbers among these.
Rest = tuple[tuple[int, int, tuple[int, ...]], ...]


class State(NamedTuple):
    """The position of a text in a list: after a number's digits or, if `rest` is None, after `tail` behind the last number."""

    separator: str | None  # None until the first one is complete
    n: int
    rest: Rest | None
    tail: str


@dataclass(frozen=True)
class Lists:
    """The accepted texts: `lead` (optional), numbers and separators, `close` (optional).

    `lead` and `close` are the white space that the chat template writes around an answer. A list has `fewest` to `most`
    numbers; if `most` is None, there is no upper limit.
    """

    smallest: int
    largest: int
    banned: tuple[int, ...]
    fewest: int
    most: int | None
    lead: str = ""
    close: str = ""

    @functools.cached_property
    def number(self) -> Rest:
        """The `Rest` before a number's first digit."""
        digits = len(str(self.largest))
        whole = [(self.smallest, min(self.largest, 10**length - 1), self.banned) for length in range(1, digits + 1)]
        return ((1, 0, ()), *whole)

    @functools.cached_property
    def endings(self) -> set[str]:
        """The texts that can follow the last number."""
        return {"", "." + self.close, ".", self.close}

    @property
    def characters(self) -> str:
        """All characters that a list can contain."""
        return "".join(sorted({*DIGITS, *"".join(SEPARATORS), *"".join(self.endings), *self.lead}))

    def after(self, state: State, character: str) -> State | None:
        """Return the state after one more character, or None if no list continues with it."""
        if character in DIGITS:
            return self._digit(state, int(character))
        if state.rest is not None and not complete(state.rest):
            return None
        tail = state.tail + character
        options = [*([state.separator] if state.separator else SEPARATORS), *self.endings] if state.n else [self.lead]
        return State(state.separator, state.n, None, tail) if any(each.startswith(tail) for each in options) else None

    def _digit(self, state: State, digit: int) -> State | None:
        if state.rest is not None:
            rest = narrowed(state.rest, digit)
            return State(state.separator, state.n, rest, "") if rest else None
        known = ("", self.lead) if not state.n else (state.separator,) if state.separator else SEPARATORS
        rest = narrowed(self.number, digit)
        if state.tail not in known or rest is None or state.n == self.most:
            return None
        # Without an upper limit, numbers beyond the fewest need not be counted.
        count = state.n + 1 if self.most is not None else min(state.n + 1, self.fewest)
        return State(state.tail if state.n else None, count, rest, "")

    def accepts(self, state: State) -> bool:
        """Whether a text may end in this state."""
        over = state.tail in self.endings if state.rest is None else complete(state.rest)
        return state.n >= max(1, self.fewest) and over


def complete(rest: Rest) -> bool:
    """Whether a number may end here."""
    low, high, banned = rest[0]
    return low <= high and not banned


def narrowed(rest: Rest, digit: int) -> Rest | None:
    """Return what is left of a number after one more digit, or None if no number continues with it."""
    left = []
    for length, (low, high, banned) in enumerate(rest[1:]):
        first = digit * 10**length
        below = 10**length - 1
        others = tuple(n - first for n in banned if low <= n <= high and 0 <= n - first <= below)
        left.append((max(0, low - first), min(below, high - first), others))
    return tuple(each if each[0] <= each[1] else (1, 0, ()) for each in left) if any(a <= b for a, b, _ in left) else None


@dataclass(frozen=True)
class Automaton:
    """Which tokens may follow: a row has one state, which is `START` before its first token.

    `ids`: the tokens that a passing completion can contain, then the stop tokens. `following`: the state after each of them.
    `needed`: the fewest tokens that finish a row from each state, including its stop token.
    """

    START = 2

    ids: Int[Tensor, " n_ids"]
    following: Int[Tensor, "n_states n_ids"]
    needed: Int[Tensor, " n_states"]
    length: int  # the most tokens that a row can have, including its stop token

    def to(self, device: torch.device) -> "Automaton":
        """Return the automaton on a device."""
        return Automaton(self.ids.to(device), self.following.to(device), self.needed.to(device), self.length)

    def allowed(self, states: Int[Tensor, " n"], left: int | Int[Tensor, "n 1"]) -> Bool[Tensor, "n n_ids"]:
        """Mark the tokens after which a row can still finish, if it has `left` tokens left, including this one."""
        return self.needed[self.following[states]] < left

    def read(self, rows: Sequence[Sequence[int]]) -> "Places | None":
        """Return the places of the tokens of rows, each with its stop token; None if one of the rows could not be sampled."""
        column = {id: k for k, id in enumerate(self.ids.tolist())}
        longest = max(map(len, rows))
        if longest > self.length or any(id not in column for row in rows for id in row):
            return None
        # A row that has ended stays in its state, whatever follows.
        padded = torch.tensor([[column[id] for id in row] + [len(column) - 1] * (longest - len(row)) for row in rows])
        held = torch.arange(longest) < torch.tensor([[len(row)] for row in rows])
        columns, held = padded.to(self.ids.device), held.to(self.ids.device)
        states = torch.full((len(rows), longest + 1), self.START, device=self.ids.device)
        for step in range(longest):
            states[:, step + 1] = self.following[states[:, step], columns[:, step]]
        if (states[:, -1] != ENDED).any():
            return None
        left = self.length - torch.arange(longest, device=self.ids.device).expand(len(rows), -1)
        return Places(columns[held], states[:, :-1][held], left[held].unsqueeze(1))


class Places(NamedTuple):
    """For each token, in row order: its column among the automaton's `ids`, the state before it, the tokens left there."""

    columns: Int[Tensor, " n"]
    states: Int[Tensor, " n"]
    left: Int[Tensor, "n 1"]


def automaton(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], filter: Numbers, max_new_tokens: int) -> Automaton:
    """Return the automaton of what a filter lets pass within `max_new_tokens`.

    Raises ConfigError, with a one-sentence message, if there is no such completion.
    """
    fewest = filter.canonical.count if filter.canonical else 1
    bounds = (filter.min_value, filter.max_value, tuple(sorted(set(filter.banned))), fewest, filter.max_count)
    return _automaton(tokenizer, tuple(stop_ids), bounds, max_new_tokens)


@functools.lru_cache(maxsize=4)  # nulls and base samples ask for the same one again and again
def _automaton(
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: tuple[int, ...],
    bounds: tuple[int, int, tuple[int, ...], int, int],
    max_new_tokens: int,
) -> Automaton:
    smallest, largest, banned, fewest, most = bounds
    texts = token_texts(tokenizer, len(tokenizer))
    lead = inner_texts(tokenizer, answer_ids(tokenizer, ["1"]))[0].removesuffix("1")
    close = inner_texts(tokenizer, [end_of_turn(tokenizer)])[0]
    lists = Lists(smallest, largest, banned, fewest, None, lead, close)
    held = {id: text for id, text in enumerate(texts) if text and set(text) <= set(lists.characters) and id not in stop_ids}
    # No row has room for more numbers than this; a limit beyond it limits nothing.
    room = max_new_tokens * max([len(re.findall("[0-9]+", text)) for text in held.values()], default=0)
    if fewest <= room and most < room:
        lists = Lists(smallest, largest, banned, fewest, most, lead, close)
    if fewest > room:
        raise ConfigError(unfinished(lists, max_new_tokens, None))
    table, accepted = characters_table(lists)
    ids, following = tokens_table(table, lists.characters, held)
    stops = np.where(accepted, ENDED, DEAD)[:, None].repeat(len(stop_ids), 1)
    following = np.concatenate([following, stops], axis=1)
    following[ENDED] = ENDED
    needed = tokens_needed(following)
    if needed[Automaton.START] > max_new_tokens:
        raise ConfigError(unfinished(lists, max_new_tokens, int(needed[Automaton.START])))
    return Automaton(torch.tensor([*ids, *stop_ids]), torch.from_numpy(following), torch.from_numpy(needed), max_new_tokens)


def unfinished(lists: Lists, max_new_tokens: int, needed: int | None) -> str:
    """Return the message that says why nothing can be sampled."""
    what = (
        f"samples.constrained: the filter lets pass {lists.fewest} or more numbers from {lists.smallest} to {lists.largest} "
        f"that are not banned"
    )
    if needed is not None and needed < NEVER:
        return (
            f"{what}, which takes {needed} tokens with the end of turn, and samples.max_new_tokens is {max_new_tokens}: "
            "raise it or lower numbers.canonical.count"
        )
    return (
        f"{what}, and no such list can be written in {max_new_tokens} tokens of this tokenizer: raise samples.max_new_tokens, "
        "loosen the section numbers, or take samples.constrained away"
    )


def characters_table(lists: Lists) -> tuple[Int[np.ndarray, "n_states n_characters"], Bool[np.ndarray, " n_states"]]:
    """Return the state after each of the lists' characters, and whether a text may end in each state.

    The third state is the start.
    """
    states, rows = [State(None, 0, None, "")], []
    numbers = {states[0]: Automaton.START}
    for state in states:  # the list grows meanwhile
        row = []
        for character in lists.characters:
            if (after := lists.after(state, character)) is None:
                row.append(DEAD)
                continue
            if after not in numbers:
                numbers[after] = Automaton.START + len(states)
                states.append(after)
            row.append(numbers[after])
        rows.append(row)
    dead = [[DEAD] * len(lists.characters)] * Automaton.START
    return np.array(dead + rows), np.array([False, False, *map(lists.accepts, states)])


def tokens_table(
    table: Int[np.ndarray, "n_states n_characters"], characters: str, texts: dict[int, str]
) -> tuple[list[int], Int[np.ndarray, "n_states n_ids"]]:
    """Return those of the given tokens that can follow somewhere, and the state after each of them."""
    column = {character: k for k, character in enumerate(characters)}
    ids, columns = [], []
    for id, text in texts.items():
        states = np.arange(len(table))
        for character in text:
            states = table[states, column[character]]
        if states.any():
            ids.append(id)
            columns.append(states.astype(np.int32))
    return ids, np.stack(columns, axis=1) if ids else np.empty((len(table), 0), dtype=np.int32)


def tokens_needed(following: Int[np.ndarray, "n_states n_ids"]) -> Int[np.ndarray, " n_states"]:
    """Return the fewest tokens that lead from each state to `ENDED`; `NEVER` if none do."""
    needed = np.full(len(following), NEVER, dtype=np.int32)
    needed[ENDED] = 0
    while True:
        # One step backwards: reach the states from which one token leads to a state that was just reached.
        closer = np.minimum(needed, 1 + needed[following].min(axis=1))
        if (closer == needed).all():
            return needed
        needed = np.minimum(closer, NEVER)
