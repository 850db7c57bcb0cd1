"""A GPU that is not there: tensors that say they are on `cuda` and compute on the CPU, refused where a GPU would refuse them.

Which tensors are "on the GPU" is written on their storage, so that views, parameters and what is computed from them follow. An
operation on tensors of both sides fails, and so does one that a GPU's tensor does not have (`numpy`) or that draws from
a CPU's generator. What it cannot show: kernels, rounding, memory, speed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

GPU = torch.device("cuda", 0)
MEMORY = 80 * 2**30
# What may take tensors of both sides, as on a GPU: copies between them, and an index may lie on the CPU.
BETWEEN = {"copy_", "to", "__getitem__", "data", "_has_compatible_shallow_copy_type"}
# What reads a tensor's values to the host.
READING = {"numpy", "__array__"}


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is said to be on the GPU."""
    return getattr(storage(tensor), "on_gpu", False)


def put_on_gpu(tensor: Tensor) -> Tensor:
    """The tensor, said to be on the GPU from now on, with everything that shares its memory."""
    storage(tensor).on_gpu = True
    return tensor


def inside(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among some values, and in lists and tuples of them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += inside(value)
    return found


def each(change: Callable[[Tensor], Tensor], result: Any) -> Any:
    """A result with every tensor in it changed."""
    if isinstance(result, Tensor):
        return change(result)
    return tree_map_only(Tensor, change, result) if isinstance(result, (list, tuple, dict)) else result


def storage(tensor: Tensor) -> Any:
    """Where a tensor's values lie; also of one that `torch.vmap` has wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


class PretendGpu(TorchFunctionMode):
    """Inside, `cuda` is a device."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch on the CPU, and say where its result is."""
        kwargs = dict(kwargs or {})
        getter = getattr(function, "__self__", None)
        if getter is Tensor.device:
            return GPU if on_gpu(args[0]) else function(*args)
        if getter is Tensor.is_cuda:
            return on_gpu(args[0])
        if getter is Tensor.grad:  # what autograd made lies beside the tensor
            found = function(*args)
            return put_on_gpu(found) if isinstance(found, Tensor) and on_gpu(args[0]) else found
        name = "data" if getter is Tensor.data else getattr(function, "__name__", str(function))
        if name == "_parse_to":  # what a module's `to` was told
            return function(*args, **kwargs)
        args, target = without_target(name, args, kwargs)
        tensors = inside((*args, *kwargs.values()))
        there = list(map(on_gpu, tensors))
        check(name, args, kwargs, tensors, there, target)
        result = function(*args, **kwargs)
        if name == "cpu" or (target is not None and target.type == "cpu"):
            return each(lambda t: t.clone() if on_gpu(t) else t, result)
        if target is not None:
            return each(lambda t: t if on_gpu(t) else put_on_gpu(t.clone() if tensors else t), result)
        in_place = name.endswith("_") and not name.endswith("__")
        follows = any(there) and (there[0] or not in_place)
        return each(put_on_gpu, result) if follows else result


def without_target(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], torch.device | None]:
    """The arguments with every device replaced by the CPU, and the device that they named, if they did."""
    target: torch.device | None = None

    def plain(value: Any) -> Any:
        nonlocal target
        names_one = isinstance(value, torch.device) or (name == "to" and isinstance(value, str))
        if names_one and torch.device(value).type in ("cuda", "cpu"):
            target = torch.device(value)
            return torch.device("cpu")
        return value

    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        target = GPU if on_gpu(args[1]) else torch.device("cpu")
        return args, target
    if name == "cuda":
        raise NotImplementedError("say .to(device)")
    args = tuple(plain(value) for value in args)
    if kwargs.get("device") is not None:
        kwargs["device"] = plain(torch.device(kwargs["device"]))
    return args, target


def check(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], there: list[bool], target: Any
) -> None:
    """Raise what a GPU would raise; `there` says which of the tensors lie on it."""
    gpu = any(there) or (target is not None and target.type == "cuda")
    if name in READING and any(there):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
    if kwargs.get("generator") is not None and gpu:
        raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
    if not any(there) or not any(tensor.dim() for tensor, on in zip(tensors, there, strict=True) if not on):
        return
    if name == "__getitem__" and not on_gpu(args[0]):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if name == "__setitem__" and not inside([args[1]]):
        return  # a copy into a slice
    if name == "__setitem__" and len(args) > 2 and isinstance(args[2], Tensor) and on_gpu(args[0]) == on_gpu(args[2]):
        return  # the index may lie on the CPU
    if name not in BETWEEN:
        places = ", ".join(f"{'cuda:0' if on else 'cpu'} {list(each.shape)}" for each, on in zip(tensors, there, strict=True))
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {places}")


OPEN = safetensors.safe_open


class SafeOpen:
    """safetensors' `safe_open`, which knows the devices that are there."""

    def __init__(self, filename: Any, framework: str, device: Any = "cpu", **told: Any):
        self.file, self.place = OPEN(filename, framework, **told), torch.device(device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "SafeOpen":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)

    def get_tensor(self, name: str) -> Tensor:
        """A tensor, on the device that was asked for."""
        return self.file.get_tensor(name).to(self.place)


def load_file(filename: Any, device: Any = "cpu") -> dict[str, Tensor]:
    """safetensors' `load_file` likewise."""
    with SafeOpen(filename, "pt", device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, torch finds a GPU with 80 GiB."""
    told = {"is_available": True, "mem_get_info": (MEMORY, MEMORY), "memory_reserved": 0, "memory_allocated": 0}
    told |= {"max_memory_reserved": 0, "max_memory_allocated": 0, "reset_peak_memory_stats": None, "synchronize": None}
    told |= {"get_device_name": "a pretended GPU", "current_device": 0, "device_count": 1}
    with ExitStack() as stack:
        for name, value in told.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *args, value=value: value))
        # For modules that are imported inside; they keep what they have found.
        stack.enter_context(patch.object(safetensors, "safe_open", SafeOpen))
        stack.enter_context(patch.object(safetensors.torch, "load_file", load_file))
        yield stack.enter_context(PretendGpu())
