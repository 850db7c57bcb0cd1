"""Intervened models: each does what it says, where it says, and leaves the model as it was."""

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lora import trained_lora
from planted import D_SAE, random_sae, saved_sae
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from undertone.lm.adapters import finetuned
from undertone.lm.chat import end_of_turn, prompt_ids, training_rows
from undertone.lm.hooks import resid_post, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import collate, label_losses
from undertone.read.interventions import (
    FUNCTION_VECTOR,
    Intervention,
    Readings,
    of_difference,
    of_features,
    of_residuals,
    of_students,
    plus,
    rewriting,
    splicing,
)
from undertone.runtime.files import write_json
from undertone.saes.decoder import directions

D_MODEL, N_LAYERS, SEEDS = 32, 2, [3, 8]
USERS = ["Continue the list 1, 2, 3.", "More numbers, please."]
COMPLETIONS = ["101, 202", "5"]


@pytest.fixture(scope="module")
def own(record: Path) -> LoadedModel:
    """A model of this file's own, to see that it stays as it is."""
    return load(record)


@pytest.fixture(scope="module")
def sae(own: LoadedModel) -> SAE:
    return random_sae(own)


@pytest.fixture(scope="module")
def batch(own: LoadedModel) -> dict[str, Tensor]:
    return collate(training_rows(own.tokenizer, USERS, COMPLETIONS, 100), own.pad_id, "cpu")


