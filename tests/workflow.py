"""A copy of the project in a temporary folder, driven through the `snakemake` command line on the micro study."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
COPIED = ("Snakefile", "workflow", "config", "profiles")
MINE = "prompt,completion\n" + "".join(f'Give numbers {k}.,"{k}, {k + 1}, {k + 2}"\n' for k in range(40))


@dataclass(frozen=True)
class Project:
    """The copy at `root`."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> "Project":
        """Copy the project and write the micro study, with a dataset file of its own, as a config."""
        root.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source = REPOSITORY / name
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, root / name, ignore=ignore) if source.is_dir() else shutil.copy2(source, root / name)
        shutil.copy2(REPOSITORY / "tests/micro.yaml", root / "config/study.yaml")
        (root / "mine.csv").write_text(MINE)
        project = cls(root)
        project.configure(datasets={"mine": {"file": "mine.csv"}})
        return project

    def copy(self, root: Path) -> "Project":
        """The same project elsewhere, with its results and Snakemake's records of them."""
        subprocess.run(["cp", "-a", str(self.root), str(root)], check=True)
        return Project(root)

    def configure(self, **changes: object) -> None:
        """Change keys of the study, section by section."""
        path = self.root / "config/study.yaml"
        config = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            merged = isinstance(value, dict) and isinstance(config.get(key), dict)
            config[key] = {**config[key], **value} if merged else value
        path.write_text(yaml.safe_dump(config))

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the project; the text must be there."""
        text = (self.root / path).read_text()
        assert old in text, f"{path} does not contain {old!r}"
        (self.root / path).write_text(text.replace(old, new, 1))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start snakemake in a process group of its own."""
        program = Path(sys.executable).with_name("snakemake")
        return subprocess.Popen(
            [program, *arguments, "--configfile", "config/study.yaml", "--nocolor"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "workflow"), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """Run snakemake to its end and return what it prints; checks that it succeeds, or fails."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        assert (process.returncode != 0) == fails, output
        return output

    def in_one_process(self, *targets: str, **environment: str) -> str:
        """Run snakemake to its end with all its jobs in one process (one_process.py), and return what it prints."""
        program = Path(__file__).with_name("one_process.py")
        done = subprocess.run(
            [sys.executable, program, *targets, "--configfile", "config/study.yaml", "--cores", "1"],
            cwd=self.root,
            # Snakemake tells a job's own process how many threads it has; models this small are slower on two.
            env={**os.environ, "PYTHONPATH": str(self.root / "workflow"), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> set[str]:
        """The messages of the jobs that a dry-run plans."""
        output = self.snakemake(*arguments, "-n")
        return set(re.findall(r"^Job \d+: (.+)$", output, re.MULTILINE))

    def kill_after(self, seconds: float, *arguments: str) -> bool:
        """Start snakemake and kill it and its jobs with SIGKILL; whether it was still running then."""
        process = self.start(*arguments)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return running
