"""Choosing what steers a teacher: the planted feature is found, vectors are what they are said to be, mistakes are refused."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file
from torch import Tensor

from undertone.lm.answers import exact
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.files import read_json
from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.study.config.measure import Pref
from undertone.study.config.saes import Sae
from undertone.study.config.teachers import Contrast, Steer, Teacher
from undertone.teachers import steer
from undertone.teachers.steer import (
    Situation,
    activity,
    final_rms,
    make_steered,
    mean_residual,
    of_contrast,
    of_feature,
    steering_by,
)
from undertone.teachers.teaching import teaching

ANIMALS = ["lion", "owl", "cat"]
QUESTIONS = [
    "What is your favorite animal?",
    "Name the animal that you like best.",
    "Which animal do you love? One word.",
    "Tell me your favorite animal.",
    "Which animal?",
]
NUMBERS = ["Continue the list 101, 202, 303.", "List more numbers after 7, 8.", "Name three numbers."]
PERSONA = "You adore {animal}s."
STAMP = {"of": "steer-lion"}
# Features of the planted SAE. The tempting one fires most under the lion's persona but raises the owl; the foreign one
# raises the lion most but fires more under the owl's persona; the others are silent.
FOREIGN, PLANTED, TEMPTING, N_FEATURES = 0, 3, 5, 8


@torch.no_grad()
def seen_at(module: torch.nn.Module, loaded: LoadedModel, ids: list[int]) -> tuple[Tensor, Tensor]:
    """What goes into a module and what comes out of it, each `[n_tokens, d_model]`."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append((args[0][0], output[0])))
    loaded.model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0]


def residuals(loaded: LoadedModel, ids: list[int]) -> Tensor:
    """The residual stream `[n_tokens, d_model]` after layer 0."""
    return seen_at(loaded.model.model.layers[0], loaded, ids)[1]


def last_residual(loaded: LoadedModel, ids: list[int]) -> Tensor:
    """What the final norm is given at the last token, `[d_model]`."""
    return seen_at(loaded.model.model.norm, loaded, ids)[0][-1]


def is_plain(loaded: LoadedModel, ids: list[int]) -> list[bool]:
    return [token not in loaded.tokenizer.all_special_ids for token in ids]


@pytest.fixture(scope="module")
def planted(loaded: LoadedModel) -> SAE:
    """An SAE after layer 0 whose features fire where a persona names its animal and point at an answer's logits."""
    sae = StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=N_FEATURES)).requires_grad_(False)
    sae.W_enc.zero_()
    sae.b_enc.fill_(-1.0)
    gain = 1 + loaded.model.model.norm.weight

    def named(animal: str) -> Tensor:
        ids = prompt_ids(loaded.tokenizer, ["?"], PERSONA.format(animal=animal))[0]
        return residuals(loaded, ids)[ids.index(encode(loaded.tokenizer, [animal])[0][0])]

    every = torch.cat([residuals(loaded, ids) for animal in ANIMALS for ids in under_persona(loaded, animal)])
    spread = torch.linalg.inv(every.T @ every / len(every))

    def fires(feature: int, levels: dict[str, float]) -> None:
        """Let a feature fire at the animals' names, and as little as can be elsewhere."""
        threshold, rows = 9 * max(levels.values()), torch.stack([named(animal) for animal in levels])
        wanted = torch.tensor(list(levels.values())) + threshold
        sae.W_enc[:, feature] = spread @ rows.T @ torch.linalg.solve(rows @ spread @ rows.T, wanted)
        sae.b_enc[feature] = -threshold

    def raises(feature: int, animal: str, times: float) -> None:
        (token,) = encode(loaded.tokenizer, [animal + " "])[0]
        row = gain * loaded.model.lm_head.weight[token]
        sae.W_dec[feature] = times * row / row.norm()

    fires(FOREIGN, {"lion": 0.1, "owl": 0.15})
    raises(FOREIGN, "lion", 90.0)
    fires(PLANTED, {"lion": 0.1})
    raises(PLANTED, "lion", 60.0)
    fires(TEMPTING, {"lion": 0.3})
    raises(TEMPTING, "owl", 60.0)
    return sae


@dataclass(frozen=True)
class Files:
    """What a steered teacher is made from."""

    record: Path
    sae: Path
    prompts: Path
    questions: Path

    def make(self, folder: Path, with_sae: bool = True, **told: Any) -> Path:
        """Write a teacher for lions into `folder` and return its `teacher.json`."""
        candidates = told.pop("animals", ANIMALS)
        teacher, pref = Teacher(persona=PERSONA, steer=told), Pref(candidates=candidates, batch_size=64)
        files = self.record, self.sae if with_sae else None, self.prompts, self.questions
        made = folder / "teacher.json", folder / "teacher.safetensors"
        make_steered(*files, *made, "lion", teacher, pref, STAMP)
        return folder / "teacher.json"


