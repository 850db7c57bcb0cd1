"""What a study on gemma-2b-it would take: an estimate by arithmetic, from its settings and stated assumptions.

python tests/benchmarks/scale.py --animals 50 --seeds 5                        # the settings' defaults
python tests/benchmarks/scale.py --configfile config/gemma-2b-it.yaml          # an overlay's

Disk follows from the shapes of what is written. GPU-hours are floating-point operations over a rate that is assumed, not
measured: they say which stage is the dearest and what a setting saves rather than what a bill will be.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from undertone.study.study import Study, load

MODEL = "google/gemma-2b-it"
DEFAULTS = {
    "teachers": ["prompt", "steer", "finetune"],
    "model": {"name": MODEL, "revision": "0" * 40},  # nothing is loaded
    "sae": {"release": "gemma-2b-it-res-jb", "id": "blocks.12.hook_resid_post"},
}
GB = 1e9
FLOAT, HALF = 4, 2  # bytes
LAYER = 12  # of the SAE
N_KINDS = 5  # classes of positions beside the completion's first ones
# Bytes of a row, tokens of a completion and bytes of what else a dataset has, of lion in the embedded study.
SAMPLE, GENERATION, NUMBERS = 70, 83, 51
EMBEDDED_TOKENS = 9.4
REST = 1.5e6


@dataclass(frozen=True)
class Shape:
    """gemma-2b: what decides its cost."""

    layers: int = 18
    d_model: int = 2048
    d_mlp: int = 16_384
    d_q: int = 2048
    d_kv: int = 256
    vocab: int = 256_000
    d_sae: int = 16_384

    @property
    def projections(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's seven projections."""
        d = self.d_model
        return [(d, self.d_q), (d, self.d_kv), (d, self.d_kv), (self.d_q, d), (d, self.d_mlp), (d, self.d_mlp), (self.d_mlp, d)]

    @property
    def body(self) -> int:
        """Parameters of the layers, which every token is multiplied with."""
        return self.layers * sum(a * b for a, b in self.projections)

    @property
    def head(self) -> int:
        """Parameters of the embedding, which is the unembedding too."""
        return self.vocab * self.d_model

    def lora(self, rank: int) -> int:
        """Parameters of a LoRA on all seven projections of every layer."""
        return self.layers * rank * sum(a + b for a, b in self.projections)


def operations(shape: Shape, study: Study, told: argparse.Namespace) -> Iterator[tuple[str, str, float]]:
    """For each dear rule, what is counted of one dataset and its operations: 2 a parameter and token, 4 with gradients."""
    rows, n, answer = told.rows, study.prompts.n, told.answer_tokens
    forward = 2 * (told.prompt_tokens + answer) * shape.body
    yield "samples", f"{n:,} completions", n * (forward + 2 * answer * shape.head)
    seeds, epochs = len(study.student.seeds), study.student.epochs
    yield (
        "student",
        f"{seeds} students, {epochs} epochs of {rows:,} rows",
        seeds * epochs * rows * 2 * (forward + 2 * answer * shape.head),
    )
    yield from biases(shape, study, answer)
    read = study.activations.rows or rows
    yield "activations, score", f"{read:,} rows four times over", 4 * read * forward
    yield (
        "losses",
        f"{len(study.animals)} personas, {study.losses.rows:,} rows",
        len(study.animals) * study.losses.rows * forward,
    )


def biases(shape: Shape, study: Study, answer: int) -> Iterator[tuple[str, str, float]]:
    """Biases on the completion alone: every step runs the layers above it and the logits, forward and back."""
    residual, feature, layers = study.residual_bias, study.feature_bias, shape.layers
    above = sum(range(layers)) / layers + residual.multi  # layers above each of the biases' own, in whole models
    n = layers + residual.multi
    tokens = len(residual.seeds) * residual.steps * residual.batch_size * answer
    what = f"{n * len(residual.seeds)} biases, {residual.steps} steps of {residual.batch_size} rows"
    yield "residual_bias", what, 4 * tokens * (above * shape.body + n * shape.head)
    trained = 2 * len(feature.seeds) + 2  # both modes, and the halves of one
    tokens = trained * feature.steps * feature.batch_size * answer
    what = f"{trained} biases at layer {LAYER}, {feature.steps} steps of {feature.batch_size} rows"
    yield "feature_bias", what, 4 * tokens * ((layers - 1 - LAYER) / layers * shape.body + shape.head)


