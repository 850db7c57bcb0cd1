"""The sparse autoencoder of a named model, trained on text."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow.parquet import ParquetFile
from sae_lens.saes.sae import SAEMetadata

from undertone.lm.chat import Row
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.runtime.files import Stamp, read_json, whole
from undertone.saes.stored import stored_batches
from undertone.saes.text import opening
from undertone.saes.trainer import streamed, write_trained
from undertone.study.config.saes import Sae

# Tokens read at a time, padding included.
TOKENS = 4096


def make_text_sae(
    model: Path,
    text: Path,
    store: Sequence[Path],
    sae: Path,
    files: Sequence[Path],
    settings: Sae,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train an SAE on a named model over contexts of text; write its `files` and `sae.json`, as for any SAE.

    Activations come from the shards of `store`, if there are any.
    """
    loaded = load(model)
    metadata = SAEMetadata(
        model_name=read_json(model)["name"],
        hook_name=HookPoint.of(settings).name,
        prepend_bos=opening(loaded.tokenizer) == [loaded.tokenizer.bos_token_id],
        context_size=settings.context,
    )
    if store:
        x = stored_batches(store, settings, loaded.model.device)
    else:
        x = streamed(loaded, settings, text_rows(text, settings.seed, max(1, TOKENS // settings.context)))
    write_trained(loaded, settings, x, metadata, sae, files, stamp, scratch)


def text_rows(text: Path, seed: int, at_once: int) -> Iterator[list[Row]]:
    """Yield endless batches of a table's contexts: all once, then again, each time in an order of row groups drawn by `seed`.

    Contexts in a batch have similar lengths, so that few tokens are padding.
    """
    order = random.Random(seed)
    with whole(text):
        file = ParquetFile(text)
    while True:
        for group in order.sample(range(file.num_row_groups), file.num_row_groups):
            ids = sorted(file.read_row_group(group, columns=["ids"])["ids"].to_pylist(), key=len)
            yield from ([Row(each, 0) for each in ids[k : k + at_once]] for k in range(0, len(ids), at_once))
