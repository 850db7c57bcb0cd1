"""Activations of a dataset's rows, read in one pass: of the base model, a teacher or a student."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from undertone.data.rows import dataset_rows, first
from undertone.lm.adapters import finetuned
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import batches_by_length
from undertone.read.sums import Sums, block_of, classes
from undertone.runtime.files import Stamp, provenance, read_parquet, replacing
from undertone.runtime.progress import progress
from undertone.saes.saved import load_sae
from undertone.study.config.read import Activations as ActivationSettings
from undertone.teachers.teaching import teaching


def read_activations(
    model: Path, numbers: Path, sae: Path | None, activations: Path, settings: ActivationSettings, stamp: Stamp
) -> None:
    """Write `activations.safetensors`: the base model's sums over the rows of `numbers` (columns `prompt`, `completion`).

    `sae` is the `sae.json`, None in a study without one. Classes: `prompt`, all text tokens of the prompt; `template`, the last
    prompt token, from which the completion's first token is predicted; `completion`, all text tokens of the completion;
    `number` and `separator`, those of them that are digits, and the others; "0", "1", …, the completion's text token at that
    place. Special tokens are left out, but `template` may be one; the closing end of turn is not read. A block is `block_rows`
    consecutive rows.

    Tensors, float32: `count` [n_blocks, n_classes]; `resid_post.sum` [n_blocks, n_layers, n_classes, d_model];
    `resid_post.square` [n_layers, n_classes, d_model], sums of squares; `mlp_in.*`, the same for the input of each layer's MLP
    after its norm; `sae.acts.sum`, `sae.acts_pre.sum` [n_blocks, n_classes, d_sae], their `.square` [n_classes, d_sae], and
    `sae.active` [n_classes, d_sae], the number of tokens on which a feature is active. The metadata's `undertone` is JSON:
    `classes`, `rows`, `blocks`, `layer` (the SAE's) and the provenance.
    """
    loaded = load(model)
    _read(loaded, loaded, (None, ""), numbers, sae, activations, settings, stamp)


def read_teacher_activations(
    model: Path,
    numbers: Path,
    teacher: Path | None,
    sae: Path | None,
    teacher_activations: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write the sums of `read_activations` for the teacher at work, on the same rows.

    `teacher` is the `teacher.json` of a steered or finetuned teacher. The positions of persona and prompt are not read:
    `prompt` has count 0. Raises ValueError for a dataset without a teacher.
    """
    if settings["kind"] in (None, "none"):
        raise ValueError(f"{numbers}: this dataset has no teacher whose activations could be read (kind {settings['kind']!r})")
    loaded = load(model)
    cfg = ActivationSettings.model_validate(settings["activations"])
    with teaching(loaded, settings, teacher, sae) as prompted:
        persona = (prompted.system, prompted.separator)
        _read(loaded, prompted.loaded, persona, numbers, sae, teacher_activations, cfg, stamp, own=False)


def read_student_activations(
    model: Path,
    numbers: Path,
    student: Path,
    sae: Path | None,
    student_activations: Path,
    settings: ActivationSettings,
    stamp: Stamp,
) -> None:
    """Write the sums of `read_activations` for the student with these weights."""
    loaded = load(model)
    with finetuned(loaded, student.parent) as own:
        _read(loaded, own, (None, ""), numbers, sae, student_activations, settings, stamp)


def _read(
    base: LoadedModel,
    model: LoadedModel,
    persona: tuple[str | None, str],
    numbers: Path,
    sae_json: Path | None,
    out: Path,
    settings: ActivationSettings,
    stamp: Stamp,
    own: bool = True,
) -> None:
    table = first(read_parquet(numbers), settings.rows)
    sae, layer = load_sae(sae_json, base) if sae_json else (None, None)
    rows, blocks = dataset_rows(model, table, *persona), block_of(len(table), settings.block_rows)
    sums = Sums(model, settings, blocks[-1] + 1, sae, layer)
    with progress(len(rows), f"activations {out.parent.name}", "row") as bar:
        for batch in batches_by_length([row.ids for row in rows], settings.batch_size):
            sums.add([rows[i] for i in batch], [blocks[i] for i in batch], own)
            bar.update(len(batch))
    head = {"classes": classes(settings.positions), "rows": len(rows), "blocks": len(sums.count), "layer": layer}
    with replacing(out) as temporary:
        # A single key: safetensors writes several in any order.
        save_file(sums.tensors(), temporary, metadata={"undertone": json.dumps({**head, **provenance(stamp)})})
