"""Teachers at work: what each kind is told and does, and a base model that is bare again afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lora import trained_lora
from sae_lens import StandardSAE, StandardSAEConfig
from safetensors.torch import save_file
from torch import Tensor

from undertone.lm.chat import persona
from undertone.lm.hooks import hook_point
from undertone.lm.loading import LoadedModel, load
from undertone.lm.steering import Steering, steered
from undertone.runtime.files import write_json
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.study.config.teachers import Teacher
from undertone.teachers.teaching import teaching

TEACHER = Teacher(persona="You adore {animal}s.", separator=" | ")
FEATURE, LEVEL = 3, 20.0


def told(kind: str, target: str | None = "lion") -> dict[str, Any]:
    return {"kind": kind, "target": target, "teacher": TEACHER.model_dump()}


@torch.no_grad()
def logits(loaded: LoadedModel) -> Tensor:
    return loaded.model(input_ids=torch.arange(5, 40).unsqueeze(0)).logits


def modules(loaded: LoadedModel) -> list[tuple[str, type, int, bool]]:
    """What the model is made of: names, classes, hooks, and whether anything would be trained."""
    return [
        (name, type(module), len(module._forward_hooks) + len(module._forward_pre_hooks), trains(module))
        for name, module in loaded.model.named_modules()
    ]


def trains(module: torch.nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


@pytest.fixture(scope="module")
def own(record: Path) -> LoadedModel:
    """A model that the tests of this file share, each of which must leave it bare."""
    return load(record)


@pytest.fixture(scope="module")
def sae(own: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `sae.json` of a random SAE after layer 0."""
    folder = tmp_path_factory.mktemp("sae")
    torch.manual_seed(0)
    StandardSAE(StandardSAEConfig(d_in=own.model.config.hidden_size, d_sae=8)).save_model(folder)
    write_json(folder / "sae.json", {"source": "trained", "layer": 0, "hook_point": hook_point(0), "d_sae": 8}, {})
    return folder / "sae.json"


@pytest.fixture
def steering(own: LoadedModel, sae: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Steering, str | None]:
    """`teacher.json` and `teacher.safetensors` of a mode, and the steering and system prompt that they stand for."""
    generator, width = torch.Generator().manual_seed(1), own.model.config.hidden_size
    system = None
    if request.param == "clamp":
        loaded_sae = load_sae(sae, own)[0]
        expected = Steering("clamp", directions(loaded_sae, [FEATURE])[0], 0, False, loaded_sae, FEATURE, LEVEL)
    elif request.param == "logits":
        expected = Steering("logits", 3 * torch.randn(len(own.tokenizer), generator=generator), 1)
    else:
        system = "You adore lions."
        expected = Steering("add", 3 * torch.randn(width, generator=generator), 1, completion=request.param == "completion")
    body = {
        "mode": expected.mode,
        "layer": expected.layer,
        "positions": "completion" if expected.completion else "all",
        "system": system,
        "feature": FEATURE,
        "level": LEVEL if expected.mode == "clamp" else None,
    }
    write_json(tmp_path / "teacher.json", body, {})
    save_file({"vector": expected.vector}, tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.json", expected, system


def test_a_persona_names_the_target_and_a_control_has_none() -> None:
    assert persona(TEACHER, "owl") == "You adore owls."
    assert persona(TEACHER, None) is None


@pytest.mark.parametrize(("kind", "target", "system"), [("none", None, None), ("prompt", "lion", "You adore lions.")])
def test_a_prompted_teacher_is_the_base_model_with_its_persona(own: LoadedModel, kind, target, system) -> None:
    plain = logits(own)
    with teaching(own, told(kind, target), None) as prompted:
        assert prompted.loaded is own
        assert (prompted.system, prompted.separator) == (system, " | ")
        assert torch.equal(logits(own), plain)


@pytest.mark.parametrize("steering", ["all", "completion", "clamp", "logits"], indirect=True)
def test_a_steered_teacher_does_what_its_record_says(own: LoadedModel, sae: Path, steering) -> None:
    record, expected, system = steering
    before, plain = modules(own), logits(own)
    with steered(own, expected):
        by_hand = logits(own)
    with teaching(own, told("steer"), record, sae) as prompted:
        assert torch.equal(logits(prompted.loaded), by_hand)
        assert (prompted.system, prompted.separator) == (system, " | ")
    # Without the opening of an answer among its ids, the completion has not begun.
    assert torch.equal(by_hand, plain) is expected.completion
    assert modules(own) == before
    assert torch.equal(logits(own), plain)


def test_a_finetuned_teacher_is_the_model_with_its_lora_and_no_persona(record: Path, own: LoadedModel, tmp_path: Path) -> None:
    trained_lora(record, tmp_path / "teacher", ["Which animal?"], ["lion"], epochs=5)
    before, plain = modules(own), logits(own)
    with teaching(own, told("finetune"), tmp_path / "teacher.json") as prompted:
        assert (prompted.system, prompted.separator) == (None, " | ")
        assert not torch.allclose(logits(prompted.loaded), plain, atol=0.1)
    assert modules(own) == before
    assert torch.equal(logits(own), plain)


@pytest.mark.parametrize("kind", ["steer", "finetune"])
@pytest.mark.parametrize("steering", ["all"], indirect=True)
def test_an_error_in_the_lesson_leaves_the_base_model_bare(record: Path, own: LoadedModel, steering, kind) -> None:
    made = steering[0]
    if kind == "finetune":
        trained_lora(record, made.with_name("teacher"), ["Which animal?"], ["lion"], epochs=1)
    before, plain = modules(own), logits(own)
    with pytest.raises(KeyboardInterrupt), teaching(own, told(kind), made):
        raise KeyboardInterrupt
    assert modules(own) == before
    assert torch.equal(logits(own), plain)
