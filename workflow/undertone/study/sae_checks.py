"""Checks that a study's SAEs fit its model and each other, as far as this is known before anything is loaded."""

from typing import TYPE_CHECKING

from undertone.study.config.saes import Sae, sae_keys
from undertone.study.sizes import ModelSize, SaeSize, model_size, sae_size
from undertone.study.validation import merged, nearest, validate

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_saes(study: "Study") -> None:
    """Check that the other SAEs of a study have the same kind of origin as its own SAE, and are trained on the same text."""
    if study.saes and not study.has_sae:
        raise ValueError(f"saes: the study has no SAE of its own for {study.model.title}; describe one under sae")
    own = study.sae
    if own.point != "resid_post":
        raise ValueError(
            f"sae.point {own.point}: the study's own SAE reads resid_post, where teachers are steered and datasets are read; "
            "set point in an entry of saes"
        )
    for name, changed in study.saes.items():
        validate(Sae, merged(own.model_dump(), sae_keys(changed)), f"saes.{name}.")
        check_model(study, name)
        other = study.dictionary(name)
        if (bool(own.release), bool(own.folder)) != (bool(other.release), bool(other.folder)):
            raise ValueError(f"saes.{name}: a study's SAEs are all trained here, all of SAELens's registry, or all folders")
        if text := sorted({"text", "context"} & set(changed)):
            raise ValueError(f"saes.{name}.{text[0]}: all SAEs of a study are trained on the same text; set sae.{text[0]}")


def check_model(study: "Study", name: str) -> None:
    """Check that an SAE reads a model of the study; if it is trained on text, the study's own or one with the same tokens."""
    model = study.model_of(name)
    if model and model not in study.models:
        raise ValueError(f"saes.{name}.model: no such model {model!r}{nearest(model, study.models)}")
    if model and study.sae.text and study.base_model(model).rerandomized is None:
        raise ValueError(
            f"saes.{name}.model: {model} may have other tokens than the text that SAEs are trained on, which is the study's "
            "own model's; only an SAE of a rerandomized model, or one from elsewhere, can be added here"
        )


def check_searches(study: "Study") -> None:
    """Check that a search names an SAE of the study, one of the residual stream unless it searches by activation."""
    if study.searches and not study.has_sae:
        raise ValueError(f"searches: the study has no SAE for {study.model.title}; describe one under sae")
    for name, search in study.searches.items():
        if search.sae and search.sae not in study.saes:
            raise ValueError(f"searches.{name}.sae: no such SAE of saes {search.sae!r}{nearest(search.sae, study.saes)}")
        if search.by != "activation" and (point := study.dictionary(search.sae).point) != "resid_post":
            raise ValueError(
                f"searches.{name}.sae: {search.sae} reads {point}; by {search.by}, features of the residual stream are searched"
            )


def check_judge(study: "Study") -> None:
    """Check that the model that grades features' examples is in the study."""
    if study.judge.model and study.judge.model not in study.models:
        raise ValueError(f"judge.model: no such model {study.judge.model!r}{nearest(study.judge.model, study.models)}")


def check_sizes(study: "Study") -> None:
    """Check that layers, features and widths exist, as far as they are known before anything is loaded."""
    listed = [name for name in study.of_kind("steer") if name in study.datasets]
    if not study.can_steer and ("steer" in study.teachers or listed):
        raise ValueError(
            f"a steered teacher needs an SAE, and the study names none for {study.model.title}: set sae.release and "
            "sae.id, or sae.folder, or sae.text to train one, or teacher.steer.vector: contrast"
        )
    if study.sae.text and not study.model.named:
        raise ValueError("sae.text is for a model with a name: the embedded model's SAE is trained on chats of its own corpus")
    model = model_size(study.model)
    saes = {name: sae_size(study.dictionary(name)) for name in ["", *study.saes]} if study.has_sae else {}
    for name, size in saes.items():
        _check_sae(f"saes.{name}" if name else "sae", size, model_size(study.base_model(study.model_of(name))))
    sae = saes.get("")
    for dataset in study.of_kind("steer"):
        steer = study.section("teacher", dataset).steer  # type: ignore[attr-defined]
        if steer.vector == "contrast" and model and steer.contrast.layer >= model.n_layers:
            raise ValueError(
                f"teacher.steer.contrast.layer {steer.contrast.layer} of {dataset}: the model has layers 0 to "
                f"{model.n_layers - 1}"
            )
        if steer.vector == "feature" and sae and steer.feature is not None and steer.feature >= sae.d_sae:
            raise ValueError(f"teacher.steer.feature {steer.feature} of {dataset}: the SAE has features 0 to {sae.d_sae - 1}")


def _check_sae(where: str, sae: SaeSize | None, model: ModelSize | None) -> None:
    """Check that the model has the layer and the width that an SAE reads."""
    if not (model and sae):
        return
    if sae.d_in is not None and sae.d_in != model.d_model:
        raise ValueError(
            f"{where}: the SAE reads vectors of {sae.d_in}, the model's residual stream has {model.d_model}: it is another "
            "model's"
        )
    if sae.layer >= model.n_layers:
        raise ValueError(f"{where}.layer {sae.layer}: the model has layers 0 to {model.n_layers - 1}")
