"""Training runs for a scaling law: SAEs of the embedded model, trained on its corpus."""

from pathlib import Path
from typing import Any

from undertone.lab.width_runs import Run, train_runs
from undertone.lm.loading import load
from undertone.models.model import corpus_of
from undertone.runtime.files import Stamp
from undertone.saes.sae import CHATS_SEED, corpus_rows
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae


def make_scaling_runs(
    model: Path,
    corpus: Path,
    text: Path,
    runs: Path,
    run: dict[str, Any],
    sae: Sae,
    of_model: Model,
    stamp: Stamp,
    scratch: Path,
) -> str:
    """Train SAEs of every width on chats of the corpus that the run's seed draws; write a row for each in `runs`."""
    loaded = load(model)
    chats = corpus_rows(loaded, corpus_of(corpus, of_model.embedded), CHATS_SEED + run["seed"])
    return train_runs(loaded, chats, text, runs, Run(**run), sae, stamp, scratch)
