"""Running only what lies above a hook point gives what a full forward pass with hooks gives."""

import copy
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, hook_point, rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.suffix import (
    POINTS,
    Prefilled,
    added,
    by_row,
    losses,
    only_layers_above,
    prefill,
    run,
    run_above,
    width,
)
from undertone.lm.training import collate, label_losses

VOCAB, N_LAYERS = 101, 3
SIZE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
NO_HEAD_DIM = {key: value for key, value in SIZE.items() if key != "head_dim"}
# Windows of 4 tokens, shorter than any row.
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "gemma": GemmaConfig(**SIZE, attn_implementation="sdpa"),
    "gemma, eager": GemmaConfig(**SIZE, attn_implementation="eager"),
    "gemma2": Gemma2Config(**SIZE, attn_implementation="eager", final_logit_softcapping=2.0, sliding_window=4),
    "llama": LlamaConfig(**SIZE, attn_implementation="sdpa"),
    "qwen2": Qwen2Config(
        **NO_HEAD_DIM, attn_implementation="sdpa", use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
}
# Prompts of 2 to 11 tokens, completions of 1 to 8.
SHAPES = [(5, 3), (2, 8), (11, 1), (7, 5), (7, 2)]
# Float32: what is left of an order of summation that differs with padding and with the cache.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def rows_of(shapes: list[tuple[int, int]] = SHAPES) -> list[Row]:
    generator = torch.Generator().manual_seed(3)
    return [Row(torch.randint(1, VOCAB, (p + c,), generator=generator).tolist(), p) for p, c in shapes]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def random(request: pytest.FixtureRequest) -> LoadedModel:
    """A model with random weights, of which the bias of no projection is 0 where it has one."""
    torch.manual_seed(0)
    return frozen(AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[request.param])))


def frozen(model: PreTrainedModel) -> LoadedModel:
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return LoadedModel(model.requires_grad_(False).eval(), None, [], 0)


def predicting(rows: list[Row], n_tokens: int) -> Tensor:
    """Where tokens predict a completion `[n_rows, n_tokens, 1]`: from the prompt's last one to the last but one of the row."""
    place = torch.arange(n_tokens)
    return torch.stack([(place >= row.start - 1) & (place < len(row.ids) - 1) for row in rows]).unsqueeze(-1)


def at(rows: list[Row], all_positions: bool) -> Tensor:
    """The tokens that have a bias in a full pass."""
    there = predicting(rows, max(len(row.ids) for row in rows))
    return torch.ones_like(there) if all_positions else there


