"""What every job leaves: a log that begins with where it runs, and a record of what it used beside its benchmark."""

import json
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from undertone.study.job import logged


def test_a_log_begins_with_the_place_and_ends_with_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(OSError, match="no disk"), logged(str(tmp_path / "log")):
        print("working")
        raise OSError("no disk")
    place, working, *_, error = (tmp_path / "log").read_text().splitlines()
    assert place.endswith(f", {socket.gethostname()}, SLURM_JOB_ID 17, CUDA_VISIBLE_DEVICES 3")
    assert working == "working"
    assert error == "Failed: OSError: no disk"


def test_a_log_is_never_empty(tmp_path: Path) -> None:
    with logged(str(tmp_path / "log")):
        assert (tmp_path / "log").stat().st_size > 0


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The log of a job that runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "logs/gemma/student/lion-1.log"
    path.parent.mkdir(parents=True)
    return str(path.relative_to(tmp_path))


def used(log: str) -> dict[str, Any]:
    return json.loads(Path(log.replace("logs/", "benchmarks/").replace(".log", ".used.json")).read_text())


def spend(seconds: float) -> None:
    begun = time.process_time()
    while time.process_time() < begun + seconds:
        pass


def test_a_job_records_its_cpu_time_and_its_peak_memory_even_if_it_was_short(log: str) -> None:
    with logged(log):
        pass
    before = used(log)
    with logged(log):
        spend(0.2)
        np.ones(60_000_000)  # 480 MB for an instant, beyond what the process held before
    assert 0.2 <= used(log)["cpu_s"] - before["cpu_s"] < 5
    assert used(log)["ram_mb"] >= 480


def test_a_job_without_torch_or_a_gpu_has_none(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with logged(log):
        pass
    assert used(log)["gpu"] is None


def test_jobs_whose_names_have_a_dot_in_them_have_records_of_their_own(log: str) -> None:
    for layer in (0, 1):
        with logged(own := log.replace("lion-1", f"resid_post.{layer}")):
            pass
        assert used(own)["cpu_s"] > 0


def test_a_job_with_a_gpu_records_its_name_and_the_most_memory_held_there(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, get_device_name=lambda: "NVIDIA H200", max_memory_reserved=lambda: 12_345_600_000
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with logged(log):
        pass
    assert used(log)["gpu"] == {"name": "NVIDIA H200", "peak_mb": 12345.6}


def test_a_failed_job_leaves_no_record_but_its_traceback(log: str) -> None:
    with pytest.raises(RuntimeError, match="broken"), logged(log):
        raise RuntimeError("broken")
    with pytest.raises(FileNotFoundError):
        used(log)
    assert "RuntimeError: broken" in Path(log).read_text()
