"""The study, its paths and its stamps. No rules."""

import atexit
import functools
import os
import re
import sys
from glob import glob
from pathlib import Path

from snakemake.cli import get_argument_parser
from snakemake.io import strip_wildcard_constraints
from snakemake.persistence import ParamsChange

from undertone.data.inputs import check_contents, check_inputs
from undertone.runtime.errors import ConfigError
from undertone.runtime.failures import failures
from undertone.study.config.detect import BENCH, DETECTORS, NULLS
from undertone.study.config.entries import CONTROL, KINDS
from undertone.study.estimate import Job, seconds_of, time_left
from undertone.study.first_page import first_page
from undertone.study.formats import SAE_FILES
from undertone.study.graph import has, read_by
from undertone.study.node import Node, variant_of
from undertone.study.outcome import outcome
from undertone.study.page_reads import pairs_of, wider
from undertone.study.paths import BENCHMARKS, LOGS, folder_of
from undertone.study.reads import checkpoint_files, compared, mixed_dataset, sae_files, sampled_text, selected, text_files
from undertone.study.stages import READINGS, SUMMARISED
from undertone.study.stamp import stamp
from undertone.study.store_reads import parts
from undertone.study.study import load
from undertone.study.targets import refusal
from undertone.study.pair_reads import lacking_datasets, other_datasets
from undertone.study.run_config import keep, kept
from undertone.study.vector_reads import asks_personas, decompositions, saes_after, steered_dataset
from undertone.study.why import changes

try:
    STUDY = load(config if workflow.is_main_process else kept(config))
    check_inputs(STUDY)
    if workflow.is_main_process:
        check_contents(STUDY)  # jobs read what they need
        keep(config, Path(".snakemake/undertone"))
except ConfigError as error:
    refuse(f"The config has mistakes:\n{error}")


def one_of(datasets):
    """A pattern that matches these datasets; if there are none, it matches nothing."""
    return "|".join(map(re.escape, datasets)) or "(?!)"


def variants(names):
    """A pattern that matches what these variants add to a path: nothing for "", the study's own, and otherwise `-NAME`."""
    added = [re.escape(f"-{name}") if name else "" for name in names]
    return f"(?:{'|'.join(added)})" if added else "(?!)"


wildcard_constraints:
    dataset=one_of(STUDY.available),
    seed="(?:0|[1-9][0-9]{0,12})",  # one spelling for each student
    variant=variants(["", *STUDY.student_variants]),


def result(path):
    """A path under the study's results root."""
    return f"{STUDY.results}/{path}"


# Part of the paths of results of all datasets, because these differ between studies that share a results root.
NAMED = [STUDY.name] if STUDY.name else []


def of_study(path):
    """The path of a result of all datasets, `tables/FILE` or `plots/FILE`; a study with a name has its own folder there."""
    folder, file = path.split("/")
    return result("/".join([folder, *NAMED, file]))


def log_of(rule, *parts):
    """The log of a job."""
    return os.path.join(folder_of(STUDY.results, LOGS), rule, "-".join(parts or ["study"]) + ".log")


def benchmark_of(rule, *parts):
    """The benchmark record of a job."""
    return os.path.join(folder_of(STUDY.results, BENCHMARKS), rule, "-".join(parts or ["study"]) + ".jsonl")


def stamp_of(stage):
    """The stamp of a stage, on which its result depends; it is the only parameter of a rule."""
    return lambda wildcards: stamp(STUDY, Node(stage, wildcards.get("dataset"), variant_of(wildcards)))


def students_of(dataset, variant="", seeds=None):
    """The weights of a dataset's students of a variant; all of them, or those of some seeds."""
    settings = STUDY.students(dataset, variant)
    folder = f"{dataset}/student-{variant}" if variant else f"{dataset}/student"
    file = "model.safetensors" if settings.full else "adapter_model.safetensors"
    return [result(f"{folder}/{seed}/{file}") for seed in (settings.seeds if seeds is None else seeds)]


def first_student_of(dataset):
    """The weights of a dataset's first student."""
    return students_of(dataset, seeds=STUDY.students(dataset).seeds[:1])


def sae_of_study(file="sae.json"):
    """`sae.json` or another file of the study's own SAE, if it has one."""
    return result(f"sae/{file}") if STUDY.has_sae else []


def steered_of(dataset=None):
    """`teacher.json` of the steered teachers that determine which feature stands for a dataset's target, or for each animal."""
    return [result(f"{teacher}/teacher.json") for teacher in STUDY.features_for(dataset).values()]


def of_taught(path):
    """A file that only datasets with a known teacher have, as an input of a rule that all have."""
    return lambda wildcards: result(f"{wildcards.dataset}/{path}") if wildcards.dataset in STUDY.of_kind(*KINDS) else []


def reading(key, dataset):
    """The result of a reading for a dataset, if the dataset has this reading."""
    return result(f"{dataset}/{key}.json") if has(STUDY, key, dataset) else []


def beside(files, dataset):
    """What the function `files` gives for a dataset's control; nothing for the control itself."""
    control = STUDY.control(dataset)
    return files(control) if control else []


