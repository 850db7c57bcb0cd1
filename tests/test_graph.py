"""The rules' inputs and the stages say the same: what comes before a job is what its stamp counts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from example import CONFIG
from snakemake.utils import update_config

from undertone.study.graph import ancestors
from undertone.study.node import Node, variant_of
from undertone.study.study import load
from workflow import REPOSITORY, Project

Edges = dict[Node, set[Node]]
# Rules that make nothing themselves, and those that make what a stage of another name makes.
TARGETS = (
    "all",
    "read",
    "detection",
    "consequence",
    "power_plot",
    "detectors_plot",
    "bridge",
    "scaling_plot",
    "selections_plot",
    "lab",
    "vectors",
    "geometry",
    "pairs",
    "searches",
)
# What an SAE and each feature of it have on request.
OF_SAE = ("results/sae/influence/plots/0.png", "results/sae/plots/judge.png")
STAGE_OF = {"student_whole": "student"}


def node(job: dict[str, Any]) -> Node:
    wildcards = job["wildcards"]
    return Node(STAGE_OF.get(job["rule"], job["rule"]), wildcards.get("dataset"), variant_of(wildcards))


def planned(project: Project, targets: tuple[str, ...]) -> Edges:
    """By stage, those whose files its jobs read."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("planned.py"), "--forceall", *targets, "--configfile", "config/study.yaml"],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "workflow"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    edges: Edges = {}
    for job in json.loads(done.stdout.splitlines()[-1]):
        if job["rule"] not in TARGETS:
            edges.setdefault(node(job), set()).update(map(node, job["after"]))
    return edges


def before(edges: Edges, of: Node) -> set[Node]:
    """A stage and all that its jobs wait for, directly or not."""
    found, pending = {of}, [of]
    while pending:
        pending += (new := edges[pending.pop()] - found)
        found |= new
    return found


