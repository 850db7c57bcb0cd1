"""Snakemake whose jobs find the libraries imported, and no network.

`python tests/forked.py TARGET … --configfile FILE` takes what `snakemake` takes. Where Snakemake would run `python FILE` for a
job, a process that has imported the libraries, and nothing of this project, forks one that runs FILE. Every attempt to reach
another machine fails as it does where there is no network, and is printed with the rule that made it. With PRETEND_GPU set the
jobs find a GPU (on_pretended_gpu.py), with LAYOUTS set UMAP is compiled once for all of them (compiled_umap.py).
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from typing import Any, NoReturn

from snakemake.benchmark import benchmarked
from snakemake.cli import main
from snakemake.script import PythonScript

REFUSED = "refused the network to"
HERE = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}
LIBRARIES = ["snakemake.cli", "polars", "matplotlib.pyplot", "scipy.stats", "sklearn.linear_model"]
LIBRARIES += ["torch", "transformers", "transformers.models.gemma.modeling_gemma", "peft", "sae_lens"]
if os.environ.get("PRETEND_GPU"):
    LIBRARIES.insert(0, "on_pretended_gpu")
if os.environ.get("LAYOUTS"):
    LIBRARIES.append("compiled_umap")
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
FORKS = multiprocessing.get_context("forkserver")
# Snakemake has a thread for each job, and where a process starts, multiprocessing asks after the exit codes of all others.
ONE_THREAD = threading.Lock()


def run_forked(script: PythonScript, file: str, edit: bool = False) -> None:
    """Run what Snakemake made of a job's script, and raise where that fails."""
    job = FORKS.Process(target=run_file, args=(file, script.rulename, script.threads))
    with ONE_THREAD:
        job.start()
    with benchmarked(job.pid, script.bench_record):
        wait([job.sentinel])
    with ONE_THREAD:
        job.join()
    if job.exitcode:
        raise subprocess.CalledProcessError(job.exitcode, file)


def run_file(file: str, rule: str, threads: int) -> None:
    """Run a job's file in this process, which ends with it."""
    import torch  # which Snakemake's own process does without

    torch.set_num_threads(threads)
    without_network(rule)
    runpy.run_path(file, run_name="__main__")


def without_network(rule: str) -> None:
    """From now on no name of another machine is resolved, and no address of one is connected to."""
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def refuse(host: Any) -> NoReturn:
        print(f"\n{rule}: {REFUSED} {host}", file=sys.__stderr__, flush=True)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def resolve_here(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(host, *args, **kwargs) if host in HERE else refuse(host)

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or address[0] in HERE:
            connect(self, address)
        else:
            refuse(address[0])

    socket.getaddrinfo = resolve_here
    socket.socket.connect = connect_here  # type: ignore[method-assign]


if __name__ == "__main__":
    FORKS.set_forkserver_preload(LIBRARIES)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process that imports them
    PythonScript.execute_script = run_forked  # type: ignore[method-assign]
    without_network("snakemake")
    main(sys.argv[1:])
