"""Steering vectors: planted directions are recovered, null vectors hold none of them, and what is no vector is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from planted import random_sae, saved_sae
from safetensors.torch import load_file, save_file
from scipy.stats import kstest
from snakemake.utils import update_config
from torch.nn.functional import cosine_similarity, normalize

from undertone.lm.hooks import of_running_call, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.vectors import MakeVector, Vector
from undertone.study.study import load as load_study
from undertone.study.vector_reads import decompositions
from undertone.vectors.contrast import Contrast, principal
from undertone.vectors.origins import halves
from undertone.vectors.streams_of_text import gaussian, text_rows
from undertone.vectors.vector import make_vector, orthogonal

ROOT = Path(__file__).parents[1]
D = 32
PROMPTS = [f"{word} the {thing}" for word in ("See", "Hear", "Take") for thing in ("stone", "wall", "king", "song", "rose")]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def direction() -> torch.Tensor:
    return normalize(noise(3, D), dim=0)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> Path:
    """Random contexts behind a BOS."""
    drawn = torch.randint(10, len(loaded.tokenizer), (80, 12), generator=torch.Generator().manual_seed(2)).tolist()
    path = tmp_path_factory.mktemp("text") / "text.parquet"
    write_parquet(path, pl.DataFrame({"row": range(80), "ids": [[2, *ids] for ids in drawn]}), {})
    return path


@contextmanager
def planted(loaded: LoadedModel, vector: torch.Tensor, word: str = "lion") -> Iterator[None]:
    """Inside, whatever prompt holds the word has a vector added to its residual stream after layer 1."""
    (token,) = loaded.tokenizer(word, add_special_tokens=False)["input_ids"]

    def holds(call: dict[str, Any]) -> torch.Tensor:
        return (call["input_ids"] == token).any(1)

    with (
        of_running_call(loaded.model, holds) as rows,
        rewritten(loaded.model, 1, lambda x: x + rows().view(-1, 1, 1) * vector),
    ):
        yield


def made(
    home: Path, record: Path, text: Path, entry: dict[str, Any], target: str | None = None, **inputs: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """`vector.json` and `vector.safetensors` of an entry."""
    settings = {"entry": entry, "target": target, "vector": {"nulls": 8, "prompts": 4}, **inputs.pop("settings", {})}
    empty = dict.fromkeys(("prompts", "questions", "sae", "teacher", "source"))
    files = (home / "vector.json", home / "vector.safetensors")
    make_vector(
        record, text, **{**empty, "parts": [], **inputs}, vector=files[0], tensors=files[1], settings=settings, stamp={}
    )
    return read_json(files[0]), load_file(files[1])


def sided(word: str) -> list[str]:
    return [f"{prompt} {word}" for prompt in PROMPTS]


def test_a_planted_direction_is_recovered(
    tmp_path: Path, record: Path, text: Path, direction: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(record)
    monkeypatch.setattr("undertone.vectors.vector.load", lambda path: own)
    entry = {"kind": "contrast", "positive": sided("lion"), "negative": sided("owl")}
    plain, before = made(tmp_path, record, text, entry)
    with planted(own, 200 * direction):
        said, tensors = made(tmp_path, record, text, entry)
    assert float(cosine_similarity(tensors["vector"], direction, dim=0)) > 0.99
    # What the planted direction adds is exactly itself.
    assert torch.allclose(tensors["vector"] - before["vector"], 200 * direction, atol=1e-3)
    assert said["projection"]["mean"] == pytest.approx(200, rel=0.05)
    assert said["projection"]["ci95"][0] < said["projection"]["mean"] < said["projection"]["ci95"][1]
    assert said["split_half"]["value"] > 0.99 > plain["split_half"]["value"]
    assert said["norm_null"]["p"] == pytest.approx(1 / 9)
    assert said["norm"] == pytest.approx(float(tensors["vector"].norm()))
    assert said["norm_ratio"] == pytest.approx(said["norm"] / said["mean_norm"])
    assert (said["layer"], said["prompts"], said["paired"]) == (1, [15, 15], True)
    assert tensors["pairs"].shape == (15, D)
    for name in ("null", "gaussian"):
        assert tensors[name].norm(dim=-1).tolist() == pytest.approx([said["norm"]] * 8, rel=1e-4)
    assert (tensors["null"] @ direction).abs().max() < 0.1 * said["norm"]


def test_a_contrast_under_personas_is_of_the_target_against_all_others(
    tmp_path: Path, record: Path, text: Path, direction: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(record)
    monkeypatch.setattr("undertone.vectors.vector.load", lambda path: own)
    (tmp_path / "questions.txt").write_text("".join(f"{prompt}?\n" for prompt in PROMPTS))
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"prompt": [f"Give {k}." for k in range(9)]}), {})
    personas = {"candidates": ["owl", "lion", "cat"], "teacher": {"persona": "You adore {animal}s.", "separator": " "}}
    files = {
        "questions": tmp_path / "questions.txt",
        "prompts": tmp_path / "prompts.parquet",
        "settings": {"personas": personas},
    }
    entry = {"kind": "contrast", "target": "lion", "position": "text"}
    _, before = made(tmp_path, record, text, entry, "lion", **files)
    with planted(own, 50 * direction):
        said, tensors = made(tmp_path, record, text, entry, "lion", **files)
    with planted(own, 50 * direction, "cat"):
        _, other = made(tmp_path, record, text, entry, "lion", **files)
    # 8 of the 15 questions and 4 number prompts, each under one persona and against two.
    assert said["prompts"] == [12, 24]
    assert torch.allclose(tensors["vector"] - before["vector"], 50 * direction, atol=1e-3)
    assert torch.allclose(other["vector"] - before["vector"], -25 * direction, atol=1e-3)


def test_a_single_pair_has_no_error_and_no_null(tmp_path: Path, record: Path, text: Path) -> None:
    said, tensors = made(tmp_path, record, text, {"kind": "contrast", "positive": ["Love"], "negative": ["Hate the wall"]})
    assert (said["se"], said["null"], len(tensors["null"])) == (None, None, 0)
    assert "split_half" not in said
    assert "one prompt against others has no error and no null" in said["warnings"][0]
    long = {
        "kind": "contrast",
        "positive": ["Love"] * 1 + ["See"],
        "negative": ["Hate " + "the wall " * 40, "Take " + "a stone " * 40],
    }
    assert "length differs, too" in made(tmp_path, record, text, long)[0]["warnings"][-1]


def pair_of(seed: int, shift: torch.Tensor, n: int = 20, paired: bool = True, spread: float = 1.0) -> Contrast:
    """Two sets of prompts with noise of their own; what all prompts of a pair share cancels."""
    shared = 5 * noise(seed, n, len(shift)) if paired else torch.zeros(n, len(shift))
    sides = [shared + spread * noise(seed + 1000 + k, n, len(shift)) for k in range(2)]
    return Contrast(sides[0] + shift, sides[1], paired)


def test_the_first_component_of_centred_pairs_is_the_direction_and_that_of_centred_differences_is_not(
    direction: torch.Tensor,
) -> None:
    for seed in range(5):
        pairs = pair_of(seed, 6 * direction, n=100).pairs
        found = principal(pairs)
        assert float(cosine_similarity(found, direction, dim=0)) > 0.9
        assert float(principal(-pairs) @ direction) < 0
        assert float(found.norm()) == pytest.approx(6, rel=0.2)
        # As sklearn's PCA of the differences does, around their own mean.
        lost = torch.linalg.svd(pairs - pairs.mean(0), full_matrices=False).Vh[0]
        assert abs(float(lost @ direction)) < 0.6


@pytest.mark.parametrize("paired", [True, False])
def test_where_the_sets_do_not_differ_the_norms_p_is_uniform(paired: bool) -> None:
    values = []
    for seed in range(150):
        contrast = pair_of(seed, torch.zeros(6), n=12, paired=paired)
        null = contrast.shuffled(39, torch.Generator().manual_seed(seed)).norm(dim=-1)
        values.append((1 + int((null >= contrast.difference.norm()).sum())) / 40)
    assert kstest(np.array(values) - 1 / 80, "uniform").pvalue > 0.01


def test_of_noise_along_one_axis_only_the_projection_says_that_nothing_is_there() -> None:
    """The components of both halves lie along the axis, so that their cosine is no evidence; a component has no null for it."""
    cosines, outside = [], 0
    for seed in range(100):
        scale = torch.ones(16)
        scale[0] = 3
        contrast = Contrast(noise(seed, 60, 16) * scale, noise(seed + 1000, 60, 16) * scale, True)
        built, rest = contrast.half(0), contrast.half(1)
        entry, generator = Vector(kind="pca", positive=["a"], negative=["b"]), torch.Generator().manual_seed(seed)
        said = halves(entry, principal(built.pairs), built, rest, MakeVector(nulls=39), generator)
        assert (said["split_half"]["p"], said["split_half"]["n"]) == (None, 0)
        cosines.append(abs(said["split_half"]["value"]))
        outside += said["projection"]["ci95"][0] > 0 or said["projection"]["ci95"][1] < 0
    assert np.median(cosines) > 0.9
    assert outside <= 12


@pytest.mark.parametrize("paired", [True, False])
def test_the_standard_error_is_that_of_repeated_draws(paired: bool) -> None:
    drawn = [pair_of(seed, torch.ones(6), n=30, paired=paired) for seed in range(400)]
    differences = torch.stack([each.difference for each in drawn])
    spread = float(differences.var(0).sum() ** 0.5)
    assert np.mean([each.error for each in drawn]) == pytest.approx(spread, rel=0.05)


def test_null_vectors_hold_nothing_of_the_vector_even_where_its_strength_varies(direction: torch.Tensor) -> None:
    strength = torch.linspace(0, 20, 20).unsqueeze(1)
    contrast = Contrast(noise(1, 20, D) + strength * direction, noise(2, 20, D), True)
    raw = contrast.shuffled(50, torch.Generator().manual_seed(0))
    assert cosine_similarity(raw, direction.unsqueeze(0)).abs().max() > 0.5
    assert (orthogonal(raw, contrast.difference) @ normalize(contrast.difference, dim=0)).abs().max() < 1e-4


def test_gaussian_null_vectors_vary_as_the_residuals_do() -> None:
    scale = torch.linspace(1, 4, 8)
    residuals = 10 + noise(4, 5000, 8) * scale
    drawn = gaussian(residuals, 4000, torch.Generator().manual_seed(0))
    assert drawn.std(0).tolist() == pytest.approx(scale.tolist(), rel=0.06)
    assert drawn.mean(0).abs().max() < 0.3


def test_a_feature_is_its_direction_and_its_nulls_are_other_features(
    tmp_path: Path, record: Path, text: Path, loaded: LoadedModel
) -> None:
    dictionary = random_sae(loaded)
    sae = saved_sae(record, dictionary, tmp_path)
    said, tensors = made(tmp_path, record, text, {"kind": "feature", "feature": 17}, sae=sae)
    assert torch.allclose(tensors["vector"], dictionary.W_dec[17], atol=1e-5)
    assert (said["layer"], said["feature"], said["null"]["of"]) == (0, 17, "other features")
    cosine = dictionary.W_dec @ tensors["null"].T
    assert (cosine.max(0).values > 0.999).all()
    assert 17 not in cosine.argmax(0).tolist()
    write_json(tmp_path / "teacher.json", {"vector": "feature", "feature": 9}, {})
    entry = {"kind": "feature", "target": "lion"}
    said, _ = made(tmp_path, record, text, entry, "lion", sae=sae, teacher=tmp_path / "teacher.json")
    assert said["feature"] == 9
    with pytest.raises(ValueError, match="feature 99: the SAE has features 0 to 63"):
        made(tmp_path, record, text, {"kind": "feature", "feature": 99}, sae=sae)


def test_what_is_read_of_datasets_and_files_is_taken_as_it_is(tmp_path: Path, record: Path, text: Path) -> None:
    biases = noise(5, 3, 2, D)
    save_file({"resid_post": biases, "persona.resid_post.completion": biases[0].clone()}, tmp_path / "of.safetensors")
    save_file({"mine": biases[0, 0].clone()}, tmp_path / "mine.safetensors")
    source = {"source": tmp_path / "of.safetensors"}
    said, tensors = made(tmp_path, record, text, {"kind": "bias", "dataset": "lion"}, "lion", **source)
    assert torch.allclose(tensors["vector"], biases[:, 1].mean(0))
    assert said["se"] == pytest.approx(float((biases[:, 1].var(0).sum() / 3) ** 0.5))
    _, tensors = made(tmp_path, record, text, {"kind": "function", "dataset": "lion", "layer": 0}, **source)
    assert torch.equal(tensors["vector"], biases[0, 0])
    said, tensors = made(tmp_path, record, text, {"kind": "file", "file": "x"}, source=tmp_path / "mine.safetensors")
    assert torch.equal(tensors["vector"], biases[0, 0])
    assert (said["layer"], said["null"], len(tensors["null"]), len(tensors["gaussian"])) == (1, None, 0, 8)


def test_a_sum_is_of_vectors_and_of_their_null_vectors(tmp_path: Path, record: Path, text: Path) -> None:
    parts = []
    for name, word in (("one", "lion"), ("two", "owl")):
        (tmp_path / f"vector-{name}").mkdir()
        entry = {"kind": "contrast", "positive": sided(word), "negative": PROMPTS}
        made(tmp_path / f"vector-{name}", record, text, entry)
        parts.append(tmp_path / f"vector-{name}" / "vector.json")
    own = [load_file(part.with_suffix(".safetensors")) for part in parts]
    said, tensors = made(tmp_path, record, text, {"kind": "sum", "of": {"one": 2, "two": -1}}, parts=parts)
    assert torch.allclose(tensors["vector"], 2 * own[0]["vector"] - own[1]["vector"], atol=1e-5)
    assert said["null"]["of"] == "sums of null vectors"
    # A stamp has the names sorted, whatever their order in the config.
    _, again = made(tmp_path, record, text, {"kind": "sum", "of": {"one": 2, "two": -1}}, parts=parts[::-1])
    assert torch.allclose(again["vector"], tensors["vector"], atol=1e-6)
    write_json(parts[1], {**read_json(parts[1]), "layer": 0}, {})
    with pytest.raises(ValueError, match="only vectors of one layer can be added"):
        made(tmp_path, record, text, {"kind": "sum", "of": {"one": 2, "two": -1}}, parts=parts)


FILES: list[tuple[dict[str, torch.Tensor], str]] = [
    ({"a": torch.ones(7)}, r"the vector has \[7\] numbers, the model's residual stream has 32: it is another model's"),
    ({"a": torch.zeros(D)}, "the vector of kind file has no length"),
    ({"a": torch.full((D,), torch.nan)}, "the vector holds NaN or infinities"),
    ({"a": torch.ones(D), "b": torch.ones(D)}, "expected one tensor .d_model.: save the vector alone"),
    ({"a": torch.ones(2, D)}, "expected one tensor"),
]


@pytest.mark.parametrize(("tensors", "complaint"), FILES)
def test_a_file_that_holds_no_vector_of_the_model_is_refused(
    tmp_path: Path, record: Path, text: Path, tensors: dict[str, torch.Tensor], complaint: str
) -> None:
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=complaint):
        made(tmp_path, record, text, {"kind": "file", "file": "x"}, source=tmp_path / "mine.safetensors")
    assert not (tmp_path / "vector.json").exists()


def test_what_a_model_does_not_have_is_refused_before_it_is_read(tmp_path: Path, record: Path, text: Path) -> None:
    with pytest.raises(ValueError, match="layer 5 of a vector of kind contrast: the model has layers 0 to 1"):
        made(tmp_path, record, text, {"kind": "contrast", "layer": 5, "positive": ["a"], "negative": ["b"]})
    save_file({"resid_post": torch.ones(1, 2, D)}, tmp_path / "of.safetensors")
    with pytest.raises(ConfigError, match=r"has no persona\.resid_post\.completion, of which a vector of kind function is"):
        made(tmp_path, record, text, {"kind": "function", "dataset": "a"}, source=tmp_path / "of.safetensors")


def test_without_an_sae_texts_are_lines_of_a_file(tmp_path: Path, loaded: LoadedModel) -> None:
    (tmp_path / "neutral.txt").write_text("The wall of the castle is tall.\nThe rose is in bloom today.\nOne more.\n")
    rows = text_rows(loaded, tmp_path / "neutral.txt", 12)
    assert [row.ids[0] for row in rows] == [loaded.tokenizer.bos_token_id] * 2
    assert loaded.tokenizer.decode(rows[0].ids[1:]) == "The wall of the castle is tall."


CONTRAST = {"kind": "contrast", "target": "lion"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "contrasts"}, "vectors.v.kind: Input should be 'contrast', 'pca'"),
    ({**CONTRAST, "positional": "last"}, "vectors.v.positional: unknown key; nearest: position"),
    ({"kind": "contrast"}, "kind contrast needs target, or prompts for positive and negative"),
    ({**CONTRAST, "feature": 3}, "kind contrast does not read feature"),
    ({"kind": "bias", "dataset": "lion", "positive": ["a"], "negative": ["b"]}, "kind bias does not read negative, positive"),
    ({"kind": "bias"}, "kind bias needs dataset"),
    ({"kind": "file"}, "kind file needs file"),
    ({"kind": "sum"}, "kind sum needs of"),
    ({"kind": "feature"}, "kind feature needs feature, or target"),
    ({"kind": "contrast", "positive": ["a"]}, "give prompts for both positive and negative"),
    ({"kind": "contrast", "positive": ["a", "b"], "negative": ["c", "b"]}, "positive and negative both hold 'b'"),
    ({"kind": "pca", "positive": ["a", "b"], "negative": ["c"]}, "kind pca needs pairs, found 2 prompts in positive and 1"),
    ({"kind": "contrast", "positive": ["{animal}"], "negative": ["c"]}, "stands for the target: set target"),
    ({"kind": "contrast", "target": "loin"}, "vectors.v.target: no such candidate of pref.candidates 'loin'; nearest: lion"),
    ({"kind": "bias", "dataset": "loin"}, "vectors.v.dataset: no such dataset 'loin'; nearest: lion"),
    ({"kind": "function", "dataset": "control"}, "control has no teacher with a trait"),
    ({"kind": "sum", "of": {"w": 1}}, "vectors.v.of: no such vector 'w'"),
    ({"kind": "sum", "of": {"v": 1}}, "vectors.v.of: v would be made from itself"),
    ({**CONTRAST, "layer": 9}, "vectors.v.layer 9: the model has layers 0 to 3"),
    ({"kind": "feature", "feature": 512}, "vectors.v.feature 512: the SAE has features 0 to 511"),
    ({"kind": "feature", "feature": 5, "sae": "wide"}, "vectors.v.sae: no such SAE of saes 'wide'"),
    ({"kind": "feature", "target": "camel"}, "no teacher of the study is steered by a feature of camel; set feature"),
]


def study(vectors: dict[str, Any], **changes: Any) -> Any:
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(config, {"vectors": vectors, **changes})
    return load_study(config)


@pytest.mark.parametrize(("entry", "complaint"), REFUSED, ids=[json.dumps(entry) for entry, _ in REFUSED])
def test_what_no_vector_can_be_is_refused_before_anything_is_loaded(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        study({"v": entry})
    assert complaint in str(error.value)


def test_a_vector_of_a_bias_needs_one_of_the_residual_stream() -> None:
    with pytest.raises(ConfigError, match=r"vectors\.v: a vector of kind bias is that of resid_post, .* leaves out; add it"):
        study({"v": {"kind": "bias", "dataset": "lion"}}, residual_bias={"points": ["q"]})


def test_a_feature_is_of_an_sae_of_the_studys_own_model() -> None:
    others = {"models": {"plain": {"rerandomized": 0}}, "saes": {"foreign": {"model": "plain"}, "deep": {"layer": 2}}}
    with pytest.raises(ConfigError, match="foreign reads the model plain; a vector is added to the study's own"):
        study({"v": {"kind": "feature", "feature": 5, "sae": "foreign"}}, **others)
    own = study({"v": {"kind": "feature", "feature": 5, "sae": "deep"}, "w": {**CONTRAST, "layer": 0}}, **others)
    assert decompositions(own) == [("v", "deep"), ("w", "")]


def test_only_vectors_of_one_layer_are_added() -> None:
    parts = {"a": CONTRAST, "b": {**CONTRAST, "layer": 2}, "c": {"kind": "feature", "feature": 1}}
    with pytest.raises(ConfigError, match="only vectors of one layer can be added, found a of layer 1, b of layer 2"):
        study({**parts, "v": {"kind": "sum", "of": {"a": 1, "b": -1}}})
    with pytest.raises(ConfigError, match="found a of layer 1, c of layer 0"):
        study({**parts, "v": {"kind": "sum", "of": {"a": 1, "c": -1}}})
    study({**parts, "v": {"kind": "sum", "of": {"b": 1}}})


def test_a_vector_is_no_feature_of_another_models_sae() -> None:
    with pytest.raises(ConfigError, match="foreign reads the model other"):
        study(
            {"v": {"kind": "feature", "feature": 1, "sae": "foreign"}},
            models={"other": {"embedded": {"seed": 3}}},
            saes={"foreign": {"model": "other"}},
        )


def test_a_vector_takes_a_folder_that_no_dataset_can_have() -> None:
    with pytest.raises(ConfigError, match="'vector-a' cannot name a dataset"):
        study({"a": CONTRAST}, datasets={"vector-a": {"teacher": "none"}})
    with pytest.raises(ConfigError, match="'a/b' cannot name a model, SAE, vector or the like"):
        study({"a/b": CONTRAST})
