"""Artifacts on disk: whole or not there, with their provenance, the same bytes for the same content."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors.numpy import save_file

from undertone.lm.tensors import stored
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import (
    Stamp,
    move,
    provenance,
    read_json,
    read_parquet,
    remove,
    replacing,
    write_json,
    write_parquet,
)

STAMP: Stamp = {"settings": {"prompts": {"n": 3}}, "code": {"prompts": "0a1b"}, "files": {}}
TABLE = pl.DataFrame({"row": [0, 1, 2], "prompt": ["a", "b", None], "ids": [[1, 2], [], [3]]})
VERSIONS = {"python": platform.python_version(), "torch": version("torch"), "polars": version("polars")}


def fail(path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")


def test_a_block_that_ends_well_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/result.json"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    fail(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    fail(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_can_be_read_by_whom_other_files_can(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "weights.safetensors") as temporary:
            save_file({"w": np.ones(2)}, temporary)
        save_file({"w": np.ones(2)}, tmp_path / "elsewhere")
        move(tmp_path / "elsewhere", tmp_path / "moved.safetensors")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "new"


# Writes `text` into the temporary file, says so, and goes on when it is told to.
WRITER = """
import sys
from pathlib import Path
from undertone.runtime.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text(sys.argv[2])
    print(temporary, flush=True)
    sys.stdin.readline()
"""


def writer(path: Path, text: str) -> tuple[subprocess.Popen[str], Path]:
    """Another process that is writing `path`, and its temporary file."""
    command = [sys.executable, "-c", WRITER, str(path), text]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_two_processes_that_write_one_file_each_write_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    other, theirs = writer(path, "theirs")
    with replacing(path) as temporary:
        temporary.write_text("mine")
    assert path.read_text() == "mine"
    assert theirs.read_text() == "theirs"
    other.communicate("\n")
    assert other.returncode == 0
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    killed, left = writer(path, "left by a job that was killed while it wrote a longer text")
    killed.kill()
    killed.communicate()
    assert left.exists()
    write_json(path, {"mean": 0.5}, STAMP)
    assert read_json(path)["mean"] == 0.5
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_machine_left_is_removed_after_a_day(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    old, new = tmp_path / ".result.json.1-elsewhere.partial", tmp_path / ".result.json.2-elsewhere.partial"
    for temporary, age in ((old, 25 * 3600), (new, 3600)):
        temporary.touch()
        os.utime(temporary, 2 * (time.time() - age,))
    write_json(path, {"mean": 0.5}, STAMP)
    assert sorted(tmp_path.iterdir()) == [new, path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed, fsync = tmp_path / "result.json", [], os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        inode = os.fstat(descriptor).st_ino
        flushed.append(("the folder" if inode == tmp_path.stat().st_ino else "the file", inode, path.exists()))

    monkeypatch.setattr(os, "fsync", record)
    write_json(path, {"mean": 0.5}, STAMP)
    assert flushed == [("the file", path.stat().st_ino, False), ("the folder", tmp_path.stat().st_ino, True)]


def test_json_carries_stamp_and_versions(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"mean": 0.5}, STAMP)
    result = read_json(tmp_path / "result.json")
    assert result["mean"] == 0.5
    assert result["stamp"] == STAMP
    assert result["versions"].items() >= VERSIONS.items()


def test_parquet_carries_stamp_and_versions(tmp_path: Path) -> None:
    write_parquet(tmp_path / "table.parquet", TABLE, STAMP)
    assert_frame_equal(pl.read_parquet(tmp_path / "table.parquet"), TABLE)
    provenance = json.loads(pl.read_parquet_metadata(tmp_path / "table.parquet")["undertone"])
    assert provenance["stamp"] == STAMP
    assert provenance["versions"].items() >= VERSIONS.items()


def test_a_result_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"mean": 0.25, "by_seed": {1: 0.1, 2: 0.4}, "target": "λ"}, STAMP)
    assert read_json(path) == {"mean": 0.25, "by_seed": {"1": 0.1, "2": 0.4}, "target": "λ", **provenance(STAMP)}
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(ConfigError, match=rf"^{path} was edited after it was written: .*; delete it and run again$"):
        read_json(path)


def test_a_damaged_result_is_named_with_the_cure(tmp_path: Path) -> None:
    path, table, tensors = (tmp_path / name for name in ("result.json", "table.parquet", "bias.safetensors"))
    save_file({"bias": np.ones(9)}, tensors)
    write_json(path, {"mean": 0.5}, STAMP)
    write_parquet(table, TABLE, STAMP)
    for damaged, read in ((path, read_json), (table, read_parquet), (tensors, lambda path: dict(stored(path)))):
        content = damaged.read_bytes()
        for left in (len(content) // 2, 0):
            damaged.write_bytes(content[:left])
            with pytest.raises(ConfigError, match=rf"(?s)^{damaged} is damaged: .*; delete it and run again$"):
                read(damaged)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=rf"^{path} is damaged: "):
        read_json(path)


@pytest.mark.parametrize(
    "write", [lambda path: write_json(path, {"mean": 0.1}, STAMP), lambda path: write_parquet(path, TABLE, STAMP)]
)
def test_the_same_content_is_the_same_bytes(tmp_path: Path, write: Callable[[Path], None]) -> None:
    for name in ("first", "second"):
        write(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"mean": 0.5}, STAMP)
    with pytest.raises(ConfigError, match=r"result\.json: lion\.by_seed\.1 is NaN or infinite, which is no result"):
        write_json(path, {"mean": 0.5, "lion": {"by_seed": [0.1, float("nan")]}}, STAMP)
    assert read_json(path)["mean"] == 0.5
    assert list(tmp_path.iterdir()) == [path]


def test_removing_takes_files_folders_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "folder/inner/file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "kept").touch()
    remove(tmp_path / "folder", tmp_path / "file", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]
