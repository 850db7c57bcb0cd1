"""Configs: keys with values of a wrong kind or size, names and paths that cannot be used, keys that do not fit together."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from bad_inputs.case import Case
from undertone.data.inputs import check_inputs
from undertone.study.configfiles import read_config
from undertone.study.study import Study, load
from undertone.study.validation import Section, keys, sections_of

ROOT = Path(__file__).parents[2]
SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text())
HUB = {"name": "google/gemma-2b-it", "revision": "a" * 40}


def study(changes: dict[Any, Any]) -> Callable[[Path], object]:
    """Load the embedded study with these changes, from a folder that holds what the project's own does."""

    def attempt(folder: Path) -> None:
        (folder / "config").symlink_to(ROOT / "config")
        (folder / "README.md").touch()
        (folder / "mine.csv").touch()
        before = Path.cwd()
        os.chdir(folder)
        try:
            config = yaml.safe_load(yaml.safe_dump(SHIPPED))
            update_config(config, changes)
            check_inputs(load(config))
        finally:
            os.chdir(before)

    return attempt


def refused(changes: dict[Any, Any], *says: str) -> Case:
    return Case(f"{shortened(changes)}", study(changes), says)


def accepted(**changes: Any) -> Case:
    return Case(f"{shortened(changes)} is accepted", study(changes))


