"""An SAE that the study names: fetched from SAELens's registry or read from a folder, checked against the model, recorded."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest.mock import patch

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory, get_repo_id_and_folder_name
from safetensors import safe_open
from transformers import AutoConfig

from undertone.lm.checkpoint import sha256
from undertone.lm.hub import explained
from undertone.lm.loading import folder_of
from undertone.lm.points import HookPoint, check_layer
from undertone.runtime.files import Stamp, move, read_json, remove, write_json
from undertone.saes.saved import read_sae
from undertone.study.config.saes import Sae
from undertone.study.formats import SAE_FILES
from undertone.study.validation import nearest

NORM_SCALED = "expected_average_only_in"


def make_pretrained_sae(model: Path, sae: Path, files: Sequence[Path], settings: Sae, stamp: Stamp, scratch: Path) -> None:
    """Write `sae.json`, from which every later stage loads the SAE without network.

    An SAE of the registry is copied to `files` in SAELens's format, with its norm scaling factor folded in. An SAE in a folder
    stays there. Raises ValueError, in a sentence, if there is no such SAE, or it does not fit the model or `settings.point`.
    """
    text = AutoConfig.from_pretrained(folder_of(model), trust_remote_code=False, local_files_only=True).get_text_config()
    name = str(read_json(model)["name"])
    if settings.folder:
        trained, origin = from_folder(settings.folder)
    else:
        trained, origin = from_registry(str(settings.release), str(settings.id), name)
    hook = trained.cfg.metadata.hook_name
    at = HookPoint.of(settings) if hook is None else HookPoint.named(hook)
    if at.point != settings.point:
        raise ValueError(
            f"the SAE's hook point is {at.name}, expected {settings.point}: set point: {at.point} in an entry of saes"
        )
    check_width(trained, text.hidden_size)
    check_layer(at, text.num_hidden_layers)
    if files:
        trained.save_model(scratch / "sae")
        for file in files:
            move(scratch / "sae" / file.name, file)
    home = Path(settings.folder) if settings.folder else sae.parent
    manifest = {file: {"bytes": (home / file).stat().st_size, "sha256": sha256(home / file)} for file in SAE_FILES}
    at_hook = {"layer": at.layer, "hook_point": at.name, "d_sae": trained.cfg.d_sae}
    write_json(sae, {**origin, **at_hook, "files": manifest}, stamp)
    remove(scratch)


def from_folder(folder: str) -> tuple[SAE[Any], dict[str, Any]]:
    """Load the SAE of a folder in SAELens's format; return it with its origin.

    Raises ValueError if the SAE expects scaled activations and the folder does not apply the factor.
    """
    sae = read_sae(Path(folder))
    if sae.cfg.normalize_activations == NORM_SCALED:
        raise ValueError(
            f"{folder}: this SAE expects activations scaled by a factor that its folder does not apply; fold it "
            "(SAE.fold_activation_norm_scaling_factor), save it again, or load it by release and id"
        )
    return sae, {"source": "folder", "folder": folder, "release": None, "id": None}


def from_registry(release: str, sae_id: str, model: str) -> tuple[SAE[Any], dict[str, Any]]:
    """Load the SAE of a release in SAELens's registry, downloading it if it is not cached; return it with its origin."""
    directory = get_pretrained_saes_directory()
    if release not in directory:
        raise ValueError(f"SAELens's registry has no release {release!r}{nearest(release, directory)}")
    if sae_id not in directory[release].saes_map:
        raise ValueError(f"{release} has no SAE {sae_id!r}{nearest(sae_id, directory[release].saes_map)}")
    check_model(release, directory[release].model, model)
    repository, _ = get_repo_id_and_folder_name(release, sae_id)
    with explained(repository, "main"):
        sae = registered(release, sae_id)
        # The registry names no commit, so record the one that was read.
        commit = Path(snapshot_download(repository, allow_patterns=[], local_files_only=True)).name
    if sae.cfg.normalize_activations == NORM_SCALED:
        raise ValueError(f"{release}, {sae_id}: the registry lacks the factor by which this SAE scales its activations")
    origin = {"source": "registry", "folder": None, "release": release, "id": sae_id}
    return sae, {**origin, "repository": repository, "commit": commit}


def registered(release: str, sae_id: str) -> SAE[Any]:
    """Load an SAE with SAELens, without running code from its files and without asking the Hub for what the cache holds.

    Some releases exist only as pickles. Only tensors are read from these; ValueError is raised if one holds anything else.
    """
    # For Gemma Scope 2, SAELens asks the Hub for the shapes in a file even if that file is in the cache.
    shapes_of = patch.object(pretrained_sae_loaders, "get_safetensors_tensor_shapes", shapes)
    # `weights_only` is PyTorch's default too, but the environment can switch it off.
    with shapes_of, patch.object(torch, "load", partial(torch.load, weights_only=True)):
        try:
            sae: SAE[Any] = SAE.from_pretrained(release, sae_id)
        except UnpicklingError as error:
            raise ValueError(
                f"{release}, {sae_id}: its file is a pickle of more than tensors, which could run code and is refused "
                f"({str(error).splitlines()[0]})"
            ) from None
    for weight in sae.parameters():
        weight.data = weight.data.contiguous()  # some loaders transpose, and only contiguous tensors can be saved
    return sae


def shapes(repository: str, file: str) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a safetensors file of the Hub, by name; download the file if it is not cached."""
    with safe_open(hf_hub_download(repository, file), framework="pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no dict


def check_model(release: str, expected: str, actual: str) -> None:
    """Raise ValueError if a release was trained on another model. A model in a folder has no Hub name and is not checked."""
    names = [name.rpartition("/")[2].lower() for name in (expected, actual)]
    if not Path(actual).is_dir() and names[0] != names[1]:
        raise ValueError(
            f"the SAEs of {release} were trained on {expected}, the study's model is {actual}: take a release for that, or, to "
            "use this one knowingly, save it with SAELens to a folder and give sae.folder"
        )


def check_width(sae: SAE[Any], d_model: int) -> None:
    """Raise ValueError if the SAE's input width differs from the model's."""
    if sae.cfg.d_in != d_model:
        raise ValueError(
            f"the SAE reads vectors of {sae.cfg.d_in}, the model's residual stream has {d_model}: it is another model's"
        )
