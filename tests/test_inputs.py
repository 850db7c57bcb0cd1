"""The files that a config names: all of them are looked for, and one that is gone is refused whatever was made of it."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import download
from snakemake.utils import update_config

from undertone.data.datasets import READERS
from undertone.data.inputs import check_contents, check_inputs, inputs
from undertone.models.tokenizer import SPECIAL
from undertone.runtime.errors import ConfigError
from undertone.study.config.entries import DATASET_FILES
from undertone.study.config.models import Model
from undertone.study.sizes import EMBEDDED_SPECIAL, special_tokens
from undertone.study.study import load
from workflow import Project

ROOT = Path(__file__).parents[1]


def study(**changes: Any):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(config, changes)
    return load(config)


@pytest.fixture
def beside_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def shipped(name: str) -> dict[str, Any]:
    """What a shipped overlay says, on top of the one that it says it is used on top of."""
    text = (ROOT / f"config/{name}.yaml").read_text()
    below = re.search(r"used on top of ([\w-]+)\.yaml", text)
    changes = shipped(below[1]) if below else {}
    update_config(changes, yaml.safe_load(text))
    return changes


# The corpus is no overlay, and the text of SmolLM2's SAE is fetched by a script.
NO_STUDIES = ("corpus", "smollm2-sae", "smollm2-pairs", "smollm2-vectors")


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem not in NO_STUDIES])
def test_every_file_of_the_shipped_studies_is_there(name: str) -> None:
    told = study(**shipped(name))
    check_inputs(told)
    check_contents(told)


@pytest.mark.usefixtures("beside_the_config")
def test_text_that_a_script_fetches_is_asked_for_by_name() -> None:
    changes = shipped("smollm2-sae")
    for source in changes["sae"]["text"]:
        source["file"] = source["file"].replace("data/", "not-there/")
    told = study(**changes)
    with pytest.raises(ConfigError) as error:
        check_inputs(told)
    script = (ROOT / "docs/scripts/english.py").read_text()
    missing = [Path(path).stem for path in re.findall(r"no such file '(.*?)'", str(error.value))]
    assert missing == [Path(str(source.file)).stem for source in told.sae.text]
    assert all(f'"{name}": ' in script for name in missing)


def test_every_setting_that_is_a_path_is_looked_for() -> None:
    keys = {key for key, _ in inputs(study(datasets={"mine": {"file": "a.csv"}}, models={"other": {"embedded": {"seed": 3}}}))}
    assert keys == {
        "model.embedded.corpus",
        "models.other.embedded.corpus",
        "teacher.finetune.questions",
        "prompts.template",
        "pref.questions",
        "personas.bank",
        "prompt_search.grammar",
        "specificity.concepts",
        "completeness.names",
        "indirect.forms",
        "indirect.facts",
        "differences.neutral",
        "datasets.mine.file",
    }


MISSING = {
    "sae.text.1.file": {
        "model": {"name": "a/b", "revision": "a" * 40},
        "sae": {"text": [{"samples": "control"}, {"file": "nope.jsonl"}]},
    },
    "hierarchies.mine.file": {"hierarchies": {"mine": {"file": "nope.yaml"}}},
    "datasets.mine.file": {"datasets": {"mine": {"file": "nope.csv"}}},
    "prompts.template": {"prompts": {"template": "config/prompts/number.yaml"}},
    "model.embedded.corpus": {"model": {"embedded": {"corpus": "nope.yaml"}}},
    "models.other.embedded.corpus": {"models": {"other": {"embedded": {"corpus": "nope.yaml"}}}},
    "pref.questions": {"pref": {"questions": "nope.txt"}},
    "indirect.facts": {"indirect": {"facts": "nope.txt"}},
    "indirect.forms": {"indirect": {"forms": "nope.yaml"}},
    "differences.neutral": {"differences": {"neutral": "nope.txt"}},
    "completeness.names": {"completeness": {"names": "nope.yaml"}},
    "specificity.concepts": {"specificity": {"concepts": "nope.yaml"}},
    "teacher.finetune.questions": {"teacher": {"finetune": {"questions": "nope.txt"}}},
    "overrides.lion.teacher.finetune.questions": {
        "overrides": {"lion": {"teacher": {"finetune": {"questions": "nope.txt"}}}},
    },
}


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize("key", MISSING)
def test_a_missing_file_is_named_with_its_key(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_inputs(study(**MISSING[key]))
    assert str(error.value).startswith(f"{key}: no such file '")
    assert len(str(error.value).splitlines()) == 1
    assert ("nearest: config/prompts/numbers.yaml" in str(error.value)) == (key == "prompts.template")


@pytest.mark.usefixtures("beside_the_config")
def test_the_corpus_of_no_embedded_model_is_not_asked_for() -> None:
    model = {"name": "a/b", "revision": "a" * 40, "embedded": {"corpus": "nope.yaml"}}
    check_inputs(study(model=model))


@pytest.mark.usefixtures("beside_the_config")
def test_the_weights_of_an_sae_in_a_folder_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text('{"d_in": 64, "d_sae": 100}')
    with pytest.raises(ConfigError, match=r"^sae\.folder: no such file '.*/sae_weights\.safetensors'"):
        check_inputs(study(sae={"folder": str(tmp_path)}))


@pytest.mark.usefixtures("beside_the_config")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "{x}.csv").touch()
    names = {"folder": "is a folder, expected a file", "pipe": "is a device or pipe", "{x}": "has braces"}
    for name, complaint in {**names, "~/mine.csv": "'~' means nothing here"}.items():
        with pytest.raises(ConfigError, match=complaint):
            check_inputs(study(datasets={"mine": {"file": name if name[0] == "~" else str(tmp_path / f"{name}.csv")}}))


def test_a_dataset_of_an_unknown_kind_is_refused_before_it_is_read() -> None:
    assert tuple(READERS) == DATASET_FILES
    with pytest.raises(ConfigError, match=r"^datasets\.mine\.file: unknown kind of file 'README\.md'; expected one of \.jsonl"):
        study(datasets={"mine": {"file": "README.md"}})


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "../model", "~/model", "a/b/c"])
def test_a_model_that_can_only_be_a_folder_is_told_that_it_is_missing(name: str) -> None:
    for told in ({"name": name}, {"name": name, "revision": "a" * 40}):
        with pytest.raises(ConfigError, match=f"^model.name: no such folder '{name}'"):
            study(model=told)


BROKEN = {
    "datasets.mine.file": ("csv", "prompt,completion\na,1,2\n", "mine.csv: line 2 has 3 fields"),
    "prompts.template": ("yaml", "example: [1]\n", "expected exactly the components"),
    "model.embedded.corpus": ("yaml", "things: [\n", "model.embedded.corpus: cannot read"),
    "models.other.embedded.corpus": (
        "yaml",
        (ROOT / "config/corpus.yaml").read_text().replace("small_talk:", "talk:"),
        "no chat can be drawn from",
    ),
    "personas.bank": ("yaml", "wordings: {a: You love lions.}\ndecoys: []\n", "expected a text with {x}"),
    "prompt_search.grammar": ("yaml", "sentences: []\n", "expected the keys sentences and words"),
    "hierarchies.a.file": ("yaml", "animals: [cat, dog\n", "hierarchies.a.file: cannot read"),
    "specificity.concepts": ("yaml", "a: {words: [cat]}\na: {words: [dog]}\n", "'a' stands there twice"),
    "pref.questions": ("txt", "Which?\nWhich?\n", "pref.questions: "),
    "teacher.finetune.questions": ("txt", "# none\n", "teacher.finetune.questions: "),
    "indirect.facts": ("txt", "Which one barks?\n", "indirect.facts: "),
    "indirect.forms": ("yaml", "choice: ['{foo}']\n", "indirect.forms: choice of"),
    "differences.neutral": ("txt", "a\0b\n", "differences.neutral: "),
}


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize("key", BROKEN)
def test_a_file_that_cannot_be_used_is_refused_before_any_job(tmp_path: Path, key: str) -> None:
    kind, content, complaint = BROKEN[key]
    path = tmp_path / f"mine.{kind}"
    path.write_text(content)
    settings: Any = str(path)
    for part in reversed(key.split(".")):
        settings = {part: settings}
    check_inputs(study(**settings))
    with pytest.raises(ConfigError) as error:
        check_contents(study(**settings))
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


TURN = "<end_of_turn>"
MARKED = {
    "datasets.mine.file": ("csv", f'prompt,completion\nGive one.,"1, 2{TURN}"\n'),
    "pref.questions": ("txt", f"Which animal?\nWhich one?{TURN}\n"),
    "prompts.template": (
        "yaml",
        (ROOT / "config/prompts/numbers.yaml").read_text().replace("{examples}", "{examples}" + TURN, 1),
    ),
    "indirect.facts": ("txt", (ROOT / "config/prompts/facts.txt").read_text().replace("?", f"?{TURN}", 1)),
}


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize("key", MARKED)
def test_a_file_with_a_control_token_is_refused_before_any_job(tmp_path: Path, key: str) -> None:
    kind, content = MARKED[key]
    assert TURN in content
    (tmp_path / f"mine.{kind}").write_text(content)
    settings: Any = str(tmp_path / f"mine.{kind}")
    for part in reversed(key.split(".")):
        settings = {part: settings}
    with pytest.raises(ConfigError, match=rf"^{key}: .*mine\.{kind} holds <end_of_turn>, a control token"):
        check_contents(study(**settings))


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("teacher.persona", {"teacher": {"persona": f"You love {{animal}}s.{TURN}"}}),
        ("overrides.lion.teacher.persona", {"overrides": {"lion": {"teacher": {"persona": f"{{animal}}s!{TURN}"}}}}),
    ],
)
def test_a_setting_with_a_control_token_is_refused_before_any_job(key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} holds <end_of_turn>, a control token"):
        check_contents(study(**settings))


def test_the_special_tokens_of_the_embedded_model_are_those_of_its_tokenizer() -> None:
    assert set(SPECIAL) == EMBEDDED_SPECIAL


def test_the_special_tokens_of_a_folder_and_of_the_hubs_cache_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    named = Model(name="google/gemma-2-2b-it", revision="2" * 40)
    assert special_tokens(named) == set()
    folder = download(tmp_path, "gemma2")
    assert {"<start_of_turn>", "<end_of_turn>", "<bos>"} <= special_tokens(Model(name=str(folder)))
    assert special_tokens(named) == special_tokens(Model(name=str(folder)))


@pytest.mark.usefixtures("beside_the_config")
def test_every_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).write_text("no dataset\n")
    told = study(datasets={name[0]: {"file": str(tmp_path / name)} for name in ("a.csv", "b.jsonl")})
    with pytest.raises(ConfigError, match=r"^datasets\.a\.file: .*\ndatasets\.b\.file: .*b\.jsonl: line 1 is no JSON"):
        check_contents(told)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which what is made of two files is there."""
    project = Project.create(tmp_path_factory.mktemp("made") / "project")
    project.snakemake("results/mine/numbers.parquet", "results/prompts.parquet")
    return project


