"""Snakemake whose jobs find the libraries imported, and no network.

Where Snakemake would run `python FILE` for a job, a process that has imported the libraries, and nothing of this project,
forks one that runs FILE. Every attempt to reach another machine fails as it does where there is no network, and is printed
with the rule that made it.

`Project.forked` runs Snakemake itself in such a fork, too. `python tests/forked.py TARGET … --configfile FILE` takes what
`snakemake` takes and has a forking process of its own, for what libraries read from the environment when they are imported.
With PRETEND_GPU set its jobs find a GPU (on_pretended_gpu.py), with LAYOUTS set UMAP is compiled once for all of them
(compiled_umap.py).
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

from workflow import LIBRARIES

REFUSED = "refused the network to"
HERE = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}
FORKS = multiprocessing.get_context("forkserver")
# Snakemake has a thread for each job, and where a process starts, multiprocessing asks after the exit codes of all others.
ONE_THREAD = threading.Lock()


def fork_jobs(printed: str | None = None) -> None:
    """From now on Snakemake forks its jobs, which print to a file if one is named."""

    def run(script: PythonScript, file: str, edit: bool = False) -> None:
        run_forked(script, file, printed)

    PythonScript.execute_script = run  # type: ignore[method-assign]
    without_network("snakemake")


def run_forked(script: PythonScript, file: str, printed: str | None) -> None:
    """Run what Snakemake made of a job's script, and raise where that fails."""
    job = FORKS.Process(target=run_file, args=(file, script.rulename, script.threads, dict(os.environ), printed))
    with ONE_THREAD:
        job.start()
    with benchmarked(job.pid, script.bench_record):
        wait([job.sentinel])
    with ONE_THREAD:
        job.join()
    if job.exitcode:
        raise subprocess.CalledProcessError(job.exitcode, file)


def run_file(file: str, rule: str, threads: int, environment: dict[str, str], printed: str | None) -> None:
    """Run a job's file in this process, which ends with it."""
    import torch  # which Snakemake's own process does without

    os.environ |= environment
    if printed:
        print_to(printed)
    torch.set_num_threads(threads)
    without_network(rule)
    runpy.run_path(file, run_name="__main__")


def print_to(path: str) -> None:
    """From now on standard output and error are appended to a file."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())


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
    first = ["on_pretended_gpu"] if os.environ.get("PRETEND_GPU") else []
    last = ["compiled_umap"] if os.environ.get("LAYOUTS") else []
    if last:
        os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
    FORKS.set_forkserver_preload([*first, *LIBRARIES, *last])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process that imports them
    fork_jobs()
    main(sys.argv[1:])
