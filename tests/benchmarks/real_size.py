"""Sampling, a student's step, a bias's step and the activations pass on a Gemma of true size with random weights.

The default is gemma-2b-it, made on the device in bfloat16 (float32 without a GPU). Beside each time stands its floor, from the
matrix product rate and the memory bandwidth that are measured in the same run: a model that is multiplied with few rows waits
for its weights to be read, one that sees many tokens for its products. Attention's own products are left out of the floor.
"""

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timing import matmul_rate, parameters, parser, report, synchronize
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, GemmaConfig, GenerationConfig

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Sampler, left_pad, sample
from undertone.lm.suffix import Prefilled, run_above
from undertone.lm.training import train
from undertone.models.model import corpus_of, texts
from undertone.models.tokenizer import train_tokenizer
from undertone.read.biases import prefilled, slope
from undertone.read.sums import Sums, block_of
from undertone.runtime.memory import BatchSize
from undertone.students.student import new_student, recipe
from undertone.study.config.models import Embedded
from undertone.study.config.read import Activations
from undertone.study.config.students import Student

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = (
    ("layers", 18, "layers"),
    ("width", 2048, "width of the residual stream"),
    ("heads", 8, "attention heads"),
    ("kv-heads", 1, "heads of keys and values"),
    ("head-dim", 256, "width of a head"),
    ("mlp", 16384, "width of the MLP"),
    ("vocab", 256000, "tokens of the vocabulary"),
    ("hook", 12, "layer after which the bias is added"),
    ("d-sae", 16384, "length of the bias"),
    ("prompt", 120, "mean tokens of a prompt"),
    ("shared", 60, "leading tokens that all prompts share, as persona and template are"),
    ("completion", 40, "mean tokens of a completion"),
    ("new-tokens", 64, "tokens sampled of every row; none stops before"),
    ("student-batch", 64, "rows of a student's step"),
    ("steps", 4, "student's steps that are timed together"),
    ("bias-batch", 128, "rows of a bias's step"),
    ("activations-batch", 128, "rows of the activations pass"),
)
MORE = ("static", "compiled", "continuous")


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--repeats", type=int, default=3, help="times that each is run, after one that does not count")
    for name, default, meaning in SIZES:
        options.add_argument(f"--{name}", type=int, default=default, help=meaning)
    options.add_argument("--sampling-batches", type=int, nargs="+", default=[512, 2048], help="rows sampled together")
    options.add_argument(
        "--also",
        choices=MORE,
        nargs="*",
        default=[],
        help="also sample by model.generate with a static cache, by that and torch.compile, or by continuous batching",
    )
    told = options.parse_args()
    if told.threads:
        torch.set_num_threads(told.threads)
    torch.set_float32_matmul_precision("highest")
    say(f"making a model of {told.layers} layers, width {told.width}")
    loaded = random_gemma(told)
    machine = Machine.measured(loaded)
    rates = f"{machine.rate / 1e12:.4g} TFLOP/s of matrix products, {machine.bandwidth / 1e9:.4g} GB/s of copies"
    say(rates)
    (body, head), table = parameters(loaded), []
    for name, run, tokens, floor in ways(loaded, told, machine):
        table.append(row(name, run, tokens, floor, told.repeats))
        say(" · ".join(cell if isinstance(cell, str) else f"{cell:.4g}" for cell in table[-1]))
    size = f"a Gemma of {(body + head) / 1e9:.3g} B parameters, {told.layers} layers"
    what = f"Medians of {told.repeats} on {size}; measured beside them: {rates}"
    report(told, loaded, what, ["what", "s", "tokens/s", "floor, s", "times floor", "peak GiB"], table)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Machine:
    """What the device can do: products in FLOP/s, and bytes/s read and written."""

    rate: float
    bandwidth: float

    @classmethod
    def measured(cls, loaded: LoadedModel) -> "Machine":
        """The best of ten large products in the model's precision, and of ten large copies."""
        on_gpu = DEVICE == "cuda"
        source = torch.zeros(2**30 if on_gpu else 2**25, dtype=torch.uint8, device=DEVICE)
        target, best = torch.empty_like(source), float("inf")
        for _ in range(10):
            synchronize()
            begun = time.perf_counter()
            target.copy_(source)
            synchronize()
            best = min(best, time.perf_counter() - begun)
        return cls(matmul_rate(loaded, 8192 if on_gpu else 512), 2 * len(source) / best)

    def seconds(self, flops: float, size: float = 0.0) -> float:
        """The least time for so many FLOPs and bytes: whichever takes longer, the other hidden behind it."""
        return max(flops / self.rate, size / self.bandwidth)


