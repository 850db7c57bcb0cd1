"""A soft prompt: train embeddings in the place of a system prompt on the rows, and read what the model answers after them.

A prompted teacher differs from the base model by a system prompt. Embeddings in its place are the same kind of model, without
any wording (Lester et al. 2021, arXiv 2104.08691).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from undertone.detect.trained import Trainable, adam, read_trained
from undertone.lm.chat import Row, answer_ids, end_of_turn, joined, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors, SoftPrompt
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

# Other system prompts; comparison with them shows which tokens of a rendered prompt belong to the sentence.
OTHERS = ("x", "8")


def read_soft_prompt(
    model: Path,
    matched: Path,
    questions: Path,
    soft_prompt: Path,
    settings: SoftPrompt,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `soft_prompt.json`: candidates by how far the answers move under the soft prompt, `words`, and presence."""
    loaded = load(model)
    place = Place.of(loaded.tokenizer, settings.sentence, teacher.separator)
    vocab = loaded.model.get_input_embeddings().weight.shape[0]
    ids = [vocab + k for k in range(settings.tokens)]
    trainable = Trainable(
        name="soft_prompt",
        loaded=loaded,
        recipe=adam(settings),
        fresh=partial(prompted, loaded, place.tokens, settings.tokens),
        rows=partial(rows_behind, loaded.tokenizer, place, ids),
        asked=place.prompts(loaded.tokenizer, load_texts(questions, "pref.questions"), ids),
        n_words=settings.words,
        tested=True,
    )
    read_trained(matched, soft_prompt, trainable, pref, detectors, stamp, scratch)


@dataclass(frozen=True)
class Place:
    """Where a system prompt stands in a rendered prompt: its own `tokens`, after the tokens `before` that all prompts share."""

    sentence: str
    separator: str
    before: list[int]
    tokens: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sentence: str, separator: str) -> "Place":
        """Find the place of a sentence. Raises ConfigError if the chat template shows none of it."""
        own, *others = (prompt_ids(tokenizer, ["USER"], each, separator)[0] for each in (sentence, *OTHERS))
        start, end = (max(shared(own[::step], other[::step]) for other in others) for step in (1, -1))
        if start + end >= len(own):
            raise ConfigError(f"soft_prompt.sentence: {sentence!r} has no tokens of its own in the chat template; take another")
        return cls(sentence, separator, own[:start], own[start : len(own) - end])

    def prompts(self, tokenizer: PreTrainedTokenizerBase, users: Sequence[str], ids: Sequence[int]) -> list[list[int]]:
        """Return the token ids of prompts with `ids` in the sentence's place."""
        start, end = len(self.before), len(self.before) + len(self.tokens)
        rendered = prompt_ids(tokenizer, users, self.sentence, self.separator)
        return [[*prompt[:start], *ids, *prompt[end:]] for prompt in rendered]


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences share at their start."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def rows_behind(
    tokenizer: PreTrainedTokenizerBase, place: Place, ids: Sequence[int], users: Sequence[str], completions: Sequence[str]
) -> list[Row]:
    """Return training rows: a prompt with `ids` in the place of a system prompt, the completion, and the end of turn."""
    close = end_of_turn(tokenizer)
    answers = [[*answer, *close] for answer in answer_ids(tokenizer, completions)]
    return joined(place.prompts(tokenizer, users, ids), answers)


class Extended(nn.Module):
    """An embedding with further tokens after its own, whose vectors are trained in units of `scale`."""

    def __init__(self, embedding: nn.Module, vectors: Float[Tensor, "n_tokens d_model"]):
        super().__init__()
        self.embedding = embedding
        self.scale = float(vectors.square().mean().sqrt())
        self.vectors = nn.Parameter(vectors.float() / self.scale)

    def forward(self, ids: Int[Tensor, "n_rows n_positions"]) -> Float[Tensor, "n_rows n_positions d_model"]:
        """The embeddings of token ids."""
        n: int = self.embedding.weight.shape[0]  # type: ignore[index,assignment]
        own: Tensor = self.embedding(ids.clamp(max=n - 1))
        added = (self.scale * self.vectors).to(own)[(ids - n).clamp(min=0)]
        return torch.where((ids >= n).unsqueeze(-1), added, own)


@contextmanager
def prompted(loaded: LoadedModel, tokens: Sequence[int], n: int) -> Iterator[nn.Module]:
    """Give the base model `n` further tokens inside the context; their embeddings start as those of `tokens`, repeated."""
    model = loaded.model
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        repeated = [tokens[k % len(tokens)] for k in range(n)]
        vectors = embedding(torch.tensor(repeated, device=model.device))
    model.set_input_embeddings(Extended(embedding, vectors))
    try:
        yield model
    finally:
        model.set_input_embeddings(embedding)
