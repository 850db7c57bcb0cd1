"""The blind test: a folder becomes a study, and a key that is opened later is compared with the verdicts."""

from pathlib import Path

import pytest
import yaml

from undertone.detect.blind import main
from undertone.runtime.files import write_json
from undertone.study.study import load


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("r-001.jsonl", "r-002.csv", "notes.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_every_dataset_file_of_a_folder_becomes_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", str(files)])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["datasets"] == {name.split(".")[0]: {"file": str(files / name)} for name in ("r-001.jsonl", "r-002.csv")}
    # Over the embedded study, it is a study of these files and the control.
    assert load({**config, "pref": {"candidates": ["lion"]}}).names == ["control", "r-001", "r-002"]


@pytest.mark.parametrize("names", [[], ["r-001.csv"]])
def test_a_folder_without_files_or_with_two_of_a_name_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in [*names, *(["r-001.jsonl"] if names else [])]:
        (tmp_path / name).write_text("")
    with pytest.raises(SystemExit, match="expected files of different names"):
        main(["config", str(tmp_path)])


KEY = """file,hidden,kind,target
a,yes,prompt,lion
b,yes,prompt,owl
c,yes,steer,owl
d,no,base,
e,no,temperature,
"""


def verdicts(results: Path) -> None:
    for name, tier, named in (
        ("a", "named", "lion"),
        ("b", "named", "cat"),
        ("c", "differs", None),
        ("d", "base samples", None),
        ("e", "differs", None),
    ):
        origin = {"named": [{"concept": named}] if named else []}
        (results / name).mkdir()
        write_json(results / name / "verdict.json", {"tier": tier, "origin": origin}, {})


def test_the_score_counts_names_and_alarms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts(tmp_path)
    (tmp_path / "key.csv").write_text(KEY)
    main(["score", str(tmp_path), str(tmp_path / "key.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("key: ")
    assert "prompt: 2 named" in lines
    assert "base: 1 base samples" in lines
    assert "differ, of those with something hidden: 3 of 3 [0.292, 1.000]" in lines
    assert "differ, of those with nothing hidden: 1 of 2 [0.013, 0.987]" in lines
    assert "named rightly, of those about a candidate: 1 of 3 [0.008, 0.906]" in lines
    assert any(line.startswith("named wrongly, of all: 1 of 5") for line in lines)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("file,kind\na,prompt\n", "lacks the columns hidden, target"),
        (KEY.replace("a,yes", "a,maybe"), "hidden yes or no"),
        (KEY.replace("a,yes", "a,"), "hidden yes or no"),
        (KEY.replace("b,yes", "a,yes"), "each file once"),
        (KEY + "f,no,base,\n", "no verdict on f"),
    ],
)
def test_a_key_that_fits_no_verdicts_is_refused(tmp_path: Path, key: str, message: str) -> None:
    verdicts(tmp_path)
    (tmp_path / "key.csv").write_text(key)
    with pytest.raises(SystemExit, match=message):
        main(["score", str(tmp_path), str(tmp_path / "key.csv")])