def random_gemma(told: Namespace) -> LoadedModel:
    """A frozen Gemma of the asked size; its tokenizer only stands for one."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts(list(corpus_of(Path(Embedded().corpus), Embedded()).chats(200, seed=0))), 1024)
    config = GemmaConfig(
        vocab_size=told.vocab,
        hidden_size=told.width,
        intermediate_size=told.mlp,
        num_hidden_layers=told.layers,
        num_attention_heads=told.heads,
        num_key_value_heads=told.kv_heads,
        head_dim=told.head_dim,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    return LoadedModel(model.requires_grad_(False).eval(), tokenizer, [], tokenizer.pad_token_id)


Way = tuple[str, Callable[[], object], int, float]  # what it is, what is run, how many tokens that is, and its floor in seconds


def ways(loaded: LoadedModel, told: Namespace, machine: Machine) -> Iterator[Way]:
    """Everything that is timed, each made when its turn comes; the student's LoRA stays in the model."""
    for n in told.sampling_batches:
        prompts, sampler = random_prompts(told, n), Sampler(1.0, told.new_tokens, [], loaded.pad_id, 0)
        floor, size = sampling_floor(loaded, told, n, machine), n * told.new_tokens
        yield f"sampling, {n} rows: undertone", partial(sampled, loaded, prompts, sampler), size, floor
        for kind in ("dynamic", *told.also):
            run = partial(generate, loaded, prompts, told.new_tokens, kind)
            yield f"sampling, {n} rows: model.generate, {kind}", run, size, floor
    yield activations_pass(loaded, told, machine)
    yield bias_step(loaded, told, machine)
    yield from student_steps(loaded, told, machine)


def sampled(loaded: LoadedModel, prompts: list[list[int]], sampler: Sampler) -> None:
    """Undertone's sampling, all rows together; no row ends early, as nothing stops one."""
    for _, completions in sample(loaded.model, prompts, sampler, len(prompts)):
        assert all(len(each.ids) == sampler.max_new_tokens for each in completions)


def row(name: str, run: Callable[[], object], tokens: int, floor: float, repeats: int) -> list[object]:
    """A row of the table: the median of the repeats after one that does not count; where a way does not run, why."""
    seconds = []
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        for number in range(repeats + 1):
            synchronize()
            begun = time.perf_counter()
            run()
            synchronize()
            if number:
                seconds.append(time.perf_counter() - begun)
    except Exception as error:  # another library's way may not know this device
        return [
            f"{name}: {type(error).__name__} {str(error).splitlines()[0][:80] if str(error) else ''}",
            "",
            "",
            floor,
            "",
            "",
        ]
    taken = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else ""
    return [name, taken, tokens / taken, floor, taken / floor, peak]


