"""A study: what is refused and how that is said, and what overrides mean."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from undertone.runtime.errors import ConfigError
from undertone.study.checks import OVERRIDABLE
from undertone.study.config.models import Model
from undertone.study.sizes import EMBEDDED_MODULES, EMBEDDED_POSITIONS, linear_modules, model_size
from undertone.study.study import load

ROOT = Path(__file__).parents[1]
ANIMALS = {
    "animals": ["lion", "owl"],
    "pref": {"candidates": ["lion", "owl", "cat"]},
    "datasets": {"mine": {"file": "mine.csv"}},
}


def shipped() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


def test_the_shipped_study_loads() -> None:
    assert len(load(shipped()).animals) >= 2


def test_the_micro_study_loads_over_the_shipped_one() -> None:
    config = shipped()
    update_config(config, yaml.safe_load((ROOT / "tests/micro.yaml").read_text()))
    study = load(config)
    assert study.animals == ["lion", "owl"]
    assert study.samples.max_new_tokens == shipped()["samples"]["max_new_tokens"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"studnet": {}}, "studnet: unknown key; nearest: student"),
        ({"student": {"rnak": 4}}, "student.rnak: unknown key; nearest: rank"),
        ({"model": {"embedded": {"step": 1}}}, "model.embedded.step: unknown key; nearest: steps"),
        ({"model": {"embedded": {"tasks": {"number": 1}}}}, "model.embedded.tasks.number: unknown key; nearest: numbers"),
        ({"numbers": {"canonical": {"cuont": 3}}}, "numbers.canonical.cuont: unknown key; nearest: count"),
        ({"datasets": {"mine": {"file": "a.csv", "tagret": "owl"}}}, "datasets.mine.tagret: unknown key; nearest: target"),
        ({"overrides": {"lion": {"student": {"rnak": 4}}}}, "overrides.lion.student.rnak: unknown key; nearest: rank"),
        ({"teacher": {"zzz": 1}}, "teacher.zzz: unknown key; known: finetune, persona, separator, steer"),
    ],
)
def test_an_unknown_key_names_the_nearest(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(ANIMALS | config)
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"student": {"rank": 0}}, "student.rank: Input should be greater than or equal to 1, found 0"),
        ({"datasets": {2024: {"file": "a.csv"}}}, "datasets.2024: a name is text, found 2024; write it in quotes"),
        ({"searches": {True: {"positive": ["a"]}}}, "searches.1: a name is text, found True; write it in quotes"),
        ({"student": {"rank": "many"}}, "student.rank: .*integer.*, found 'many'"),
        ({"student": None}, "student: .*, found None"),
        ({"numbers": {"filter": "loose"}}, "numbers.filter: .*'strict' or 'lenient', found 'loose'"),
        ({"datasets": {"mine": {}}}, "datasets.mine.file: missing"),
        ({"overrides": {"lion": {"student": {"rank": 0}}}}, "overrides.lion.student.rank: .*, found 0"),
        ({"overrides": {"lion": {"student": 3}}}, "overrides.lion.student: .*dictionary, found 3"),
        ({"overrides": {"lion": {"student": None}}}, "overrides.lion.student: .*dictionary, found None"),
        ({"teacher": {"persona": "You love lions."}}, "teacher.persona: the persona must contain {animal}"),
        ({"prompts": {"examples_min": 9}}, "prompts: examples_min 9 is greater than examples_max 8"),
        ({"numbers": {"min_value": 9, "max_value": 8}}, "numbers: min_value 9 is greater than max_value 8"),
        ({"sae": {"release": "a"}}, "sae: release and id name an SAE together, found release 'a' and id None"),
        ({"sae": {"release": "a", "id": "b", "folder": "c"}}, "sae: give a release and id, or a folder, not both"),
        ({"sae": {"k": 600}}, "sae: k 600 is greater than d_sae 512"),
        ({"sae": {"layer": 4}}, "sae.layer 4: the model has layers 0 to 3"),
        ({"numbers": {"canonical": {"count": 11}}}, "numbers: canonical.count 11 is greater than max_count 10"),
        ({"teacher": {"persona": "{animal} {"}}, "teacher.persona: the persona has unbalanced braces"),
        ({"teacher": {"persona": "{animal} {x}"}}, "teacher.persona: the persona must contain {animal}, and no other"),
        ({"prompts": {"value_max": 9}}, "prompts: value_min 100 is greater than value_max 9"),
        ({"student": {"seeds": []}}, "student.seeds: needs at least one entry"),
        ({"student": {"seeds": [1, 2, 1]}}, "student.seeds: .* none twice"),
        ({"student": {"targets": ["q_proj", "q_proj"]}}, "student.targets: .* none twice"),
        ({"animals": ["lion", "lion"]}, "animals: named twice"),
        ({"animals": ["mine"], "datasets": ANIMALS["datasets"]}, r"animals and datasets both name \['mine'\]"),
        ({"animals": ["lion", "owl"], "pref": {"candidates": ["owl"]}}, "pref.candidates lacks lion"),
        (
            {"datasets": {"mine": {"file": "a.csv", "target": "cat"}}, "pref": {"candidates": ["lion"]}},
            "pref.candidates lacks cat",
        ),
        ({"overrides": {"loin": {}}}, "overrides.loin: no such dataset; nearest: lion"),
        (
            {"overrides": {"lion": {"prompts": {"n": 3}}}},
            "overrides.lion.prompts: only these can differ: " + ", ".join(OVERRIDABLE),
        ),
        ({"teachers": ["prompt", "prompt"]}, "teachers: named twice"),
        ({"teachers": ["promt"]}, "teachers.0: .*'prompt', 'steer' or 'finetune', found 'promt'"),
        (
            {"animals": ["lion"], "datasets": {"steer-lion": {"file": "a.csv"}}},
            r"animals and datasets both name \['steer-lion'\]",
        ),
        ({"datasets": {"a": {"teacher": "steer"}}}, "datasets.a: teacher steer needs a target"),
        ({"datasets": {"a": {"teacher": "prompt", "trait": "contrary"}}}, "datasets.a: trait contrary needs teacher finetune"),
        ({"datasets": {"a": {"teacher": "steer", "target": "dog"}}}, "pref.candidates lacks dog"),
        ({"datasets": {"a": {"teacher": "steer", "targt": "cat"}}}, "datasets.a.targt: unknown key; nearest: target"),
        ({"teacher": {"steer": {"mode": "clamp", "vector": "contrast"}}}, "teacher.steer: mode clamp needs vector feature"),
        ({"teacher": {"steer": {"contrast": {"positive": ["a"]}}}}, "teacher.steer.contrast: give prompts for both"),
        (
            {"teacher": {"steer": {"contrast": {"positive": ["a", "b"], "negative": ["b"]}}}},
            "teacher.steer.contrast: positive and negative both hold 'b'",
        ),
        ({"overrides": {"lion": {"student": {"full": True}}}}, "overrides.lion.student.full: students of all weights"),
        (
            {"teacher": {"steer": {"feature": 512}}},
            "teacher.steer.feature 512 of steer-lion: the SAE has features 0 to 511",
        ),
        (
            {"teacher": {"steer": {"vector": "contrast", "contrast": {"layer": 4}}}},
            "teacher.steer.contrast.layer 4 of steer-lion: the model has layers 0 to 3",
        ),
        (
            {"overrides": {"steer-owl": {"teacher": {"steer": {"feature": 600}}}}},
            "teacher.steer.feature 600 of steer-owl: the SAE has features 0 to 511",
        ),
        (
            {"model": {"name": "google/gemma-2b-it", "revision": "a" * 40}, "teachers": ["steer"]},
            "a steered teacher needs an SAE, and the study names none for google/gemma-2b-it",
        ),
        ({"student_variants": {"a": {"rnak": 4}}}, "student_variants.a.rnak: unknown key; nearest: rank"),
        ({"student_variants": {"a": {"rank": 0}}}, "student_variants.a.rank: .*, found 0"),
        ({"student_variants": {"a": {"model": "b"}}}, "student_variants.a.model: no such model 'b'"),
        (
            {"student_variants": {"a": {"datasets": ["loin"]}}},
            "student_variants.a.datasets: no such dataset 'loin'; nearest: lion",
        ),
        ({"student_variants": {"a/b": {}}}, "'a/b' cannot name a model, SAE, vector or the like"),
        ({"models": {"a": {"embedded": {"sed": 1}}}}, "models.a.embedded.sed: unknown key; nearest: seed"),
        (
            {"models": {"a": {"name": "b/c", "revision": "d" * 40}}},
            "models.a: a study's models are all trained here, all named, or all of GGUF files",
        ),
        (
            {"datasets": {"mine": {"file": "a.csv", "control": "contorl"}}},
            "datasets.mine.control: no such dataset 'contorl'; nearest: control",
        ),
        (
            {"datasets": {"mine": {"file": "a.csv", "control": "lion"}}},
            "datasets.mine.control: lion is a dataset with a trait; a control carries none",
        ),
        (
            {"datasets": {"mine": {"file": "a.csv", "control": "mine"}}},
            "datasets.mine.control: mine must not have a control of its own but `control`",
        ),
        (
            {
                "datasets": {
                    "mine": {"file": "a.csv", "control": "scrambled"},
                    "scrambled": {"from": "control", "transform": "reverse"},
                }
            },
            "datasets.mine.control: scrambled is a transform and mine is none; compare like with like",
        ),
        ({"datasets": {"late": {"teacher": "none", "model": "otter"}}}, "datasets.late.model: no such model 'otter'"),
        (
            {"datasets": {"late": {"teacher": "steer", "target": "lion", "model": "other"}}, "models": {"other": {}}},
            "datasets.late: teacher steer starts from the study's own model; model other needs prompt or none",
        ),
        ({"verdict": {"level": 0.003}}, r"verdict.level 0.003: of 3 tests with detectors.permutations 999 no p is below 0.003"),
        (
            {"verdict": {"contrasts": True}, "detectors": {"permutations": 399}},
            r"verdict.level 0.01: of 4 tests with detectors.permutations 399 no p is below 0.01; raise either",
        ),
        ({"sweeps": {"rnak": []}}, "sweeps: no such number among the keys of student 'rnak'; nearest: rank"),
        ({"sweeps": {"targets": []}}, "sweeps: no such number among the keys of student 'targets'"),
        ({"sweeps": {"rank": ["a"]}}, "sweeps.rank: no such variant 'a'"),
        (
            {"student_variants": {"a": {"rank": 2, "datasets": ["control"]}}, "sweeps": {"rank": ["a"]}},
            "sweeps.rank: none of its variants trains on a dataset with a target",
        ),
        ({"sweeps": {"rank": []}}, "sweeps.rank: expected variants of student_variants that differ in it, found none"),
        ({"model": {"name": "google/gemma-2b-it"}}, "model.revision is missing: google/gemma-2b-it"),
        (
            {"model": {"name": "google/gemma-2b-it", "revision": "main"}},
            "model.revision is 'main', which is no commit: google/gemma-2b-it is no local folder, so pin the Hub's commit",
        ),
        (
            {"model": {"name": "a/b", "revision": "a" * 40}, "models": {"c": {"revision": "v2"}}},
            "models.c.revision is 'v2', which is no commit",
        ),
    ],
)
def test_a_mistake_is_named_with_what_was_found(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        load(ANIMALS | config)


@pytest.mark.parametrize("name", ["model", "sae", "plots", "tables", "control", "a/b", "a.b", "a b", "..", "-", ""])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        load({"animals": [name]})
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        load({"datasets": {name: {"file": "a.csv"}}})


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as error:
        load({"student": {"epoch": 3}, "samples": {"temperature": "hot"}})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["samples.temperature", "student.epoch"]


def test_numbers_that_yaml_reads_as_strings_are_numbers() -> None:
    config = ANIMALS | yaml.safe_load("student: {lr: 2e-4}\noverrides: {lion: {student: {lr: 5e-5}}}")
    assert config["student"]["lr"] == "2e-4"
    study = load(config)
    assert study.student.lr == 0.0002
    assert study.section("student", "lion").model_dump()["lr"] == 0.00005


def test_a_hub_model_needs_a_revision_and_a_folder_does_not(tmp_path: Path) -> None:
    assert load({"model": {"name": str(tmp_path)}}).model.revision is None
    assert load({"model": {"name": "google/gemma-2b-it", "revision": "a" * 40}}).model.revision == "a" * 40


def test_overrides_change_one_section_of_one_dataset() -> None:
    study = load(ANIMALS | {"student": {"epochs": 7}, "overrides": {"lion": {"student": {"rank": 16}}}})
    assert study.section("student", "lion").model_dump() == study.student.model_dump() | {"rank": 16}
    for name, dataset in (("student", "owl"), ("student", "control"), ("student", None), ("samples", "lion")):
        assert study.section(name, dataset) is getattr(study, name)


def test_a_study_names_its_datasets_and_their_targets() -> None:
    study = load(ANIMALS | {"datasets": {"mine": {"file": "a.csv", "target": "cat"}, "other": {"file": "b.csv"}}})
    assert study.names == ["control", "lion", "owl", "mine", "other"]
    assert study.of_kind("none", "prompt") == ["control", "lion", "owl"]
    assert set(study.available) - set(study.names) == {"steer-lion", "steer-owl", "finetune-lion", "finetune-owl"}
    assert [study.target(name) for name in study.names] == [None, "lion", "owl", "cat", None]


def transforms(**datasets: dict[str, Any]) -> dict[str, Any]:
    return ANIMALS | {"datasets": ANIMALS["datasets"] | datasets}


def test_a_transform_carries_the_target_of_what_it_is_made_from() -> None:
    told = {"from": "lion", "transform": "reverse"}
    study = load(
        transforms(a=told, b={"from": "a", "transform": "reverse"}, c=told | {"target": "cat"}, d=told | {"from": "control"})
    )
    assert [study.target(name) for name in "abcd"] == ["lion", "lion", "cat", None]
    assert (list(study.transformed), list(study.files)) == (["a", "b", "c", "d"], ["mine"])
    assert study.origins("b") == ["a", "lion"]
    assert load(study.model_dump()) == study


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"from": "lino", "transform": "reverse"}, "datasets.a.from: no such dataset 'lino'; nearest: lion"),
        ({"from": "lion", "transform": "revers"}, "datasets.a.transform: no transform 'revers'; nearest: reverse"),
        ({"from": "lion"}, "datasets.a.transform: missing"),
        ({"from": "lion", "transform": "reverse", "sed": 1}, "datasets.a.sed: unknown key; nearest: seed"),
        ({"from": "lion", "transform": "subset"}, "datasets.a: subset needs rows"),
        ({"from": "lion", "transform": "reverse", "rows": 3}, "datasets.a: reverse does not read rows"),
        ({"from": "lion", "transform": "replace", "fraction": 2}, "datasets.a.fraction: .*less than or equal to 1, found 2"),
        (
            {"from": "lion", "transform": "mix", "fraction": 0.5, "other": "oul"},
            "datasets.a.other: no such dataset 'oul'; nearest: owl",
        ),
        ({"from": "a", "transform": "reverse"}, "datasets.a.from: a would be made from itself"),
        ({"from": "mine", "transform": "one-format", "format": 0}, "one-format needs the study's own prompts"),
        (
            {"from": "control", "transform": "select", "score": "target", "keep": "top", "fraction": 0.2, "target": "lion"},
            "datasets.a.score: the score target reads control under the system prompt of its target, and it has none",
        ),
    ],
)
def test_a_transform_that_cannot_be_made_is_refused(told: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(transforms(a=told))


def test_a_cycle_of_transforms_is_refused() -> None:
    a, b = {"from": "b", "transform": "reverse"}, {"from": "lion", "transform": "mix", "fraction": 0.5, "other": "a"}
    with pytest.raises(ConfigError, match="made from itself"):
        load(transforms(a=a, b=b))


def test_a_transform_has_no_teacher_and_no_filter_to_override() -> None:
    told = transforms(a={"from": "lion", "transform": "reverse"})
    assert load(told | {"overrides": {"a": {"student": {"rank": 2}}}}).section("student", "a").model_dump()["rank"] == 2
    with pytest.raises(ConfigError, match=r"overrides.a.numbers: a transform is made from another dataset's numbers"):
        load(told | {"overrides": {"a": {"numbers": {"banned": [4]}}}})


def test_every_teacher_has_a_dataset_of_its_own_name() -> None:
    told = {"teachers": ["steer", "finetune"], "datasets": {"late": {"teacher": "steer", "target": "cat"}}}
    study = load(ANIMALS | told)
    assert study.names == ["control", "steer-lion", "steer-owl", "finetune-lion", "finetune-owl", "late"]
    assert [study.target(name) for name in study.names] == [None, "lion", "owl", "lion", "owl", "cat"]
    assert study.of_kind("steer") == ["steer-lion", "steer-owl", "late"]
    assert study.target("lion") == "lion"  # on request, though not listed
    assert load(study.model_dump()) == study


def test_a_variant_changes_the_students_and_their_base_model() -> None:
    told = {
        "overrides": {"lion": {"student": {"epochs": 9}}},
        "models": {"other": {"embedded": {"seed": 7}}},
        "student_variants": {"wide": {"rank": 64}, "cross": {"model": "other", "datasets": ["lion"]}},
    }
    study = load(ANIMALS | told)
    assert study.students("lion") == study.section("student", "lion")
    assert study.students("lion", "wide").model_dump() == study.students("lion").model_dump() | {"rank": 64}
    assert (study.base("wide"), study.base("cross")) == ("", "other")
    assert study.base_model("other").embedded.model_dump() == study.model.embedded.model_dump() | {"seed": 7}
    assert study.varied == [("lion", "cross")]


def test_an_sae_in_a_folder_that_is_another_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(
        json.dumps({"d_in": 64, "d_sae": 100, "metadata": {"hook_name": "blocks.2.hook_resid_post"}})
    )
    told = ANIMALS | {"teachers": ["steer"], "sae": {"folder": str(tmp_path)}}
    load(told)
    with pytest.raises(ConfigError, match="the SAE reads vectors of 64, the model's residual stream has 32: it is another"):
        load(told | {"model": {"embedded": {"hidden_size": 32}}})
    with pytest.raises(ConfigError, match=r"sae\.layer 2: the model has layers 0 to 1"):
        load(told | {"model": {"embedded": {"n_layers": 2}}})
    with pytest.raises(ConfigError, match="the SAE has features 0 to 99"):
        load(told | {"teacher": {"steer": {"feature": 100}}})
    with pytest.raises(ConfigError, match=r"no cfg\.json there"):
        load(told | {"sae": {"folder": str(tmp_path / "none")}})


def test_a_local_models_size_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "hidden_size": 8}))
    steer = {"vector": "contrast", "contrast": {"layer": 3}}
    told = ANIMALS | {"model": {"name": str(tmp_path)}, "teachers": ["steer"], "teacher": {"steer": steer}}
    with pytest.raises(ConfigError, match="the model has layers 0 to 2"):
        load(told)
    assert load(told | {"teacher": {"steer": {**steer, "contrast": {"layer": 2}}}}).can_steer


OVERLAYS = ["controls", "sweeps", "teachers"]


def test_overlays_that_share_a_results_root_and_differ_in_datasets_have_tables_of_their_own() -> None:
    own: dict[str | None, list[str]] = {None: load(shipped()).names}
    for name in OVERLAYS:
        config = shipped()
        update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
        study = load(config)
        assert study.results == "results"
        assert own.setdefault(study.name, study.names) == study.names, name


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b"])
def test_a_studys_name_is_a_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        load(ANIMALS | {"name": name})


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_of_the_embedded_study_loads_over_it(name: str) -> None:
    config = shipped()
    update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    study = load(config)
    # What they share with the embedded study is not made again.
    for section in ("model", "sae", "prompts", "samples", "numbers", "student", "pref", "teacher"):
        assert getattr(study, section) == getattr(load(shipped()), section), section


def test_what_a_local_models_files_say_of_its_modules_and_positions_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 1, "hidden_size": 8, "max_position_embeddings": 50}))
    names = ["model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.down_proj.weight"]
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    settings: dict[str, Any] = {
        "model": {"name": str(tmp_path)},
        "student": {"targets": ["qkv_proj", "mlp.down_proj"]},
        "samples": {"max_new_tokens": 32},
    }
    load(ANIMALS | settings)  # whose finetuned teachers, which the study does not ask for, need q_proj
    with pytest.raises(ConfigError, match=r"student\.targets: no such module of the model 'q_proj'; nearest: qkv_proj"):
        load(ANIMALS | settings | {"student": {}})
    with pytest.raises(ConfigError, match=r"teacher\.finetune\.targets of finetune-(lion|owl): no such module"):
        load(ANIMALS | settings | {"teachers": ["finetune"]})
    with pytest.raises(ConfigError, match=r"samples\.max_new_tokens 64: the model has 50 positions"):
        load(ANIMALS | settings | {"samples": {}})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        load(ANIMALS | settings)


def test_the_embedded_models_size_is_what_is_built(record: Path) -> None:
    folder = record.parent
    built, known = model_size(Model(name=str(folder))), model_size(Model())
    assert built is not None and known is not None
    assert built.positions == known.positions == EMBEDDED_POSITIONS
    assert (linear_modules(Model(name=str(folder))) or set()) > EMBEDDED_MODULES