def with_gradient(bias: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of their sum with weights that differ from label to label."""
    weights = torch.linspace(0.5, 1.5, len(found))
    (gradient,) = torch.autograd.grad((found * weights).sum(), bias)
    return found.detach(), gradient


def assert_same(ours: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> None:
    assert reference[1].abs().max() > 1e-2
    for own, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(own, other, **CLOSE)


@pytest.mark.parametrize("whole", [False, True])
def test_losses_and_gradients_of_a_bias_are_those_of_the_full_model(random: LoadedModel, whole: bool) -> None:
    rows, model = rows_of(), random.model
    batch, full = prefill(random, rows, range(N_LAYERS), whole), collate(rows, 0, "cpu")
    assert sorted(batch.residual) == [0, 1, 2]
    for layer in range(N_LAYERS):
        bias = torch.linspace(-0.3, 0.3, 16, requires_grad=True)
        ours = with_gradient(bias, losses(run_above(model, batch, layer, batch.residual[layer] + bias), batch))
        where = at(rows, whole)
        with rewritten(model, layer, lambda residual, where=where, bias=bias: torch.where(where, residual + bias, residual)):
            reference = with_gradient(bias, label_losses(model, full))
        assert_same(ours, reference)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_without_a_bias_the_losses_are_the_full_models(random: LoadedModel, layer: int, whole: bool) -> None:
    rows = rows_of()
    expected = label_losses(random.model, collate(rows, 0, "cpu"))
    batch = prefill(random, rows, [layer], whole)
    torch.testing.assert_close(losses(run_above(random.model, batch, layer), batch), expected, **CLOSE)
    torch.testing.assert_close(losses(run(random.model, prefill(random, rows, [-1], whole)), batch), expected, **CLOSE)


def test_a_residual_at_each_token_has_its_own_gradient(random: LoadedModel) -> None:
    rows, model = rows_of(), random.model
    batch, full = prefill(random, rows, [0]), collate(rows, 0, "cpu")
    stream = batch.residual[0].clone().requires_grad_(True)
    losses(run_above(model, batch, 0, stream), batch).sum().backward()
    extra = torch.zeros(*full["input_ids"].shape, 16, requires_grad=True)
    with rewritten(model, 0, lambda residual: residual + extra):
        label_losses(model, full).sum().backward()
    assert stream.grad is not None
    assert extra.grad is not None
    torch.testing.assert_close(stream.grad[batch.keep], extra.grad[predicting(rows, extra.shape[1])[..., 0]], **CLOSE)


@contextmanager
def plainly_added(model: PreTrainedModel, point: str, layer: int, bias: Tensor, where: Tensor):
    """A bias at a hook point of a full pass, at some of the tokens, written out by hand."""
    block = model.model.layers[layer]
    if point == "mlp_in":
        handle = block.mlp.register_forward_pre_hook(lambda module, args: (torch.where(where, args[0] + bias, args[0]),))
    else:
        module = block if point == "resid_post" else getattr(block.self_attn, f"{point}_proj")
        handle = module.register_forward_hook(lambda module, args, output: torch.where(where, output + bias, output))
    yield
    handle.remove()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("point", ["mlp_in", "q", "k", "v"])
def test_a_bias_inside_a_layer_does_what_it_does_in_the_full_model(random: LoadedModel, point: str, whole: bool) -> None:
    rows, model = rows_of(), random.model
    batch, full = prefill(random, rows, range(-1, N_LAYERS), whole), collate(rows, 0, "cpu")
    size = width(model, point)
    assert size == {"q": 16, "k": 8, "v": 8, "mlp_in": 16}[point]
    for layer in range(N_LAYERS):
        bias = torch.linspace(-0.4, 0.4, size, requires_grad=True)
        with added(model, point, layer, bias):
            ours = with_gradient(bias, losses(run_above(model, batch, layer - 1), batch))
        with plainly_added(model, point, layer, bias, at(rows, whole)):
            reference = with_gradient(bias, label_losses(model, full))
        torch.testing.assert_close(ours[0], reference[0], **CLOSE)
        torch.testing.assert_close(ours[1], reference[1], **CLOSE)
        if point != "k":  # a bias on every key moves all scores of a token alike
            assert reference[1].abs().max() > 1e-3


def test_biases_at_every_layer_at_once_are_those_of_the_full_model(random: LoadedModel) -> None:
    rows, model = rows_of(), random.model
    biases = torch.linspace(-0.2, 0.3, 16 * N_LAYERS).reshape(N_LAYERS, 16).requires_grad_(True)
    batch, where = prefill(random, rows, [-1]), at(rows, all_positions=False)

    def everywhere(way) -> AbstractContextManager[object]:
        stack = ExitStack()
        for layer in range(N_LAYERS):
            stack.enter_context(way(layer))
        return stack

    with everywhere(lambda layer: added(model, "resid_post", layer, biases[layer])):
        ours = with_gradient(biases, losses(run(model, batch), batch))
    with everywhere(lambda layer: plainly_added(model, "resid_post", layer, biases[layer], where)):
        reference = with_gradient(biases, label_losses(model, collate(rows, 0, "cpu")))
    assert_same(ours, reference)


def test_the_layers_below_are_not_run(random: LoadedModel) -> None:
    batch, ran = prefill(random, rows_of(), [1]), []
    handles = [
        layer.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, layer in enumerate(decoder_layers(random.model))
    ]
    run_above(random.model, batch, 1)
    for handle in handles:
        handle.remove()
    assert ran == [2]


def test_keys_and_values_of_layers_that_will_not_run_take_no_memory(random: LoadedModel) -> None:
    batch = prefill(random, rows_of(), [1])
    stored = [keys.untyped_storage().nbytes() for keys, _ in batch.past]
    assert [k for k, size in enumerate(stored) if size == max(stored)] == [2]
    whole = prefill(random, rows_of(), [1], all_positions=True)
    assert not whole.past


def test_one_batch_can_be_run_again_and_gives_the_same_bits(random: LoadedModel) -> None:
    batch = prefill(random, rows_of(), [0])
    before = [(keys.clone(), values.clone()) for keys, values in batch.past]
    first, second = run_above(random.model, batch, 0), run_above(random.model, batch, 0)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for old, new in zip(before, batch.past, strict=True) for a, b in zip(old, new, strict=True))


def test_targets_and_means_by_row_are_in_the_order_of_the_rows(random: LoadedModel) -> None:
    rows = rows_of()
    batch = prefill(random, rows, [-1])
    assert batch.targets.tolist() == [token for row in rows for token in row.ids[row.start :]]
    assert batch.counts == [completion for _, completion in SHAPES]
    values = torch.arange(float(len(batch.targets)))
    expected, seen = [], 0
    for _, n in SHAPES:
        expected.append(sum(range(seen, seen + n)) / n)
        seen += n
    assert by_row(values, batch).tolist() == pytest.approx(expected)


def test_a_batch_moves_as_a_whole(random: LoadedModel) -> None:
    batch = prefill(random, rows_of(), [0, 1])
    moved = batch.to("meta")
    tensors = [moved.ids, moved.mask, moved.keep, moved.targets, *moved.residual.values(), *(t for p in moved.past for t in p)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert torch.equal(run_above(random.model, batch.to("cpu"), 1), run_above(random.model, batch, 1))


def state(model: PreTrainedModel) -> tuple[list[int], int, list[str]]:
    """The layers by identity, the number of hooks anywhere in the model, and the names of its modules."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    return [id(layer) for layer in model.model.layers], hooks, [name for name, _ in model.named_modules()]


@pytest.mark.parametrize("point", POINTS)
def test_an_error_inside_leaves_the_model_as_it_was(random: LoadedModel, point: str) -> None:
    model = random.model
    before, bias = state(model), torch.zeros(width(model, point))
    with pytest.raises(RuntimeError, match="inside"), only_layers_above(model, 1, None), added(model, point, 2, bias):
        assert state(model) != before
        raise RuntimeError("inside")
    assert state(model) == before
    batch = prefill(random, rows_of(), [1])
    with pytest.raises(RuntimeError):
        run_above(model, batch, 1, torch.zeros(1, 1, 3))
    assert state(model) == before


def bridge_of(folder, loaded: LoadedModel) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(folder), tokenizer=loaded.tokenizer, device="cpu", dtype=torch.float32)


