"""Compare the base model with TransformerLens's hooked one: their differences at each hook point, and the cost of hooks."""

import copy
import gc
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from undertone.lm.adapters import new_adapter
from undertone.lm.chat import Row, prompt_ids
from undertone.lm.loading import LoadedModel, folder_of, load
from undertone.lm.training import collate
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.study.config.measure import Bridge
from undertone.study.config.students import Student

# The part of a name that a TransformerBridge puts between a module and its own parts.
WRAPPED = "._original_component"
Batch = dict[str, Tensor]


def compare_with_bridge(model: Path, prompts: Path, bridge: Path, settings: Bridge, stamp: Stamp) -> None:
    """Compare the plain model with a `TransformerBridge`; write the greatest differences and both speeds to `bridge.json`.

    `logits` and `points` (by kind of hook point, all layers together) hold the `greatest` absolute difference and the plain
    model's `largest` absolute value, both models with eager attention. `speed` holds tokens per second, medians of interleaved
    rounds: of a forward pass, of one with every hook point cached, and of a step (loss on every token) of a LoRA and of all
    weights.
    """
    loaded, folder = load(model), folder_of(model)
    users = read_parquet(prompts)["prompt"].head(settings.prompts).to_list()
    rows = sorted((Row(ids, 1) for ids in prompt_ids(loaded.tokenizer, users)), key=lambda row: len(row.ids))
    size = settings.batch_size
    batches = [collate(rows[i : i + size], loaded.pad_id, loaded.model.device) for i in range(0, len(rows), size)]
    with progress(4, "bridge", "part") as bar:
        apart = differences(loaded, folder, batches)
        bar.update()
        speed = {}
        for name, kind in (("forward", _forward), ("lora_step", _lora), ("full_step", _full)):
            speed[name] = rates(kind(loaded, folder, settings, batches[-1]), batches[-1], settings.rounds)
            gc.collect()  # free models and their optimizers
            bar.update()
    attention = {"plain": loaded.model.config._attn_implementation, "hooked": "eager"}
    body = {"prompts": len(rows), "tokens_at_once": int(batches[-1]["attention_mask"].sum()), "attention": attention}
    write_json(bridge, {**body, **apart, "speed": speed, "unit": "tokens per second"}, stamp)


def hooked(loaded: LoadedModel, folder: Path) -> TransformerBridge:
    """Wrap a model's modules, in place, and return it as a `TransformerBridge` with eager attention."""
    loaded.model.set_attn_implementation("eager")
    device = str(loaded.model.device)
    with installing_nothing():
        return TransformerBridge.boot_transformers(
            str(folder), hf_model=loaded.model, tokenizer=loaded.tokenizer, device=device
        )


@contextmanager
def installing_nothing() -> Iterator[None]:
    """Make `subprocess.check_call` fail within the `with` block.

    For a multimodal model, TransformerLens would install torchvision and another torch.
    """

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("nothing is installed while a model is compared")

    run, subprocess.check_call = subprocess.check_call, refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.check_call = run


def copied(loaded: LoadedModel) -> LoadedModel:
    """Return the same model with weights of its own."""
    return replace(loaded, model=copy.deepcopy(loaded.model))


@torch.no_grad()
def differences(loaded: LoadedModel, folder: Path, batches: Sequence[Batch]) -> dict[str, Any]:
    """Return the greatest differences at real tokens: of the logits, and of the inputs and outputs of the modules of both."""
    plain, bridge = copied(loaded).model, hooked(copied(loaded), folder)
    plain.set_attn_implementation("eager")
    pairs = shared_points(plain, bridge)
    logits, points = [0.0, 0.0], {kind_of(name): [0.0, 0.0] for name in pairs}
    for batch in batches:
        real, mask = batch["attention_mask"].bool(), batch["attention_mask"]
        with recorded(pairs) as kept:
            expected = plain(input_ids=batch["input_ids"], attention_mask=mask).logits
        result, cache = bridge.run_with_cache(batch["input_ids"], attention_mask=mask, names_filter=lambda name: name in pairs)
        _widen(logits, expected[real], result[real])
        for name, value in kept.items():
            other = cache.cache_dict.get(name)
            # A bridge splits queries, keys and values by head.
            if value.shape[:2] == real.shape and other is not None and other.numel() == value.numel():
                _widen(points[kind_of(name)], value[real], other.reshape(value.shape)[real])
    named = {kind: _figures(pair) for kind, pair in points.items() if pair[1]}
    return {"logits": _figures(logits), "points": named}


def _widen(pair: list[float], plain: Tensor, other: Tensor) -> None:
    pair[0] = max(pair[0], float((plain.float() - other.float()).abs().max()))
    pair[1] = max(pair[1], float(plain.float().abs().max()))


