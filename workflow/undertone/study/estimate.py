"""Estimate of a run's time, from the time that jobs of the same rules took before."""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from undertone.study.paths import finished_jobs, rule_of


class Job(NamedTuple):
    """A job to be run: its rule, the jobs that it waits for, and the GPUs that it takes."""

    rule: str
    after: Sequence[Hashable] = ()
    gpus: int = 0


def seconds_of(folder: Path) -> dict[str, float]:
    """The median time of each rule's finished jobs, in seconds, from the benchmark records in `folder`."""
    times: dict[str, list[float]] = {}
    for path in finished_jobs(folder):
        try:
            times.setdefault(rule_of(path, folder), []).append(float(json.loads(path.read_text())["s"]))
        except (ValueError, KeyError):  # `costs` complains of a damaged record; a run need not
            continue
    return {rule: median(of_jobs) for rule, of_jobs in times.items()}


def time_left(jobs: Mapping[Hashable, Job], seconds: Mapping[str, float], at_once: int, gpus: int | None = None) -> str | None:
    """Return a line with the least time that the jobs will take, `at_once` of them in parallel; None if nothing is known.

    The time is the longest of three: their total time divided by `at_once`, the time on GPUs divided by `gpus` (None: no
    limit), and the longest chain of jobs that wait for each other.
    """
    rules = {job.rule for job in jobs.values()}
    if not rules & seconds.keys():
        return None
    ends: dict[Hashable, float] = {}
    for job in jobs:
        _end(job, jobs, seconds, ends)
    total = sum(seconds.get(job.rule, 0) for job in jobs.values())
    on_gpus = sum(job.gpus * seconds.get(job.rule, 0) for job in jobs.values()) / gpus if gpus else 0.0
    unknown = sorted(rules - seconds.keys())
    without = f"; none has been run yet of {', '.join(unknown)}" if unknown else ""
    time = duration(max(total / at_once, on_gpus, *ends.values()))
    return f"Estimated time: at least {time}, by what jobs of the same rules took{without}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _end(name: Hashable, jobs: Mapping[Hashable, Job], seconds: Mapping[str, float], ends: dict[Hashable, float]) -> float:
    """When a job ends, in seconds, if only the jobs it waits for are run before it; `ends` caches the results."""
    if name not in ends:
        before = [_end(each, jobs, seconds, ends) for each in jobs[name].after if each in jobs]
        ends[name] = max(before, default=0.0) + seconds.get(jobs[name].rule, 0.0)
    return ends[name]
