"""A study of a named model, from the command line: found by a local rule, without network, and again when it changes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pretrained import COMMIT, fill
from test_pretrained_sae import ID, RELEASE
from test_pretrained_sae import fill as fill_sae

from workflow import Project

MODEL = "Find and check the base model"
SAE = "Find and check the SAE"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project")


def test_a_hub_model_and_its_sae_come_from_the_cache(
    project: Project, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(record.parent, tmp_path / "source", ignore=shutil.ignore_patterns("model.json")))
    fill(tmp_path / "home/hub", source, "google/gemma-2b")
    fill_sae(tmp_path / "home/hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    project.configure(
        model={"name": "google/gemma-2b", "revision": COMMIT, "dtype": "float32"}, sae={"release": RELEASE, "id": ID}
    )
    project.snakemake("results/sae/sae.json")
    results = project.root / "results"
    assert [path.name for path in (results / "model").iterdir()] == ["model.json"]
    assert {path.name for path in (results / "sae").iterdir()} == {"sae.json", "cfg.json", "sae_weights.safetensors"}
    told = json.loads((results / "sae/sae.json").read_text())
    assert told["stamp"]["settings"]["pretrained"]["model"]["revision"] == COMMIT
    log = (project.root / "logs/pretrained/study.log").read_text()
    assert log.count("prompt with a persona:") == 1
    assert project.planned("results/sae/sae.json") == set()
    assert not {MODEL, SAE} & project.planned("results/control/activations.safetensors")
    project.configure(model={"revision": "f" * 40})
    assert {MODEL, SAE} <= project.planned("results/control/activations.safetensors")
    output = project.snakemake("results/model/model.json", fails=True)
    assert f"google/gemma-2b at {'f' * 40} is not, or not wholly, in the cache" in output
    assert str(tmp_path / "home/hub") in output


def test_a_local_model_is_checked_again_when_its_content_changes(project: Project, record: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(record.parent, tmp_path / "own", ignore=shutil.ignore_patterns("model.json")))
    project.configure(model={"name": str(folder)}, teachers=["prompt"])
    target = "results/model/model.json"
    project.snakemake(target)
    weights = folder / "model.safetensors"
    os.utime(weights)
    assert project.planned(target) == set()
    tensors = load_file(weights)
    tensors["model.norm.weight"] = torch.zeros_like(tensors["model.norm.weight"])
    save_file(tensors, weights, {"format": "pt"})
    assert project.planned(target) == {MODEL}


def test_a_model_without_a_chat_template_is_refused_on_the_screen(project: Project, record: Path, tmp_path: Path) -> None:
    leave = shutil.ignore_patterns("model.json", "chat_template.jinja")
    folder = shutil.copytree(record.parent, tmp_path / "own", ignore=leave)
    project.configure(model={"name": str(folder)}, teachers=["prompt"])
    assert "has no chat template: undertone needs an instruction-tuned model" in project.snakemake(
        "results/model/model.json", fails=True
    )


def test_a_branch_is_refused_before_anything_runs(project: Project) -> None:
    project.configure(model={"name": "google/gemma-2b", "revision": "main"}, teachers=["prompt"])
    output = project.snakemake("results/model/model.json", fails=True)
    assert "model.revision is 'main', which is no commit: google/gemma-2b is no local folder" in output
