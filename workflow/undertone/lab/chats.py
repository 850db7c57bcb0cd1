"""Text to read the embedded model's features on: fresh chats of its corpus."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from undertone.lab.context_table import write_contexts
from undertone.lm.chat import special_ids
from undertone.lm.loading import folder_of, read_tokenizer
from undertone.models.corpus import Corpus
from undertone.models.model import chat_rows, corpus_of
from undertone.runtime.files import Stamp
from undertone.study.config.lab import Contexts
from undertone.study.config.models import Model

# A seed of its own, so that neither the model nor the SAE is trained on these chats.
CHATS_SEED = 3_000_017
# Chats drawn at a time.
CHATS = 256


def make_chats(model: Path, corpus: Path, text: Path, settings: Contexts, of_model: Model, stamp: Stamp) -> str:
    """Write chats that hold `settings.tokens` tokens of text; return a message for the log."""
    folder = folder_of(model)
    tokenizer = read_tokenizer(folder, str(folder))
    chats = fresh_chats(tokenizer, corpus_of(corpus, of_model.embedded), CHATS_SEED + settings.seed)
    return write_contexts(text, chats, special_ids(tokenizer), settings.tokens, stamp)


def fresh_chats(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, seed: int) -> Iterator[list[int]]:
    """Yield endless chats of the corpus as token ids, with their personas and small talk."""
    for number in itertools.count():
        chats = list(corpus.chats(CHATS, seed + number * 1_000))
        yield from (row.ids for row in chat_rows(tokenizer, chats, seed + number))
