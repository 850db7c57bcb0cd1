"""A tokenizer and a random tiny Gemma, saved as `results/model` would be; the order of the tests and what they show."""

import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GemmaForCausalLM, PreTrainedTokenizerBase

from undertone.lm.loading import LoadedModel, load
from undertone.models.model import corpus_of, new_model, texts
from undertone.models.tokenizer import train_tokenizer
from undertone.runtime.files import write_json
from undertone.study.config.models import Embedded
from workflow import Project

ROOT = Path(__file__).parents[1]
TINY = {"corpus": str(ROOT / "config/corpus.yaml"), "hidden_size": 32, "n_layers": 2, "n_heads": 2}

# The files that take minutes go first, so that the workers end together.
LONG = ("test_workflow.py", "test_slurm.py", "test_kill.py", "test_chain.py", "test_detection.py", "test_smollm2.py")

torch.set_num_threads(1)
# Tables this small are slower on two threads, which spin while they wait for each other: for workers and what tests start.
for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker more than there are cores, as the tests on a true Slurm mostly wait."""
    return 1 + (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded for people to read, `record_property("shown", text)`; in workers nothing else gets through."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "teardown":
                for _, text in filter(lambda recorded: recorded[0] == "shown", report.user_properties):
                    terminalreporter.write_line(f"\n{text}")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_installed() -> Iterator[None]:
    """TransformerLens installs torchvision, and with it another torch, where it finds no image processor; tests must not."""

    def refuse(command: list[str], *args: object, **kwargs: object) -> int:
        raise RuntimeError(f"a test tried to run {command}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "check_call", refuse)
        yield


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection and every look-up of a name fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the network for {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The micro study with its base model, of which tests take copies; trained once for all workers."""
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    project = Project(home / "base")
    with (home / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not project.root.exists():
            Project.create(project.root).forked("results/model/model.json")
    return project


@pytest.fixture(scope="session")
def tiny_settings() -> Embedded:
    return Embedded(**TINY)


@pytest.fixture(scope="session")
def tokenizer(tiny_settings: Embedded) -> PreTrainedTokenizerBase:
    corpus = corpus_of(Path(tiny_settings.corpus), tiny_settings)
    return train_tokenizer(texts(list(corpus.chats(2000, seed=0))), tiny_settings.vocab_size)


def random_gemma(settings: Embedded, tokenizer: PreTrainedTokenizerBase) -> GemmaForCausalLM:
    """A Gemma whose norms scale, whose attention looks around and whose logits are far from flat."""
    model = new_model(settings, tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.2 if "norm" in name else 0.4 if "embed" in name else 0.3
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Embedded, tokenizer: PreTrainedTokenizerBase) -> Path:
    """`model.json` beside the tiny model's files."""
    folder = tmp_path_factory.mktemp("model")
    random_gemma(tiny_settings, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "model.json", {"source": "embedded", "name": None, "revision": None, "dtype": "float32"}, {})
    return folder / "model.json"


@pytest.fixture(scope="session")
def loaded(record: Path) -> LoadedModel:
    """The tiny model for tests that leave it as it is; a test that trains or changes a model loads its own from `record`."""
    return load(record)


@pytest.fixture(scope="session")
def plain(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.json` of the tiny model, whose first layer leaves the embeddings as they are."""
    home = tmp_path_factory.mktemp("plain")
    for file in record.parent.iterdir():
        (home / file.name).write_bytes(file.read_bytes())
    weights = load_file(home / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.0.{name}.weight"].zero_()
    save_file(weights, home / "model.safetensors", {"format": "pt"})
    write_json(home / "model.json", {"source": "embedded", "name": None, "revision": None, "dtype": "float32"}, {})
    return home / "model.json"


@pytest.fixture(scope="session")
def contexts(loaded: LoadedModel) -> list[list[int]]:
    """Random contexts of text tokens behind a BOS, in which token 40 stands on purpose."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(10, len(loaded.tokenizer), (150, 11), generator=generator).tolist()
    return [[2, *row[: 5 + k % 7], *([40] if k % 10 == 0 else [])] for k, row in enumerate(drawn)]