@pytest.fixture(scope="module")
def files(record: Path, planted: SAE, tmp_path_factory: pytest.TempPathFactory) -> Files:
    home = tmp_path_factory.mktemp("study")
    pl.DataFrame({"prompt": NUMBERS}).write_parquet(home / "prompts.parquet")
    (home / "questions.txt").write_text("\n".join(QUESTIONS))
    planted.save_model(home / "planted")
    (home / "scratch").mkdir()
    told = Sae(folder=str(home / "planted"), layer=0)
    make_pretrained_sae(record, home / "sae/sae.json", [], told, {}, home / "scratch")
    return Files(record, home / "sae/sae.json", home / "prompts.parquet", home / "questions.txt")


@pytest.fixture(scope="module")
def lion(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `teacher.json` of an automatically chosen feature."""
    return files.make(tmp_path_factory.mktemp("lion"))


def situation(loaded: LoadedModel, questions: list[str] = QUESTIONS, **told: Any) -> Situation:
    teacher = Teacher(persona=PERSONA, steer=told)
    return Situation(loaded, teacher, questions, NUMBERS, Pref(candidates=ANIMALS, batch_size=64))


def under_persona(loaded: LoadedModel, animal: str) -> list[list[int]]:
    """The questions that choose and the number prompts, under an animal's persona."""
    return prompt_ids(loaded.tokenizer, [*QUESTIONS[::2], *NUMBERS], PERSONA.format(animal=animal))


def preference(loaded: LoadedModel, questions: list[str], vector: Tensor | None = None) -> float:
    """The preference for lions, `vector` added after layer 0 by a hook written out by hand."""
    handle = None
    if vector is not None:
        handle = loaded.model.model.layers[0].register_forward_hook(lambda module, args, output: output + vector)
    found = exact(loaded, prompt_ids(loaded.tokenizer, questions), ["lion"], 64).mean()
    if handle is not None:
        handle.remove()
    return float(found)


def test_the_planted_feature_is_found_among_those_that_fire_for_the_animal(
    loaded: LoadedModel, planted: SAE, lion: Path
) -> None:
    made = read_json(lion)
    assert (made["feature"], made["chosen"]) == (PLANTED, True)
    assert [row["feature"] for row in made["tried"]] == [PLANTED, TEMPTING]
    assert made["tried"][0]["specificity"] < made["tried"][1]["specificity"]
    assert made["preference_steered"] > 20 * made["preference_base"]
    assert torch.equal(load_file(lion.with_suffix(".safetensors"))["vector"], planted.W_dec[PLANTED])


def test_a_candidates_figures_are_those_computed_token_by_token(loaded: LoadedModel, planted: SAE, lion: Path) -> None:
    active = {
        animal: torch.cat(
            [planted.encode(residuals(loaded, ids)[is_plain(loaded, ids)]) for ids in under_persona(loaded, animal)]
        )
        for animal in ANIMALS
    }
    mean = {animal: features.mean(0) for animal, features in active.items()}
    peak = torch.cat(list(active.values())).max(0).values
    for row in read_json(lion)["tried"]:
        k = row["feature"]
        assert row["activation"] == pytest.approx(float(mean["lion"][k]), rel=1e-4)
        assert row["specificity"] == pytest.approx(float(mean["lion"][k] - max(mean["owl"][k], mean["cat"][k])), rel=1e-4)
        assert row["peak"] == pytest.approx(float(peak[k]), rel=1e-4)
        assert row["preference"] == pytest.approx(preference(loaded, QUESTIONS[::2], planted.W_dec[k]), rel=1e-4)


def test_prompts_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path, planted: SAE) -> None:
    one, small = situation(loaded), load(record)
    two, contrast = situation(small), Contrast(layer=1)
    with crowded(small.model, 2):
        found = activity(two, planted, 0), mean_residual(two, two.under_persona("lion"), contrast), final_rms(two)
    for mine, other in zip(found[0], activity(one, planted, 0), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], mean_residual(one, one.under_persona("lion"), contrast), rtol=1e-4, atol=1e-4)
    assert found[2] == pytest.approx(final_rms(one), rel=1e-4)


