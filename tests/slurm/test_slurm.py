"""The shipped profile on a true Slurm: what jobs ask for, how many run, and what is left after each way to die.

Checked against Slurm's own records, which every test prints. Status is asked for more often than the profile does.
"""

import os
import re
import shutil
import signal
import subprocess
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
# Seconds within which a Snakemake ends that has nothing left to wait for.
PATIENCE = 240
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
def records(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Iterator[Callable[[], list[Record]]]:
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
    """What the rules and the profile ask for, by rule, as a dry-run prints it for rules without a message of their own."""
    plain = project.copy(project.root.with_name("plain"))
    for path in (plain.root / "workflow/rules").glob("*.smk"):
        path.write_text(re.sub(r"^ +message:\n.*\n", "", path.read_text(), flags=re.MULTILINE))
    # Threads are printed as they are on this machine, so it must seem large enough.
    output = plain.snakemake(*targets, *PROFILE, "--cores", "64", "-n")
    found: dict[str, dict[str, object]] = {}
    for name, body in re.findall(r"^rule (\w+):\n((?: +.*\n)+)", output, re.MULTILINE):
        lines = dict(re.findall(r"^ +(\w+): (.*)$", body, re.MULTILINE))
        told = dict(re.findall(r"(\w+)=([^,]+)", lines["resources"]))
        found[name] = {key: int(told.get(key, 0)) for key in ("gpu", "mem_mb", "runtime")}
        found[name] |= {"threads": int(lines.get("threads", 1)), "slurm_partition": told["slurm_partition"]}
    return found


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a Snakemake that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def starts(records: list[Record], rule: str) -> list[tuple[str, object, int]]:
    """The state, memory in MB and minutes of each start of a rule's jobs, in their order."""
    return [(record.state, record.resources["mem_mb"], record.minutes) for record in records if record.rule == rule]


def test_the_study_asks_for_what_its_rules_state(
    cluster: Cluster, project: Project, records: Callable[[], list[Record]]
) -> None:
    expected = stated(project, STUDENT)
    assert set(expected) == {"prompts", "model", "samples", "numbers", "student"}
    project.snakemake(STUDENT, *PROFILE, *HURRY)
    assert (project.root / STUDENT).is_file()
    assert {record.rule: record.resources for record in records()} == expected
    assert {record.state for record in records()} == {"COMPLETED"}
    profile = yaml.safe_load((project.root / PROFILE[1] / "profile.yaml").read_text())
    assert {record.rule for record in records() if record.partition == "gpu"} == set(expected) & set(profile["set-resources"])
    for record in records():
        given = cluster.ask("scontrol", "show", "job", "-d", record.job)
        assert ("JOB_GRES=gpu:h200:1\n" in given) == bool(record.resources["gpu"])
        log = (project.root / f"logs/{record.rule}").glob("*.log")
        gpu = ", CUDA_VISIBLE_DEVICES 0" if record.resources["gpu"] else ""
        assert next(log).read_text().splitlines()[0].endswith(f"SLURM_JOB_ID {record.job}{gpu}")


def test_no_more_gpus_are_taken_than_the_cap_allows(
    cluster: Cluster, project: Project, records: Callable[[], list[Record]]
) -> None:
    held = [f"drill/{name}.held" for name in "abcd"]
    project.snakemake(*held, *DRILLS, *PROFILE, *HURRY, "--resources", "gpu=2")
    spans = [(record.start, record.end) for record in records()]
    assert len(spans) == len(held)
    # The cluster has more GPUs than the cap, so only the cap can have held the others back.
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_failed_and_cancelled_jobs_are_shown_and_tried_again_with_more(
    cluster: Cluster, project: Project, records: Callable[[], list[Record]]
) -> None:
    targets = ("drill/outgrown", "drill/mended", "drill/a.waited")
    process = project.start(*targets, *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.ask("scancel", *cluster.running("rule_wait"))
    (project.root / "go-a").touch()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert "exceeded memory limit" in output
    assert "an owl sits on the disk" in output
    assert "SLURM status is: 'CANCELLED'" in output
    assert starts(records(), "outgrow") == [("FAILED", 1000, 2), ("COMPLETED", 2000, 4)]
    assert starts(records(), "fail") == [("FAILED", 1000, 2), ("FAILED", 2000, 4)]
    assert starts(records(), "wait") == [("CANCELLED by 0", 1000, 2), ("COMPLETED", 2000, 4)]
    before = len(records())
    (project.root / "mend").touch()
    project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY)
    assert [(record.rule, record.state) for record in records()[before:]] == [("fail", "COMPLETED")]


def test_a_job_outlives_the_daemons_and_is_found_when_they_are_back(
    cluster: Cluster, project: Project, records: Callable[[], list[Record]]
) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.kill_controller(*cluster.running("rule_wait"))
    cluster.kill("cpu01")
    (project.root / "go-a").touch()
    # What the plugin says when it asks and the controller does not answer.
    log = next((project.root / ".snakemake/log").iterdir())
    wait_for(lambda: "Falling back to 'sacct'" in log.read_text(), "a status query to fail")
    cluster.start("slurmctld", "-D")
    cluster.start("cpu01", "-D", "-N", "cpu01", program="slurmd")
    finish(process)
    assert starts(records(), "wait") == [("COMPLETED", 1000, 2)]


def test_a_job_of_a_dead_node_starts_again(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    cluster.kill_node("cpu01")
    (project.root / "go-a").touch()
    cluster.start("cpu01", "-D", "-N", "cpu01", program="slurmd")
    finish(process)
    assert starts(records(), "wait") == [("NODE_FAIL", 1000, 2), ("COMPLETED", 1000, 2)]
    assert len({record.job for record in records()}) == 1


def test_a_job_outlives_a_killed_snakemake(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    targets = ("drill/a.waited", "drill/b.held")
    process = project.start("drill/a.waited", *DRILLS, *PROFILE, *HURRY)
    wait_for((project.root / "begun-a").exists, "the job to begin")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "LockException" in project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY, fails=True)
    assert cluster.running("rule_wait")
    (project.root / "go-a").touch()
    wait_for(lambda: not cluster.running("rule_wait"), "the orphan to end")
    project.snakemake("--unlock", *DRILLS)
    project.snakemake(*targets, *DRILLS, *PROFILE, *HURRY)
    assert starts(records(), "wait") == [("COMPLETED", 1000, 2)]
    assert starts(records(), "hold") == [("COMPLETED", 1000, 2)]
