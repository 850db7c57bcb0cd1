"""How long `snakemake -n` takes on a study of many animals, and how much of it is this project's own code.

python tests/benchmarks/dry_run.py --animals 50
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from workflow import Project


def measure(animals: int, rounds: int) -> dict[str, object]:
    """Seconds of each dry-run of the whole study and of `--version`, in turn, and the number of jobs planned."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project.create(Path(folder) / "project")
        names = [f"animal{k}" for k in range(animals)]
        path = project.root / "config/study.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**config, "animals": names, "datasets": {}, "pref": {"candidates": names}}))
        seconds: dict[str, list[float]] = {"dry_run": [], "version": []}
        for _ in range(rounds):
            for name, arguments in (("dry_run", ["-n", "--quiet"]), ("version", ["--version"])):
                begun = time.perf_counter()
                project.snakemake(*arguments)
                seconds[name].append(time.perf_counter() - begun)
        return {"animals": animals, "jobs": len(project.planned()), **{k: sorted(v) for k, v in seconds.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--animals", type=int, default=50, help="animals of the study (50)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    told = parser.parse_args()
    result = measure(told.animals, told.rounds)
    dry, version = (result[name][told.rounds // 2] for name in ("dry_run", "version"))
    print(f"{result['jobs']} jobs: snakemake -n {dry:.1f} s, snakemake --version {version:.1f} s, ratio {dry / version:.1f}")
    if told.out:
        told.out.write_text(json.dumps(result, indent=1) + "\n")