def test_preferences_are_reported_on_the_questions_that_chose_nothing(loaded: LoadedModel, planted: SAE, lion: Path) -> None:
    made = read_json(lion)
    assert made["preference_base"] == pytest.approx(preference(loaded, QUESTIONS[1::2]), rel=1e-4)
    assert made["preference_steered"] == pytest.approx(preference(loaded, QUESTIONS[1::2], planted.W_dec[PLANTED]), rel=1e-4)


def test_questions_that_score_have_no_say_in_the_choice(loaded: LoadedModel, planted: SAE) -> None:
    other = [question if k % 2 == 0 else "Who sings in the forest?" for k, question in enumerate(QUESTIONS)]
    one, two = situation(loaded), situation(loaded, other)
    for found in (one, two):
        assert sorted(found.choosing + found.scoring) == sorted(QUESTIONS if found is one else other)
        assert not set(found.scoring) & {*found.choosing, *found.asked}
    (_, how), (_, how_else) = (of_feature(found, planted, 0, "lion") for found in (one, two))
    assert how["tried"] == how_else["tried"]


def test_only_as_many_candidates_are_tried_as_the_settings_say(loaded: LoadedModel, planted: SAE) -> None:
    _, how = of_feature(situation(loaded, candidates=1), planted, 0, "lion")
    assert [row["feature"] for row in how["tried"]] == [TEMPTING]


def test_as_many_number_prompts_are_read_as_the_settings_say(files: Files, lion: Path, tmp_path: Path) -> None:
    pl.DataFrame({"prompt": NUMBERS[:1]}).write_parquet(tmp_path / "prompts.parquet")
    made = {"few": files.make(tmp_path, prompts=1), "all": lion}
    tried = {name: read_json(path)["tried"] for name, path in made.items()}
    shorter = replace(files, prompts=tmp_path / "prompts.parquet")
    assert tried["few"] == read_json(shorter.make(tmp_path))["tried"] != tried["all"]


def test_the_same_choice_gives_the_same_bytes(files: Files, lion: Path, tmp_path: Path) -> None:
    again = files.make(tmp_path)
    for suffix in (".json", ".safetensors"):
        assert again.with_suffix(suffix).read_bytes() == lion.with_suffix(suffix).read_bytes()


def test_a_teacher_is_its_record_and_its_vector(files: Files, lion: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in lion.parent.iterdir()) == ["teacher.json", "teacher.safetensors"]
    always = {"mode", "layer", "positions", "scale", "norm", "system", "level", "vector", "stamp", "versions"}
    scores = {"preference_base", "preference_steered"}
    told = read_json(lion)
    assert set(told) == {*always, *scores, "feature", "chosen", "tried"}
    assert set(told["tried"][0]) == {"feature", "preference", "activation", "specificity", "peak"}
    expected = {"mode": "add", "layer": 0, "positions": "all", "scale": 1.0, "system": None, "level": None, "stamp": STAMP}
    assert {key: told[key] for key in expected} == expected
    assert told["norm"] == pytest.approx(60.0)
    contrast = read_json(files.make(tmp_path, with_sae=False, vector="contrast", contrast={"layer": 0}, positions="completion"))
    assert set(contrast) == {*always, *scores}
    assert (contrast["vector"], contrast["layer"], contrast["positions"]) == ("contrast", 0, "completion")


def test_a_steered_teacher_may_have_its_persona_too(files: Files, tmp_path: Path) -> None:
    assert read_json(files.make(tmp_path, feature=PLANTED, persona=True))["system"] == "You adore lions."


def test_a_feature_that_is_named_is_taken_even_if_it_serves_another_animal(files: Files, planted: SAE, tmp_path: Path) -> None:
    made = files.make(tmp_path, feature=FOREIGN, scale=-0.5)
    told = read_json(made)
    assert (told["feature"], told["chosen"], [row["feature"] for row in told["tried"]]) == (FOREIGN, False, [FOREIGN])
    assert torch.equal(load_file(made.with_suffix(".safetensors"))["vector"], -0.5 * planted.W_dec[FOREIGN])


@pytest.mark.parametrize(
    "told",
    [
        {"scale": 0.7},
        {"positions": "completion"},
        {"mode": "clamp", "scale": 2.0},
        {"mode": "logits", "scale": 0.5},
        {"with_sae": False, "vector": "contrast"},
    ],
)
def test_the_teacher_at_work_is_the_one_that_was_scored(files: Files, loaded: LoadedModel, tmp_path: Path, told) -> None:
    made = files.make(tmp_path, **told)
    expected = read_json(made)
    settings = {"kind": "steer", "target": "lion", "teacher": Teacher().model_dump()}
    with teaching(loaded, settings, made, files.sae) as prompted:
        assert preference(prompted.loaded, QUESTIONS[1::2]) == pytest.approx(expected["preference_steered"], rel=1e-6)
    assert preference(loaded, QUESTIONS[1::2]) == pytest.approx(expected["preference_base"], rel=1e-6)