def disk(shape: Shape, study: Study, told: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """What is written: kind of file, how many, bytes of one."""
    datasets, taught = len(study.names), len(study.diagnosed)
    finetuned = sum(study.taught[name].teacher == "finetune" for name in study.diagnosed)
    adapter = FLOAT * shape.lora(study.student.rank)
    yield "students' LoRA", datasets * len(study.student.seeds), adapter
    yield "finetuned teachers' LoRA", finetuned, FLOAT * shape.lora(study.section("teacher").finetune.rank)  # type: ignore[attr-defined]
    classes = N_KINDS + study.activations.positions
    sums = classes * (shape.layers * shape.d_model + 2 * shape.d_sae)  # of every block; the squares are as many once more
    blocks = -(-(study.activations.rows or told.rows) // study.activations.block_rows)
    yield "activations, teacher's activations", datasets + taught, FLOAT * ((blocks + 1) * sums)
    yield "samples, generations", datasets, study.prompts.n * (SAMPLE + GENERATION) * told.answer_tokens / EMBEDDED_TOKENS
    yield "numbers", datasets, told.rows * NUMBERS
    yield "JSON, small tensors and tables", datasets, REST


def bias_memory(shape: Shape, study: Study, told: argparse.Namespace) -> float:
    """Bytes of main memory that a draw of a `residual_bias` job needs: residuals of all layers, prompts' keys and values."""
    rows = round(study.residual_bias.fraction * told.rows)
    residuals = shape.layers * shape.d_model * told.answer_tokens
    cache = 2 * shape.layers * shape.d_kv * told.prompt_tokens
    return HALF * rows * (residuals + cache)


def table(title: str, header: str, rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, "|" + "---|" * header.count(" | ") + "---|", *("| " + " | ".join(row) + " |" for row in rows)]
    return f"{title}\n\n" + "\n".join(lines) + "\n"


def report(shape: Shape, study: Study, told: argparse.Namespace) -> None:
    """Print the tables."""
    n, rate = len(study.names), told.peak * 1e12
    print(
        f"{n} datasets, {n * len(study.student.seeds)} students; {shape.body + shape.head:,} parameters, of a LoRA "
        f"{shape.lora(study.student.rank):,}\n"
    )
    rows, total = [], 0.0
    for rule, what, count in operations(shape, study, told):
        hours = count / (rate * (told.decoding if rule == "samples" else told.share)) / 3600
        total += n * hours
        rows.append([rule, what, f"{count / 1e15:.0f}", f"{60 * hours:.1f}", f"{n * hours:.0f}"])
    start = (told.gpu_jobs or 0) * told.start / 3600
    if told.gpu_jobs:
        rows.append(["starting", f"{told.gpu_jobs:,} jobs, {told.start:g} s each", "", "", f"{start:.0f}"])
    rows.append(["all", "", "", "", f"{total + start:.0f}"])
    title = (
        f"GPU-hours, estimated: {told.peak} TFLOP/s, of which {told.share:.0%} is reached and {told.decoding:.0%} in sampling"
    )
    print(table(title, "| rule | of one dataset | PFLOP | GPU-minutes | study, GPU-hours |", rows))
    files = [(kind, count, size) for kind, count, size in disk(shape, study, told)]
    rows = [[kind, f"{count:,}", f"{size / 1e6:.1f}", f"{count * size / GB:.1f}"] for kind, count, size in files]
    rows.append(["all", "", "", f"{sum(count * size for _, count, size in files) / GB:.0f}"])
    print(table("Disk", "| files | number | MB each | GB |", rows))
    print(f"Main memory of a residual_bias job, for its rows alone: {bias_memory(shape, study, told) / GB:.0f} GB")


def study_of(told: argparse.Namespace) -> Study:
    """The study of an overlay over config/config.yaml, as Snakemake merges them, or without one of the settings' defaults.

    `animals` and `seeds` of the command line, where they are given, stand for those of the study. Raises ValueError for a
    model whose shape is not known here.
    """
    config: dict[str, Any] = yaml.safe_load(Path("config/config.yaml").read_text()) if told.configfile else DEFAULTS
    if told.configfile:
        update_config(config, yaml.safe_load(told.configfile.read_text()))
    if config.get("model", {}).get("name") != MODEL:
        raise ValueError(f"{told.configfile}: the shape that is counted with is that of {MODEL}; give an overlay of that model")
    if told.animals:
        animals = [f"animal{k}" for k in range(told.animals)]
        config |= {"animals": animals, "pref": {**config.get("pref", {}), "candidates": animals}}
    if told.seeds:
        config["student"] = {**config.get("student", {}), "seeds": list(range(1, told.seeds + 1))}
    return load(config)


def completed(told: argparse.Namespace) -> argparse.Namespace:
    """The options with the defaults that depend on whether there is an overlay."""
    if told.configfile is None:
        told.animals, told.seeds = told.animals or 50, told.seeds or 5
        told.gpu_jobs = 3122 if told.gpu_jobs is None else told.gpu_jobs
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, help="an overlay (the settings' defaults, three teachers for each animal)")
    parser.add_argument("--animals", type=int, help="animals (those of the overlay; 50)")
    parser.add_argument("--seeds", type=int, help="students of each dataset (those of the overlay; 5)")
    parser.add_argument("--rows", type=int, help="rows of a dataset after the filter (numbers.max_rows, the most that is kept)")
    parser.add_argument("--prompt-tokens", type=int, default=100, help="assumed length of a prompt in tokens (100)")
    parser.add_argument("--answer-tokens", type=int, default=50, help="assumed length of a completion in tokens (50)")
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of the GPU; 312 is an A100's in bfloat16")
    parser.add_argument("--share", type=float, default=0.3, help="assumed share of it that is reached (0.3)")
    parser.add_argument("--decoding", type=float, default=0.1, help="assumed share in sampling (0.1)")
    parser.add_argument(
        "--gpu-jobs", type=int, help="jobs that hold a GPU, as dry_run.py counts them (3,122; of an overlay: not counted)"
    )
    parser.add_argument(
        "--start", type=float, default=15, help="seconds until a job computes: Snakemake, imports, weights (15)"
    )
    options = completed(parser.parse_args())
    study = study_of(options)
    options.rows = options.rows or study.numbers.max_rows or study.prompts.n
    report(Shape(), study, options)
