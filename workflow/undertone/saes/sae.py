"""The sparse autoencoder of the embedded study, trained on the model's own corpus."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from sae_lens.saes.sae import SAEMetadata

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.models.corpus import Corpus
from undertone.models.model import chat_rows, corpus_of
from undertone.runtime.files import Stamp
from undertone.saes.stored import stored_batches
from undertone.saes.trainer import streamed, write_trained
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae

# The SAE sees other chats than the model did.
CHATS_SEED = 2_000_003
# Chats that are made and read at once.
ROWS = 256


def make_sae(
    model: Path,
    corpus: Path,
    store: Sequence[Path],
    sae: Path,
    files: Sequence[Path],
    settings: Sae,
    of_model: Model,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train an SAE on the embedded model and write its `files` and `sae.json`, by which every later stage loads it.

    Activations are those of the shards of `store`; without any, of chats of the corpus that the seed draws.
    """
    loaded = load(model)
    if store:
        x = stored_batches(store, settings, loaded.model.device)
    else:
        chats = corpus_rows(loaded, corpus_of(corpus, of_model.embedded), CHATS_SEED + settings.seed)
        x = streamed(loaded, settings, chats)
    metadata = SAEMetadata(model_name="embedded", hook_name=HookPoint.of(settings).name, prepend_bos=True)
    write_trained(loaded, settings, x, metadata, sae, files, stamp, scratch)


def corpus_rows(loaded: LoadedModel, corpus: Corpus, seed: int) -> Iterator[list[Row]]:
    """Endless batches of chats of the embedded model's corpus."""
    for number in itertools.count():
        yield chat_rows(loaded.tokenizer, list(corpus.chats(ROWS, seed + number * 1_000)), seed + number)
