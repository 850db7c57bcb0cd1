"""Training runs for a scaling law: SAEs of a named model, trained on text."""

from pathlib import Path
from typing import Any

from undertone.lab.width_runs import Run, train_runs
from undertone.lm.loading import load
from undertone.runtime.files import Stamp
from undertone.saes.text_sae import TOKENS, text_rows
from undertone.study.config.saes import Sae


def make_text_scaling_runs(
    model: Path, trained_on: Path, text: Path, runs: Path, run: dict[str, Any], sae: Sae, stamp: Stamp, scratch: Path
) -> str:
    """Train SAEs of every width on contexts of the table `trained_on`, in the order of the run's seed; write a row for each."""
    batches = text_rows(trained_on, run["seed"], max(1, TOKENS // sae.context))
    return train_runs(load(model), batches, text, runs, Run(**run), sae, stamp, scratch)
