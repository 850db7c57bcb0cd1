"""Several SAEs in one study: each in a folder of its own, and stale only by its own settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.study import load
from undertone.study.vector_reads import decompositions, saes_after
from workflow import Project

SAES = {"second": {"layer": 1, "point": "mlp_out"}, "wide": {"d_sae": 96, "seed": 1}}


@pytest.fixture(scope="module")
def finished(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = base.copy(tmp_path_factory.mktemp("saes") / "project")
    project.configure(saes=SAES)
    metrics = [f"results/{name}/metrics.json" for name in ("sae", "sae-second", "sae-wide")]
    said = project.forked(*metrics, "results/sae-second/features.json")
    assert re.search(
        r"^sae-second: 64 features on 3,\d+ tokens, .*; see results/sae-second/features\.json$", said, re.MULTILINE
    )
    return project


def test_each_sae_is_of_its_own_settings(finished: Project) -> None:
    results = finished.root / "results"
    cfg = {name: json.loads((results / name / "cfg.json").read_text()) for name in ("sae", "sae-second", "sae-wide")}
    assert [(each["d_sae"], each["metadata"]["hook_name"]) for each in cfg.values()] == [
        (64, "blocks.0.hook_resid_post"),
        (64, "blocks.1.hook_mlp_out"),
        (96, "blocks.0.hook_resid_post"),
    ]
    metrics = {name: read_json(results / name / "metrics.json") for name in ("sae", "sae-wide")}
    assert metrics["sae"]["explained_variance"] != metrics["sae-wide"]["explained_variance"]
    assert read_json(results / "sae-second/features.json")["stamp"]["settings"]["sae-second"]["sae"]["layer"] == 1


@pytest.mark.parametrize(
    ("edit", "stale"),
    [
        ({"saes": {**SAES, "wide": {"d_sae": 96, "seed": 2}}}, {"sae-wide"}),
        ({"saes": {**SAES, "more": {"seed": 5}}}, set()),
        ({"sae": {"k": 5}}, {"sae", "sae-second", "sae-wide"}),
        ({"saes": {**SAES, "wide": {"d_sae": 96, "seed": 1, "k": 4}}}, set()),
    ],
    ids=["one", "another", "shared", "as it was"],
)
def test_an_edit_reruns_the_saes_that_it_concerns(
    finished: Project, tmp_path: Path, edit: dict[str, Any], stale: set[str]
) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(**edit)
    metrics = {f"results/{name}/metrics.json": name for name in ("sae", "sae-second", "sae-wide")}
    assert {name for target, name in metrics.items() if project.planned(target)} == stale


def test_the_laboratory_reads_every_sae(finished: Project) -> None:
    assert finished.planned("lab") == {
        "Read what each feature of the SAE is",
        "Write the page of the SAE's features",
        "Find the features nearest to each",
        "Plot how much the SAE explains",
        "Plot how near the nearest features are",
        "Lay out the SAE's features in two dimensions",
        "Plot the map of the features",
        "Compare the SAE's features with concepts",
        "Plot features and neurons against concepts",
        "Compare features with neurons of the MLPs",
        "Plot how far features are neurons",
        "Find the names that have a feature of their own",
        "Plot the names that have a feature of their own",
        "Look for the SAE's features in wider ones",
        "Plot the SAE's features in wider ones",
        "Train SAEs on activations whose features are known",
        "Plot what SAEs recover of known features",
    }


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"saes": {"wide": {"dsae": 9}}}, "saes.wide.dsae: unknown key; nearest: d_sae"),
        ({"saes": {"deep": {"layer": 9}}}, "saes.deep.layer 9: the model has layers 0 to 3"),
        (
            {"saes": {"foreign": {"model": "othr"}}, "models": {"other": {}}},
            "saes.foreign.model: no such model 'othr'; nearest: other",
        ),
        (
            {"models": {"small": {"embedded": {"n_layers": 1}}}, "saes": {"foreign": {"model": "small", "layer": 2}}},
            "saes.foreign.layer 2: the model has layers 0 to 0",
        ),
        (
            {
                "model": {"name": "gpt2", "revision": "0" * 40},
                "models": {"other": {"revision": "1" * 40}},
                "sae": {"text": [{"file": "a.txt"}]},
                "saes": {"foreign": {"model": "other"}},
            },
            "saes.foreign.model: other may have other tokens than the text",
        ),
        ({"sae": {"point": "mlp_out"}}, "sae.point mlp_out: the study's own SAE reads resid_post, where teachers are steered"),
        ({"saes": {"out": {"point": "mlp"}}}, "saes.out.point"),
        ({"saes": {"out": {"point": "mlp_out"}}, "pairs": {"x": {"b": "out"}}}, "pairs.x: a reads resid_post and b mlp_out"),
        (
            {"saes": {"out": {"point": "mlp_out"}}, "vectors": {"v": {"kind": "feature", "feature": 1, "sae": "out"}}},
            "vectors.v.sae: out reads mlp_out; a vector is added to the residual stream",
        ),
        (
            {
                "saes": {"out": {"point": "mlp_out"}},
                "searches": {"s": {"by": "influence", "sae": "out", "positive": ["Hi."], "word": "lion"}},
            },
            "searches.s.sae: out reads mlp_out; by influence",
        ),
        ({"judge": {"model": "othr"}}, "judge.model: no such model 'othr'"),
        ({"searches": {"s": {"sae": "wid", "positive": ["Hi."]}}}, "searches.s.sae: no such SAE of saes 'wid'"),
        ({"saes": {"a/b": {}}}, "'a/b' cannot name a model, SAE, vector or the like"),
        ({"saes": {"mine": {"folder": "somewhere"}}}, "saes.mine: a study's SAEs are all trained here, all of"),
        ({"saes": {"mine": {"context": 64}}}, "saes.mine.context: all SAEs of a study are trained on the same text"),
        (
            {"saes": {"wide": {}}, "datasets": {"sae-wide": {"teacher": "none"}}},
            "'sae-wide' cannot name a dataset: one of the study's models, SAEs, vectors or pairs has a folder of that name",
        ),
        (
            {"saes": {"wide": {}}, "model": {"name": "gpt2", "revision": "0" * 40}},
            "saes: the study has no SAE of its own for gpt2",
        ),
    ],
)
def test_what_no_sae_can_be_is_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(config)


def test_only_saes_of_one_point_are_compared() -> None:
    out = {"point": "mlp_out"}
    vectors = {"v": {"kind": "contrast", "positive": ["Love."], "negative": ["Hate."], "layer": 1}}
    study = load({"saes": {"out": out, "wide": {"d_sae": 1024}, "out2": {**out, "seed": 1}}, "vectors": vectors})
    assert (study.as_wide(), study.as_wide("out"), study.as_wide("wide")) == (["wide"], ["out2"], [])
    assert decompositions(study) == [("v", ""), ("v", "wide")]
    assert saes_after(study, "v") == ["", "wide"]
    assert load({"saes": {"out": out, "out2": out}, "pairs": {"x": {"a": "out", "b": "out2"}}})
    with pytest.raises(
        ConfigError, match=r"pairs\.x\.datasets: datasets are compared at resid_post, and the SAEs read mlp_out"
    ):
        load({"saes": {"out": out, "out2": out}, "pairs": {"x": {"a": "out", "b": "out2", "datasets": "results/other"}}})
