"""The text that features are read on, in the tokens of another model."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from transformers import PreTrainedTokenizerBase

from undertone.lab.context_table import read_contexts
from undertone.lm.chat import encode, special_ids
from undertone.lm.loading import folder_of, read_tokenizer
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, write_parquet


def make_retokenized(own: Path, model: Path, text: Path, retokenized: Path, stamp: Stamp) -> str:
    """Write the contexts of `text`, row by row, in the tokens of `model`; return a message for the log."""
    tokenizer, other = (read_tokenizer(folder, str(folder)) for folder in map(folder_of, (own, model)))
    contexts = read_contexts(text)
    rows = in_tokens_of(other, tokenizer, contexts)
    ids = pl.Series(rows, dtype=pl.List(pl.Int32))
    write_parquet(retokenized, pl.DataFrame({"row": pl.Series(range(len(rows)), dtype=pl.Int64), "ids": ids}), stamp)
    n, n_own = (sum(map(len, each)) for each in (rows, contexts))
    return f"{n:,} tokens in {len(rows):,} contexts, of {n_own:,} of the study's own model"


def in_tokens_of(
    other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Convert contexts from one tokenizer's ids to another's.

    Raises ConfigError if they hold a special token that is not one of the other's: chats are then written differently.
    """
    if same_tokens(tokenizer, other):
        return [list(ids) for ids in contexts]
    used = special_ids(tokenizer) & {token for ids in contexts for token in ids}
    names = set(tokenizer.convert_ids_to_tokens(sorted(used)))
    if unknown := sorted(names - set(other.convert_ids_to_tokens(sorted(special_ids(other))))):
        raise ConfigError(
            f"the text holds {unknown[0]!r}, which is no special token of {other.name_or_path}: chats of the two models are "
            "written differently, and their tokens cannot be compared"
        )
    return encode(other, whole_texts(tokenizer, contexts))


def same_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers give texts the same ids: they share a vocabulary and encode a sample equally."""
    vocabularies = [each.get_vocab() for each in (tokenizer, other)]
    sample = "".join(tokenizer.convert_tokens_to_string([token]) for token in list(vocabularies[0])[-500:])
    return vocabularies[0] == vocabularies[1] and encode(tokenizer, [sample]) == encode(other, [sample])


def whole_texts(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Sequence[int]]) -> list[str]:
    """Return contexts as text, with special tokens written out."""
    return tokenizer.batch_decode(
        [list(ids) for ids in contexts], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