def summarised(wildcards):
    """The readings that a summary shows, by name, and the control's."""
    own = {key: reading(key, wildcards.dataset) for key in SUMMARISED}
    return own | {f"control_{key}": beside(lambda control: reading(key, control), wildcards.dataset) for key in SUMMARISED}


def generations_of(wildcards):
    """`generations.parquet`, which a transformed dataset does not have."""
    return [] if wildcards.dataset in STUDY.transformed else result(f"{wildcards.dataset}/generations.parquet")


def teacher_of_counterpart(wildcards):
    """`teacher.json` of the steered teacher that a prompted dataset is compared with, if there is one."""
    other = STUDY.counterpart(wildcards.dataset)
    return result(f"{other}/teacher.json") if other else []


def model_of(name):
    """`model.json` of one of the study's `models`; without a name, of its own model."""
    return result(f"model-{name}/model.json" if name else "model/model.json")


def model_of_sae(wildcards):
    """`model.json` of the base model that an SAE reads."""
    return model_of(STUDY.model_of(variant_of(wildcards)))


def text_of_sae(wildcards):
    """The text that features are read on, in the tokens of the SAE's model."""
    return text_of(STUDY.model_of(variant_of(wildcards)))


def of_sae(name, file="sae.json"):
    """A file of one of the study's `saes`; without a name, of its own SAE."""
    return result(f"sae-{name}/{file}" if name else f"sae/{file}")


def as_wide_as(wildcards):
    """`sae.json` of the SAEs in which an SAE's features are looked for."""
    return [of_sae(name) for name in STUDY.as_wide(variant_of(wildcards))]


def features_of_wider(wildcards):
    """`features.parquet` of those of these SAEs that are wider."""
    return [of_sae(name, "features.parquet") for name in wider(STUDY, variant_of(wildcards))]


def splitting_of_sae(wildcards):
    """`splitting.json` of an SAE, if the study has a wider one."""
    sae = variant_of(wildcards)
    return of_sae(sae, "splitting.json") if wider(STUDY, sae) else []


def matches_of_sae(wildcards):
    """The matches of the pairs that compare an SAE with another one."""
    return [result(f"pair-{name}/matches.parquet") for name in pairs_of(STUDY, variant_of(wildcards))]


def text_of(model):
    """The text that features are read on, in the tokens of one of the study's `models`; without a name, of its own model."""
    return result(f"text-{model}.parquet" if model else "text.parquet")


def base_of(wildcards):
    """`model.json` of the base model that a variant's students start from."""
    return model_of(STUDY.base(variant_of(wildcards)))


def base_of_teacher(wildcards):
    """`model.json` of the base model that a dataset's teacher starts from."""
    return model_of(STUDY.taught[wildcards.dataset].model)


def teacher_of(wildcards):
    """`teacher.json` of a dataset whose teacher is steered or finetuned; no other has one."""
    return result(f"{wildcards.dataset}/teacher.json") if wildcards.dataset in STUDY.of_kind("steer", "finetune") else []


def clamped_sae_of(wildcards):
    """`sae.json` for a teacher that clamps a feature, because a feature must be read to be clamped."""
    return result("sae/sae.json") if clamps(wildcards.dataset) else []


def clamped_sae_of_either(wildcards):
    """`sae.json` if the teacher, or the steered teacher that it is compared with, clamps a feature."""
    return result("sae/sae.json") if clamps(wildcards.dataset) or clamps(STUDY.counterpart(wildcards.dataset)) else []


def clamps(dataset):
    """Whether a dataset's teacher clamps a feature."""
    return dataset in STUDY.of_kind("steer") and steering(dataset).mode == "clamp"


def steering(dataset):
    """How a steered dataset's teacher is steered."""
    return STUDY.section("teacher", dataset).steer


def prefs_of(stage):
    """`pref.json` of every dataset and variant that a figure compares."""
    return lambda wildcards: [
        result(f"{dataset}/pref-{variant}.json" if variant else f"{dataset}/pref.json")
        for dataset, variant in compared(STUDY, Node(stage, None, wildcards.get("key", "")))
    ]


def of_control(path):
    """The file of this name of a dataset's control, as an input for every dataset except the control itself."""

    def control(wildcards):
        name = path.format(variant=wildcards.get("variant", ""))
        return beside(lambda control: result(f"{control}/{name}"), wildcards.dataset)

    return control


def source_of(wildcards):
    """The source of a dataset's numbers: the user's own file, rows of the Hub, or the teacher's samples."""
    if wildcards.dataset in STUDY.published:
        return result(f"{wildcards.dataset}/published.parquet")
    if wildcards.dataset in STUDY.files:
        return ancient(STUDY.files[wildcards.dataset].file)
    return result(f"{wildcards.dataset}/samples.parquet")


def transformed(dataset):
    """A transformed dataset's settings."""
    return STUDY.transformed[dataset]


def figure(shows, dataset=None):
    """The labels of a figure in the report, instead of its path."""
    return {**({"dataset": dataset} if dataset else {}), "shows": shows, "as": "figure"}