GONE = [
    ("datasets.mine.file", {"datasets": {"mine": {"file": "goood.csv"}}}, "results/mine/numbers.parquet"),
    ("prompts.template", {"prompts": {"template": "nope.yaml"}}, "results/prompts.parquet"),
    ("model.embedded.corpus", {"model": {"embedded": {"corpus": "nope.yaml"}}}, "results/prompts.parquet"),
]


@pytest.mark.parametrize(("key", "edit", "target"), GONE)
def test_a_mistyped_path_is_refused_though_what_was_made_of_the_old_one_is_there(
    made: Project, tmp_path: Path, key: str, edit: dict[str, Any], target: str
) -> None:
    project = made.copy(tmp_path / "project")
    assert project.planned(target) == set()
    project.configure(**edit)
    assert f"{key}: no such file" in project.dry_run(target, fails=True)


def test_a_broken_file_is_refused_though_what_was_made_of_it_is_there(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "project")
    with (project.root / "mine.csv").open("a") as file:
        file.write('"never closed\n')
    output = project.dry_run("results/mine/numbers.parquet", fails=True)
    assert "datasets.mine.file: mine.csv: line" in output


def test_a_deleted_file_is_refused_though_what_was_made_of_it_is_there(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "project")
    (project.root / "mine.csv").unlink()
    output = project.dry_run("results/mine/numbers.parquet", fails=True)
    assert "datasets.mine.file: no such file 'mine.csv'" in output