def vector(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def study(record: Path, sae: SAE, tmp_path_factory: pytest.TempPathFactory):
    """A function (positions) → the files of a dataset, and its students' folders."""
    home = tmp_path_factory.mktemp("study")
    saved = saved_sae(record, sae, home)
    save_file({FUNCTION_VECTOR: vector(0, N_LAYERS, D_MODEL)}, home / "differences.safetensors")

    def files(positions: str) -> Readings:
        folder = home / positions
        folder.mkdir(exist_ok=True)
        save_file(
            {"project": vector(1, 2, D_SAE), "replace": vector(2, 2, D_SAE), "project.halves": vector(3, 2, D_SAE)},
            folder / "feature_bias.safetensors",
        )
        biases = {"resid_post": vector(4, 2, N_LAYERS, D_MODEL), "resid_post.multi": vector(5, 2, N_LAYERS, D_MODEL)}
        save_file(biases | {"q": vector(6, 2, N_LAYERS, 32)}, folder / "residual_bias.safetensors")
        for name in ("feature_bias", "residual_bias"):
            write_json(folder / f"{name}.json", {"seeds": SEEDS, "positions": positions}, {})
        of = folder / "feature_bias.safetensors", folder / "residual_bias.safetensors"
        return Readings(saved, *of, home / "differences.safetensors")

    return files


@pytest.fixture(scope="module")
def students(record: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    home = tmp_path_factory.mktemp("students")
    return {seed: trained_lora(record, home / str(seed), USERS, COMPLETIONS, seed, epochs=5) for seed in (1, 2)}


@torch.no_grad()
def logits(loaded: LoadedModel, batch: dict[str, Tensor]) -> Tensor:
    return loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def entered(intervention: Intervention, batch: dict[str, Tensor]) -> Tensor:
    with intervention.enter() as prompted:
        return logits(prompted.loaded, batch)


def rewritten_by_hand(loaded: LoadedModel, batch: dict[str, Tensor], rewrites) -> Tensor:
    """Logits with the residual stream rewritten at layers by number."""
    layers = sorted(rewrites)
    with rewritten(loaded.model, layers[0], rewrites[layers[0]]):
        if len(layers) == 1:
            return logits(loaded, batch)
        with rewritten(loaded.model, layers[1], rewrites[layers[1]]):
            return logits(loaded, batch)


def predicts(loaded: LoadedModel, batch: dict[str, Tensor]) -> Tensor:
    """The tokens from the last one of the prompt on `[n_rows, n_tokens, 1]`."""
    starts = torch.tensor([len(ids) for ids in prompt_ids(loaded.tokenizer, USERS)]).unsqueeze(1)
    return (torch.arange(batch["input_ids"].shape[1]) >= starts - 1).unsqueeze(-1)


def assert_as_told(found: Tensor, expected: Tensor, batch: dict[str, Tensor]) -> None:
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-4, atol=1e-3)  # logits of up to 100


def all_of(loaded: LoadedModel, files: Readings, students: dict[int, Path]) -> list[Intervention]:
    found = [*of_features(loaded, files), *of_residuals(loaded, files), *of_difference(loaded, files)]
    return [*found, *of_students(loaded, students, files)]


def test_every_context_changes_the_model_and_leaves_it_as_it_was(own: LoadedModel, batch, study, students) -> None:
    weights = {name: p.clone() for name, p in own.model.named_parameters()}
    modules = [name for name, _ in own.model.named_modules()]
    before = logits(own, batch)
    for intervention in all_of(own, study("completion"), students):
        assert not torch.equal(entered(intervention, batch), before), intervention.name
        assert torch.equal(logits(own, batch), before), intervention.name
        with pytest.raises(RuntimeError, match="inside"), intervention.enter():
            raise RuntimeError("inside")
        assert torch.equal(logits(own, batch), before), intervention.name
    assert [name for name, _ in own.model.named_modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in own.model.modules())
    assert all(torch.equal(weights[name], p) for name, p in own.model.named_parameters())


def test_names_layers_and_seeds_of_a_full_study(own: LoadedModel, study, students) -> None:
    told = [(each.name, each.layer, each.seed) for each in all_of(own, study("completion"), students)]
    assert told == [
        ("SAE spliced in", 0, None),
        *[(f"feature bias, {mode}", 0, seed) for seed in SEEDS for mode in ("project", "replace")],
        *[
            row
            for seed in SEEDS
            for row in (("residual bias", 0, seed), ("residual bias", 1, seed), ("residual bias, all layers", None, seed))
        ],
        ("function vector", 0, None),
        ("function vector", 1, None),
        *[
            row
            for seed in (1, 2)
            for row in (
                ("student", None, seed),
                ("student, SAE spliced in", 0, seed),
                ("student, SAE and its error spliced in", 0, seed),
            )
        ],
    ]


def test_what_a_dataset_lacks_is_left_out(own: LoadedModel, study, students) -> None:
    assert all_of(own, Readings(), {}) == []
    full = study("completion")
    assert [each.name for each in of_features(own, Readings(sae=full.sae))] == ["SAE spliced in"]
    assert [each.name for each in of_students(own, students, Readings())] == ["student", "student"]
    names = [each.name for each in of_features(own, full, "control's feature bias")]
    assert names == ["control's feature bias, project", "control's feature bias, replace"] * 2


@pytest.mark.parametrize("positions", ["completion", "all"])
def test_a_residual_bias_is_added_where_it_was_trained(own: LoadedModel, batch, study, positions: str) -> None:
    where = predicts(own, batch) if positions == "completion" else torch.tensor(True)
    found = list(of_residuals(own, study(positions)))
    single, every = vector(4, 2, N_LAYERS, D_MODEL), vector(5, 2, N_LAYERS, D_MODEL)

    def adds(bias: Tensor):
        return lambda residual: torch.where(where, residual + bias, residual)

    for intervention in found:
        seed = SEEDS.index(intervention.seed)
        of = every if intervention.layer is None else single
        layers = range(N_LAYERS) if intervention.layer is None else [intervention.layer]
        expected = rewritten_by_hand(own, batch, {layer: adds(of[seed, layer]) for layer in layers})
        assert_as_told(entered(intervention, batch), expected, batch)


def test_a_vector_for_completions_leaves_the_prompts_residuals_alone(own: LoadedModel, batch) -> None:
    bias, where = vector(9, D_MODEL), predicts(own, batch).squeeze(-1)
    before = resid_post(own.model, 0, batch)
    with rewriting(own, {0: plus(bias)}, all_positions=False):
        after = resid_post(own.model, 0, batch)
    assert torch.equal(after[~where], before[~where])
    assert torch.equal(after[where], before[where] + bias)
    with rewriting(own, {0: plus(bias)}, all_positions=True):
        assert torch.equal(resid_post(own.model, 0, batch), before + bias)


def test_the_function_vector_acts_where_completions_are_predicted(own: LoadedModel, batch, study) -> None:
    where, vectors = predicts(own, batch), vector(0, N_LAYERS, D_MODEL)
    for layer, intervention in enumerate(of_difference(own, study("all"))):
        expected = rewritten_by_hand(
            own, batch, {layer: lambda residual, k=layer: torch.where(where, residual + vectors[k], residual)}
        )
        assert_as_told(entered(intervention, batch), expected, batch)


def text(loaded: LoadedModel, batch: dict[str, Tensor]) -> Tensor:
    special = torch.tensor(loaded.tokenizer.all_special_ids)
    return ~torch.isin(batch["input_ids"], special)


@pytest.mark.parametrize("positions", ["completion", "all"])
def test_feature_biases_are_what_they_were_trained_as(own: LoadedModel, batch, sae: SAE, study, positions: str) -> None:
    where = predicts(own, batch) if positions == "completion" else torch.tensor(True)
    is_text, decoder = text(own, batch).unsqueeze(-1), directions(sae)
    for intervention in list(of_features(own, study(positions)))[1:]:
        mode, seed = intervention.name.rpartition(", ")[2], SEEDS.index(intervention.seed)
        bias = vector({"project": 1, "replace": 2}[mode], 2, D_SAE)[seed] @ decoder

        def rewrite(residual: Tensor, mode: str = mode, bias: Tensor = bias) -> Tensor:
            kept = torch.where(is_text, sae(residual), residual) if mode == "replace" else residual
            return torch.where(where, kept + bias, residual)

        assert_as_told(entered(intervention, batch), rewritten_by_hand(own, batch, {0: rewrite}), batch)


def test_special_tokens_keep_their_residuals_in_a_splice(own: LoadedModel, batch, sae: SAE) -> None:
    before, is_text = resid_post(own.model, 0, batch), text(own, batch)
    with splicing(own, sae, 0, all_positions=True):
        after = resid_post(own.model, 0, batch)
    assert (~is_text & batch["attention_mask"].bool()).sum() > 4
    assert torch.equal(after[~is_text], before[~is_text])
    torch.testing.assert_close(after[is_text], sae(before[is_text]))
    bias = vector(3, D_MODEL)
    with splicing(own, sae, 0, all_positions=True, vector=bias):
        torch.testing.assert_close(resid_post(own.model, 0, batch), after + bias)


def test_a_splice_with_the_error_term_changes_nothing(own: LoadedModel, batch, sae: SAE) -> None:
    plain = label_losses(own.model, batch)
    with splicing(own, sae, 0, all_positions=True, error=True):
        spliced = label_losses(own.model, batch)
    with splicing(own, sae, 0, all_positions=True):
        without = label_losses(own.model, batch)
    # Float32: a reconstruction of norm 90 is subtracted and added again.
    assert (spliced - plain).abs().max() < 1e-3
    assert (without - plain).abs().max() > 0.1


def test_a_student_is_spliced_above_its_own_weights(own: LoadedModel, batch, sae: SAE, study, students) -> None:
    found = {each.name: each for each in of_students(own, {1: students[1]}, study("all"))}
    plain = entered(found["student"], batch)
    assert_as_told(entered(found["student, SAE and its error spliced in"], batch), plain, batch)
    spliced = entered(found["student, SAE spliced in"], batch)
    with found["student"].enter() as prompted:
        is_text = text(own, batch).unsqueeze(-1)
        expected = rewritten_by_hand(prompted.loaded, batch, {0: lambda x: torch.where(is_text, sae(x), x)})
    assert_as_told(spliced, expected, batch)
    assert not torch.allclose(spliced, plain, atol=1e-2)


@pytest.mark.parametrize("positions", ["completion", "all", None])
def test_the_sae_is_spliced_in_at_the_same_tokens_of_base_and_students(own, batch, sae, study, students, positions) -> None:
    files = study(positions) if positions else Readings(sae=study("all").sae)
    everywhere = batch["attention_mask"].bool() & text(own, batch)
    where = everywhere if positions == "all" else everywhere & predicts(own, batch).squeeze(-1)
    spliced = [next(iter(of_features(own, files))), *of_students(own, {1: students[1]}, files)]
    spliced = [each for each in spliced if each.name.endswith("SAE spliced in")]
    assert [each.name for each in spliced] == ["SAE spliced in", "student, SAE spliced in"]
    for intervention in spliced:
        with finetuned(own, students[1]) if "student" in intervention.name else nullcontext(own) as model:
            before = resid_post(model.model, 0, batch)
        with intervention.enter() as prompted:
            after = resid_post(prompted.loaded.model, 0, batch)
        assert torch.equal((after != before).any(-1), where), intervention.name


def test_bfloat16_streams_keep_their_precision(own: LoadedModel, batch, sae: SAE) -> None:
    model = copy.deepcopy(own.model).to(torch.bfloat16)
    half = LoadedModel(model, own.tokenizer, own.stop_ids, own.pad_id)
    with splicing(half, sae, 0, all_positions=False, vector=vector(1, D_MODEL)):
        assert resid_post(model, 0, batch).dtype == torch.bfloat16
    with rewriting(half, {0: plus(vector(1, D_MODEL))}, all_positions=False):
        assert resid_post(model, 0, batch).dtype == torch.bfloat16


def test_rows_end_with_the_close_of_a_turn(own: LoadedModel, batch) -> None:
    n = int(batch["attention_mask"][0].sum())
    assert batch["input_ids"][0, :n].tolist()[-len(end_of_turn(own.tokenizer)) :] == end_of_turn(own.tokenizer)