def data(holds, dataset=None):
    """The labels of a file in the report that holds the numbers of a figure, or more than these."""
    return {**figure(holds, dataset), "as": "data"}


def minutes(n):
    """A running time that doubles with each attempt."""
    return lambda wildcards, attempt: n * 2 ** (attempt - 1)


def gigabytes(n):
    """Memory, in MB as Snakemake wants it, that doubles with each attempt."""
    return lambda wildcards, attempt: 1000 * n * 2 ** (attempt - 1)


def makes(path):
    """Whether a rule makes a file."""
    return any(rule.is_producer(path) for rule in workflow.rules)


def files_in(folder):
    """The files that rules can make in a folder of the study, relative to it."""
    values = {
        "dataset": [folder],
        "seed": ["1"],
        "variant": [
            "",
            *(
                f"-{name}"
                for name in [
                    *STUDY.student_variants,
                    *STUDY.models,
                    *STUDY.saes,
                    *STUDY.vectors,
                    *STUDY.pairs,
                    *STUDY.hierarchies,
                    *STUDY.searches,
                ]
            ),
        ],
        "key": [*READINGS, *STUDY.sweeps, *STUDY.stores],
        "sae": ["", *(f"-{name}" for name in STUDY.saes)],
        "feature": [""],
    }
    home = result(f"{folder}/")
    for pattern in {strip_wildcard_constraints(path) for rule in workflow.rules for path in rule.output}:
        names = [name for name in values if f"{{{name}}}" in pattern]
        paths = expand(pattern, **{name: values[name] for name in names}) if names else [pattern]
        yield from (path.removeprefix(home) for path in paths if path.startswith(home) and makes(path))


@functools.cache
def command_line():
    """The arguments that Snakemake was called with."""
    return get_argument_parser().parse_known_args(sys.argv[1:])[0]


def asked_targets():
    """The targets on the command line."""
    return command_line().targets


def check_targets():
    """Refuse a target on the command line that no rule makes, with the nearest."""
    rules = {rule.name: rule for rule in workflow.rules}
    for target in asked_targets() if workflow.is_main_process else []:
        if target in rules and rules[target].has_wildcards():
            refuse(
                f"{target}: this rule makes many files; ask for one by its path, such as {strip_wildcard_constraints(rules[target].output[0])}"
            )
        if target not in rules and not makes(target if os.path.isabs(target) else os.path.relpath(target)):
            refuse(refusal(target, STUDY, rules, files_in))


def say_why():
    """Make a dry-run name the settings that differ, old → new, instead of printing both stamps in full as Snakemake does."""
    whole = ParamsChange.__str__
    ParamsChange.__str__ = lambda change: changes(change.only_old, change.only_new) or whole(change)


def say_how_long():
    """Print how long the run will take, if jobs of the same rules have been run before."""
    timed = [job for job in workflow.dag.needrun_jobs() if job.benchmark]
    jobs = {
        job: Job(job.rule.name.removesuffix("_whole"), [*workflow.dag.job_dependencies(job)], job.resources.get("gpu", 0))
        for job in timed
    }
    at_once = workflow.resource_settings.nodes or workflow.resource_settings.cores or 1
    gpus = workflow.global_resources.get("gpu")
    if line := time_left(jobs, seconds_of(Path(folder_of(STUDY.results, BENCHMARKS))), at_once, gpus and gpus.value):
        logger.info(line)


def say_what_came_out():
    """Print a line of results for each requested target, below everything that Snakemake prints."""
    outputs = {rule.name: [*map(str, rule.output)] for rule in workflow.rules if rule.output}
    asked = [target if os.path.isabs(target) else os.path.relpath(target) for target in asked_targets() or ["all"]]
    targets = [path for target in asked for path in outputs.get(target, [target])]
    if lines := outcome(targets, STUDY.results, STUDY.name):
        atexit.register(print, "", *lines, sep="\n", file=sys.stderr)


def say_what_failed(logs):
    """Print what each failed job said of itself, below everything that Snakemake prints."""
    if lines := failures(logs):
        atexit.register(print, "\nWhat failed:", *lines, sep="\n", file=sys.stderr)


def use_all_cores_by_default():
    """Make a plain `snakemake TARGET` use this machine's cores, as `--cores all` would, and local jobs share its GPU.

    A profile's `cores` could not do this: profiles/default also applies under profiles/slurm, where it would cut every job's
    threads to the login node's cores. If neither cores nor jobs are set, only the local executor can be in use.
    All jobs take the first GPU that they see, so one job at a time has it, unless `--resources gpu=N` says otherwise.
    """
    if workflow.resource_settings.cores is None and workflow.resource_settings.nodes is None:
        workflow.resource_settings.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workflow.global_resources["_cores"] = workflow.resource_settings.cores
    if workflow.resource_settings.nodes is None and glob("/dev/nvidia[0-9]*"):
        workflow.global_resources.setdefault("gpu", 1)


if command_line().report:
    config["first_page"] = first_page(STUDY)  # Snakemake gives only the config to a report's text
# The progress bars of transformers, of a second each, would appear between ours.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
say_why()
use_all_cores_by_default()
