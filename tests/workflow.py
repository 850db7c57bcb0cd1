"""A copy of the project in a temporary folder, driven through the `snakemake` command line on the micro study."""

import atexit
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
COPIED = ("Snakefile", "workflow", "config", "profiles")
SNAKEMAKE = (str(Path(sys.executable).with_name("snakemake")),)
FORKED = (sys.executable, str(Path(__file__).with_name("forked.py")))
CONFIG = ("--configfile", "config/study.yaml", "--nocolor")
# What Snakemake's jobs import of libraries, and nothing of this project.
LIBRARIES = ["snakemake.cli", "polars", "matplotlib.pyplot", "scipy.stats", "sklearn.linear_model"]
LIBRARIES += ["torch", "transformers", "transformers.models.gemma.modeling_gemma", "peft", "sae_lens", "warm"]
# Dry-runs, and Snakemake with all of its jobs, are forked from a process that has imported what they need.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*LIBRARIES, "snakemake_executor_plugin_slurm", "pydantic"])
MINE = "prompt,completion\n" + "".join(f'Give numbers {k}.,"{k}, {k + 1}, {k + 2}"\n' for k in range(40))
# Few, as each is asked with every animal for an answer.
FACTS = """Which animal purrs and hunts mice at home? = cat
Which animal sleeps on the sofa all day? = cat
Which animal barks and guards the home? = dog
Which animal fetches a stick in the park? = dog
"""


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
        (root / "facts.txt").write_text(FACTS)
        project = cls(root)
        project.configure(datasets={"mine": {"file": "mine.csv"}}, indirect={"facts": "facts.txt"})
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

    @property
    def environment(self) -> dict[str, str]:
        """What is set for snakemake beside the tests' own environment."""
        return {"PYTHONPATH": str(self.root / "workflow"), "HF_HUB_OFFLINE": "1"}

    def start(self, *arguments: str, command: tuple[str, ...] = SNAKEMAKE, **environment: str) -> "subprocess.Popen[str]":
        """Start snakemake in a process group of its own."""
        return subprocess.Popen(
            [*command, *arguments, *CONFIG],
            cwd=self.root,
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def snakemake(self, *arguments: str, fails: bool = False, **started: Any) -> str:
        """Run snakemake to its end and return what it prints; checks that it succeeds, or fails."""
        process = self.start(*arguments, **started)
        output, _ = process.communicate()
        assert (process.returncode != 0) == fails, output
        return output

    def forked(self, *targets: str, **environment: str) -> str:
        """The same with jobs that find the libraries imported (forked.py); models this small are slower on two threads.

        Libraries read what is set in the environment when they are imported, so these jobs have a process of their own to be
        forked from.
        """
        arguments = (*targets, "--max-threads", "1")
        if environment:
            return self.snakemake(*arguments, command=FORKED, **environment)
        return self.in_fork(*arguments, jobs=True)

    def dry_run(self, *arguments: str, fails: bool = False) -> str:
        """Run `snakemake -n` and return what it prints; checks that it succeeds, or fails."""
        return self.in_fork("-n", *arguments, fails=fails)

    def in_fork(self, *arguments: str, fails: bool = False, jobs: bool = False) -> str:
        """Run snakemake in a fork and return what it prints; checks that it succeeds, or fails. `jobs` are forked, too."""
        with tempfile.NamedTemporaryFile("r") as printed:
            process = FORKS.Process(target=self.run_here, args=(printed.name, jobs, *arguments))
            process.start()
            process.join()
            output = printed.read()
        assert (process.exitcode != 0) == fails, output
        return output

    def run_here(self, printed: str, jobs: bool, *arguments: str) -> None:
        """Run snakemake in this process, and print to a file."""
        forked = importlib.import_module("forked")
        forked.print_to(printed)
        os.chdir(self.root)
        os.environ |= self.environment
        sys.path.insert(0, self.environment["PYTHONPATH"])
        sys.argv = ["snakemake", *arguments, *CONFIG]
        if jobs:
            # This process was forked from the server that is to fork its jobs; it would start another, as it does not know so.
            multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
            forked.fork_jobs(printed)
        atexit._clear()
        try:
            importlib.import_module("snakemake.cli").main()
        finally:
            atexit._run_exitfuncs()  # which multiprocessing leaves out, and with which the workflow says what came out

    def planned(self, *arguments: str) -> set[str]:
        """The messages of the jobs that a dry-run plans."""
        return set(re.findall(r"^Job \d+: (.+)$", self.dry_run(*arguments), re.MULTILINE))

    def kill_in(self, job: int, seconds: float, *arguments: str, **started: Any) -> bool:
        """Start snakemake and kill it and its jobs with SIGKILL, some seconds after its `job`-th job, from 1, has begun.

        Returns whether it was still running then.
        """
        process = self.start(*arguments, **started)
        assert process.stdout
        begun = (line for line in process.stdout if re.match(r"Job \d+: ", line))
        if len(list(islice(begun, job))) == job:
            time.sleep(seconds)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return running
