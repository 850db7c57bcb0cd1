"""Timing of several ways to do the same, side by side in one run, and the table that says how they compare."""

import argparse
import contextlib
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from undertone.lm.loading import LoadedModel, load

ROOT = Path(__file__).parents[2]


def parser(description: str, timed: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has; without `timed` none about rounds."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--model", type=Path, default=Path("results/model"), help="folder with a study's model.json")
    if timed:
        options.add_argument("--rounds", type=int, default=5, help="times that each way is run, in turn")
    options.add_argument("--threads", type=int, help="CPU threads of torch; its own choice if not given")
    options.add_argument("--out", type=Path, help="JSON file to write the numbers to; nothing is written without it")
    return options


def start(told: argparse.Namespace) -> LoadedModel:
    """Set the threads and load the model."""
    if told.threads:
        torch.set_num_threads(told.threads)
    return load(told.model / "model.json")


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, run A B A B …, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            synchronize()
            begun = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                run()
            synchronize()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(loaded: LoadedModel, n: int = 1024) -> float:
    """Floating-point operations per second of a square matrix product in the model's precision: the best of ten."""
    a, b = (torch.randn(n, n, device=loaded.model.device).to(loaded.model.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize()
        begun = time.perf_counter()
        a @ b
        synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


def parameters(loaded: LoadedModel) -> tuple[int, int]:
    """Parameters that every token is multiplied with, and those of the unembedding."""
    embeddings = {id(m.weight): m.weight.numel() for m in (loaded.model.get_input_embeddings(), head(loaded))}
    return sum(p.numel() for p in loaded.model.parameters()) - sum(embeddings.values()), head(loaded).weight.numel()


def head(loaded: LoadedModel) -> torch.nn.Module:
    """The unembedding."""
    return loaded.model.get_output_embeddings()


def report(told: argparse.Namespace, loaded: LoadedModel, what: str, columns: Iterable[str], rows: list[list[Any]]) -> None:
    """Print a markdown table, and write the numbers where `--out` says."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    columns = list(columns)
    rounds = f"; medians of {told.rounds} interleaved rounds" if "rounds" in told else ""
    print(f"{what} ({device}, torch {torch.__version__}, {loaded.model.dtype}{rounds})\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    if told.out:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(told).items()}
        table = [dict(zip(columns, row, strict=True)) for row in rows]
        machine = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
        told.out.write_text(json.dumps({"what": what, "options": options, "machine": machine, "table": table}, indent=1) + "\n")
