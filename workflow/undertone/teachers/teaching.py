"""Teachers: the base model under the intervention that a dataset's `teacher` names. No student is ever trained under it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.lm.chat import persona
from undertone.lm.loading import LoadedModel
from undertone.lm.tensors import stored
from undertone.runtime.files import read_json
from undertone.study.config.teachers import Teacher


@dataclass(frozen=True)
class PromptedModel:
    """A model and the system prompt it is queried with (None: none is sent)."""

    loaded: LoadedModel
    system: str | None
    separator: str


@contextmanager
def teaching(
    loaded: LoadedModel, settings: dict[str, Any], teacher: Path | None, sae: Path | None = None
) -> Iterator[PromptedModel]:
    """Yield the base model as the teacher.

    `settings` holds `kind`, `target` and the section `teacher`. The file `teacher` is the `teacher.json` of a steered or
    finetuned teacher; `sae` is the `sae.json` of the SAE whose feature it clamps.
    """
    cfg = Teacher.model_validate(settings["teacher"])
    if settings["kind"] in ("none", "prompt"):
        yield PromptedModel(loaded, persona(cfg, settings["target"]) if settings["kind"] == "prompt" else None, cfg.separator)
        return
    assert teacher is not None
    # Imported here: a prompted teacher needs neither PEFT nor SAELens, which take seconds to import.
    if settings["kind"] == "finetune":
        from undertone.lm.adapters import finetuned

        with finetuned(loaded, teacher.with_name("teacher")) as model:
            yield PromptedModel(model, None, cfg.separator)
        return
    from undertone.lm.steering import Steering, steered

    record = read_json(teacher)
    vector = dict(stored(teacher.with_suffix(".safetensors")))["vector"].to(loaded.model.device)
    clamp: dict[str, Any] = {}
    if record["mode"] == "clamp":
        from undertone.saes.saved import load_sae

        assert sae is not None
        clamp = {"sae": load_sae(sae, loaded)[0], "feature": record["feature"], "level": record["level"]}
    with steered(loaded, Steering(record["mode"], vector, record["layer"], record["positions"] == "completion", **clamp)):
        yield PromptedModel(loaded, record["system"], cfg.separator)
