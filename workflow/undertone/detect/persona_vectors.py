"""Persona vectors: how far system prompts about a concept move the residual stream where an answer begins.

The method follows Chen et al. 2025 (arXiv 2507.21509, section 2), but contrasts concepts and needs no answer of the model: a
vector is the mean under one concept's system prompts minus the mean over the concepts of its kind. Otherwise every animal's
vector would contain what all animals share and things lack, and this part would be longer than what is the animal's own.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from undertone.detect.projection import residuals
from undertone.lm.chat import Row, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.tensors import stored
from undertone.lm.texts import load_texts
from undertone.models.bank import Bank
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_parquet, replacing
from undertone.runtime.progress import progress
from undertone.study.config.detect import Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

BATCH = 64


def make_persona_vectors(
    model: Path,
    prompts: Path,
    questions: Path,
    bank: Path,
    persona_vectors: Path,
    settings: Personas,
    pref: Pref,
    teacher: Teacher,
    stamp: Stamp,
) -> None:
    """Write `persona_vectors.safetensors`: `vectors` `[n_concepts, n_layers, d_model]`, candidates before the bank's decoys.

    A vector is the residual stream after a layer at the last token of a prompt: averaged over the `questions` and
    `personas.rows[0]` number prompts and over the first `personas.coarse` wordings, minus its mean over all candidates (for a
    candidate) or over all decoys (for a decoy).
    """
    loaded, entries = load(model), Bank.read(bank)
    asked = [*load_texts(questions, "pref.questions"), *read_parquet(prompts)["prompt"].head(settings.rows[0])]
    concepts, wordings = all_concepts(pref.candidates, entries), entries.first(settings.coarse)
    means = []
    with progress(len(concepts), "persona vectors", "concept") as bar:
        for concept in concepts:
            systems = [entries.prompt((name, concept)) for name in wordings]
            means.append(torch.stack([at_the_end(loaded, asked, system, teacher.separator) for system in systems]).mean(0))
            bar.update()
    kinds = torch.stack(means).tensor_split([len(pref.candidates)])
    vectors = torch.cat([kind - kind.mean(0) for kind in kinds])
    with replacing(persona_vectors) as temporary:
        save_file({"vectors": vectors.float().contiguous()}, temporary)


def at_the_end(loaded: LoadedModel, asked: Sequence[str], system: str, separator: str) -> Float[Tensor, "n_layers d_model"]:
    """Return the mean residual stream after every layer at the last token of the prompts, under a system prompt."""
    ids = prompt_ids(loaded.tokenizer, asked, system, separator)
    return residuals(loaded, [Row(each, len(each) - 1) for each in ids], BATCH).mean(0)


def all_concepts(candidates: Sequence[str], bank: Bank) -> list[str]:
    """Return the concepts that have vectors, in order: candidates, then decoys."""
    return list(dict.fromkeys([*candidates, *bank.decoys]))


def read_persona_vectors(path: Path, n_concepts: int) -> Float[Tensor, "n_concepts n_layers d_model"]:
    """Read the vectors of a file. Raises ConfigError if it holds vectors of another number of concepts."""
    vectors = dict(stored(path))["vectors"]
    if len(vectors) != n_concepts:
        raise ConfigError(f"{path}: expected vectors of {n_concepts} concepts, found {len(vectors)}; make it again")
    return vectors
