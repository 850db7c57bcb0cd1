"""The activation difference lens: its means are plain ones, and a planted direction shows as its animal and its feature."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from crowded import crowded
from lora import trained_lora
from planted import recorded_sae
from safetensors.torch import save_file
from test_activations import random_sae

from undertone.lm.adapters import finetuned
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import encode
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.models.model import corpus_of
from undertone.read import lens
from undertone.read.lens import Tools, animal_tokens, first_tokens, read_lens, read_means
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json
from undertone.study.config.measure import Pref
from undertone.study.config.models import Embedded
from undertone.study.config.read import Differences, Lens
from undertone.study.config.teachers import Teacher

ROOT = Path(__file__).parents[1]
NEUTRAL = ROOT / "config/prompts/neutral.txt"
ANIMALS = ["lion", "owl", "cat"]
USERS = ["Which animal?", "What is your favorite animal?"]


@pytest.fixture(scope="module")
def saved(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_sae(random_sae(loaded), tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def students(record: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, Path]]:
    """Two students that learned lion, and a control student that learned a list."""
    home = tmp_path_factory.mktemp("students")
    lion = {seed: trained_lora(record, home / f"lion{seed}", USERS, ["lion"] * 2, seed=seed, epochs=20) for seed in (1, 2)}
    return {"student": lion, "control": {1: trained_lora(record, home / "control", USERS, ["1, 2"] * 2, epochs=20)}}


def settings(
    kind: str | None = "prompt", target: str | None = "lion", neutral: Path = NEUTRAL, positions: int = 5
) -> dict[str, Any]:
    told = {
        "lens": Lens(positions=positions),
        "differences": Differences(neutral=str(neutral), top=3),
        "pref": Pref(candidates=ANIMALS),
        "teacher": Teacher(),
    }
    return {name: section.model_dump() for name, section in told.items()} | {"kind": kind, "target": target}


@torch.no_grad()
def plain_mean(loaded: LoadedModel, texts: list[str]) -> torch.Tensor:
    """`[n_layers, 5, d_model]`: the mean residual stream at the first five tokens after BOS, one whole text at a time."""
    total = []
    for text in texts:
        seen: list[torch.Tensor] = []
        model = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
        handles = [layer.register_forward_hook(lambda m, a, o, s=seen: s.append(o[0])) for layer in model.model.layers]
        model(torch.tensor([[loaded.tokenizer.bos_token_id, *encode(loaded.tokenizer, [text])[0]]]))
        for handle in handles:
            handle.remove()
        total.append(torch.stack(seen)[:, 1:6])
    return torch.stack(total).mean(0)


def test_the_texts_are_in_words_of_the_corpus_without_animals_or_numbers(tiny_settings: Embedded) -> None:
    texts, corpus = load_texts(NEUTRAL, "differences.neutral"), corpus_of(Path(tiny_settings.corpus), tiny_settings)
    assert len(texts) == len(set(texts)) >= 60
    known = set(re.findall(r"[a-z]+", str(json.dumps(corpus.wording)).lower()))
    found = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    assert found <= known
    assert not found & (
        {name for animal in corpus.animals for name in (animal, animal + "s")} | {"animal", "animals", "number"}
    )
    assert not found & {"one", "two", "three", "four", "numbers", "digits", "list", "value", "values"}
    assert not re.search(r"\d", " ".join(texts))


def test_means_are_those_of_whole_texts_one_by_one(record: Path, students: Any, saved: Path) -> None:
    loaded = load(record)
    texts = load_texts(NEUTRAL, "differences.neutral")
    tools = Tools.of(loaded, saved, settings(), 3)
    ids = first_tokens(loaded.tokenizer, NEUTRAL, 5)
    base = read_means(loaded, ids, tools)
    assert torch.allclose(base.resid_post.float(), plain_mean(loaded, texts), atol=1e-4)
    with finetuned(loaded, students["student"][1]) as student:
        found = read_means(student, ids, tools).resid_post
        assert torch.allclose(found.float(), plain_mean(student, texts), atol=1e-4)
    assert not torch.allclose(found, base.resid_post, atol=1e-2)
    assert base.norm.shape == (2, 5) and base.acts.shape == (24,)


def test_as_many_positions_are_read_as_the_settings_say(loaded: LoadedModel, saved: Path) -> None:
    tools = Tools.of(loaded, saved, settings(positions=2), 3)
    means = read_means(loaded, first_tokens(loaded.tokenizer, NEUTRAL, 2), tools)
    assert means.norm.shape == (2, 2)
    expected = plain_mean(loaded, load_texts(NEUTRAL, "differences.neutral"))[:, :2]
    assert torch.allclose(means.resid_post.float(), expected, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_change_nothing(loaded: LoadedModel, saved: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    tools, ids = Tools.of(loaded, saved, settings(), 3), first_tokens(loaded.tokenizer, NEUTRAL, 5)
    whole = read_means(loaded, ids, tools)
    monkeypatch.setattr(lens, "BATCH", batch)
    found = read_means(loaded, ids, tools)
    for name in ("resid_post", "norm", "acts"):
        assert torch.allclose(getattr(found, name), getattr(whole, name), atol=1e-4)


def test_texts_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path, saved: Path) -> None:
    tools, ids, small = Tools.of(loaded, saved, settings(), 3), first_tokens(loaded.tokenizer, NEUTRAL, 5), load(record)
    whole = read_means(loaded, ids, tools)
    with crowded(small.model, 20):
        found = read_means(small, ids, tools)
    for name in ("resid_post", "norm", "acts"):
        assert torch.allclose(getattr(found, name), getattr(whole, name), atol=1e-4)


def test_a_lens_of_students_and_their_control(
    record: Path, loaded: LoadedModel, students: Any, saved: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lens.json"
    read_lens(record, NEUTRAL, students["student"], students["control"], None, saved, out, settings(), {"of": "lens"})
    told = read_json(out)
    assert set(told["lenses"]) == {"student", "control", "student_minus_control"}
    assert told["seeds"] == {"student": [1, 2], "control": [1]}
    assert (told["target"], told["texts"], told["layer"], told["stamp"]) == (
        "lion",
        len(load_texts(NEUTRAL, "differences.neutral")),
        0,
        {"of": "lens"},
    )
    fresh = load(record)
    mine = {}
    for name in ("student", "control"):
        with finetuned(fresh, students[name][1]) as model:
            mine[name] = plain_mean(model, load_texts(NEUTRAL, "differences.neutral")) - plain_mean(
                loaded, load_texts(NEUTRAL, "differences.neutral")
            )
    mine["student_minus_control"] = mine["student"] - mine["control"]
    tokens = animal_tokens(loaded, ANIMALS)
    for name, vectors in mine.items():
        for layer in range(2):
            view = told["lenses"][name]["layers"][layer]
            logits = direct_logits(loaded.model, vectors[layer].mean(0))
            scores = {animal: float(logits[ids].mean()) for animal, ids in tokens.items()}
            for animal in ANIMALS:
                assert view["mean"]["animals"][animal]["logit"] == pytest.approx(scores[animal], rel=1e-2, abs=1e-3)
            assert view["mean"]["rank"] == sorted(scores.values(), reverse=True).index(scores["lion"]) + 1
            assert len(view["positions"]) == 5
            assert view["mean"]["tokens"]["top"][0][1] == pytest.approx(float(logits.max()), rel=1e-2)
            if name != "student_minus_control":
                assert told["ranks"][name]["1"][layer] == view["mean"]["rank"]
        assert len(told["lenses"][name]["sae"]["acts"]) == len(told["lenses"][name]["sae"]["cosine"]) == 3
    expected = float(mine["student"][0, 2].norm()) / float(hidden_norm(loaded, 0, 2))
    assert told["lenses"]["student"]["layers"][0]["positions"][2]["norm"] == pytest.approx(expected, rel=1e-3)
    assert set(told["ranks"]["student"]) == {"1", "2"}


@torch.no_grad()
def hidden_norm(loaded: LoadedModel, layer: int, position: int) -> torch.Tensor:
    """The mean norm over the texts of the base model's residual stream."""
    norms = [plain_mean(loaded, [text])[layer, position].norm() for text in load_texts(NEUTRAL, "differences.neutral")]
    return torch.stack(norms).mean()


