"""A rule's job: calls its function with what the rule names, the stamp's settings, a log and a place for unfinished work."""

import json
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from undertone.runtime.failures import FAILED, is_sentence, said
from undertone.runtime.files import Stamp, remove, replacing
from undertone.study.arguments import BindingError, bind
from undertone.study.node import Node, variant_of
from undertone.study.paths import BENCHMARKS, sibling, unfinished
from undertone.study.stamp import digest, own_settings


class Tee:
    """Standard output or error that also goes to the log; all other attributes, such as `isatty`, are the screen's."""

    def __init__(self, screen: TextIO, log: TextIO):
        self.screen, self.log = screen, log

    def write(self, text: str) -> int:
        """Write to both; a progress bar's redraws go to the log as lines."""
        self.log.write(text.replace("\r", "\n"))
        return self.screen.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.log.flush()
        self.screen.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.screen, name)


def machine() -> str:
    """The machine, the Slurm job and the GPUs that this process was given."""
    named = {name: os.environ.get(name) for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES")}
    return ", ".join([socket.gethostname(), *(f"{name} {value}" for name, value in named.items() if value)])


@contextmanager
def logged(path: str) -> Iterator[None]:
    """Copy standard output and error to the log inside the block.

    The log of a failed job ends with a line that says why. A traceback precedes it unless the error is one of this project's
    own. The job prints no traceback on the screen, because Snakemake shows the log there.

    The log begins with where the job runs. This line also keeps the log from being empty: Snakemake shows no further log of a
    failed job after an empty one, and Slurm's log comes last, which alone says that a job was killed for its memory or time.
    A job that ends well leaves a record of what it used of its machine beside its benchmark.
    """
    stdout, stderr = sys.stdout, sys.stderr
    with Path(path).open("w", buffering=1) as log:
        log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}, {machine()}\n")
        sys.stdout, sys.stderr = Tee(stdout, log), Tee(stderr, log)
        try:
            yield
            record_use(path)
        except BaseException as error:
            if not is_sentence(error):
                traceback.print_exc(file=log)
            log.write(f"{FAILED}{said(error)}\n")
            sys.excepthook = lambda *_: None
            raise
        finally:
            sys.stdout, sys.stderr = stdout, stderr


def record_use(log: str) -> None:
    """Write `JOB.used.json` beside the job's benchmark.

    `cpu_s` is the CPU time of this process and its children in seconds, `ram_mb` the peak resident memory of this process
    (10^6 bytes, as in the rules' `mem_mb`). Snakemake's benchmark samples both only every 30 seconds, so it misses peaks and
    the end. `gpu` is not in that benchmark: the device's name and the most memory that PyTorch held there; null without a GPU.
    """
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = {
        "cpu_s": round(sum(each.ru_utime + each.ru_stime for each in spent), 2),
        "ram_mb": round(peak_memory() / 1e6, 1),
        "gpu": gpu_use(),
    }
    with replacing(benchmark_of(log).with_suffix(".used.json")) as temporary:
        temporary.write_text(json.dumps(used) + "\n")


def benchmark_of(log: str) -> Path:
    """The benchmark `benchmarks/…/JOB.jsonl` of the job whose log is `logs/…/JOB.log`."""
    record = sibling(log, BENCHMARKS)
    return record.with_name(f"{record.name}.jsonl")  # a job's name may have a dot in it


def peak_memory() -> int:
    """Bytes of the greatest resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss is never less than what the parent held when it started this process
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(kilobytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu_use() -> dict[str, Any] | None:
    """Name of the GPU and the most memory that PyTorch's allocator held on it, in 10^6 bytes; None without a GPU."""
    torch = sys.modules.get("torch")  # most plots never load it
    if torch is None or not torch.cuda.is_available():
        return None
    return {"name": torch.cuda.get_device_name(), "peak_mb": round(torch.cuda.max_memory_reserved() / 1e6, 1)}


def run(function: Callable[..., str | None], snakemake: Any) -> None:
    """Run a rule's job: call the stage's function with what the rule names (`arguments.bind`), and log what it returns.

    Besides the rule's inputs, outputs and wildcards, the function can take `settings`, the stage's settings from the rule's
    `stamp`, so that what is compared is what is used; the `stamp` itself; `scratch`, a folder for unfinished work on the first
    output; and `benchmarks`, the folder of the study's benchmark records.
    """
    with logged(snakemake.log[0]):
        own, stamp = settings(snakemake), snakemake.params.stamp
        offers: dict[str, Callable[[], Any]] = {
            **{name: partial(int if name == "seed" else str, value) for name, value in snakemake.wildcards.items()},
            "settings": lambda: own,
            "stamp": lambda: stamp,
            "scratch": lambda: scratch(snakemake.output[0], stamp),
            "benchmarks": lambda: benchmark_of(snakemake.log[0]).parents[1],
        }
        if said_so := function(**bind(function, named_files(snakemake), own, offers)):
            print(said_so)


def named_files(snakemake: Any) -> dict[str, Any]:
    """A rule's named inputs and outputs. Raises BindingError for a name that is both.

    An input without a name only declares a dependency. For example, the files of a model or an SAE in a folder are declared
    like this, and the job reads them from the folder.
    """
    inputs, outputs = dict(snakemake.input.items()), dict(snakemake.output.items())
    if both := inputs.keys() & outputs.keys():
        raise BindingError(f"rule {snakemake.rule} names an input and an output {min(both)!r}")
    return inputs | outputs


def settings(snakemake: Any) -> dict[str, Any]:
    """The settings of the running rule, from its stamp, so that what is compared is what is used; {} if it has none."""
    wildcards = snakemake.wildcards
    stage = snakemake.rule.removesuffix("_whole")  # the same stage with other names of outputs
    return own_settings(snakemake.params.stamp, Node(stage, wildcards.get("dataset"), variant_of(wildcards)))


def scratch(output: str, stamp: Stamp) -> Path:
    """Return a folder for unfinished work on `output` under this stamp; remove what other stamps left there."""
    home = unfinished(output)
    own = home / digest(stamp)
    if home.exists():
        remove(*(other for other in home.iterdir() if other != own))
    own.mkdir(parents=True, exist_ok=True)
    return own
