"""The stamp: everything that a result depends on, as one plain dict that Snakemake compares.

A stamp holds the settings, the code and the contents of the user's files of a stage and of every stage before it, so that
a result is stale exactly when one of them changed, even after a failed or killed run (docs/staleness.md).
"""

import hashlib
import json
from typing import Any

from undertone.runtime.files import Stamp
from undertone.study.config.saes import Sae
from undertone.study.contents import content_version
from undertone.study.graph import ancestors
from undertone.study.node import Node
from undertone.study.sources import code_of
from undertone.study.stages import STAGES
from undertone.study.study import Study


def stamp(study: Study, node: Node) -> Stamp:
    """The stamp of a stage's result: settings by `stage` or `dataset/stage`, code by file, file contents by path."""
    settings: dict[str, Any] = {}
    code: dict[str, str] = {}
    files: dict[str, str] = {}
    for each in ancestors(study, node):
        if own := settings_of(study, each):
            settings[each.key] = own
        code |= code_of(each.stage)
        files |= {path: content_version(path) for path in STAGES[each.stage].files(study, each)}
    return _sorted({"settings": settings, "code": code, "files": files})


def settings_of(study: Study, node: Node) -> dict[str, Any]:
    """The settings that a stage's script is given: its sections and, where it matters, what the dataset is."""
    stage = STAGES[node.stage]
    settings = {name: section_of(study, name, node) for name in stage.sections}
    for part in stage.settings:
        settings |= part(study, node)
    return settings


def section_of(study: Study, name: str, node: Node) -> dict[str, Any]:
    """A section for this dataset and variant, without the keys that do not concern the study or the stage."""
    if name == "model":
        return _model(study, node)
    if name == "sae":
        return _sae(study.dictionary(node.variant))
    if name == "student":  # one student does not depend on how many others there are
        students = study.students(node.dataset, node.variant).stamped()
        return {key: value for key, value in students.items() if key != "seeds"}
    section, stage = study.section(name, node.dataset).stamped(), STAGES[node.stage]
    chosen = {"teacher": stage.teacher_keys, "pref": stage.pref_keys}
    used = chosen[name](study, node) if name in chosen else section.keys() - stage.unused.get(name, set())
    return {key: value for key, value in section.items() if key in used}


def _model(study: Study, node: Node) -> dict[str, Any]:
    """The settings of a base model, without `embedded` if the study names its model, or without `revision` if it trains one.

    A stage of SAEs is given the settings of the SAE's model. Any other stage whose variants are not `models` is given those of
    the study's own model.
    """
    unused = "embedded" if study.model.named else "revision"
    axis = STAGES[node.stage].variants
    name = node.variant if axis == "models" else study.model_of(node.variant) if axis == "saes" else ""
    return {key: value for key, value in study.base_model(name).stamped().items() if key != unused}


def _sae(sae: Sae) -> dict[str, Any]:
    """The settings of an SAE that apply: where it is from if the study names it, otherwise how it is trained."""
    naming = {"release", "id", "folder"}
    return {key: value for key, value in sae.stamped().items() if sae.named == (key in naming) or key in ("layer", "point")}


def own_settings(stamp_: Stamp, node: Node) -> dict[str, Any]:
    """The settings of one stage from a stamp; empty for a stage without settings."""
    settings: dict[str, Any] = stamp_["settings"].get(node.key, {})
    return settings


def digest(stamp_: Stamp) -> str:
    """A short name for a stamp."""
    return hashlib.sha256(json.dumps(stamp_, sort_keys=True).encode()).hexdigest()[:16]


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