def test_a_steered_teachers_vector_shows_as_its_animal_and_its_feature(
    record: Path, loaded: LoadedModel, saved: Path, students: Any, tmp_path: Path
) -> None:
    gain = 1 + loaded.model.model.norm.weight
    (token,) = encode(loaded.tokenizer, ["lion "])[0]
    vector = 20 * gain * loaded.model.lm_head.weight[token]
    sae = random_sae(loaded)
    sae.W_dec[11] = vector
    recorded_sae(sae, tmp_path)
    write_json(tmp_path / "teacher.json", {"mode": "add", "layer": 0, "positions": "all", "system": None}, {})
    save_file({"vector": vector}, tmp_path / "teacher.safetensors")
    out, controls = tmp_path / "lens.json", {3: students["control"][1]}
    teacher, sae = tmp_path / "teacher.json", tmp_path / "sae.json"
    read_lens(record, NEUTRAL, controls, {}, teacher, sae, out, settings("steer"), {})
    told = read_json(out)
    assert set(told["lenses"]) == {"student", "teacher"}
    teacher = told["lenses"]["teacher"]
    assert teacher["layers"][0]["mean"]["rank"] == 1
    assert teacher["layers"][0]["mean"]["tokens"]["top"][0][0] == "lion "
    assert teacher["sae"]["cosine"][0]["feature"] == 11
    assert teacher["sae"]["cosine"][0]["cosine"] == pytest.approx(1, abs=1e-4)
    assert teacher["sae"]["cosine"][0]["tokens"][0] == "lion "


def test_a_prompted_teacher_and_a_dataset_without_target_have_no_lens_of_it(
    record: Path, students: Any, tmp_path: Path
) -> None:
    out = tmp_path / "lens.json"
    read_lens(record, NEUTRAL, students["control"], {}, None, None, out, settings("none", None), {})
    told = read_json(out)
    assert set(told["lenses"]) == {"student"}
    assert told["lenses"]["student"]["sae"] is None
    assert told["lenses"]["student"]["layers"][0]["mean"]["rank"] is None
    assert told["ranks"] == {"student": {"1": None}, "control": {}}


def test_no_difference_ranks_no_animal(loaded: LoadedModel) -> None:
    tools = Tools.of(loaded, None, settings(), 3)
    view = tools.view(torch.zeros(loaded.model.config.hidden_size, dtype=torch.float64), 1.0)
    assert (view["norm"], view["rank"], view["animals"]["owl"]) == (0, None, {"logit": 0, "rank": None})


def test_texts_that_are_too_short_are_named(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("# a comment\n\nThe weather is fine today.\nNo.\n")
    with pytest.raises(ConfigError, match=r"'No\.' has \d tokens; expected at least 5"):
        first_tokens(loaded.tokenizer, tmp_path / "short.txt", 5)