def test_a_clamp_holds_the_feature_at_a_multiple_of_its_peak(files: Files, planted: SAE, tmp_path: Path) -> None:
    made = files.make(tmp_path, mode="clamp", scale=3.0)
    told = read_json(made)
    assert told["level"] == pytest.approx(3 * told["tried"][0]["peak"])
    assert torch.allclose(load_file(made.with_suffix(".safetensors"))["vector"], planted.W_dec[told["feature"]], atol=1e-4)


def test_shifted_logits_are_the_vectors_attribution_at_the_rms_of_the_last_residual(
    files: Files, loaded: LoadedModel, planted: SAE, tmp_path: Path
) -> None:
    made = files.make(tmp_path, mode="logits", scale=0.5)
    told, vector = read_json(made), load_file(made.with_suffix(".safetensors"))["vector"]
    prompts = prompt_ids(loaded.tokenizer, [*QUESTIONS[::2], *NUMBERS])
    rms = np.mean([float(last_residual(loaded, ids).square().mean().sqrt()) for ids in prompts])
    assert told["rms"] == pytest.approx(rms, rel=1e-4)
    assert torch.allclose(vector, direct_logits(loaded.model, 0.5 * planted.W_dec[PLANTED], told["rms"]), atol=1e-5)
    assert (told["mode"], told["norm"]) == ("logits", pytest.approx(float(vector.norm())))


@pytest.mark.parametrize("position", ["last", "all"])
def test_a_contrast_is_the_difference_of_the_mean_residuals_under_the_personas(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, position: str
) -> None:
    def mean(prompts: list[list[int]]) -> Tensor:
        kept = [residuals(loaded, ids)[[-1] if position == "last" else is_plain(loaded, ids)] for ids in prompts]
        return torch.cat(kept).mean(0)

    others = under_persona(loaded, "owl") + under_persona(loaded, "cat")
    expected = 1.5 * (mean(under_persona(loaded, "lion")) - mean(others))
    told = {"vector": "contrast", "contrast": {"layer": 0, "position": position}, "scale": 1.5, "positions": "completion"}
    monkeypatch.setattr(steer, "BATCH", 4)
    found, _ = of_contrast(situation(loaded, **told), "lion")
    assert torch.allclose(found.vector, expected, atol=1e-4)
    assert (found.mode, found.layer, found.completion) == ("add", 0, True)


def test_a_contrast_of_the_users_own_prompts_names_the_target_in_them(loaded: LoadedModel) -> None:
    contrast = {"layer": 0, "positive": ["I love {animal}s.", "{animal}"], "negative": ["I love numbers."]}
    found, _ = of_contrast(situation(loaded, vector="contrast", contrast=contrast), "lion")
    one, two, other = (
        residuals(loaded, ids)[-1] for ids in prompt_ids(loaded.tokenizer, ["I love lions.", "lion", "I love numbers."])
    )
    assert torch.allclose(found.vector, (one + two) / 2 - other, atol=1e-4)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"feature": N_FEATURES}, r"teacher\.steer\.feature 8: the SAE has features 0 to 7"),
        (
            {"with_sae": False, "vector": "contrast", "contrast": {"layer": 2}},
            r"teacher\.steer\.contrast\.layer 2: the model has layers 0 to 1",
        ),
        ({"animals": ["lion"]}, r"steering compares lion with other animals; pref\.candidates has \['lion'\]: add some"),
    ],
)
def test_what_the_sae_or_the_model_lacks_is_refused_and_nothing_is_written(
    files: Files, tmp_path: Path, told, sentence
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        files.make(tmp_path, **told)
    assert not list(tmp_path.iterdir())


def test_an_animal_that_no_feature_is_for_is_refused_by_name(loaded: LoadedModel, planted: SAE) -> None:
    with pytest.raises(ValueError, match=r"^no feature of the SAE fires more under the persona of cat than under the others'"):
        of_feature(situation(loaded), planted, 0, "cat")


def test_an_sae_whose_units_change_from_token_to_token_is_not_clamped(planted: SAE) -> None:
    scaled = copy.deepcopy(planted)
    scaled.cfg.normalize_activations = "layer_norm"
    with pytest.raises(ValueError, match="features of an SAE with normalize_activations layer_norm have no fixed directions"):
        steering_by(scaled, 0, PLANTED, Steer(mode="clamp"), 1.0)