def _figures(pair: list[float]) -> dict[str, float]:
    return {"greatest": pair[0], "largest": pair[1]}


def kind_of(name: str) -> str:
    """Return a hook point's name without its layer: `blocks.mlp.hook_out` for `blocks.3.mlp.hook_out`."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def shared_points(plain: nn.Module, bridge: TransformerBridge) -> dict[str, tuple[nn.Module, bool]]:
    """Return, by hook point, the module of the plain model, and whether the point is its output (else its input)."""
    modules = dict(plain.named_modules())
    pairs: dict[str, tuple[nn.Module, bool]] = {}
    for path, component in bridge.original_model.named_modules():
        own = modules.get(path.replace(WRAPPED, ""))
        if path.endswith(WRAPPED) or own is None:
            continue
        for side, out in (("hook_in", False), ("hook_out", True)):
            if name := getattr(getattr(component, side, None), "name", None):
                pairs[name] = (own, out)
    return pairs


@contextmanager
def recorded(pairs: dict[str, tuple[nn.Module, bool]]) -> Iterator[dict[str, Tensor]]:
    """Within the `with` block, record the inputs and outputs of modules under the names of their hook points."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, out: bool, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        value = output if out else args[0] if args else kwargs.get("hidden_states")
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, Tensor) and value.is_floating_point():
            kept[name] = value

    with ExitStack() as stack:
        for name, (module, out) in pairs.items():
            stack.callback(module.register_forward_hook(partial(keep, name, out), with_kwargs=True).remove)
        yield kept


def _forward(loaded: LoadedModel, folder: Path, settings: Bridge, batch: Batch) -> dict[str, Callable[[], Any]]:
    bridge, inputs = hooked(copied(loaded), folder), {key: batch[key] for key in ("input_ids", "attention_mask")}
    ways = {
        "plain": lambda: loaded.model(**inputs, use_cache=False),
        "hooked": lambda: bridge(inputs["input_ids"], attention_mask=inputs["attention_mask"]),
        "cached": lambda: bridge.run_with_cache(inputs["input_ids"], attention_mask=inputs["attention_mask"]),
    }
    return {name: torch.no_grad()(way) for name, way in ways.items()}


def _lora(loaded: LoadedModel, folder: Path, settings: Bridge, batch: Batch) -> dict[str, Callable[[], Any]]:
    def adapted() -> LoadedModel:
        defaults = Student()
        adapter = new_adapter(copied(loaded), settings.rank, defaults.alpha, defaults.targets, 0)
        return replace(loaded, model=adapter.get_base_model())

    return _steps(adapted, folder, batch)


def _full(loaded: LoadedModel, folder: Path, settings: Bridge, batch: Batch) -> dict[str, Callable[[], Any]]:
    def trainable() -> LoadedModel:
        own = copied(loaded)
        return replace(own, model=own.model.float().requires_grad_(True))

    return _steps(trainable, folder, batch)


def _steps(make: Callable[[], LoadedModel], folder: Path, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Return an optimizer step of a plain model and one of a hooked model, each with weights of its own."""
    plain, other = make(), make()
    weights = [[p for p in of.model.parameters() if p.requires_grad] for of in (plain, other)]
    bridge = hooked(other, folder)
    return {
        "plain": partial(
            step, lambda ids, mask: plain.model(ids, attention_mask=mask, use_cache=False).logits, weights[0], batch
        ),
        "hooked": partial(step, lambda ids, mask: bridge(ids, attention_mask=mask), weights[1], batch),
    }


def step(
    logits_of: Callable[
        [Int[Tensor, "n_rows n_tokens"], Int[Tensor, "n_rows n_tokens"]], Float[Tensor, "n_rows n_tokens vocab"]
    ],
    weights: Sequence[nn.Parameter],
    batch: Batch,
) -> float:
    """Compute the loss of every token (nats) and its gradient; take one step of a fresh AdamW with learning rate 10⁻⁶."""
    logits, targets = logits_of(batch["input_ids"], batch["attention_mask"])[:, :-1], batch["labels"][:, 1:]
    loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW(weights, lr=1e-6, fused=True).step()
    for weight in weights:
        weight.grad = None
    return float(loss.detach())


def rates(ways: dict[str, Callable[[], Any]], batch: Batch, rounds: int) -> dict[str, float]:
    """Return tokens per second of each way: the median of interleaved rounds, after one that does not count."""
    tokens, seconds = int(batch["attention_mask"].sum()), {name: list[float]() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: tokens / median(taken) for name, taken in seconds.items()}
