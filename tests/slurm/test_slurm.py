"""The shipped profile on a true Slurm: what jobs ask for, how many run, and what is left after each way to die.

Checked against Slurm's own records, which every test prints. Status is asked for more often than the profile does.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
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
    cluster: Cluster, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Callable[[], list[Record]]]:
    """Asks for the records of this test's jobs; the report shows them, and the daemons' logs if the test fails."""
    before = len(cluster.records())

    def ask() -> list[Record]:
        return cluster.records()[before:]

    yield ask
    record_property("shown", f"{request.node.name}: what Slurm has on record (sacct)\n{table(ask())}")
    print(cluster.logs())


def without(project: Project, name: str, keyword: str) -> Project:
    """A copy of the project whose rules lack a keyword."""
    found = project.copy(project.root.with_name(name))
    for path in (found.root / "workflow/rules").glob("*.smk"):
        path.write_text(re.sub(rf"^( +){keyword}:\n(?:\1 +.*\n)+", "", path.read_text(), flags=re.MULTILINE))
    return found


def stated(project: Project, *targets: str) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """What the rules and the profile ask for, and an output, by rule, as a dry-run prints it for rules without a message."""
    # Threads are printed as they are on this machine, so it must seem large enough.
    output = without(project, "plain", "message").snakemake(*targets, *PROFILE, "--cores", "64", "-n")
    asked: dict[str, dict[str, object]] = {}
    made: dict[str, str] = {}
    for name, body in re.findall(r"^rule (\w+):\n((?: +.*\n)+)", output, re.MULTILINE):
        lines = dict(re.findall(r"^ +(\w+): (.*)$", body, re.MULTILINE))
        if "output" not in lines:  # it only collects what others make
            continue
        told = dict(re.findall(r"(\w+)=([^,]+)", lines["resources"]))
        asked[name] = {key: int(told.get(key, 0)) for key in ("gpu", "mem_mb", "runtime")}
        asked[name] |= {"threads": int(lines.get("threads", 1)), "slurm_partition": told["slurm_partition"]}
        made[name] = lines["output"].split(", ")[0]
    return asked, made


def local_rules(project: Project) -> set[str]:
    """The rules whose jobs run where Snakemake was called."""
    text = "".join(path.read_text() for path in (project.root / "workflow/rules").glob("*.smk"))
    return {part.split(":")[0] for part in re.split(r"^ *rule ", text, flags=re.MULTILINE)[1:] if "localrule: True" in part}


@contextmanager
def closed_partitions(cluster: Cluster) -> Iterator[None]:
    """Inside, jobs are taken and none starts; what is still there at the end is cancelled."""
    turn_partitions(cluster, "DOWN")
    try:
        yield
    finally:
        cluster.ask("scancel", "--user=root")
        turn_partitions(cluster, "UP")


def turn_partitions(cluster: Cluster, state: str) -> None:
    """Turn all partitions UP or DOWN."""
    for name in ("cpu", "gpu"):
        cluster.ask("scontrol", "update", f"PartitionName={name}", f"State={state}")


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a Snakemake that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def starts(records: list[Record], rule: str) -> list[tuple[str, object, int]]:
    """The state, memory in MB and minutes of each start of a rule's jobs, in their order."""
    return [(record.state, record.resources["mem_mb"], record.minutes) for record in records if record.rule == rule]


def test_the_study_asks_for_what_its_rules_state(
    cluster: Cluster,
    project: Project,
    records: Callable[[], list[Record]],
    record_property: Callable[[str, object], None],
) -> None:
    expected, _ = stated(project, STUDENT)
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
        facts = re.findall(r"^ +((?:NumNodes|JOB_GRES|Nodes)=.*)$", given, re.MULTILINE)
        record_property("shown", f"{record.rule}, job {record.job} (scontrol show job -d): {'; '.join(facts)}")
        log = (project.root / f"logs/{record.rule}").glob("*.log")
        gpu = ", CUDA_VISIBLE_DEVICES 0" if record.resources["gpu"] else ""
        assert next(log).read_text().splitlines()[0].endswith(f"SLURM_JOB_ID {record.job}{gpu}")


