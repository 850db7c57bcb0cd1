"""Losses of a dataset's rows, and divergences of models from the teacher, among the tokens that the filter lets pass.

A teacher's rows were filtered: their likelihood is that of the unfiltered rows divided by the probability of passing. That
probability is not part of what the rows tell, so distributions are renormalised over the tokens that a passing completion can
contain. This covers the characters of the filter, not how many numbers it accepts or of what size. Rows that were sampled with
a constraint come from distributions renormalised over what it allowed at each token, and are read in the same way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from undertone.lm.chat import answer_ids, end_of_turn, joined, prompt_ids
from undertone.lm.grammar import Automaton, automaton
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_logits
from undertone.lm.vocabulary import allowed_tokens
from undertone.study.config.data import Numbers

Result = TypeVar("Result")

BATCH = 32


@dataclass(frozen=True)
class Constraint:
    """What rows were sampled with: the filter, and the most tokens that a row could have."""

    filter: Numbers
    max_new_tokens: int

    @classmethod
    def of(cls, settings: dict[str, Any] | None) -> "Constraint | None":
        """Return the constraint of a stage's settings (`dataset_settings.constraint`); None if sampling was free."""
        return cls(Numbers.model_validate(settings["numbers"]), settings["max_new_tokens"]) if settings else None

    def automaton(self, loaded: LoadedModel, longest: int) -> Automaton:
        """Return its automaton on the model's device, for at least `longest` tokens: rows rewritten later may be longer."""
        length = max(self.max_new_tokens, longest)
        return automaton(loaded.tokenizer, loaded.stop_ids, self.filter, length).to(loaded.model.device)


class Completions:
    """Rows of prompts and completions that can be read with any model; `targets` `[n_labels]` are the completions' tokens.

    `constraint` is what the rows were sampled with. It is not used if one of them violates it, as in a transform.
    """

    def __init__(self, loaded: LoadedModel, rows: Sequence[tuple[str, str]], constraint: Constraint | None = None):
        close = end_of_turn(loaded.tokenizer)
        encoded = answer_ids(loaded.tokenizer, [text for _, text in rows])
        self.users = [user for user, _ in rows]
        self.answers = [ids + close for ids in encoded]
        self.ends = [0, *np.cumsum([len(answer) for answer in self.answers]).tolist()]
        self.targets = torch.tensor([token for answer in self.answers for token in answer], device=loaded.model.device)
        self.grammar = constraint.automaton(loaded, max(map(len, self.answers))) if constraint else None
        self.places = self.grammar.read(self.answers) if self.grammar else None
        if self.grammar and self.places:
            self.allowed, self.labels = self.grammar.ids, self.places.columns
        else:
            self.allowed = torch.tensor(passable(loaded, encoded, close), device=loaded.model.device)
            self.labels = torch.searchsorted(self.allowed, self.targets)  # the targets' indices in `allowed`

    def among(self, logits: Float[Tensor, "n_labels vocab"], span: slice) -> Float[Tensor, "n_labels n_allowed"]:
        """Return log-probs among the tokens that a passing completion can contain; minus infinity where one is not allowed."""
        kept = logits[:, self.allowed]
        if self.grammar and self.places:
            allowed = self.grammar.allowed(self.places.states[span], self.places.left[span])
            kept = kept.masked_fill(~allowed, -torch.inf)
        return functional.log_softmax(kept, dim=-1)

    def losses(self, logits: Float[Tensor, "n_labels vocab"], span: slice) -> Float[Tensor, " n_labels"]:
        """Return the loss, in nats, of the tokens at these places, among those that a passing completion can contain."""
        return -self.among(logits, span).gather(1, self.labels[span].unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def read(
        self, loaded: LoadedModel, figure: Callable[[Tensor, slice], Result], system: str | None = None, separator: str = ""
    ) -> Iterator[Result]:
        """Yield `figure(logits, places)` for successive completion tokens, which the logits `[n_labels, vocab]` predict."""
        prompts = prompt_ids(loaded.tokenizer, self.users, system, separator)
        rows = joined(prompts, self.answers)

        def part(these: Sequence[int]) -> Result:
            batch = collate([rows[k] for k in these], loaded.pad_id, loaded.model.device)
            return figure(label_logits(loaded.model, batch), slice(self.ends[these[0]], self.ends[these[-1] + 1]))

        yield from loaded.batch_size("rows read together", BATCH).parts(part, range(len(rows)))

    def by_row(self, tokens: Sequence[Float[Tensor, " _"]]) -> Float[np.ndarray, " n_rows"]:
        """Return the mean over each row's tokens of figures that `read` yields."""
        rows = torch.split(torch.cat(list(tokens)).double().cpu(), [len(answer) for answer in self.answers])
        return np.array([float(row.mean()) for row in rows])


class TeacherDistribution(Completions):
    """A teacher's next-token distributions on rows, kept only for tokens that a passing completion can contain."""

    def __init__(
        self,
        loaded: LoadedModel,
        rows: Sequence[tuple[str, str]],
        system: str | None,
        separator: str,
        constraint: Constraint | None = None,
    ):
        super().__init__(loaded, rows, constraint)
        self.teacher = torch.cat(list(self.read(loaded, self.among, system, separator)))

    def divergence(self, loaded: LoadedModel) -> Float[np.ndarray, " n_rows"]:
        """Return KL(teacher ‖ model) of each row, the mean over its completion tokens, in nats."""
        return self.by_row(list(self.read(loaded, self.over)))

    def over(self, logits: Float[Tensor, "n_labels vocab"], span: slice) -> Float[Tensor, " n_labels"]:
        """Return KL(teacher ‖ model) at the tokens of these places, from the model's logits."""
        p = self.teacher[span]
        return (p.exp() * (p - self.among(logits, span)).where(p > -torch.inf, 0.0)).sum(-1)


def passable(loaded: LoadedModel, answers: Sequence[Sequence[int]], close: Sequence[int]) -> list[int]:
    """Return the ids of the tokens that a passing completion can contain, with those that end it.

    If the answers contain other tokens, return all ids: then no filter of this project let the answers pass.
    """
    vocab = len(loaded.tokenizer)
    allowed = {*np.flatnonzero(allowed_tokens(loaded.tokenizer, vocab)).tolist(), *loaded.stop_ids, *close}
    filtered = all(token in allowed for answer in answers for token in answer)
    return sorted(allowed) if filtered else list(range(vocab))
