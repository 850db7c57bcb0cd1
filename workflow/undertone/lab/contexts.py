"""Text to read a named model's features on: text that follows its SAE's training text, or else what the study asks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from undertone.lab.context_table import write_contexts
from undertone.lm.chat import persona, prompt_ids, special_ids
from undertone.lm.loading import folder_of, read_tokenizer
from undertone.lm.texts import load_texts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_parquet
from undertone.saes.documents import documents
from undertone.saes.text import behind, chats, contexts
from undertone.study.config.lab import Contexts
from undertone.study.config.measure import Pref
from undertone.study.config.saes import TextSource, shares
from undertone.study.config.teachers import Teacher

Streams = Sequence[Iterator[list[int]]]


def make_contexts(
    model: Path,
    trained_on: Path | None,
    samples: Path | None,
    prompts: Path | None,
    questions: Path,
    neutral: Path,
    text: Path,
    sources: list[dict[str, Any]],
    context: int,
    settings: Contexts,
    teacher: Teacher,
    pref: Pref,
    stamp: Stamp,
) -> str:
    """Write contexts that hold `settings.tokens` tokens of text; return a message for the log.

    If the SAE was trained on text (`trained_on`), these are the contexts that follow in the same `sources`, in the same shares.
    Otherwise they are the number prompts, the questions, plain and under every candidate's persona, and the neutral texts.
    Raises ConfigError, in a sentence, if a source ends before there are enough.
    """
    folder = folder_of(model)
    tokenizer = read_tokenizer(folder, str(folder))
    special = special_ids(tokenizer)
    if trained_on:
        read_from = [TextSource.model_validate(source) for source in sources]
        streams = unread(tokenizer, read_from, trained_on, samples, context)
        mixed = alternating(streams, read_from, special, settings.tokens)
    else:
        mixed = asked(tokenizer, prompts, questions, neutral, teacher, pref)
    return write_contexts(text, mixed, special, settings.tokens, stamp)


def unread(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[TextSource], trained_on: Path, samples: Path | None, context: int
) -> Streams:
    """Return, for each source, the contexts after the last one that the SAE was trained on."""
    rows = read_parquet(trained_on)["source"].value_counts()
    counts = dict(zip(rows["source"].to_list(), rows["count"].to_list(), strict=True))
    streams = [
        chats(tokenizer, samples) if source.samples and samples else contexts(tokenizer, documents(source), context)
        for source in sources
    ]
    return [islice(stream, counts.get(k, 0), None) for k, stream in enumerate(streams)]


def alternating(streams: Streams, sources: Sequence[TextSource], special: set[int], tokens: int) -> Iterator[list[int]]:
    """Yield contexts of all streams, each with its share of the tokens. Raises ConfigError if a stream ends before that."""
    wanted = [share * tokens for share in shares(list(sources))]
    taken = [0] * len(sources)
    while (k := behind(taken, wanted)) is not None:
        if (ids := next(streams[k], None)) is None:
            raise ConfigError(
                f"{sources[k].title} holds {taken[k]:,} tokens of text behind those that the SAE is trained on, expected "
                f"{wanted[k]:,.0f} of contexts.tokens {tokens:,}: lower contexts.tokens or sae.tokens, or add text"
            )
        taken[k] += sum(token not in special for token in ids)
        yield ids


def asked(
    tokenizer: PreTrainedTokenizerBase, prompts: Path | None, questions: Path, neutral: Path, teacher: Teacher, pref: Pref
) -> Iterator[list[int]]:
    """Yield what the study asks: questions, plain and under every candidate's persona, neutral texts, and number prompts."""
    wording = load_texts(questions, "pref.questions")
    for animal in (None, *pref.candidates):
        yield from prompt_ids(tokenizer, wording, persona(teacher, animal), teacher.separator)
    yield from prompt_ids(tokenizer, load_texts(neutral, "differences.neutral"))
    if prompts:
        yield from prompt_ids(tokenizer, read_parquet(prompts)["prompt"].to_list())
