"""The time that a run will take, from the records of the jobs that ran before it."""

import json
from pathlib import Path

import pytest

from undertone.study.estimate import Job, duration, seconds_of, time_left


def test_a_rule_takes_the_median_of_its_records(tmp_path: Path) -> None:
    for rule, job, text in [
        *(("student", f"lion-{seed}", json.dumps({"s": seconds})) for seed, seconds in ((1, 10.0), (2, 30.0), (3, 14.0))),
        ("pref", "lion", json.dumps({"s": 5})),
        ("pref", "cut", '{"s": 1'),
        ("costs", "study", json.dumps({"s": 99})),
    ]:
        (tmp_path / rule).mkdir(exist_ok=True)
        (tmp_path / rule / f"{job}.jsonl").write_text(text)
    assert seconds_of(tmp_path) == {"student": 14.0, "pref": 5.0}
    assert seconds_of(tmp_path / "nowhere") == {}


def test_jobs_of_null_datasets_and_of_one_feature_stand_deeper_and_count_for_their_rule(tmp_path: Path) -> None:
    of_null = {"gradient/lion.jsonl": 10, "gradient/nulls/seeds.jsonl": 30, "costs/study.jsonl": 1}
    of_feature = {"browser/study-wide.jsonl": 8, "browser/study/17.jsonl": 2, "browser/study-wide/5.jsonl": 4}
    for path, seconds in {**of_null, **of_feature}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f'{{"s": {seconds}}}')
    assert seconds_of(tmp_path) == {"gradient": 20, "browser": 4}


STUDENTS = {seed: Job("student") for seed in range(6)}
JOBS = {**STUDENTS, "pref": Job("pref", [*STUDENTS, "done already"])}
SECONDS = {"student": 100.0, "pref": 60.0}


@pytest.mark.parametrize(
    ("at_once", "time"),
    [
        (1, "11 min"),  # 660 s, one after another
        (2, "6 min"),  # 330 s, shared by two
        (100, "3 min"),  # a student and the preference, which waits for all
    ],
)
def test_jobs_are_shared_out_or_wait_for_each_other(at_once: int, time: str) -> None:
    assert time_left(JOBS, SECONDS, at_once) == f"Estimated time: at least {time}, by what jobs of the same rules took"


def test_jobs_on_gpus_wait_for_a_gpu() -> None:
    jobs = {k: Job("student", gpus=1) for k in range(8)} | {k: Job("plot") for k in range(8, 12)}
    seconds = {"student": 60.0, "plot": 60.0}
    for gpus, time in ((None, "1 min"), (8, "1 min"), (2, "4 min")):
        assert f"at least {time}," in str(time_left(jobs, seconds, 12, gpus))


def test_what_is_not_known_is_named_and_without_any_record_nothing_is_said() -> None:
    line = "Estimated time: at least 60 s, by what jobs of the same rules took; none has been run yet of student"
    assert time_left(JOBS, {"pref": 59.6}, 4) == line
    assert time_left(JOBS, {"numbers": 60.0}, 4) is None
    assert time_left({}, SECONDS, 4) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (60, "1 min"), (3599, "1 h 00 min"), (12_000, "3 h 20 min"), (360_000, "100 h 00 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
