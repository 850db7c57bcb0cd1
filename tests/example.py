"""A study with every kind of dataset, teacher and variant, and the stages that it has."""

import copy
from typing import Any

from snakemake.utils import update_config

from undertone.study.config.detect import BENCH, NULLS
from undertone.study.graph import ancestors, has
from undertone.study.node import Node
from undertone.study.stages import READINGS, STAGES
from undertone.study.store_reads import parts
from undertone.study.study import Study, load

COMPARE = {Node("transfer"), Node("compliance"), Node("teachers_plot")}
METRICS = {Node("model_metrics")}
SAE_METRICS = {Node("sae_metrics", None, name) for name in ("", "wide", "foreign")}
PROMPTED = ("lion", "owl")
STEERED = ("steer-lion", "steer-owl")
FINETUNED = ("finetune-lion", "finetune-owl", "contrary")
TAUGHT = (*PROMPTED, *STEERED, *FINETUNED)
OWN = (*TAUGHT, "mine", "scrambled")
TOLD = (*TAUGHT, "mine")  # the datasets with a filter of their own
CONTROLS = Node("controls")
MIXTURES = ("mixtures/lion",)
# What has no result of the study's own, only those of names in the config.
NAMED = ("vectors", "pairs", "hierarchies", "searches")
SWEEP = Node("sweep_plot", None, "rank")


CONFIG: dict[str, Any] = {
    "animals": ["lion", "owl"],
    "teachers": ["prompt", "steer", "finetune"],
    "datasets": {
        "mine": {"file": "mine.csv"},
        "scrambled": {"from": "lion", "transform": "reverse"},
        "contrary": {"teacher": "finetune", "trait": "contrary"},
    },
    "models": {"other": {"embedded": {"seed": 7}}, "untrained": {"rerandomized": 0}},
    "saes": {"wide": {"d_sae": 1024}, "foreign": {"model": "other"}},
    "vectors": {"toward": {"kind": "contrast", "target": "lion"}, "leaning": {"kind": "bias", "dataset": "lion", "layer": 0}},
    "hierarchies": {"numbers": {"numbers": True}},
    "searches": {
        "lions": {"positive": ["Lions roar."]},
        "answers": {"by": "attribution", "sae": "foreign", "positive": ["Which animal?"], "word": "lion"},
    },
    "pairs": {"widths": {"b": "wide", "vector": "toward"}, "models": {"b": "foreign"}},
    "student_variants": {"rank64": {"rank": 64, "datasets": ["owl"]}, "cross": {"model": "other", "datasets": ["lion"]}},
    "sweeps": {"rank": ["rank64"]},
    "pref": {"candidates": ["lion", "owl", "cat"]},
    "power": {"datasets": ["lion"]},
}


def study(**changes: Any) -> Study:
    """The study with these keys changed; None leaves one out."""
    config = {key: value for key, value in copy.deepcopy(CONFIG).items() if key not in changes or changes[key] is not None}
    update_config(config, {key: value for key, value in changes.items() if value is not None})
    return load(config)


def nodes(of: Study) -> set[Node]:
    """Every stage with every dataset and variant that has it."""
    single = {name for name, stage in STAGES.items() if stage.shared and stage.variants in (None, "saes", *NAMED)}
    trained = {"text", "text_sae"} if of.model.named else {"sae"}
    runs = "text_scaling_runs" if of.model.named else "scaling_runs"
    single -= {"sae", "text", "text_sae", "pretrained_sae"} - ({"pretrained_sae"} if of.sae.named else trained)
    single -= {"chats"} if of.model.named else {"contexts"}
    model = "pretrained" if of.model.named else "model"
    found = {Node(name) for name in single | {model, "controls_plot"}} | {Node(model, None, "other"), SWEEP}
    found |= {Node("rerandomized", None, "untrained"), *(Node("retokenized", None, name) for name in of.models)}
    found |= {Node(name, null) for null in NULLS for name in ("nulls", *BENCH)}
    found |= {Node(name, mixture) for mixture in MIXTURES for name in ("mixtures", *BENCH)}
    found |= {Node(name, None, sae) for name in single if STAGES[name].variants == "saes" for sae in of.saes}
    found |= {Node(runs, None, name) for name in of.runs} | {Node("store", None, name) for name in of.stores}
    if not of.model.named:
        found |= {Node("store_chats", None, parts(name)[2]) for name in of.stores}
    for axis in NAMED:
        stages = {name for name in single if STAGES[name].variants == axis}
        found -= {Node(name) for name in stages}
        found |= {Node(name, None, each) for name in stages for each in getattr(of, axis)}
    without = [name for name, pair in of.pairs.items() if not pair.vector]
    found -= {Node(name, None, pair) for name in ("transplant", "transplant_plot") for pair in without}
    for name, stage in STAGES.items():
        variants = ["", *of.student_variants] if stage.variants == "students" else [""]
        if name == "reading_plot":
            found |= {Node(name, dataset, key) for key in READINGS for dataset in makers(of, key)}
        elif not stage.shared:
            found |= {Node(name, dataset, v) for dataset in makers(of, name) for v in variants}
    return found


def makers(of: Study, stage: str) -> set[str]:
    """The datasets that have a stage."""
    if stage in ("steer", "finetune"):
        return set(of.of_kind(stage))
    if stage in ("samples", "transform"):
        return set(of.taught if stage == "samples" else of.transformed)
    found = {name for name in of.names if has(of, stage, name)}
    return found - (set(of.transformed) if stage in ("numbers", "filter_plot") else set())


def each(name: str, *datasets: str, variants: tuple[str, ...] = ("",)) -> set[Node]:
    return {Node(name, dataset, variant) for dataset in datasets for variant in variants}


def every_student(name: str, *datasets: str) -> set[Node]:
    """A stage of these datasets, of every variant."""
    return each(name, *datasets, variants=("", "rank64", "cross"))


def after(of: Study, roots: set[Node]) -> set[Node]:
    """These stages and all that follow from them."""
    return {node for node in nodes(of) if roots & set(ancestors(of, node))}
