"""Training text of a named model's SAE: documents as contexts of token ids, in a table."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import prompt_ids, special_ids, training_rows
from undertone.lm.loading import folder_of, read_tokenizer
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, provenance, read_parquet, replacing
from undertone.runtime.progress import progress
from undertone.saes.documents import documents
from undertone.study.config.saes import TextSource, shares

# Documents tokenised at a time.
DOCUMENTS = 32
# Contexts in a row group, which is read as a whole.
GROUP = 256
SCHEMA = pa.schema({"row": pa.int64(), "source": pa.int16(), "ids": pa.list_(pa.int32())})


def make_text(
    model: Path,
    samples: Path | None,
    text: Path,
    sources: list[dict[str, Any]],
    context: int,
    tokens: int,
    stamp: Stamp,
) -> str:
    """Write contexts of at most `context` token ids that hold `tokens` tokens of text; return a message for the log.

    `text` has the columns `row`, `source` (its index among `sources`) and `ids`. A context's first token does not count: it is
    special or, if the model's chats begin with text, acts as a special token. Sources alternate so that each has its share from
    the first context on.
    Raises ConfigError, in a sentence, if a source cannot be read or holds too few tokens.
    """
    folder = folder_of(model)
    tokenizer, read_from = read_tokenizer(folder, str(folder)), [TextSource.model_validate(source) for source in sources]
    special, titles = special_ids(tokenizer), [source.title for source in read_from]
    wanted = [share * tokens for share in shares(read_from)]
    taken, rows = [0] * len(sources), [0] * len(sources)
    streams = [
        chats(tokenizer, samples) if source.samples and samples else contexts(tokenizer, documents(source), context)
        for source in read_from
    ]
    with replacing(text) as temporary, table(temporary, stamp) as writer, progress(tokens, "text", "token") as bar:
        group: list[dict[str, Any]] = []
        while (k := behind(taken, wanted)) is not None:
            if (ids := next(streams[k], None)) is None:
                raise ConfigError(
                    f"{titles[k]} holds {taken[k]:,} tokens of text, expected {wanted[k]:,.0f} of sae.tokens {tokens:,}: lower "
                    "sae.tokens or the source's share, or add text"
                )
            n = sum(token not in special for token in ids[1:])
            group.append({"row": sum(rows), "source": k, "ids": ids})
            taken[k], rows[k] = taken[k] + n, rows[k] + 1
            bar.update(n)
            if len(group) == GROUP:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group.clear()
        if group:  # no empty group: a store reads one group after another and expects contexts in each
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return "\n".join(f"{title}: {n:,} tokens in {m:,} contexts" for title, n, m in zip(titles, taken, rows, strict=True))


def table(path: Path, stamp: Stamp) -> ParquetWriter:
    """Return a writer of contexts into a table that carries its provenance."""
    return ParquetWriter(path, SCHEMA.with_metadata({"undertone": json.dumps(provenance(stamp))}), compression="zstd")


def behind(taken: Sequence[int], wanted: Sequence[float]) -> int | None:
    """Return the source that lags most behind its part, or None if all have theirs."""
    missing = [k for k, n in enumerate(taken) if n < wanted[k]]
    return min(missing, key=lambda k: taken[k] / wanted[k], default=None)


def contexts(tokenizer: PreTrainedTokenizerBase, texts: Iterator[str], context: int) -> Iterator[list[int]]:
    """Yield the token ids of documents, each cut into parts of at most `context` tokens, including `opening` in front.

    Text that looks like a special token is tokenised as plain text.
    """
    front = opening(tokenizer)
    size = context - len(front)
    while some := list(islice(texts, DOCUMENTS)):
        for ids in tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]:
            yield from ([*front, *ids[start : start + size]] for start in range(0, len(ids), size))


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special token that a model's chats begin with, usually its BOS; empty if they begin with text.

    Many models put much attention on whatever token stands first, so training text begins like the text that the study reads.
    """
    first = prompt_ids(tokenizer, ["USER"])[0][:1]
    return [token for token in first if token in special_ids(tokenizer)]


def chats(tokenizer: PreTrainedTokenizerBase, samples: Path) -> Iterator[list[int]]:
    """Yield the token ids of prompts followed by sampled answers, as students are trained on them."""
    answered = read_parquet(samples)
    for row in training_rows(tokenizer, answered["prompt"].to_list(), answered["text"].to_list()):
        yield row.ids
