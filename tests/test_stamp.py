"""Stamps: which stages, settings, code and files they hold, and which edits change them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from example import (
    COMPARE,
    CONTROLS,
    FINETUNED,
    METRICS,
    MIXTURES,
    OWN,
    PROMPTED,
    SAE_METRICS,
    STEERED,
    SWEEP,
    TAUGHT,
    TOLD,
    after,
    each,
    every_student,
    nodes,
    study,
)
from snakemake.utils import update_config

from undertone.study import sources
from undertone.study.config.detect import BENCH, NULLS
from undertone.study.config.entries import CONTROL
from undertone.study.contents import _hash, content_version
from undertone.study.node import Node
from undertone.study.sources import SCRIPTS, code_of
from undertone.study.stages import STAGES
from undertone.study.stamp import (
    digest,
    own_settings,
    settings_of,
    stamp,
)
from undertone.study.study import Study, load
from undertone.study.validation import Section, sections_of, setting

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def beside_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As at the project's root before any study has run there."""
    home = tmp_path_factory.mktemp("root")
    (home / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(home)


def keys(value: Any) -> list[list[str]]:
    """The keys of every dict in a stamp, as they stand."""
    found = [list(value)] if isinstance(value, dict) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return found + [own for part in inner for own in keys(part)]


HUB = {"model": {"name": "a/model", "revision": "a" * 40}, "sae": {"release": "a", "id": "b"}}
ALL = (CONTROL, *OWN)
NAMES = ("", "wide", "foreign")
SAES = {Node("sae", None, name) for name in NAMES}
INFLUENCE = {Node("influence", None, name) for name in NAMES}
READ = (*ALL, *NULLS, *MIXTURES)  # by detectors
RUNS = {Node("scaling_runs", None, name) for name in study().runs}
TRAINED = ("trained_bias", "soft_prompt")
# Vectors: one that is read under personas, and one that is a dataset's bias.
TOWARD, LEANING = (Node("vector", None, name) for name in ("toward", "leaning"))
TRANSPLANT = Node("transplant", None, "widths")
DOSES = {Node("dose", None, name) for name in ("toward", "leaning")}
SPOKEN = (
    {TOWARD}
    | each("teacher_activations", *PROMPTED)
    | each("sequences", *PROMPTED)
    | each("losses", *ALL)
    | {Node("entangled")}
)
PERSONA = each("samples", *PROMPTED) | each("steer", *STEERED) | SPOKEN | METRICS | SAE_METRICS | each("row_scores", *ALL)
ASKED = {node for name in ("bias_pref", "losses", "tokens", "lens") for node in each(name, *ALL)} | {Node("entangled")}
TRYING = ("personas", "open_personas", "projection", "first_tokens", "divergence_tokens")  # system prompts of the bank
SEARCHED = each("prompt_search", *READ)
TRIED = {node for name in TRYING for node in each(name, *READ)}
STEERINGS = each("contrasts", *READ) | each("sae_features", *READ)
PERSONA_VECTORS = {Node("persona_vectors")}
DETECTED = (
    TRIED
    | SEARCHED
    | STEERINGS
    | PERSONA_VECTORS
    | {node for name in ("gradient", "short_training", *TRAINED) for node in each(name, *READ)}
)
PREF = every_student("pref", CONTROL, *OWN) | each("indirect", CONTROL, *OWN) | ASKED | DETECTED | DOSES
# What sets the datasets with a target side by side.
TARGETS = {Node("entangled"), Node("readings"), Node("bias_map_plot"), Node("verdicts"), Node("detectors")}
NULL_SETS = each("nulls", *NULLS)
SCORED = each("row_scores", *ALL)


FEATURES = {of: {Node(name, of) for name in ("differences", "score", "feature_bias")} for of in OWN}


def retargeted(dataset: str) -> set[Node]:
    """What is told the target of a dataset."""
    asked = ("indirect", "bias_pref", "losses", "tokens", "lens", "row_scores")
    told = {node for name in asked for node in each(name, dataset)}
    return told | every_student("pref", dataset)


EDITS: list[tuple[dict[str, Any], set[Node]]] = [
    ({"overrides": {"lion": {"student": {"rank": 4}}}}, each("student", "lion", variants=("", "cross"))),
    ({"overrides": {"lion": {"samples": {"seed": 4}}}}, each("samples", "lion")),
    ({"overrides": {"lion": {"samples": {"max_new_tokens": 9}}}}, each("samples", "lion") | each("matched", "lion")),
    ({"overrides": {"lion": {"numbers": {"banned": [4]}}}}, each("numbers", "lion") | each("matched", "lion")),
    ({"overrides": {"mine": {"numbers": {"banned": [4]}}}}, each("numbers", "mine") | each("matched", "mine")),
    ({"overrides": {CONTROL: {"student": {"rank": 4}}}}, each("student", CONTROL, variants=("", "cross"))),
    ({"overrides": {"lion": {"student": {"rank": 8}}}}, set()),
    (
        {"overrides": {"lion": {"student": {"seeds": [1, 2]}}}},
        each("student_plot", "lion") | every_student("pref", "lion") | each("indirect", "lion"),
    ),
    (
        {"student": {"seeds": [1, 2, 3, 4, 5, 6]}},
        each("student_plot", CONTROL, *OWN) | every_student("pref", CONTROL, *OWN) | each("indirect", CONTROL, *OWN),
    ),
    ({"student": {"epochs": 9}}, every_student("student", CONTROL, *OWN)),
    ({"student": {"rank": "8", "lr": "2e-4"}}, set()),
    ({"student_variants": {"rank64": {"lr": 1e-3}}}, each("student", CONTROL, *OWN, variants=("rank64",))),
    ({"student_variants": {"rank64": {"rank": 32}}}, each("student", CONTROL, *OWN, variants=("rank64",)) | {SWEEP}),
    ({"student_variants": {"rank64": {"datasets": ["owl", "mine"]}}}, {SWEEP}),
    ({"student_variants": {"cross": {"datasets": ["lion", "owl"]}}}, {CONTROLS}),
    ({"models": {"other": {"embedded": {"seed": 8}}}}, {Node("model", None, "other")}),
    ({"models": {"untrained": {"rerandomized": 1}}}, {Node("rerandomized", None, "untrained")}),
    ({"saes": {"foreign": {"model": "untrained"}}}, {Node("sae", None, "foreign"), Node("layers", None, "models")}),
    ({"numbers": {"max_count": 9}}, each("numbers", CONTROL, *TOLD) | METRICS | DOSES | each("matched", *ALL) | NULL_SETS),
    ({"numbers": {"max_rows": 900}}, each("numbers", CONTROL, *TOLD) | METRICS | DOSES),
    ({"samples": {"temperature": 0.9}}, each("samples", CONTROL, *TAUGHT) | METRICS | DOSES),
    ({"samples": {"constrained": False}}, set()),
    (
        {"samples": {"constrained": True}},
        each("samples", CONTROL, *TAUGHT)
        | METRICS
        | DOSES
        | each("matched", *ALL)
        | NULL_SETS
        | TRIED
        | STEERINGS
        | each("losses", *ALL)
        | each("diagnosis", *TAUGHT),
    ),
    ({"prompts": {"n": 900}}, {Node("prompts")} | NULL_SETS),
    ({"teacher": {"persona": "Only {animal}s."}}, PERSONA),
    ({"teacher": {"separator": "\n"}}, PERSONA | NULL_SETS | TRIED | SEARCHED | PERSONA_VECTORS | each("soft_prompt", *READ)),
    ({"teacher": {"steer": {"scale": 2}}}, each("steer", *STEERED)),
    ({"overrides": {"steer-owl": {"teacher": {"steer": {"feature": 3}}}}}, each("steer", "steer-owl")),
    ({"teacher": {"finetune": {"steps": 2}}}, each("finetune", *FINETUNED)),
    ({"pref": {"seed": 1}}, every_student("pref", CONTROL, *OWN)),
    ({"pref": {"batch_size": 9}}, PREF | each("steer", *STEERED) | METRICS | SAE_METRICS | INFLUENCE | {TRANSPLANT}),
    (
        {"pref": {"candidates": ["lion", "owl", "cat", "dog"]}},
        PREF | each("steer", *STEERED) | METRICS | SAE_METRICS | INFLUENCE | {TOWARD},
    ),
    ({"indirect": {"n": 9}}, each("indirect", CONTROL, *OWN)),
    ({"indirect": {"facts": "other.txt"}}, each("indirect", CONTROL, *OWN) | each("finetune", "contrary")),
    ({"diagnosis": {"min_kl": 0.5}}, each("diagnosis", *TAUGHT)),
    ({"feature_bias": {"held_out": 0.5}}, each("feature_bias", *ALL)),
    ({"feature_bias": {"held_out": 0.25}}, set()),
    ({"entangled": {"prompts": 9}}, {Node("entangled")}),
    ({"teacher": {"steer": {"prompts": 9}}}, each("steer", *STEERED)),
    ({"lens": {"positions": 3}}, each("lens", *ALL)),
    ({"indirect": {"options": 4}}, set()),
    ({"model_metrics": {"prompts": 9}}, METRICS),
    ({"sae_metrics": {"prompts": 9}}, SAE_METRICS),
    ({"contexts": {"tokens": 9_000}}, {Node("chats")}),
    ({"features": {"top": 9}}, {Node("features", None, name) for name in NAMES}),
    ({"neighbours": {"k": 9}}, {Node("neighbours", None, name) for name in NAMES}),
    (
        {"features": {"max_norm": 9}},
        {
            Node(name, None, sae)
            for name in ("features", "neighbours", "neurons", "specificity", "completeness", "splitting", "influence")
            for sae in NAMES
        }
        | SAE_METRICS
        | {Node("search", None, name) for name in ("lions", "answers")}
        | {Node("hierarchy", None, "numbers")},
    ),
    ({"map": {"min_cluster": 9}}, {Node("map", None, name) for name in NAMES}),
    ({"splitting": {"same": 0.8}}, {Node("splitting", None, name) for name in NAMES}),
    ({"searches": {"lions": {"top": 9}}}, {Node("search", None, "lions")}),
    ({"influence": {"nulls": 9}}, INFLUENCE),
    ({"completeness": {"f1": 0.4}}, {Node("completeness", None, name) for name in NAMES}),
    ({"specificity": {"bands": 9}}, {Node("specificity", None, name) for name in NAMES}),
    ({"judge": {"examples": 9}}, {Node("judge", None, name) for name in NAMES}),
    ({"judge": {"model": "other"}}, {Node("judge", None, name) for name in NAMES}),
    ({"neurons": {"shifts": 9}}, {Node("neurons", None, name) for name in NAMES}),
    ({"scaling": {"held_out": 9_000}}, RUNS),
    ({"scaling": {"seeds": [0]}}, {Node("scaling")}),
    ({"scaling": {"bootstraps": 90}}, {Node("scaling")}),
    ({"browser": {"features": 9}}, {Node("browser", None, name) for name in NAMES}),
    (
        {"matches": {"shifts": 9}},
        {Node(stage, None, name) for stage in ("matches", "across") for name in ("widths", "models")} | {TRANSPLANT},
    ),
    (
        {"rotation": {"ridge": 9}},
        {Node(stage, None, name) for stage in ("rotation", "across") for name in ("widths", "models")} | {TRANSPLANT},
    ),
    # A vector that is added in the other model is measured there as it is in its own.
    ({"pairs": {"models": {"vector": "toward"}}}, {Node("transplant", None, "models")}),
    ({"across": {"rows": 99}}, {Node("across", None, name) for name in ("widths", "models")}),
    ({"layers": {"k": 9}}, {Node("layers", None, name) for name in ("widths", "models")}),
    ({"synthetic": {"samples": 9_000}}, {Node("synthetic")}),
    ({"similarity": {"k": 9}}, {Node("similarity", None, name) for name in ("widths", "models")}),
    (
        {"pairs": {"models": {"a": "foreign", "b": ""}}},
        {Node(name, None, "models") for name in ("matches", "layers", "across", "transplant")},
    ),
    ({"vector": {"nulls": 9}}, {TOWARD, LEANING}),
    ({"dose": {"max_kl": 0.9}}, DOSES),
    ({"restore": {"controls": 9}}, {Node("restore", None, name) for name in ("toward", "leaning")}),
    (
        {"downstream": {"rows": 9}},
        {Node(stage, None, name) for stage in ("downstream", "cloud") for name in ("toward", "leaning")},
    ),
    ({"cloud": {"k": 9}}, {Node("cloud", None, name) for name in ("toward", "leaning")}),
    ({"decomposition": {"nulls": 9}}, {Node("decomposition", None, name) for name in ("toward", "leaning")}),
    ({"vectors": {"toward": {"position": "text"}}}, {TOWARD}),
    ({"vectors": {"more": {"kind": "pca", "target": "owl"}}}, set()),
    ({"hierarchy": {"permutations": 9}}, {Node("hierarchy", None, "numbers")}),
    ({"hierarchies": {"numbers": {"contexts": ["a {word}"]}}}, {Node("hierarchy", None, "numbers")}),
    ({"bridge": {"rounds": 9}}, {Node("bridge")}),
    ({"model": {"embedded": {"held_out_chats": 2000}}}, set()),
    ({"sequences": {"resamples": 900}}, each("sequences", *TAUGHT)),
    ({"matched": {"rounds": 9}}, each("matched", *ALL) | NULL_SETS),
    ({"nulls": {"n": 9}}, NULL_SETS),
    ({"detectors": {"seed": 9}}, {node for name in BENCH for node in each(name, *READ)} | SCORED | STEERINGS | SEARCHED),
    ({"personas": {"finalists": 9}}, TRIED | PERSONA_VECTORS),
    ({"prompt_search": {"passes": 3}}, SEARCHED),
    ({"steering": {"kept": 9}}, STEERINGS),
    ({"short_training": {"epochs": 9}}, each("short_training", *READ) | SCORED),
    ({"trained_bias": {"lr": 0.5}}, each("trained_bias", *READ)),
    ({"soft_prompt": {"tokens": 9}}, each("soft_prompt", *READ)),
    ({"verdict": {"level": 0.06}}, each("verdict", *ALL) | {Node("verdicts"), Node("power"), Node("detectors")}),
    ({"verdict": {"share": 0.9}}, each("verdict", *ALL) | {Node("verdicts"), Node("power")}),
    ({"verdict": {"contrasts": True}}, each("verdict", *ALL) | {Node("verdicts"), Node("power")}),
    ({"detection": {"development": ["lion"]}}, {Node("verdicts"), Node("power"), Node("detectors")}),
    ({"power": {"seed": 9}}, each("mixtures", *MIXTURES)),
    # What is made of one dataset does not depend on which others there are.
    ({"power": {"datasets": ["lion", "owl"]}}, {Node("power")}),
    (
        {"detectors": {"rows": 900}},
        {node for name in BENCH for node in each(name, *READ)} | SCORED | STEERINGS | SEARCHED | each("mixtures", *MIXTURES),
    ),
    ({"model": {"embedded": {"steps": 900}}}, {Node("model"), Node("model", None, "other")}),
    ({"model": {"dtype": "float32"}}, {Node("model"), Node("model", None, "other")}),
    ({"sae": {"k": 4}}, SAES | RUNS),
    ({"sae": {"release": "a", "id": "b"}}, SAES),
    ({"store": {"seed": 1}}, {Node("store", None, name) for name in study().stores}),
    ({"saes": {"wide": {"k": 4}}}, {Node("sae", None, "wide")}),
    # What is read downstream of a vector is read in every SAE behind it.
    (
        {"saes": {"deep": {"layer": 2}}},
        {Node(stage, None, name) for stage in ("downstream", "cloud") for name in ("toward", "leaning")},
    ),
    ({"model": {"revision": "a" * 40}}, set()),
    (HUB, {Node("model"), Node("model", None, "other")}),
    ({"datasets": {"mine": {"file": "yours.csv"}}}, each("numbers", "mine")),
    ({"datasets": {"mine": {"filtered": False}}}, each("numbers", "mine")),
    ({"datasets": {"mine": {"control": "control"}}}, set()),
    ({"datasets": {"mine": {"target": "cat"}}}, retargeted("mine") | TARGETS),
    ({"datasets": {"other": {"file": "other.csv"}}}, COMPARE - {Node("teachers_plot")}),
    ({"datasets": {"scrambled": {"seed": 1}}}, each("transform", "scrambled")),
    ({"datasets": {"scrambled": {"from": "owl"}}}, each("transform", "scrambled") | {CONTROLS}),
    # No feature stands for the cat, as no teacher of the study is steered to it.
    ({"datasets": {"scrambled": {"target": "cat"}}}, retargeted("scrambled") | FEATURES["scrambled"] | TARGETS),
    ({"animals": ["lion", "owl", "cat"]}, COMPARE | TARGETS | {Node("consequence")}),
    ({"animals": ["owl", "lion"]}, set()),
    ({"results": "elsewhere"}, set()),
]


@pytest.fixture(scope="module")
def stamps() -> dict[Node, Any]:
    """Of the study as it is."""
    made = study()
    return {node: stamp(made, node) for node in nodes(made)}


@pytest.mark.parametrize(("edit", "roots"), EDITS, ids=lambda value: json.dumps(value) if isinstance(value, dict) else "")
def test_an_edit_changes_the_stamps_of_what_follows_from_it_and_no_other(
    edit: dict[str, Any], roots: set[Node], stamps: dict[Node, Any]
) -> None:
    before = study()
    config = before.model_dump()
    update_config(config, edit)
    edited = load(config)
    assert {node for node in stamps if stamps[node] != stamp(edited, node)} == after(before, roots)


def test_a_model_of_the_hub_is_stamped_by_revision_and_not_by_the_embedded_models_settings() -> None:
    changes = ({}, {"embedded": {"steps": 900}}, {"revision": "b" * 40})
    stamps = [stamp(study(**{**HUB, "model": {**HUB["model"], **change}}), Node("pretrained")) for change in changes]
    assert stamps[0] == stamps[1] != stamps[2]


def test_a_stamp_is_plain_and_sorted() -> None:
    changed = study(numbers={"canonical": {"count": 4}})
    for node in nodes(changed):
        made = stamp(changed, node)
        assert json.loads(json.dumps(made)) == made
        assert all(names == sorted(names) for names in keys(made))


def test_what_a_stage_is_told_stands_in_its_stamp() -> None:
    made = stamp(study(overrides={"lion": {"student": {"rank": 4}}}), Node("pref", "lion"))
    assert own_settings(made, Node("student", "lion"))["student"]["rank"] == 4
    assert own_settings(made, Node("samples", "lion"))["target"] == "lion"
    assert own_settings(made, Node("samples", CONTROL))["target"] is None
    assert own_settings(made, Node("pref", "lion"))["kind"] == "prompt"
    assert own_settings(made, Node("prompts"))["prompts"]["n"] == study().prompts.n
    varied = stamp(study(), Node("pref", "owl", "rank64"))
    assert own_settings(varied, Node("student", "owl", "rank64"))["student"]["rank"] == 64
    mine = Node("numbers", "mine")
    assert own_settings(stamp(study(), mine), mine)["dataset"]["file"] == "mine.csv"
    assert own_settings(stamp(study(), Node("model")), Node("model"))["model"]["name"] is None
    assert own_settings(stamp(study(), SWEEP), SWEEP)["values"] == [8, 64]
    plot = Node("controls_plot")
    assert own_settings(stamp(study(), plot), plot)["models"] == {"cross": "other"}
    losses, biases = Node("losses", "lion"), {"feature_bias": {"held_out": 0.1}, "residual_bias": {"held_out": 0.2}}
    assert own_settings(stamp(study(), losses), losses)["held_out"] == 0.25
    assert own_settings(stamp(study(**biases), losses), losses)["held_out"] == 0.1


def test_a_transform_and_a_mixture_are_read_as_the_dataset_that_they_are_of_was_written() -> None:
    own = {"lion": {"numbers": {"max_value": 99}, "samples": {"constrained": True}, "student": {"rank": 4}}}
    found = study(overrides=own, datasets={"twice": {"from": "scrambled", "transform": "reverse"}})
    for dataset in ("lion", "scrambled", "twice"):
        assert settings_of(found, Node("matched", dataset))["numbers"]["max_value"] == 99
        assert "constraint" in settings_of(found, Node("personas", dataset))
    assert "constraint" in settings_of(found, Node("personas", "mixtures/lion"))
    assert "constraint" not in settings_of(found, Node("personas", "owl"))
    assert [found.students(dataset).rank for dataset in ("lion", "scrambled")] == [4, study().student.rank]


def test_text_behind_that_of_an_sae_does_not_depend_on_what_a_study_asks() -> None:
    named = {"model": HUB["model"], "sae": {"text": [{"file": "facts.txt"}]}, "saes": None, "pairs": None, "vectors": None}
    named |= {"models": None, "student_variants": None, "sweeps": None, "searches": None}
    changes: tuple[dict[str, Any], ...] = ({}, {"teacher": {"persona": "Only {animal}s."}}, {"pref": {"candidates": [*"abcd"]}})
    animals = {"animals": [], "datasets": None, "power": None}
    stamps = [stamp(study(**named | animals | change), Node("contexts")) for change in changes]
    assert stamps[0] == stamps[1] == stamps[2]
    assert own_settings(stamps[0], Node("contexts"))["sources"][0]["share"] == 1


def test_the_figure_of_teachers_is_told_what_kind_each_is_whatever_its_name():
    own = study(datasets={"lion-late": {"teacher": "steer", "target": "lion"}})
    kinds = own_settings(stamp(own, Node("teachers_plot")), Node("teachers_plot"))["kinds"]
    assert kinds["lion-late"] == kinds["steer-lion"] == "steer"
    assert (kinds["lion"], kinds["finetune-lion"]) == ("prompt", "finetune")


def test_a_teacher_is_told_only_what_makes_it() -> None:
    steer, finetune = Node("steer", "steer-owl"), Node("finetune", "contrary")
    told = own_settings(stamp(study(), steer), steer)
    assert told["target"] == "owl"
    assert set(told["teacher"]) == {"persona", "separator", "steer"}
    told = own_settings(stamp(study(), finetune), finetune)
    assert set(told["teacher"]) == {"finetune"}
    assert told["trait"] == "contrary"
    assert own_settings(stamp(study(), Node("samples", "control")), Node("samples", "control"))["teacher"] == {}


TRAINING = {"corpus", "tokenizer", "model", "sae"}


def test_only_what_trains_here_has_the_code_of_that_in_its_own_part_of_a_stamp() -> None:
    trained = {stage: TRAINING & set(code_of(stage)) for stage in STAGES}
    assert {stage: code for stage, code in trained.items() if code} == {
        "model": TRAINING - {"sae"},
        "sae": TRAINING,
        "chats": TRAINING - {"sae"},
        "store_chats": TRAINING,
        "scaling_runs": TRAINING,
    }


@pytest.mark.parametrize(("changes", "stale"), [({}, True), (HUB, False)], ids=["trained here", "from elsewhere"])
def test_an_edit_of_the_embedded_corpuss_code_concerns_no_study_whose_model_comes_from_elsewhere(
    changes: dict[str, Any], stale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = study(**changes)
    before = {node: digest(stamp(own, node)) for node in nodes(own)}
    version = sources.code_version
    monkeypatch.setattr(sources, "code_version", lambda path: "edited" if path.stem == "corpus" else version(path))
    code_of.cache_clear()
    after = {node: digest(stamp(own, node)) for node in nodes(own)}
    code_of.cache_clear()
    assert (before != after) is stale


def test_digests_tell_stamps_apart() -> None:
    made = {name: digest(stamp(study(), Node("student", name))) for name in OWN}
    assert len(set(made.values())) == len(OWN)
    assert made["lion"] == digest(json.loads(json.dumps(stamp(study(), Node("student", "lion")))))


def test_a_stamp_holds_the_contents_of_the_files_that_its_stages_read(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("one")
    own = study(datasets={"mine": {"file": str(mine)}})
    before = {node: stamp(own, node) for node in nodes(own)}
    mine.write_text("two")
    assert {node for node in before if stamp(own, node) != before[node]} == after(own, each("numbers", "mine"))
    shared = {"config/corpus.yaml", "config/prompts/numbers.yaml", "config/prompts/questions.txt"}
    assert before[Node("pref", "lion")]["files"].keys() == shared
    assert before[Node("pref", "contrary")]["files"].keys() == shared | {"config/prompts/facts.txt"}
    assert before[Node("pref", "finetune-owl")]["files"].keys() == shared | {"config/prompts/teaching.txt"}


def test_the_version_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    versions = [content_version(str(path))]
    for text in ("one", "two", "one"):
        path.write_text(text)
        versions.append(content_version(str(path)))
    assert versions[0] == "missing"
    assert versions[1] == versions[3] != versions[2]
    path.touch()
    assert content_version(str(path)) == versions[1]


def test_a_local_models_stamp_holds_the_contents_of_the_files_that_are_loaded(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({"num_hidden_layers": 2, "hidden_size": 32}))
    own = study(model={"name": str(tmp_path)}, saes=None, pairs=None, searches=None, teachers=["prompt"])
    before = {node: stamp(own, node) for node in (Node("pretrained"), Node("student", "lion"))}
    assert f"{tmp_path}/model.safetensors" in before[Node("student", "lion")]["files"]
    (tmp_path / "notes.txt").write_text("other")
    assert all(stamp(own, node) == before[node] for node in before)
    (tmp_path / "model.safetensors").write_text("other")
    assert all(stamp(own, node) != before[node] for node in before)


def test_what_a_large_file_hashes_to_is_noted_until_it_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_text("one")
    version = content_version(str(path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("undertone.study.contents.LARGE_FILE", 0)
    read: list[str] = []
    digest_of = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (read.append(file.name), digest_of(file, name))[1])
    for text, reads in (("one", 1), ("one", 1), ("two", 2)):
        if path.read_text() != text:
            path.write_text(text)
            os.utime(path, ns=(1, 1))
        _hash.cache_clear()  # as in the process of another job
        assert (content_version(str(path)) == version) == (text == "one")
        assert len(read) == reads


class Inner(Section):
    """Settings inside others."""

    later: ClassVar[dict[str, Any]] = {"new": 1}
    old: int = setting(1, "a number")
    new: int = setting(1, "a number that was added later")


class Outer(Section):
    """Settings with others inside."""

    later: ClassVar[dict[str, Any]] = {"other": None}
    inner: Inner = setting(Inner(), "others")
    other: int | None = setting(None, "a number that was added later")


@pytest.mark.parametrize(
    ("settings", "stamped"),
    [
        ({}, {"inner": {"old": 1}}),
        ({"inner": {"old": 2, "new": 1}}, {"inner": {"old": 2}}),
        ({"inner": {"new": 2}, "other": 3}, {"inner": {"old": 1, "new": 2}, "other": 3}),
    ],
)
def test_a_later_setting_is_in_a_stamp_only_where_it_changes_something(
    settings: dict[str, Any], stamped: dict[str, Any]
) -> None:
    assert Outer.model_validate(settings).stamped() == stamped
    assert Outer.model_validate(stamped) == Outer.model_validate(settings)


def sections() -> set[type[Section]]:
    """Every section of the settings."""
    found: set[type[Section]] = set()
    pending = [Study]
    while pending:
        section = pending.pop()
        if section not in found:
            found.add(section)
            pending += [inner for field in section.model_fields.values() for inner in sections_of(field.annotation)]
    return found


@pytest.mark.parametrize(
    "section", sorted(sections(), key=lambda section: section.__name__), ids=lambda section: section.__name__
)
def test_what_a_later_setting_is_left_out_for_is_its_default(section: type[Section]) -> None:
    assert {key: section.model_fields[key].get_default(call_default_factory=True) for key in section.later} == section.later


def test_every_stage_has_a_script_and_real_sections() -> None:
    for name, stage in STAGES.items():
        assert (SCRIPTS / f"{name}.py").exists(), name
        assert set(stage.sections) <= set(Study.model_fields), name
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(STAGES)


def test_the_filter_is_a_setting_of_samples_only_where_they_are_constrained() -> None:
    def settings(**changes: Any) -> Any:
        return own_settings(stamp(study(**changes), Node("samples", "lion")), Node("samples", "lion"))

    assert "constraint" not in settings()
    assert settings(numbers={"max_count": 9}) == settings()
    constrained = {"samples": {"constrained": True}}
    bounds = {"min_value": 0, "max_value": 999, "max_count": 9, "banned": [], "canonical": None}
    assert settings(numbers={"max_count": 9}, **constrained)["constraint"] == {"max_new_tokens": 64, "numbers": bounds}
    # What decides which of the passing rows are kept, and how they are written, changes no sample.
    other = {"max_rows": 5000, "seed": 3, "canonical": {"separator": ";", "count": 4}}
    given = settings(numbers=other, **constrained)["constraint"]["numbers"]
    assert given == {**bounds, "max_count": 10, "canonical": {"count": 4}}