# What is no part of a study until it is asked for.
ON_REQUEST = ("lab", "vectors", "pairs", "geometry", "searches")


def test_every_rule_asks_for_what_it_states(cluster: Cluster, project: Project, records: Callable[[], list[Record]]) -> None:
    variants = {"whole": {"full": True, "datasets": ["lion"]}, "wide": {"rank": 4, "datasets": ["lion"]}}
    scrambled = {"from": "lion", "transform": "shuffle-within"}
    fewer = {"from": "lion", "transform": "subset", "rows": 2}
    kept = {"from": "lion", "transform": "select", "score": "gradient", "keep": "top", "fraction": 0.5}
    project.configure(
        student_variants=variants,
        sweeps={"rank": ["wide"]},
        datasets={"scrambled": scrambled, "fewer": fewer, "kept": kept},
        power={"datasets": ["lion"]},
        models={"other": {"embedded": {"seed": 7}}, "untrained": {"rerandomized": 0}},
        saes={"second": {"seed": 1}, "foreign": {"model": "other"}, "random": {"model": "untrained"}},
        vectors={"lion": {"kind": "contrast", "target": "lion", "layer": 0}},
        hierarchies={"numbers": {"numbers": True}},
        searches={"lions": {"positive": ["Lions roar."]}},
        pairs={"seeds": {"a": "", "b": "second", "datasets": "elsewhere", "vector": "lion"}},
    )
    for animal in ("lion", "owl"):
        (project.root / "elsewhere" / animal).mkdir(parents=True)
        (project.root / "elsewhere" / animal / "matched.parquet").touch()
    also = (
        "steer-lion/pref.json",
        "finetune-lion/pref.json",
        "plots/selections.png",
        "plots/costs.png",
        "store/resid_post.0/store.json",
        "sae/influence/plots/0.png",
        "sae/plots/judge.png",
        "lion/sae_features.json",
        "lion/prompt_search.json",
    )
    also += tuple(f"lion/{name}.safetensors" for name in ("residuals", "student_activations"))
    asked, made = stated(
        project,
        "all",
        "read",
        "detection",
        "consequence",
        "power_plot",
        "detectors_plot",
        "scaling_plot",
        "bridge",
        *ON_REQUEST,
        *(f"results/{path}" for path in also),
    )
    rules = set(re.findall(r"^(\w+)$", project.snakemake("--list-rules"), re.MULTILINE))
    assert rules - set(asked) == {"all", "read", "detection", *ON_REQUEST}
    expected = {name: resources for name, resources in asked.items() if name not in local_rules(project)}
    # Without inputs no job waits for another, and in closed partitions none of them starts.
    alone = without(project, "alone", "input")
    with closed_partitions(cluster):
        process = alone.start(*(made[name] for name in expected), *PROFILE, *HURRY, "--jobs", "100", "--resources", "gpu=100")
        wait_for(lambda: len(records()) == len(expected) or process.poll() is not None, "a job of every rule to be submitted")
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        assert not ended, output
    wait_for(lambda: {record.state for record in records()} == {"CANCELLED by 0"}, "the jobs to be cancelled")
    assert {record.rule: record.resources for record in records()} == expected, output


def test_a_queued_job_uses_the_config_with_which_its_run_was_started(
    cluster: Cluster, project: Project, records: Callable[[], list[Record]]
) -> None:
    project.configure(prompts={"n": 100})
    with closed_partitions(cluster):
        process = project.start("results/prompts.parquet", *PROFILE, *HURRY)
        wait_for(lambda: bool(records()) or process.poll() is not None, "the job to be submitted")
        assert process.poll() is None, process.communicate()[0]
        project.configure(prompts={"n": 120})
        turn_partitions(cluster, "UP")
        finish(process)
    assert pl.read_parquet(project.root / "results/prompts.parquet").height == 100
    assert "prompts.n" in project.snakemake("results/prompts.parquet", "-n")
    project.snakemake("results/prompts.parquet", *PROFILE, *HURRY)
    assert pl.read_parquet(project.root / "results/prompts.parquet").height == 120


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
