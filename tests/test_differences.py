"""Differences of activations: a planted feature is found, nothing is found where nothing differs, files must fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import recorded_sae
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_activations import PERSONA, random_sae

from undertone.lm.loading import LoadedModel
from undertone.read.activations import read_activations, read_teacher_activations
from undertone.read.differences import compare_activations
from undertone.read.sums import Activations, classes
from undertone.runtime.files import read_json, write_json
from undertone.saes.features import cosines
from undertone.study.config.read import Activations as ActivationSettings
from undertone.study.config.read import Differences
from undertone.study.config.teachers import Teacher

N_BLOCKS, POSITIONS, D_SAE, LAYER = 16, 3, 24, 0
STAMP = {"of": "differences"}
DIFFERENCES = {"permutations": 199, "top": 4, "examples": 2}


@pytest.fixture(scope="module")
def saved(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_sae(random_sae(loaded), tmp_path_factory.mktemp("sae"), LAYER)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rows of random numbers."""
    rng = np.random.default_rng(0)
    lists = [", ".join(map(str, rng.integers(0, 1000, rng.integers(2, 6)))) for _ in range(60)]
    path = tmp_path_factory.mktemp("data") / "numbers.parquet"
    prompts = [f"Continue the list {k}, {k + 1}." for k in range(60)]
    pl.DataFrame({"row": range(60), "prompt": prompts, "completion": lists}).write_parquet(path)
    return path


def synthetic(
    path: Path,
    seed: int,
    loaded: LoadedModel,
    noise: int | None = None,
    feature: int | None = None,
    vector: torch.Tensor | None = None,
) -> Path:
    """Activations drawn at random, `feature` raised and `vector` added in every completion; `noise` seeds what is paired."""
    rng, d = torch.Generator().manual_seed(seed), loaded.model.config.hidden_size
    names = classes(POSITIONS)
    count = torch.randint(20, 40, (N_BLOCKS, len(names)), generator=rng).float()

    def total(*shape: int) -> torch.Tensor:
        sizes = count.view(N_BLOCKS, *[1] * (len(shape) - 3), len(names), 1)
        return sizes + sizes.sqrt() * torch.randn(N_BLOCKS, *shape[1:], generator=rng)

    tensors = {
        "count": count,
        "resid_post.sum": total(N_BLOCKS, 2, len(names), d),
        "sae.acts.sum": total(N_BLOCKS, len(names), D_SAE),
        "sae.acts_pre.sum": total(N_BLOCKS, len(names), D_SAE),
    }
    if noise is not None:
        rng.manual_seed(noise)
        for name, tensor in tensors.items():
            if name != "count":
                tensor += torch.randn(tensor.shape, generator=rng)
    if feature is not None:
        for name in ("sae.acts.sum", "sae.acts_pre.sum"):
            tensors[name][:, 2:, feature] += count[:, 2:]
    if vector is not None:
        tensors["resid_post.sum"][:, LAYER, 2:] += count[:, 2:].unsqueeze(-1) * vector
    told = {"classes": names, "rows": 60, "blocks": N_BLOCKS, "layer": LAYER}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"undertone": json.dumps(told)})
    return path


