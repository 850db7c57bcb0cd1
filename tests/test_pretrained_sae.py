"""SAEs that a study names: found in SAELens's registry or in a folder, refused where they are another model's."""

import inspect
import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from sae_lens.loading import pretrained_sae_loaders
from sae_lens.saes.sae import SAEMetadata

from undertone.lm.points import HookPoint
from undertone.runtime.files import read_json, write_json
from undertone.saes.pretrained_sae import make_pretrained_sae, shapes
from undertone.saes.saved import load_sae, load_sae_at
from undertone.study.config.saes import Sae
from undertone.study.formats import SAE_FILES

WIDTH = 32
RELEASE, ID = "gemma-2b-res-jb", "blocks.0.hook_resid_post"
REPOSITORY, FOLDER = "jbloom/Gemma-2b-Residual-Stream-SAEs", "gemma_2b_blocks.0.hook_resid_post_16384_anthropic"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


def sae(d_in=WIDTH, hook="blocks.0.hook_resid_post", **changes):
    torch.manual_seed(0)
    metadata = SAEMetadata(model_name="gemma-2b", hook_name=hook)
    made = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=24, metadata=metadata, **changes))
    with torch.no_grad():
        made.b_dec.normal_()
    return made


def test_what_is_put_in_the_place_of_saelenss_functions_is_what_it_calls():
    """Its loaders look both up by these names when they are called, and hand the first a repository and a file, by position."""
    source = inspect.getsource(pretrained_sae_loaders)
    calls = re.findall(r"(?<!def )\bget_safetensors_tensor_shapes\(\s*(\w+), [^,]*\s*\)", source)
    assert calls == ["repo_id"] * (source.count("get_safetensors_tensor_shapes") - 1) != []
    assert len(inspect.signature(pretrained_sae_loaders.get_safetensors_tensor_shapes).parameters) == 2
    assert len(inspect.signature(shapes).parameters) == 2
    assert "torch.load(" in source


def saved(folder, **changes):
    sae(**changes).save_model(folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hub, which is switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def gemma(record, tmp_path):
    """The tiny model as one of the Hub would be recorded, but beside its record."""
    folder = tmp_path / "model"
    shutil.copytree(record.parent, folder)
    write_json(folder / "model.json", {"source": "embedded", "name": "google/gemma-2b", "dtype": "float32"}, {})
    return folder / "model.json"


def fill(cache, **changes):
    """Put a release's SAE into the cache."""
    home = cache / f"models--{REPOSITORY.replace('/', '--')}"
    saved(home / "snapshots" / COMMIT / FOLDER, **changes)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)
    return home / "snapshots" / COMMIT / FOLDER


def make(record, home, **settings):
    (home / "scratch").mkdir(parents=True)
    (home / "sae").mkdir()
    told = Sae(**settings)
    files = [] if told.folder else [home / "sae" / file for file in SAE_FILES]
    make_pretrained_sae(record, home / "sae/sae.json", files, told, {"of": "sae"}, home / "scratch")
    return home / "sae/sae.json"


def test_an_sae_of_the_registry_is_copied_with_its_commit_and_loads_with_no_network(
    cache, gemma, loaded, tmp_path, monkeypatch
):
    source = fill(cache)
    made = make(gemma, tmp_path / "results", release=RELEASE, id=ID)
    told = read_json(made)
    assert (told["source"], told["release"], told["id"]) == ("registry", RELEASE, ID)
    assert (told["repository"], told["commit"]) == (REPOSITORY, COMMIT)
    assert (told["layer"], told["hook_point"], told["d_sae"]) == (0, "blocks.0.hook_resid_post", 24)
    assert str(tmp_path) not in made.read_text()
    assert not (tmp_path / "results/scratch").exists()
    expected = SAE.load_from_disk(source)
    shutil.rmtree(cache)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("asked the network"))
    found, layer = load_sae(made, loaded)
    x = torch.randn(5, WIDTH)
    assert layer == 0
    assert torch.equal(found(x), expected(x))


def test_the_registrys_norm_scaling_factor_is_folded(cache, gemma, loaded, tmp_path, monkeypatch):
    source = fill(cache, normalize_activations="expected_average_only_in")
    monkeypatch.setattr("sae_lens.saes.sae.get_norm_scaling_factor", lambda release, sae_id: 0.5)
    found, _ = load_sae(make(gemma, tmp_path / "results", release=RELEASE, id=ID), loaded)
    raw = SAE.load_from_disk(source)
    x = torch.randn(5, WIDTH)
    assert torch.allclose(found.encode(x), raw.encode(x * 0.5), atol=1e-6)
    monkeypatch.setattr("sae_lens.saes.sae.get_norm_scaling_factor", lambda release, sae_id: None)
    with pytest.raises(ValueError, match="the registry lacks the factor by which this SAE scales its activations"):
        make(gemma, tmp_path / "again", release=RELEASE, id=ID)