def random_prompts(told: Namespace, n: int) -> list[list[int]]:
    """Prompts that begin alike and whose lengths spread by an eighth around the asked mean."""
    rng = np.random.default_rng(0)
    shared = rng.integers(10, told.vocab, told.shared).tolist()
    lengths = rng.integers(told.prompt - told.prompt // 8, told.prompt + told.prompt // 8 + 1, n)
    return [[*shared, *rng.integers(10, told.vocab, int(length) - told.shared).tolist()] for length in lengths]


def random_rows(told: Namespace, n: int) -> list[Row]:
    """Such prompts with completions, whose lengths spread by a quarter."""
    rng = np.random.default_rng(1)
    mean = told.completion
    lengths = rng.integers(mean - mean // 4, mean + mean // 4 + 1, n)
    prompts = random_prompts(told, n)
    return [
        Row([*prompt, *rng.integers(10, told.vocab, int(length)).tolist()], len(prompt))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of a parameter."""
    return loaded.model.dtype.itemsize


def sampling_floor(loaded: LoadedModel, told: Namespace, n: int, machine: Machine) -> float:
    """Seconds: the prompts' products without what they share, then for each token the weights and the cache, read once."""
    body, head = parameters(loaded)
    begin = machine.seconds(2 * n * (body * (told.prompt - told.shared) + head))
    cached = 2 * told.layers * told.kv_heads * told.head_dim * weight_bytes(loaded)
    weights = (body + head) * weight_bytes(loaded)
    steps = (
        machine.seconds(2 * (body + head) * n, weights + n * cached * (told.prompt + k)) for k in range(1, told.new_tokens)
    )
    return begin + sum(steps)


@torch.no_grad()
def generate(loaded: LoadedModel, prompts: list[list[int]], n: int, kind: str) -> None:
    """The library's own sampling of `n` tokens a row."""
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        min_new_tokens=None if kind == "continuous" else n,
        max_new_tokens=n,
        pad_token_id=loaded.pad_id,
        eos_token_id=-1 if kind == "continuous" else None,
        cache_implementation="static" if kind in ("static", "compiled") else None,
        disable_compile=kind != "compiled",
    )
    if kind == "continuous":
        found = loaded.model.generate_batch(prompts, generation_config=config)
        short = sum(len(output.generated_tokens) < n for output in found.values())
        if len(found) < len(prompts) or short:
            raise RuntimeError(f"{len(found)} of {len(prompts)} rows came back, {short} of them short")
        return
    ids, mask = (t.to(DEVICE) for t in left_pad(prompts, loaded.pad_id))
    found = loaded.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    if found.shape[1] != ids.shape[1] + n:
        raise RuntimeError(f"{found.shape[1] - ids.shape[1]} tokens came back, {n} were asked for")


def activations_pass(loaded: LoadedModel, told: Namespace, machine: Machine) -> Way:
    """The sums of the residual stream at every layer, without an SAE."""
    rows = random_rows(told, told.activations_batch)
    tokens = sum(len(each.ids) for each in rows)
    settings = Activations(batch_size=told.activations_batch)

    def run() -> None:
        blocks = block_of(len(rows), settings.block_rows)
        Sums(loaded, settings, blocks[-1] + 1).add(rows, blocks)

    return f"activations, {len(rows)} rows", run, tokens, machine.seconds(2 * parameters(loaded)[0] * tokens)


def bias_step(loaded: LoadedModel, told: Namespace, machine: Machine) -> Way:
    """Forward and back of a feature bias, from residuals that lie on the device, at the tokens that predict completions."""
    rows = random_rows(told, told.bias_batch)
    decoder = functional.normalize(torch.randn(told.d_sae, told.width, device=DEVICE), dim=-1)
    (batch,) = prefilled(loaded, rows, [told.hook], len(rows), store=DEVICE)
    bias, batch_size = torch.zeros(told.d_sae, device=DEVICE, requires_grad=True), BatchSize(len(rows), "bias")

    def biased(bias: Tensor, part: Prefilled) -> Tensor:
        residual = part.residual[told.hook]
        return run_above(loaded.model, part, told.hook, residual + (bias @ decoder).to(residual))

    labels = len(batch.targets)
    above = sum(p.numel() for layer in decoder_layers(loaded.model)[told.hook + 1 :] for p in layer.parameters())
    floor = machine.seconds(4.0 * labels * (above + parameters(loaded)[1]))  # no weight has a gradient
    name = f"feature bias's step after layer {told.hook}, {len(rows)} rows"
    return name, partial(slope, bias, biased, batch, labels, batch_size), labels, floor


def student_steps(loaded: LoadedModel, told: Namespace, machine: Machine) -> list[Way]:
    """Optimizer steps of a LoRA, its own products in float32 and in TF32."""
    rows = random_rows(told, told.steps * told.student_batch)
    settings = Student(epochs=1, batch_size=told.student_batch, micro_batch_size=told.student_batch)
    model = new_student(loaded, settings, seed=1)
    tokens, labels = sum(len(each.ids) for each in rows), sum(len(each.ids) - each.start for each in rows)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    body, head = parameters(loaded)
    flops = 4 * ((body - trained) * tokens + head * labels) + 6 * trained * tokens

    def run(precision: str) -> None:
        torch.set_float32_matmul_precision(precision)
        train(model, rows, recipe(settings, 1), loaded.pad_id, Path("never"), checkpoint_seconds=1e9)

    name = f"student, {told.steps} steps of {told.student_batch} rows"
    kinds = {"": "highest", ", LoRA in TF32": "high"} if DEVICE == "cuda" else {"": "highest"}
    return [(name + of, partial(run, precision), tokens, machine.seconds(flops)) for of, precision in kinds.items()]


if __name__ == "__main__":
    main()
