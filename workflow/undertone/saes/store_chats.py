"""Table of the chats whose activations are stored: those of the embedded model's corpus that an SAE is trained on."""

from pathlib import Path

import pyarrow as pa

from undertone.lm.chat import special_ids
from undertone.lm.loading import load
from undertone.models.model import corpus_of
from undertone.runtime.files import Stamp, replacing
from undertone.saes.sae import CHATS_SEED, corpus_rows
from undertone.saes.text import SCHEMA, table
from undertone.study.config.models import Model


def make_store_chats(model: Path, corpus: Path, text: Path, tokens: int, of_model: Model, stamp: Stamp) -> str:
    """Write chats that hold `tokens` tokens of text, not counting each chat's first; return a message for the log.

    An SAE of seed 0 is trained on the same chats if no activations are stored.
    """
    loaded = load(model)
    special, n, rows = special_ids(loaded.tokenizer), 0, 0
    with replacing(text) as temporary, table(temporary, stamp) as writer:
        for chats in corpus_rows(loaded, corpus_of(corpus, of_model.embedded), CHATS_SEED):
            group = [{"row": rows + k, "source": 0, "ids": chat.ids} for k, chat in enumerate(chats)]
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
            rows += len(group)
            n += sum(token not in special for chat in chats for token in chat.ids[1:])
            if n >= tokens:
                break
    return f"{n:,} tokens in {rows:,} chats"
