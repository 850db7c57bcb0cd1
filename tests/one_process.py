"""Snakemake with its jobs' scripts run one by one in its own process, which pays for imports once, and without a network.

`python tests/one_process.py TARGET … --configfile FILE` takes what `snakemake` takes. Every attempt to reach another machine
fails as it does where there is no network, and is printed with the rule that made it. With PRETEND_GPU set the scripts find a
GPU (pretend_gpu.py).
"""

import os
import runpy
import socket
import sys
from contextlib import nullcontext
from typing import Any, NoReturn

from pretend_gpu import pretended
from snakemake.benchmark import benchmarked
from snakemake.cli import main
from snakemake.script import PythonScript, Snakemake

REFUSED = "refused the network to"
HERE = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}
PLACE = pretended if os.environ.get("PRETEND_GPU") else nullcontext
running = ["snakemake"]


def run_here(script: PythonScript, edit: bool = False) -> None:
    """What Snakemake would do in a process of its own."""
    told = (script.input, script.output, script.params, script.wildcards, script.threads, script.resources, script.log)
    snakemake = Snakemake(*told, script.config, script.rulename, script.bench_iteration, script.basedir)
    running.append(script.rulename)
    try:
        with PLACE(), benchmarked(benchmark_record=script.bench_record):
            runpy.run_path(script.path.get_path_or_uri(secret_free=True), init_globals={"snakemake": snakemake})
    finally:
        running.pop()


def refuse(host: Any) -> NoReturn:
    """Say who asked, and fail."""
    print(f"\n{running[-1]}: {REFUSED} {host}", file=sys.__stderr__, flush=True)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def without_network() -> None:
    """From now on no name of another machine is resolved, and no address of one is connected to."""
    resolve, connect = socket.getaddrinfo, socket.socket.connect

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
    PythonScript.evaluate = run_here  # type: ignore[method-assign]
    without_network()
    main(sys.argv[1:])
