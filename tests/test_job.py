"""Every job's log begins with where the job runs."""

import socket
from pathlib import Path

import pytest

from undertone.job import logged


def test_a_log_begins_with_the_place_and_ends_with_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(OSError, match="no disk"), logged(str(tmp_path / "log")):
        print("working")
        raise OSError("no disk")
    place, working, *_, error = (tmp_path / "log").read_text().splitlines()
    assert place.endswith(f", {socket.gethostname()}, SLURM_JOB_ID 17, CUDA_VISIBLE_DEVICES 3")
    assert working == "working"
    assert error == "OSError: no disk"


def test_a_log_is_never_empty(tmp_path: Path) -> None:
    with logged(str(tmp_path / "log")):
        assert (tmp_path / "log").stat().st_size > 0