MINE = {"mine": {"file": "mine.csv"}}
TRANSFORMED = {
    "bare": {"from": "lion", "transform": "one-format", "format": 0},
    "mixed": {"from": "lion", "transform": "mix", "other": "owl", "fraction": 0.5},
    "matched": {"from": "mine", "transform": "match", "other": "control"},
    "cleaned": {"from": "mixed", "transform": "select", "score": "gradient", "keep": "bottom", "fraction": 0.5},
    "fewer": {"from": "mixed", "transform": "subset", "rows": 2},
    "separated": {"from": "mixed", "transform": "without", "other": "owl"},
}
CONTROLS = yaml.safe_load((REPOSITORY / "config/controls.yaml").read_text())
# The SAE at the layer of the vector that is added in another model.
EVERY = {**CONFIG, "sae": {"layer": 1}}
STUDIES: dict[str, dict[str, Any]] = {
    "every kind of dataset": EVERY,
    "teachers that clamp": {**EVERY, "teacher": {"steer": {"mode": "clamp"}}},
    "contrasts, losses without students": {
        "teachers": ["prompt", "steer"],
        "teacher": {"steer": {"vector": "contrast"}},
        "losses": {"students": []},
    },
    "transforms, a sweep over rows": {
        "datasets": MINE | TRANSFORMED,
        "student_variants": {"few": {"rows": 96, "datasets": ["lion"]}},
        "sweeps": {"rows": ["few"]},
        "verdict": {"contrasts": True},
    },
    "controls of their own": CONTROLS,
    "a model by its name, an SAE trained on text and samples": {
        "model": {"name": "a/model", "revision": "a" * 40},
        "sae": {"text": [{"file": "facts.txt"}, {"samples": "control"}]},
        "teachers": ["prompt", "steer"],
    },
    "a model and an SAE by their names": {
        "model": {"name": "a/model", "revision": "a" * 40},
        "sae": {"release": "a", "id": "b"},
        "teachers": ["prompt", "steer"],
    },
    "vectors of every kind": {
        "sae": {"layer": 0},
        "saes": {"layer1": {"layer": 1}},
        "teachers": ["prompt", "steer"],
        "vectors": {
            "personas": {"kind": "pca", "target": "lion"},
            "prompts": {"kind": "contrast", "positive": ["Love."], "negative": ["Hate."]},
            "chosen": {"kind": "feature", "target": "lion"},
            "layer1": {"kind": "feature", "feature": 3, "sae": "layer1"},
            "bias": {"kind": "bias", "dataset": "steer-owl"},
            "returned": {"kind": "bias", "dataset": "steer-owl", "layer": 0},
            "function": {"kind": "function", "dataset": "lion"},
            "both": {"kind": "sum", "of": {"bias": 1, "function": -1}},
            "mine": {"kind": "file", "file": "mine.safetensors"},
        },
    },
    "hierarchies of both kinds": {
        "hierarchies": {"numbers": {"numbers": True}, "words": {"file": "config/prompts/animals-tree.yaml"}},
    },
    "searches among features of two models": {
        "models": {"other": {"embedded": {"seed": 3}}},
        "saes": {"foreign": {"model": "other"}},
        "searches": {"own": {"positive": ["Lions."]}, "other": {"sae": "foreign", "positive": ["Lions."]}},
    },
    "a vector without an SAE": {
        "model": {"name": "a/model", "revision": "a" * 40},
        "vectors": {"personas": {"kind": "contrast", "target": "lion"}},
    },
    "SAEs of other models": {
        "models": {"other": {"embedded": {"seed": 3}}, "untrained": {"rerandomized": 0}},
        "saes": {"wide": {"d_sae": 96}, "foreign": {"model": "other"}, "control": {"model": "untrained"}},
        "pairs": {
            "widths": {"b": "wide"},
            "models": {"a": "foreign", "b": ""},
            "controls": {"b": "control"},
            "datasets": {"b": "foreign", "datasets": "elsewhere"},
            "vectors": {"b": "foreign", "vector": "personas"},
        },
        "vectors": {"personas": {"kind": "contrast", "target": "lion", "layer": 0}},
    },
    "SAEs trained from activations on disk": {
        "models": {"other": {"embedded": {"seed": 3}}},
        "sae": {"cached": True},
        "saes": {"foreign": {"model": "other"}, "out": {"point": "mlp_out"}, "fresh": {"cached": False}},
    },
    "an SAE of a named model trained on text on disk": {
        "model": {"name": "a/model", "revision": "a" * 40},
        "sae": {"text": [{"file": "facts.txt"}], "cached": True},
    },
    "an SAE of a named model trained on text, and one of its control": {
        "model": {"name": "a/model", "revision": "a" * 40},
        "models": {"untrained": {"rerandomized": 0}},
        "sae": {"text": [{"file": "facts.txt"}]},
        "saes": {"control": {"model": "untrained"}},
    },
    "a model by its name, no SAE": {"model": {"name": "a/model", "revision": "a" * 40}, "datasets": MINE},
}


@pytest.mark.parametrize("study", STUDIES)
def test_stages_come_after_what_their_rules_read(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.create(tmp_path / "project")
    project.configure(**STUDIES[study])
    (project.root / "mine.safetensors").touch()
    monkeypatch.chdir(project.root)
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    update_config(config, yaml.safe_load(Path("config/study.yaml").read_text()))
    asked = load(config)
    for animal in asked.animals:
        (project.root / "elsewhere" / animal).mkdir(parents=True)
        (project.root / "elsewhere" / animal / "matched.parquet").touch()
    there = {
        "lab": asked.has_sae,
        "scaling_plot": asked.has_sae and not asked.sae.named,
        "vectors": bool(asked.vectors),
        "pairs": bool(asked.pairs),
        "geometry": bool(asked.hierarchies),
        "searches": bool(asked.searches),
    }
    absent = {name for name, is_there in there.items() if not is_there}
    targets = [name for name in TARGETS if name not in absent]
    edges = planned(project, (*targets, *(OF_SAE if asked.has_sae else ())))
    assert len(edges) > 40
    differ = {of: before(edges, of) ^ set(ancestors(asked, of)) for of in edges}
    assert {of: sorted(nodes) for of, nodes in differ.items() if nodes} == {}