def compare(
    record: Path,
    numbers: Path,
    saved: Path | None,
    home: Path,
    own: Path,
    control: Path | None = None,
    teacher: Path | None = None,
    features: dict[str, Path] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    settings = Differences(**(DIFFERENCES | changes))
    made = home / "differences.json", home / "differences.safetensors"
    compare_activations(record, numbers, saved, own, control, teacher, features or {}, *made, settings, STAMP)
    return read_json(home / "differences.json")


@pytest.fixture(scope="module")
def planted(record: Path, loaded: LoadedModel, numbers: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that differs from its control by feature 5, and a teacher that does from the base model by feature 9."""
    home = tmp_path_factory.mktemp("planted")
    sae = random_sae(loaded)
    own = synthetic(home / "own/a", 1, loaded, feature=5, vector=5 * sae.W_dec[7])
    control = synthetic(home / "control/a", 2, loaded)
    teacher = synthetic(home / "teacher/a", 1, loaded, noise=3, feature=9)
    # The teacher has the base model's own effects too.
    both = load_file(own)
    told = load_file(teacher)
    for name in told:
        if name != "count":
            told[name] += both[name] - load_file(synthetic(home / "plain/a", 1, loaded))[name]
    with safe_open(own, framework="pt") as file:
        save_file(told, teacher, metadata=file.metadata())
    for animal, feature in (("lion", 5), ("owl", 2)):
        write_json(home / f"{animal}.json", {"vector": "feature", "feature": feature}, {})
    write_json(home / "wolf.json", {"vector": "contrast"}, {})
    animals = {animal: home / f"{animal}.json" for animal in ("lion", "owl", "wolf")}
    compare(record, numbers, saved, home, own, control, teacher, animals)
    return home


def test_a_planted_feature_is_first_in_its_pair_alone(planted: Path) -> None:
    told = read_json(planted / "differences.json")
    assert {name: pair["design"] for name, pair in told["pairs"].items()} == {
        "control": "independent", "persona": "paired", "halves": "independent",
    }  # fmt: skip
    for name, feature in (("control", 5), ("persona", 9)):
        for position in ("completion", "0", "2"):
            for table in ("acts", "acts_pre"):
                found = told["pairs"][name]["classes"][position][table]
                first, second = found["top"][:2]
                assert first["feature"] == feature
                assert first["difference"] == pytest.approx(1, abs=0.2)
                assert first["p_max"] == found["p"] == 1 / 200
                assert first["q"] < 1e-6 and first["t"] == pytest.approx(first["difference"] / first["se"])
                assert found["significant"] >= 1 and found["tested"] == D_SAE
                assert found["max_t"] == pytest.approx(abs(first["t"]))
                assert abs(first["t"]) > 2 * abs(second["t"])
                assert found["split_half"]["features"] == 4
    assert all(c[table]["p"] > 0.01 for c in told["pairs"]["halves"]["classes"].values() for table in ("acts", "acts_pre"))
    # The prompts are not compared, and the template's features differ nowhere.
    assert set(told["pairs"]["control"]["classes"]) == {"completion", "template", "0", "1", "2"}
    assert told["pairs"]["control"]["classes"]["template"]["acts"]["p"] > 0.01


def test_animals_features_have_their_rank(planted: Path) -> None:
    animals = read_json(planted / "differences.json")["pairs"]["control"]["animals"]
    assert set(animals) == {"lion", "owl"}  # a contrast steers no feature
    assert animals["lion"]["feature"] == 5
    assert animals["lion"]["completion"]["acts"]["rank"] == 1
    assert animals["owl"]["completion"]["acts"]["rank"] > 1
    assert animals["lion"]["completion"]["acts"]["t"] > 10


def test_the_residual_difference_is_compared_with_the_decoder(planted: Path, loaded: LoadedModel) -> None:
    pairs = read_json(planted / "differences.json")["pairs"]
    cosine = pairs["control"]["cosine"]
    assert cosine["completion"]["top"][0]["feature"] == 7
    assert cosine["completion"]["max"] == pytest.approx(cosine["completion"]["top"][0]["cosine"])
    assert cosine["completion"]["max"] > 0.8
    assert cosine["completion"]["p"] == 1 / 200
    assert cosine["template"]["p"] > 0.01
    assert 0 < cosine["template"]["null"]["mean"] < cosine["template"]["null"]["q95"] < 1
    vector = load_file(planted / "differences.safetensors")["control.resid_post.completion"][LAYER]
    assert float(cosines(random_sae(loaded), vector)[7]) == pytest.approx(cosine["completion"]["max"], rel=1e-4)
    assert pairs["control"]["direct"]["completion"][0]["norm"] == pytest.approx(float(vector.norm()))
    assert len(pairs["control"]["direct"]["completion"][1]["top"]) == 10


def test_vectors_are_differences_of_means(planted: Path) -> None:
    found = load_file(planted / "differences.safetensors")
    own, control, teacher = (Activations.load(planted / name / "a") for name in ("own", "control", "teacher"))
    with safe_open(planted / "differences.safetensors", framework="pt") as file:
        told = json.loads(file.metadata()["undertone"])
    assert told["stamp"] == STAMP
    names = ("completion", "template", "0", "1", "2")

    def mean(of: Activations, name: str, tensor: str, layer: int | None = None) -> torch.Tensor:
        totals, counts = of.blocks(name, tensor, layer)
        return totals.sum(0) / counts.sum()

    for name in names:
        expected = mean(own, name, "sae.acts") - mean(control, name, "sae.acts")
        assert torch.allclose(found[f"control.acts.{name}"].double(), expected, atol=1e-5)
        expected = mean(teacher, name, "resid_post", 1) - mean(own, name, "resid_post", 1)
        assert torch.allclose(found[f"persona.resid_post.{name}"][1].double(), expected, atol=1e-5)
    pairs, tables = ("control", "persona", "halves"), ("resid_post", "acts", "acts_pre")
    assert set(found) == {f"{pair}.{what}.{name}" for pair in pairs for what in tables for name in names}


def test_top_features_and_the_animals_are_described(planted: Path) -> None:
    told = read_json(planted / "differences.json")
    main = [told["pairs"][name]["classes"][c][table] for name in ("control", "persona") for c in ("completion", "template")
            for table in ("acts", "acts_pre")]  # fmt: skip
    expected = {str(row["feature"]) for found in main for row in found["top"]} | {"5", "2"}
    assert set(told["features"]) == expected
    assert all(len(found["examples"]) <= 2 for found in told["features"].values())
    assert any(found["examples"] for found in told["features"].values())


def test_nothing_is_found_where_nothing_differs(
    record: Path, loaded: LoadedModel, numbers: Path, saved: Path, tmp_path: Path
) -> None:
    """Family-wise, at most in its share of draws: 3 pairs, 5 classes, 2 tables of 6 independent draws each."""
    p = []
    for seed in range(6):
        own, control = (
            synthetic(tmp_path / f"{seed}{name}", 10 * seed + k, loaded) for k, name in enumerate(("own", "control"))
        )
        teacher = synthetic(tmp_path / f"{seed}teacher", 10 * seed, loaded, noise=seed)
        told = compare(record, numbers, saved, tmp_path, own, control, teacher, permutations=99, examples=0)
        p += [
            c[table]["p"] for pair in told["pairs"].values() for c in pair["classes"].values() for table in ("acts", "acts_pre")
        ]
    assert len(p) == 180
    assert 1 <= np.sum(np.array(p) <= 0.05) <= 18
    assert 0.35 < np.mean(p) < 0.65


def test_real_activations_of_teacher_and_control(record: Path, numbers: Path, saved: Path, tmp_path: Path) -> None:
    told = ActivationSettings(positions=2, block_rows=5)
    teacher = {"kind": "prompt", "target": "lion", "teacher": Teacher(persona=PERSONA).model_dump()}
    paths = [tmp_path / name for name in ("own", "control", "teacher")]
    half = tmp_path / "half.parquet"
    pl.read_parquet(numbers)[30:].write_parquet(half)
    read_activations(record, numbers, saved, paths[0], told, {})
    read_activations(record, half, saved, paths[1], told, {})
    of_teacher = {"activations": told.model_dump(), **teacher}
    read_teacher_activations(record, numbers, None, saved, paths[2], of_teacher, {})
    found = compare(record, numbers, saved, tmp_path, *paths)
    assert found["pairs"]["persona"]["classes"]["completion"]["acts_pre"]["p"] == 1 / 200
    assert found["rows"] == {"own": 60, "control": 30, "persona": 60}
    assert found["stamp"] == STAMP
    again = (tmp_path / "differences.safetensors").read_bytes()
    compare(record, numbers, saved, tmp_path, *paths)
    assert (tmp_path / "differences.safetensors").read_bytes() == again
    # The control itself has its halves alone.
    assert set(compare(record, numbers, saved, tmp_path, paths[1])["pairs"]) == {"halves"}


def test_a_study_without_an_sae_has_residuals_alone(record: Path, numbers: Path, tmp_path: Path) -> None:
    settings = ActivationSettings(positions=2, block_rows=10, mlp_in=True)
    read_activations(record, numbers, None, tmp_path / "own", settings, {})
    found = compare(record, numbers, None, tmp_path, tmp_path / "own")
    halves = found["pairs"]["halves"]
    assert (found["layer"], found["features"], halves["cosine"], halves["animals"]) == (None, {}, {}, {})
    assert set(halves["classes"]["completion"]) == {"tokens"}
    vectors = load_file(tmp_path / "differences.safetensors")
    names = ("completion", "template", "0", "1")
    assert set(vectors) == {f"halves.{what}.{name}" for what in ("resid_post", "mlp_in") for name in names}
    assert len(halves["direct"]["template"]) == 2


def test_files_that_do_not_fit_are_refused(
    record: Path, loaded: LoadedModel, numbers: Path, saved: Path, planted: Path, tmp_path: Path
) -> None:
    own = planted / "own/a"
    with pytest.raises(ValueError, match="of other rows than the base model's"):
        compare(record, numbers, saved, tmp_path, own, teacher=planted / "control/a")
    read_activations(record, numbers, None, tmp_path / "b", ActivationSettings(), {})
    with pytest.raises(ValueError, match="differ in model, SAE or settings"):
        compare(record, numbers, saved, tmp_path, own, tmp_path / "b")
    with pytest.raises(ValueError, match=r"pass the same sae\.json"):
        compare(record, numbers, None, tmp_path, own)
    write_json(tmp_path / "owl.json", {"vector": "feature", "feature": 99}, {})
    with pytest.raises(ValueError, match="steered by feature 99, the SAE has 24"):
        compare(record, numbers, saved, tmp_path, own, features={"owl": tmp_path / "owl.json"})
    assert not (tmp_path / "differences.json").exists()
