"""Reading a dataset's residuals: undertone's pass and TransformerLens's `run_with_cache`; peak memory by number of rows."""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import torch
from student_step import number_rows
from timing import interleaved, parser, report, start
from transformer_lens.model_bridge import TransformerBridge

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, hook_point
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import batches_by_length
from undertone.lm.training import collate
from undertone.read.activations import read_activations
from undertone.read.sums import Sums, block_of
from undertone.study.config.read import Activations


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1024, help="rows read")
    options.add_argument("--batch-size", type=int, default=128, help="rows read together")
    options.add_argument("--memory", type=int, nargs="*", default=[500, 2000, 8000], help="rows at which memory is measured")
    options.add_argument(
        "--child", type=int, help="measure the peak memory of reading this many rows; for the benchmark itself"
    )
    told = options.parse_args()
    if told.child:
        print(peak(told.model / "model.json", told.child, told.batch_size))
        return
    loaded = start(told)
    settings = Activations(batch_size=told.batch_size)
    rows = number_rows(loaded, told.rows)
    bridged = load(told.model / "model.json")  # the bridge rewires the model that it is given
    bridge = TransformerBridge.boot_transformers(
        "local",
        hf_model=bridged.model,
        tokenizer=bridged.tokenizer,
        device=str(bridged.model.device),
        dtype=bridged.model.dtype,
    )
    ways = {
        "run_with_cache, rows in order": lambda: cached(bridge, loaded, rows, settings, by_length=False),
        "run_with_cache, rows by length": lambda: cached(bridge, loaded, rows, settings, by_length=True),
        "undertone": lambda: summed(loaded, rows, settings),
    }
    found = [ways["run_with_cache, rows by length"](), ways["undertone"]()]
    apart = (found[0] - found[1]).abs().max() / found[1].abs().max()
    seconds = interleaved(ways, told.rounds)
    tokens = sum(len(row.ids) for row in rows)
    reference = seconds["run_with_cache, rows in order"]
    table = [[name, taken, tokens / taken, reference / taken] for name, taken in seconds.items()]
    what = f"residuals of every layer over {len(rows)} rows, {tokens} tokens; sums differ by {float(apart):.1g} of the greatest"
    report(told, loaded, what, ["way", "s", "tokens/s", "times run_with_cache"], table)
    for n in told.memory:
        print(f"{n} rows: peak memory {measured(told.model, n, told.batch_size):.0f} MiB")


def summed(loaded: LoadedModel, rows: list[Row], settings: Activations) -> torch.Tensor:
    """Our sums `[n_blocks, n_layers, n_classes, d_model]`."""
    block = block_of(len(rows), settings.block_rows)
    sums = Sums(loaded, settings, block[-1] + 1)
    for batch in batches_by_length([row.ids for row in rows], settings.batch_size):
        sums.add([rows[i] for i in batch], [block[i] for i in batch])
    return sums.tensors()["resid_post.sum"]


@torch.no_grad()
def cached(
    bridge: TransformerBridge, loaded: LoadedModel, rows: list[Row], settings: Activations, by_length: bool
) -> torch.Tensor:
    """The same with the same reduction, from the cache of every layer's residual stream."""
    names = [hook_point(layer) for layer in range(len(decoder_layers(loaded.model)))]
    blocks, order = block_of(len(rows), settings.block_rows), range(len(rows))
    sums = Sums(loaded, settings, blocks[-1] + 1)
    batches = batches_by_length([row.ids for row in rows], settings.batch_size)
    if not by_length:
        batches = [list(order[i : i + settings.batch_size]) for i in order[:: settings.batch_size]]
    total = torch.zeros(())
    for indices in batches:
        part = [rows[i] for i in indices]
        batch = collate(part, loaded.pad_id, loaded.model.device)
        _, cache = bridge.run_with_cache(
            batch["input_ids"], attention_mask=batch["attention_mask"], names_filter=lambda name: name in names
        )
        member = sums.members(batch, torch.tensor([row.start for row in part], device=loaded.model.device)).float()
        block = torch.tensor([blocks[i] for i in indices], device=loaded.model.device)
        by_row = torch.stack([torch.einsum("rtc,rtd->rcd", member, cache[name].float()).double() for name in names], dim=1)
        if total.ndim == 0:
            total = by_row.new_zeros(len(sums.count), *by_row.shape[1:])
        total.index_add_(0, block, by_row)
        for name in names:
            torch.einsum("rtc,rtd->cd", member, cache[name].float().square())
    return total.float().cpu()


def measured(model: Path, n: int, batch_size: int) -> float:
    """Peak memory in MiB of a process of its own that reads `n` rows."""
    command = [sys.executable, __file__, "--model", str(model), "--child", str(n), "--batch-size", str(batch_size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def peak(record: Path, n: int, batch_size: int) -> float:
    """Read `n` rows and return this process's peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.parquet"
        table = {"prompt": [f"Continue the list {k % 900}, {k % 77}." for k in range(n)]}
        pl.DataFrame(table | {"completion": [f"{k % 999}, {k % 998}, {k % 7}" for k in range(n)]}).write_parquet(numbers)
        settings = Activations(rows=None, batch_size=batch_size)
        read_activations(record, numbers, None, Path(folder) / "activations.safetensors", settings, {})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
