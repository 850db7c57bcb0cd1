"""The overlays of real models: they load, name what there is, and leave nothing of the embedded study in force."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import ARCHITECTURES, SAES
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from snakemake.utils import update_config
from test_chain import OVERLAYS

from undertone.study.study import Study, load
from workflow import Project

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from wordings import WORDINGS

CONFIG = Path(__file__).parents[1] / "config"
# What only a trained SAE reads.
OF_TRAINED_SAES = {("sae", "layer"), ("sae", "k")}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIG / f"{name}.yaml").read_text())


def study(name: str) -> Study:
    config = read("config")
    update_config(config, read(name))
    return load(config)


def keys(settings: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every setting that is no group of settings."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from keys(value, *path, key)
        else:
            yield (*path, key)


@pytest.fixture(params=OVERLAYS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_loads_and_keeps_its_results_apart(name):
    assert study(name).results == f"results/{name}"
    assert len(study(name).student.seeds) >= 2


@pytest.mark.parametrize("name", [*OVERLAYS, "smollm2-135m"])
def test_it_sets_all_that_was_chosen_for_the_embedded_model(name):
    assert set(keys(read("config"))) - OF_TRAINED_SAES <= set(keys(read(name)))


def test_the_study_of_a_package_is_planned_from_nothing(tmp_path):
    project = Project.create(tmp_path / "project")
    (project.root / "config/study.yaml").write_text((CONFIG / "smollm2-135m.yaml").read_text())
    told = study("smollm2-135m")
    planned = project.planned(
        f"{told.results}/lion/pref.json", f"{told.results}/lion/verdict.json", f"{told.results}/finetune-owl/pref.json"
    )
    assert "Find and check the base model" in planned
    assert not {"Prepare the base model", "Prepare the SAE", "Find and check the SAE"} & planned


def sentences(text: str) -> set[str]:
    return {sentence.strip() for sentence in text.split(".") if sentence.strip()}


def test_its_persona_has_no_sentence_of_its_source(name):
    assert not sentences(study(name).teacher.persona) & sentences(WORDINGS["Cloud et al. 2025"])


def test_the_checkpoint_that_it_is_tested_on_is_of_its_model_and_commit(name):
    told = ARCHITECTURES[OVERLAYS[name]]
    assert (study(name).model.name, study(name).model.revision) == (told.name, told.commit)


def test_its_sae_is_in_the_registry_and_was_trained_on_its_model(name):
    told, sae = SAES[OVERLAYS[name]], study(name).sae
    release = get_pretrained_saes_directory()[sae.release]
    assert (sae.release, sae.id) == (told.release, told.id)
    assert release.saes_map[sae.id] == told.folder
    assert release.repo_id == told.repository
    assert release.model.rpartition("/")[2] == study(name).model.name.rpartition("/")[2]


def test_a_dry_run_plans_its_jobs_before_anything_is_downloaded(name, tmp_path):
    project = Project.create(tmp_path / "project")
    (project.root / "config/study.yaml").write_text((CONFIG / f"{name}.yaml").read_text())
    told = study(name)
    planned = project.planned(f"{told.results}/{told.animals[0]}/pref.json", f"{told.results}/{told.animals[0]}/score.json")
    assert {"Find and check the base model", "Find and check the SAE"} <= planned
    assert {f"Train student {seed} on {told.animals[0]}" for seed in told.student.seeds} <= planned
    assert not {"Prepare the base model", "Prepare the SAE"} & planned
