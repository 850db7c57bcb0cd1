"""Killed with SIGKILL in random jobs and rerun, the micro study ends with the same bytes as when it runs undisturbed.

`python tests/test_kill.py --kills 20` does by hand, twenty times, what the test does five times.
"""

import argparse
import hashlib
import json
import random
import tempfile
from pathlib import Path

from workflow import FORKED, Project

RUN = ("results/lion/pref.json", "--cores", "2")


def contents(project: Project) -> dict[str, str]:
    """A hash of every result; the throughput in `training.json`, and so its checksum, depends on the clock."""
    found = {}
    for path in sorted((project.root / "results").rglob("*")):
        if path.name == "training.json":
            training = json.loads(path.read_text())
            del training["tokens_per_second"], training["checksum"]
            found[str(path.relative_to(project.root))] = json.dumps(training)
        elif path.is_file():
            found[str(path.relative_to(project.root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_with_kills(root: Path, kills: int, seed: int) -> tuple[Project, list[int]]:
    """Run the main job, killed `kills` times; starts over when it finishes early.

    It is killed within two seconds after one of its next three jobs has begun. Returns the project and the moments: how many
    of its jobs it had finished by then.
    """
    rng, moments, project, attempt = random.Random(seed), [], Project.create(root / "0"), 0
    while len(moments) < kills:
        if project.kill_in(rng.randint(1, 3), rng.uniform(0, 2), *RUN, command=FORKED):
            moments.append(len(list((project.root / "benchmarks").rglob("*.jsonl"))))
            project.snakemake("--unlock")
        else:
            attempt += 1
            project = Project.create(root / str(attempt))
    project.snakemake(*RUN, command=FORKED)
    return project, moments


def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = Project.create(tmp_path / "undisturbed")
    undisturbed.snakemake(*RUN, command=FORKED)
    killed, moments = run_with_kills(tmp_path / "killed", kills=5, seed=0)
    assert len(set(moments)) > 1, f"all kills met the same job: {moments}"
    assert contents(killed) == contents(undisturbed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference = Project.create(Path(folder) / "undisturbed")
        reference.snakemake(*RUN, command=FORKED)
        result, when = run_with_kills(Path(folder) / "killed", told.kills, told.seed)
        same = contents(result) == contents(reference)
        print(f"{len(when)} kills after {', '.join(map(str, when))} finished jobs; same bytes: {same}")
        raise SystemExit(not same)