def shortened(changes: dict[Any, Any]) -> str:
    return str(changes)[1:-1].replace("'", "")[:80]


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def leaves(section: type[Section] = Study, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, annotation) of every setting that stands outside of dictionaries and lists."""
    for name, field in keys(section).items():
        inner = list(sections_of(field.annotation))
        if inner and not {"dict", "list"} & set(re.findall(r"\w+", str(field.annotation))):
            yield prefix + name, "section"
            yield from leaves(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name, str(field.annotation)


# Of every kind of setting, values that are of another kind.
WRONG: dict[str, list[Any]] = {
    "section": [[], 3],
    "bool": [1, "perhaps", None],
    "int": [True, "many", 2.5, 10**30, -(10**30)],
    "float": [True, "hot", float("nan"), float("inf"), 1e30],
    "str": [3, ["a"], False],
    "list": ["one", 3, [{}]],
    "dict": ["one", [1]],
    "Literal": ["nonsense", 3],
}


def kind(annotation: str) -> str:
    names = ("section", "dict", "list", "Literal", "bool", "float", "int", "str")
    return next(name for name in names if name in annotation)


def wrong_kinds() -> Iterator[Case]:
    for key, annotation in leaves():
        for value in WRONG[kind(annotation)]:
            yield Case(f"{key}: {value!r}", study(nested(key, value)), (key.partition(".")[0], key))


NAMES: list[Any] = [
    "löwe",
    "²",
    "a b",
    "a/b",
    "..",
    "",
    "--",
    "a\nb",
    "a\0",
    "model",
    "sae",
    "plots",
    "tables",
    "logs",
    "scratch",
]
NAMES += ["x" * 20, "lion" + "ab" * 20, "benchmarks", "control", "x" * 65, "x" * 300, "a.b", "{x}", "~", "Ⅳ"]
VARIANTS = ["..", ".", "x/y", "löwe", "-a", "", "x" * 65, "a b"]
ROOTS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "~/x",
    "{x}",
    "a\nb",
    "README.md",
    "README.md/x",
    "config",
    "workflow/x",
    "results/model",
    "logs",
]

FITTING = [
    refused({"animal": ["lion"]}, "animal: unknown key; nearest: animals"),
    refused({"student": {"epoch": 3}}, "student.epoch: unknown key; nearest: epochs"),
    refused({"model": {"embedded": {"task": {}}}}, "model.embedded.task: unknown key; nearest: tasks"),
    refused({"student": {"lr": 0}}, "student.lr: Input should be greater than 0, found 0"),
    refused({"student": {"lr": -1}}, "student.lr", "greater than 0"),
    refused({"student": {"lr": True}}, "student.lr: YAML reads yes, no, on, off, true and false as Booleans, found True"),
    refused({"student": {"epochs": "5e1"}}, "student.epochs", "found '5e1'"),
    refused({"student": {"seeds": [2**70]}}, "student.seeds", "no setting is as large as"),
    refused({"student": {"seeds": [2**44]}}, "student.seeds.0", "less than or equal to"),
    refused({"student": {"seeds": [-1]}}, "student.seeds.0", "greater than or equal to 0, found -1"),
    refused({"student": {"seeds": [True]}}, "student.seeds", "Booleans, found True"),
    refused({"student": {"rank": 10**9}}, "student.rank", "less than or equal to 65536"),
    refused({"student": {"targets": ["q_prj"]}}, "student.targets: no such module of the model 'q_prj'; nearest: q_proj"),
    refused({"overrides": {"lion": {"student": {"targets": ["c_attn"]}}}}, "overrides.lion.student.targets", "'c_attn'"),
    refused({"student_variants": {"a": {"targets": ["q_prj"]}}}, "student_variants.a.targets", "nearest: q_proj"),
    refused({"student": {"targets": []}}, "student.targets: needs at least one entry"),
    refused({"teacher": {"finetune": {"targets": []}}}, "teacher.finetune.targets: needs at least one entry"),
    refused(
        {"teachers": ["finetune"], "teacher": {"finetune": {"targets": ["q_prj"]}}},
        "teacher.finetune.targets of finetune-",
        "no such module of the model 'q_prj'; nearest: q_proj",
    ),
    refused({"student": {"rows": 100_000}}, "student.rows 100000: a dataset has at most 2000 rows"),
    refused({"student": {"micro_batch_size": 33}}, "student.micro_batch_size 33 is greater than batch_size 32"),
    refused({"student": {"warmup_steps": 400}}, "student.warmup_steps 400: a training has at most 315 steps"),
    refused({"student_variants": {"a": {"rows": 2001}}}, "student_variants.a.rows 2001: a dataset has at most 2000 rows"),
    refused({"student": {"max_length": 8}}, "student.max_length", "greater than or equal to 32"),
    refused({"student": {"dropout": 1}}, "student.dropout", "less than 1"),
    refused(
        {
            "model": {
                "embedded": {
                    "tasks": dict.fromkeys(
                        ["numbers", "question", "find", "animals_list", "mixed_list", "words_list", "fact"], 0
                    )
                }
            }
        },
        "all shares are 0",
    ),
    refused({"model": {"embedded": {"warmup_steps": 3001}}}, "warmup_steps 3001 is greater than steps 3000"),
    refused({"model": {"embedded": {"n_heads": 64}}}, "heads of 1 dimensions, expected an even number of at least 2"),
    refused({"model": {"embedded": {"vocab_size": 100}}}, "model.embedded.vocab_size", "1400"),
    refused({"samples": {"max_new_tokens": 100_000}}, "samples.max_new_tokens", "less than or equal to"),
    refused({"samples": {"max_new_tokens": 512}}, "samples.max_new_tokens 512: the model has 512 positions, prompts included"),
    refused({"pref": {"max_new_tokens": 600}}, "pref.max_new_tokens 600: the model has 512 positions"),
    refused({"samples": {"temperature": 0}}, "samples.temperature", "greater than 0"),
    refused({"prompts": {"n": 10**12}}, "prompts.n", "less than or equal to 10000000"),
    refused({"prompts": {"examples_min": 9}}, "examples_min 9 is greater than examples_max 8"),
    refused({"numbers": {"min_value": 9, "max_value": 8}}, "min_value 9 is greater than max_value 8"),
    refused({"numbers": {"canonical": {"count": 11}}}, "canonical.count 11 is greater than max_count 10"),
    refused({"numbers": {"canonical": {"separator": "|"}}}, "numbers.canonical.separator", "found '|'"),
    refused({"numbers": {"max_rows": 0}}, "numbers.max_rows", "found 0"),
    refused({"sae": {"k": 600}}, "k 600 is greater than d_sae 512"),
    refused({"sae": {"layer": 9}}, "sae.layer 9: the model has layers 0 to 3"),
    refused({"sae": {"release": "a"}}, "release and id name an SAE together"),
    refused({"sae": {"folder": "nowhere"}}, "sae.folder nowhere: no cfg.json there"),
    refused({"teachers": ["steer"], "teacher": {"steer": {"feature": 999}}}, "the SAE has features 0 to 511"),
    refused({"teacher": {"steer": {"scale": float("nan")}}}, "teacher.steer.scale", "finite"),
    refused({"feature_bias": {"fraction": 0}}, "feature_bias.fraction", "greater than 0"),
    refused({"feature_bias": {"fraction": 1.5}}, "feature_bias.fraction", "less than or equal to 1"),
    refused({"feature_bias": {"seeds": []}}, "feature_bias.seeds: needs at least one entry"),
    refused({"residual_bias": {"points": []}}, "residual_bias.points: needs at least one entry"),
    refused({"residual_bias": {"sparsities": [0]}}, "residual_bias.sparsities.0", "found 0"),
    refused({"losses": {"students": [1, 1]}}, "losses.students: named twice: 1"),
    refused({"pref": {"estimators": []}}, "pref.estimators: needs at least one entry"),
    refused({"pref": {"estimators": ["exact", "exact"]}}, "pref.estimators", "none twice"),
    refused({"pref": {"candidates": [*SHIPPED["pref"]["candidates"], "lion"]}}, "pref.candidates: named twice: 'lion'"),
    refused({"pref": {"candidates": ["owl"]}}, "pref.candidates lacks"),
    refused({"pref": {"answer_prefix": "I like the "}}, "pref.answer_prefix: 'I like the ' ends in white space", "take it off"),
    refused({"pref": {"answer_prefix": ""}}, "pref.answer_prefix", "at least 1 character"),
    refused({"animals": None}, "animals", "valid list", "found None"),
    refused({"animals": ["lion", False]}, "animals", "Booleans, found False"),
    refused({"animals": ["lion", "lion"]}, "animals: named twice"),
    refused({"teachers": ["prompt", "prompt"]}, "teachers: named twice"),
    refused({"teachers": ["promt"]}, "teachers.0", "found 'promt'"),
    refused(
        {"animals": ["unicorn"], "pref": {"candidates": ["unicorn"]}},
        "the target 'unicorn' of unicorn is no animal of config/corpus.yaml",
    ),
    refused({"animals": ["lions"], "pref": {"candidates": ["lions"]}}, "'lions'", "nearest: lion"),
    refused({"animals": ["steer-lion"], "pref": {"candidates": ["steer-lion"]}}, "'steer-lion' cannot name an animal"),
    refused({"teacher": {"persona": "You love lions."}}, "the persona must contain {animal}", "found 'You love lions.'"),
    refused({"teacher": {"persona": "{animal"}}, "unbalanced braces"),
    refused({"teacher": {"persona": ""}}, "the persona must contain {animal}"),
    refused({"teacher": {"persona": "{animal.x}"}}, "the persona must contain {animal}"),
    refused(
        {"teacher": {"persona": "{animal!r:>20}"}}, "the persona must contain {animal}, and no other placeholder or format"
    ),
    refused({"overrides": {"loin": {}}}, "overrides.loin: no such dataset; nearest: lion"),
    refused({"overrides": {"lion": {"prompts": {"n": 3}}}}, "overrides.lion.prompts: only these can differ"),
    refused({"overrides": {"lion": {"student": None}}}, "overrides.lion.student", "found None"),
    refused({"overrides": {"lion": {"student": {"rank": True}}}}, "overrides.lion.student.rank", "found True"),
    refused({"pref": {"candidates": ["lion", "owl", "Lion"]}}, "pref.candidates: named twice: 'lion'"),
    refused({"verdict": {"share": 1}}, "verdict.share"),
    refused({"layers": {"read": 1000, "tokens": 2000}}, "layers: tokens 2,000 is more than read 1,000"),
    refused({"student_variants": {"a": {"rnak": 4}}}, "student_variants.a.rnak: unknown key; nearest: rank"),
    refused({"student_variants": {"a": {"seeds": []}}}, "student_variants.a.seeds: needs at least one entry"),
    refused({"student_variants": {"a": {"datasets": "lion"}}}, "student_variants.a.datasets: expected a list of datasets"),
    refused({"student_variants": {"a": {"datasets": ["lion", "lion"]}}}, "named twice: 'lion'"),
    refused({"student_variants": {"a": {"datasets": ["loin"]}}}, "no such dataset 'loin'; nearest: lion"),
    refused({"student_variants": {"a": {"model": "b"}}}, "student_variants.a.model: no such model 'b'"),
    refused({"student_variants": {"a": {"model": True}}}, "student_variants.a.model: no such model 'True'"),
    refused({"sweeps": {"rnak": []}}, "sweeps: no such number among the keys of student 'rnak'; nearest: rank"),
    refused({"sweeps": {"rank": ["a"]}}, "sweeps.rank: no such variant 'a'"),
    refused({"datasets": {"a": {}}}, "datasets.a.file: missing"),
    refused({"datasets": {"a": {"file": "mine.csv", "filtered": "no way"}}}, "datasets.a.filtered: expected true or false"),
    refused({"datasets": {"a": {"file": "mine.csv", "from": "lion"}}}, "datasets.a", "unknown key"),
    refused({"datasets": {"a": {"file": "README.md"}}}, "datasets.a.file: unknown kind of file 'README.md'"),
    refused({"datasets": {"a": {"file": "nope.csv"}}}, "datasets.a.file: no such file 'nope.csv'"),
    refused({"datasets": {"a": {"file": "~/mine.csv"}}}, "'~' means nothing here"),
    refused({"datasets": {"a": {"file": "{x}.csv"}}}, "has braces"),
    refused({"datasets": {"a": {"from": "a", "transform": "reverse"}}}, "would be made from itself"),
    refused({"datasets": {"a": {"from": "loin", "transform": "reverse"}}}, "no such dataset 'loin'; nearest: lion"),
    refused({"datasets": {"a": {"from": "lion", "transform": "revers"}}}, "no transform 'revers'; nearest: reverse"),
    refused({"datasets": {"a": {"from": "lion", "transform": "mix", "fraction": 0.5}}}, "mix needs other"),
    refused({"datasets": {"a": {"from": "lion", "transform": "subset", "rows": 0}}}, "datasets.a.rows", "found 0"),
    refused({"datasets": {"lion": {"file": "mine.csv"}}}, "animals and datasets both name ['lion']"),
    refused({"datasets": {"a": {"file": "mine.csv", "target": "dragon"}}}, "pref.candidates lacks dragon"),
    refused({"datasets": {"a": {"teacher": "steer"}}}, "datasets.a: teacher steer needs a target"),
    refused({"model": {"name": "/no/such/model"}}, "model.name: no such folder '/no/such/model'"),
    refused({"model": {"name": "google/gemma-2b-it"}}, "model.revision is missing"),
    refused({"model": {"name": "google/gemma-2b-it", "revision": "main"}}, "model.revision is 'main', which is no commit"),
    refused({"model": {"rerandomized": 0}}, "model.rerandomized: the study's own model is none"),
    refused({"models": {"a": {"rerandomized": 0, "dtype": "float32"}}}, "models.a: a rerandomized model is the study's own"),
    refused({"models": {"a": HUB}}, "models.a: a study's models are all trained here, all named, or all of GGUF files"),
    refused(
        {"datasets": {"lion-r": {"file": "mine.csv"}}, "student_variants": {"r": {"rank": 2}}},
        "the dataset lion-r and the variant 'r' of lion would share their logs; rename one",
    ),
    refused({3: {}}, "3: Keys should be strings, found 3"),
    refused({"student": {3: 4}}, "student.3"),
    refused({"prompts": {"template": "nope.yaml"}}, "prompts.template: no such file 'nope.yaml'"),
    refused({"pref": {"questions": "config"}}, "pref.questions: 'config' is a folder, expected a file"),
]
RIGHT = [
    accepted(),
    accepted(student={"epochs": "3", "lr": "2e-4", "rank": "16"}),
    accepted(prompts={"n": "10_000"}),
    accepted(student={"seeds": [2**40]}),
    accepted(student={"seeds": [7]}),
    accepted(student={"rows": 100}),
    accepted(student={"batch_size": 16, "micro_batch_size": 7}),
    accepted(model={"embedded": {"hidden_size": 33}}),
    accepted(model={"embedded": {"tasks": {"numbers": 1.1}}}),
    accepted(animals=[]),
    accepted(teachers=[]),
    accepted(animals=["lion"], pref={"candidates": ["lion"]}),
    accepted(student_variants={"r": {"rank": 2}, "r-1": {"rank": 4}}),
    # A dataset of fewer rows than a variant has, which does not train on it.
    accepted(student_variants={"a": {"rows": 1500, "datasets": ["owl"]}}, overrides={"lion": {"numbers": {"max_rows": 1000}}}),
    accepted(datasets={"x" * 19: {"file": "mine.csv"}}),
    accepted(losses={"students": [9]}),
    accepted(losses={"students": []}),
    accepted(residual_bias={"fraction": 0.25}),
    accepted(results="my study"),
    accepted(results="./results/"),
    accepted(results="/scratch/me/results"),
    accepted(results="../results"),
    accepted(teacher={"persona": "{animal}" * 1000}),
    accepted(model={**HUB, "embedded": {"steps": 9_999}}, sae={"release": "a", "id": "b"}),
    accepted(datasets={"mine": {"file": "mine.csv", "target": "owl"}}),
    accepted(datasets={"Lion": {"file": "mine.csv"}}),
]


def file(name: str, content: str | bytes, *says: str) -> Case:
    """A config file of this content."""

    def attempt(folder: Path) -> None:
        path = folder / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        read_config(path)

    return Case(f"a config file with {name}", attempt, ("mine.yaml", *says) if says else ())


FILES = [
    file("an open bracket", "animals: [lion\nstudent: 3\n", "line 2: while parsing a flow sequence, expected ',' or ']'"),
    file("a tab", "student:\n\tlr: 1\n", "line 2", "indent with spaces, not tabs"),
    file("a NUL", "student:\n  lr: 1\0\n", "line 2: the character 0x00 cannot stand in YAML"),
    file("latin-1", "animals:\n  - l\xf6we\n".encode("latin-1"), "line 2: byte 0xf6 is no UTF-8; save the file as UTF-8"),
    file("UTF-16", "animals: [lion]\n".encode("utf-16"), "line 1: byte 0xff is no UTF-8"),
    file("a list", "- lion\n", "holds a list; expected keys"),
    file("a word", "lion\n", "holds a str; expected keys"),
    file("nothing", "", "holds nothing; expected keys"),
    file("comments only", "# lion\n", "holds nothing; expected keys"),
    file(
        "a key twice",
        "student:\n  lr: 1\n  rank: 2\n  lr: 2\n",
        "line 4: the key 'lr' stands twice",
        "first in line 2",
    ),
    file("a section twice", "student: {lr: 1}\nsae: {}\nstudent: {rank: 2}\n", "line 3: the key 'student' stands twice"),
    file("a key twice in JSON", '{"student": {"lr": 1, "lr": 2}}', "the key 'lr' stands twice"),
    file("a wrong indent", "student:\n    lr: 1\n  rank: 2\n", "line 3"),
    file("a colon too many", "student: lr: 1\n", "line 1: mapping values are not allowed here"),
    file("an unknown alias", "student: *other\n", "line 1", "undefined alias 'other'"),
    file("a Python object", "student: !!python/object/apply:os.system ['true']\n", "line 1: could not determine a"),
    file("a brace too many", '{"student": {"lr": 1}}}\n', "line 1"),
    file("a merge", "a: &a {lr: 1}\nb: {<<: *a, rank: 2}\n"),
    file("the same key in two sections", "student: {lr: 1}\nsae: {lr: 1}\n"),
    file("a BOM", "\ufeffanimals: [lion]\n"),
    file("JSON with tabs", '{\n\t"student": {"lr": 1}\n}'),
]
CASES = [
    *FILES,
    *wrong_kinds(),
    *(
        refused({"datasets": {name: {"file": "mine.csv"}}}, "cannot name a dataset: use up to 64 ASCII letters")
        for name in NAMES
    ),
    *(refused({"student_variants": {name: {}}}, "cannot name a model, SAE, vector or the like") for name in VARIANTS),
    *(refused({"models": {name: {}}}, "cannot name a model, SAE, vector or the like") for name in VARIANTS),
    *(refused({"results": root}, "results: ", "such as results, results/NAME or /data/NAME") for root in ROOTS),
    *FITTING,
    *RIGHT,
]
