"""The shipped profile on a true Slurm: what jobs ask for, how many run, and what is left after each way to die.

Checked against Slurm's own records, which every test prints. Only the waiting between status queries is shorter than in the profile.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster import Cluster, Record, install, missing, table, wait_for
from workflow import REPOSITORY, Project

PROFILE = ("--profile", "profiles/slurm")
# On a real cluster a query every 20 s and the first after 40 s are polite; attempts per rate is the outage that is outlived.
HURRY = (
    *("--slurm-init-seconds-before-status-checks", "4"),
    *("--max-status-checks-per-second", "1"),
    *("--slurm-status-attempts", "120"),
)
DRILLS = ("--snakefile", "drills.smk")
STUDENT = "results/lion/student/1/adapter_model.safetensors"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing():
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip(f"no Slurm here ({', '.join(missing())} missing), and only root with apt-get can install it")
        install()
    if os.geteuid() != 0:
        pytest.skip("the test cluster's daemons run as root")
    with Cluster(tmp_path_factory.mktemp("slurm")) as up, pytest.MonkeyPatch.context() as patch:
        for name, value in up.environment.items():
            patch.setenv(name, value)
        yield up


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path) -> Project:
    """A copy of the project with the drills beside its Snakefile."""
    made = Project.create(tmp_path / "project")
    shutil.copy2(REPOSITORY / "tests/slurm/drills.smk", made.root)
    return made


@pytest.fixture
def records(cluster: Cluster, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Callable[[], list[Record]]]:
    """Asks for the records of this test's jobs; they are printed at its end, and the daemons' logs if it fails."""
    before = len(cluster.records())
    failed = request.session.testsfailed

    def ask() -> list[Record]:
        return cluster.records()[before:]

    yield ask
    with capsys.disabled():
        print(f"\n\n{request.node.name}: what Slurm has on record (sacct)\n{table(ask())}")
        if request.session.testsfailed > failed:
            print(cluster.logs())


def stated(project: Project, *targets: str) -> dict[str, dict[str, object]]:
    """What the rules and the profile ask for, by rule, as a dry-run prints it once the rules have no messages of their own."""
    plain = project.copy(project.root.with_name("plain"))
    for path in (plain.root / "workflow/rules").glob("*.smk"):
        path.write_text(re.sub(r"^    message:\n.*\n", "", path.read_text(), flags=re.MULTILINE))
    found: dict[str, dict[str, object]] = {}
    for block in plain.snakemake(*targets, *PROFILE, "-n").split("\n\n"):
        if rule := re.search(r"^rule (\w+):$", block, re.MULTILINE):
            told = dict(re.findall(r"(\w+)=([^,\n]+)", re.search(r"^    resources: (.+)$", block, re.MULTILINE)[1]))
            threads = re.search(r"^    threads: (\d+)$", block, re.MULTILINE)
            numbers = {key: int(told.get(key, 0)) for key in ("gpu", "mem_mb", "runtime")}
            found[rule[1]] = {**numbers, "threads": int(threads[1]) if threads else 1, "slurm_partition": told["slurm_partition"]}
    return found


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a Snakemake that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def states(records: list[Record], rule: str) -> list[str]:
    """The states of a rule's jobs, in the order of their starts."""
    return [record.state for record in records if record.rule == rule]


def test_the_study_asks_for_what_its_rules_state(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    expected = stated(project, STUDENT)
    assert set(expected) == {"prompts", "model", "samples", "numbers", "student"}
    project.snakemake(STUDENT, *PROFILE, *HURRY)
    assert (project.root / STUDENT).is_file()
    assert {record.rule: record.resources for record in records()} == expected
    assert {record.state for record in records()} == {"COMPLETED"}
    with_gpu = {record.rule: record for record in records() if expected[record.rule]["gpu"]}
    assert set(with_gpu) == set(expected) & set(yaml.safe_load((project.root / PROFILE[1] / "profile.yaml").read_text())["set-resources"])
    for record in with_gpu.values():
        told = cluster.ask("scontrol", "show", "job", "-d", record.job)
        print(told)
        assert "JOB_GRES=gpu:h200:1\n" in told
        assert "TresPerJob=gres:gpu:1\n" in told


def test_no_more_gpus_are_taken_than_the_cap_allows(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    held = [f"drill/{name}.held" for name in "abcd"]
    project.snakemake(*held, *DRILLS, *PROFILE, *HURRY, "--resources", "gpu=2")
    spans = [(record.start, record.end) for record in records()]
    assert len(spans) == len(held)
    # The cluster has more GPUs than the cap, so only the cap can have held the others back.
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_a_failed_job_is_shown_and_tried_again_with_more(project: Project, records: Callable[[], list[Record]]) -> None:
    (project.root / "go-a").touch()
    targets = ("drill/outgrown", "drill/mended", "drill/a.waited")
    output = project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY, fails=True)
    assert "exceeded memory limit" in output
    assert "an owl sits on the disk" in output
    tried = [(r.rule, r.state, r.resources["mem_mb"], r.minutes) for r in sorted(records(), key=lambda r: int(r.job))]
    assert [t[1:] for t in tried if t[0] == "outgrow"] == [("FAILED", 1000, 2), ("COMPLETED", 2000, 4)]
    assert [t[1:] for t in tried if t[0] == "fail"] == [("FAILED", 1000, 2), ("FAILED", 2000, 4)]
    assert states(records(), "wait") == ["COMPLETED"]
    done = len(records())
    (project.root / "mend").touch()
    project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY)
    assert [(record.rule, record.state) for record in records()[done:]] == [("fail", "COMPLETED")]


def test_a_cancelled_job_is_submitted_again(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.ask("scancel", *cluster.running("rule_wait"))
    (project.root / "go-a").touch()
    assert "SLURM status is: 'CANCELLED'" in finish(process)
    assert states(records(), "wait") == ["CANCELLED by 0", "COMPLETED"]
    assert (project.root / "drill/a.waited").is_file()


def test_a_controller_that_was_away_is_waited_for(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.kill("slurmctld")
    # Longer than the gap between two status queries, the first of which come 4 s and 18 s after the submission.
    time.sleep(10)
    (project.root / "go-a").touch()
    time.sleep(10)
    assert process.poll() is None
    cluster.start("slurmctld", "-D")
    finish(process)
    assert states(records(), "wait") == ["COMPLETED"]
    assert (project.root / "drill/a.waited").is_file()


def test_a_job_outlives_its_nodes_daemon(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.kill("cpu01")
    (project.root / "go-a").touch()
    time.sleep(2)
    cluster.start("cpu01", "-D", "-N", "cpu01", program="slurmd")
    finish(process)
    assert states(records(), "wait") == ["COMPLETED"]


def test_a_job_of_a_dead_node_starts_again(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.kill_node("cpu01")
    wait_for(lambda: not cluster.running("rule_wait"), "Slurm to notice")
    (project.root / "go-a").touch()
    cluster.start("cpu01", "-D", "-N", "cpu01", program="slurmd")
    finish(process)
    assert states(records(), "wait") == ["NODE_FAIL", "COMPLETED"]
    assert len({record.job for record in records()}) == 1


def test_jobs_outlive_a_killed_snakemake(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    targets = ("drill/a.waited", "drill/b.held")
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "LockException" in project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY, fails=True)
    (project.root / "go-a").touch()
    wait_for(lambda: not cluster.running("rule_wait"), "the orphan to end")
    project.snakemake("--unlock", *DRILLS)
    project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY)
    assert states(records(), "wait") == ["COMPLETED"]
    assert states(records(), "hold") == ["COMPLETED"]
