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

# The SAE is trained on other chats than the model.
CHATS_SEED = 2_000_003
# Chats made and read at a time.
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
    """Train an SAE on the embedded model and write its `files` and `sae.json`, from which every later stage loads it.

    Activations come from the shards of `store` or, if there are none, from chats of the corpus that the seed draws.
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
    """Yield endless batches of chats of the embedded model's corpus."""
    for number in itertools.count():
        yield chat_rows(loaded.tokenizer, list(corpus.chats(ROWS, seed + number * 1_000)), seed + number)
