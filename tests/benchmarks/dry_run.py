"""What planning a study of many animals costs: Snakemake's CPU time and memory beside those of `snakemake --version`.

python tests/benchmarks/dry_run.py --animals 50 --teachers prompt steer finetune --seeds 5

`one student` is what every job of a cluster does again before it starts: read the rules, build the jobs that it hangs on.
With --run the study is also run, with scripts that only write their outputs: what is left is Snakemake's own time.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from workflow import Project

WAYS = {
    "whole study": ["all", "-n", "--quiet"],
    "whole study and readings": ["all", "read", "-n", "--quiet"],
    "the same as `make status`": ["all", "read", "--summary"],
    "one student": ["results/control/student/1/training.json", "-n", "--quiet"],
    "version": ["--version"],
}


TARGETS = {"all": ["all"], "read": ["read"], "both": ["all", "read"]}
# Stands for every script.
STUB = "from pathlib import Path\n\nfor path in snakemake.output:\n    Path(path).write_text('x')\n"


class Cost(NamedTuple):
    """CPU seconds and peak resident memory (10^6 bytes) of one call."""

    cpu_s: float
    ram_mb: float


def call(project: Project, *arguments: str) -> tuple[Cost, str]:
    """Run snakemake, and what it printed."""
    process = project.start(*arguments)
    output = process.stdout.read()  # type: ignore[union-attr]
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = code
    if code:
        sys.exit(output)
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6), output


def jobs(project: Project, *targets: str) -> dict[str, int]:
    """Planned jobs by rule, and their total."""
    _, output = call(project, *targets, "-n", "--quiet", "host")
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def run(project: Project) -> dict[str, float]:
    """CPU seconds of Snakemake alone, without its jobs' processes, and seconds from beginning to end of an empty run."""
    for script in (project.root / "workflow/scripts").glob("*.py"):
        script.write_text(STUB)
    begun = time.monotonic()
    process = project.start("all", "--quiet", "all")  # a silent one, as nobody reads along
    ticks = 0
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks = int(fields[11]) + int(fields[12])
        time.sleep(0.5)
    if process.returncode:
        sys.exit(process.communicate()[0])
    return {"cpu_s": ticks / os.sysconf("SC_CLK_TCK"), "wall_s": time.monotonic() - begun}


def measure(told: argparse.Namespace) -> dict[str, object]:
    """Medians of each way, called in turn, and the jobs of the whole study and of its readings."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project.create(Path(folder) / "project")
        names = [f"animal{k}" for k in range(told.animals)]
        path = project.root / "config/study.yaml"
        config = yaml.safe_load(path.read_text())
        config |= {"animals": names, "datasets": {}, "teachers": told.teachers, "pref": {"candidates": names}}
        config["student"]["seeds"] = list(range(1, told.seeds + 1))
        path.write_text(yaml.safe_dump(config))
        found: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for _ in range(told.rounds):
            for name, arguments in WAYS.items():
                found[name].append(call(project, *arguments)[0])
        medians = {name: Cost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in found.items()}
        found_jobs = {name: jobs(project, *targets) for name, targets in TARGETS.items()}
        files = len(call(project, "all", "read", "--summary")[1].split("\noutput_file\t")[1].splitlines()) - 1
        return {
            "study": {"animals": told.animals, "teachers": told.teachers, "seeds": told.seeds, "rounds": told.rounds},
            "jobs": found_jobs,
            "files": files,
            "cost": {name: cost._asdict() for name, cost in medians.items()},
            "run": run(project) if told.run else None,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--animals", type=int, default=50, help="animals of the study (50)")
    parser.add_argument("--teachers", nargs="+", default=["prompt"], help="kinds of teacher (prompt)")
    parser.add_argument("--seeds", type=int, default=2, help="students of each dataset (2)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--run", action="store_true", help="also run the study, with scripts that do nothing")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    result = measure(options)
    alone, both = (result["jobs"][name]["total"] for name in ("all", "both"))
    print(f"{alone} jobs of `all`, {both} with `read`; {result['files']} files\n")
    print("| call | CPU seconds | times `--version` | peak memory, MB |\n|---|---|---|---|")
    for name, cost in result["cost"].items():
        ratio = cost["cpu_s"] / result["cost"]["version"]["cpu_s"]
        print(f"| {name} | {cost['cpu_s']:.1f} | {ratio:.1f} | {cost['ram_mb']:.0f} |")
    if ran := result["run"]:
        each = 1000 * ran["cpu_s"] / alone
        print(f"\nAn empty run of `all`: {ran['cpu_s']:.0f} CPU seconds of Snakemake itself, {each:.0f} ms a job")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