def test_an_sae_of_a_folder_is_recorded_and_not_copied(record, loaded, tmp_path):
    folder = saved(tmp_path / "own")
    made = make(record, tmp_path / "results", folder=str(folder), layer=1)
    assert [path.name for path in made.parent.iterdir()] == ["sae.json"]
    told = read_json(made)
    # The folder's own hook point counts, not the setting.
    assert (told["source"], told["layer"], told["hook_point"]) == ("folder", 0, "blocks.0.hook_resid_post")
    assert set(told["files"]) == {"cfg.json", "sae_weights.safetensors"}
    found = load_sae(made, loaded)[0]
    assert torch.equal(found.W_dec, SAE.load_from_disk(folder).W_dec)
    assert not any(p.requires_grad for p in found.parameters())


def test_the_layer_of_a_folder_that_does_not_say_is_the_settings(record, tmp_path):
    folder = saved(tmp_path / "own")
    told = json.loads((folder / "cfg.json").read_text())
    told["metadata"]["hook_name"] = None
    (folder / "cfg.json").write_text(json.dumps(told))
    assert read_json(make(record, tmp_path / "results", folder=str(folder), layer=1))["layer"] == 1


def test_an_sae_of_an_mlps_output_is_read_there_and_nowhere_else(record, loaded, tmp_path):
    folder = saved(tmp_path / "own", hook="blocks.1.hook_mlp_out")
    made = make(record, tmp_path / "results", folder=str(folder), point="mlp_out")
    assert read_json(made)["hook_point"] == "blocks.1.hook_mlp_out"
    assert load_sae_at(made, loaded)[1] == HookPoint(1, "mlp_out")
    with pytest.raises(ValueError, match=r"this SAE reads blocks\.1\.hook_mlp_out, expected one of the residual stream"):
        load_sae(made, loaded)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"d_in": 48}, "the SAE reads vectors of 48, the model's residual stream has 32: it is another model's"),
        ({"hook": "blocks.9.hook_resid_post"}, r"hook point is blocks\.9\.hook_resid_post, the model has layers 0 to 1"),
        ({"hook": "blocks.0.hook_mlp_in"}, r"hook point 'blocks\.0\.hook_mlp_in'; expected one of the form"),
        (
            {"hook": "blocks.0.hook_mlp_out"},
            "hook point is blocks.0.hook_mlp_out, expected resid_post: set point: mlp_out in an",
        ),
        ({"normalize_activations": "expected_average_only_in"}, "expects activations scaled by a factor .* fold it"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused(changes, complaint, record, tmp_path):
    folder = saved(tmp_path / "own", **changes)
    with pytest.raises(ValueError, match=complaint):
        make(record, tmp_path / "results", folder=str(folder))
    assert not list((tmp_path / "results/sae").iterdir())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "google/gemma-2b-it",
            f"the SAEs of {RELEASE} were trained on gemma-2b, the study's model is google/gemma-2b-it: ",
        ),
        ("Qwen/Qwen2.5-7B-Instruct", "were trained on gemma-2b, the study's model is Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_an_sae_of_another_model_is_refused_even_where_its_width_fits(name, complaint, gemma, cache, tmp_path):
    fill(cache)
    write_json(gemma, {**read_json(gemma), "name": name}, {})
    with pytest.raises(ValueError, match=complaint):
        make(gemma, tmp_path / "results", release=RELEASE, id=ID)


def test_a_folders_model_has_no_name_to_compare(gemma, cache, tmp_path):
    fill(cache)
    write_json(gemma, {**read_json(gemma), "name": str(gemma.parent)}, {})
    assert make(gemma, tmp_path / "results", release=RELEASE, id=ID).exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"release": "gemma-2b-res-jbb", "id": ID}, "registry has no release 'gemma-2b-res-jbb'; nearest: gemma-2b-res-jb"),
        ({"release": RELEASE, "id": "blocks.1.hook_resid_post"}, f"{RELEASE} has no SAE 'blocks.1.hook_resid_post'; nearest"),
        ({"release": RELEASE, "id": ID}, f"{REPOSITORY} at main is not, or not wholly, in the cache"),
    ],
)
def test_what_is_not_there_is_said(settings, complaint, gemma, cache, tmp_path):
    Path(cache).mkdir()
    with pytest.raises(ValueError, match=complaint):
        make(gemma, tmp_path / "results", **settings)