# TransformerLens runs eager attention: the same bits; else what rounding leaves, as a share of the greatest residual.
@pytest.mark.parametrize(
    ("attention", "whole", "tolerance"), [("eager", True, 0.0), ("sdpa", True, 2e-6), ("eager", False, 2e-6)]
)
def test_residuals_are_transformer_lenss(record, loaded: LoadedModel, attention: str, whole: bool, tolerance: float) -> None:
    plain = AutoModelForCausalLM.from_pretrained(record.parent, dtype=torch.float32, attn_implementation=attention).eval()
    own, layers = LoadedModel(plain, loaded.tokenizer, [], loaded.pad_id), range(len(plain.model.layers))
    rows = [Row([2, *range(300, 300 + p + c)], 1 + p) for p, c in SHAPES]
    batch, full = prefill(own, rows, layers, whole), prefill(own, rows, [], all_positions=True)
    _, cache = bridge_of(record.parent, loaded).run_with_cache(full.ids, attention_mask=full.mask)
    for layer in layers:
        expected = cache[hook_point(layer)][full.keep]
        apart = (batch.residual[layer][batch.keep] - expected).abs().max() / expected.abs().max()
        assert apart <= tolerance


def test_bfloat16_residuals_give_losses_in_float32() -> None:
    torch.manual_seed(0)
    model = frozen(AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES["gemma"]))).model.to(torch.bfloat16)
    own, rows = LoadedModel(model, None, [], 0), rows_of()
    batch: Prefilled = prefill(own, rows, [1])
    found = losses(run_above(model, batch, 1), batch)
    assert (batch.residual[1].dtype, found.dtype) == (torch.bfloat16, torch.float32)
    expected = label_losses(model, collate(rows, 0, "cpu"))
    assert (found - expected).abs().max() < 0.05 * expected.max()
