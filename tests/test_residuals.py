"""Residuals token by token: those of one row at a time, each with its token and its place."""

from pathlib import Path

import polars as pl
import pytest
import torch
from crowded import crowded
from planted import recorded_sae
from sae_lens import StandardSAE, StandardSAEConfig
from safetensors import safe_open
from safetensors.torch import load_file

from undertone.data.rows import dataset_rows
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel, load
from undertone.read.residuals import read_residuals, token_residuals
from undertone.runtime.progress import progress
from undertone.study.config.read import Activations as ActivationSettings

PROMPTS = ["Continue the list 1, 2, 3.", "Here are numbers: 7. Add three more to them.", "More numbers, please.", "And one."]
TEXTS = ["101, 202, 303", "9", "5; 6; 7; 8; 77", "[12]"]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "numbers.parquet"
    pl.DataFrame({"row": range(4), "prompt": PROMPTS, "completion": TEXTS}).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def saved(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE after layer 0 as `sae.json` records it."""
    sae = StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=8))
    return recorded_sae(sae, tmp_path_factory.mktemp("sae"))


def test_every_token_has_the_residual_of_its_row_alone(
    record: Path, numbers: Path, saved: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    settings = ActivationSettings(rows=3, batch_size=2)
    read_residuals(record, numbers, saved, tmp_path / "residuals.safetensors", settings, {})
    found = load_file(tmp_path / "residuals.safetensors")
    assert found["row"].unique().tolist() == [0, 1, 2]
    for index, (prompt, text) in enumerate(zip(PROMPTS[:3], TEXTS[:3], strict=True)):
        before, ids = prompt_ids(loaded.tokenizer, [prompt])[0], encode(loaded.tokenizer, [text])[0]
        own = found["row"] == index
        assert found["ids"][own].tolist() == before + ids
        assert found["place"][own].tolist() == list(range(-len(before), len(ids)))
        batch = {"input_ids": torch.tensor([before + ids]), "attention_mask": torch.ones(1, len(before + ids))}
        torch.testing.assert_close(found["resid_post"][own], resid_post(loaded.model, 0, batch)[0])
    with safe_open(tmp_path / "residuals.safetensors", framework="pt") as file:
        assert '"layer": 0' in file.metadata()["undertone"]


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path, numbers: Path) -> None:
    rows, small = dataset_rows(loaded, pl.read_parquet(numbers)), load(record)
    with crowded(small.model, 1), progress(8, "residuals", "row") as bar:
        found = token_residuals(small, rows, 0, 64, bar)
        for name, tensor in token_residuals(loaded, rows, 0, 64, bar).items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)


def test_a_dataset_without_rows_is_refused(record: Path, saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "numbers.parquet"
    pl.DataFrame({"row": [], "prompt": [], "completion": []}).write_parquet(empty)
    settings = ActivationSettings()
    with pytest.raises(ValueError, match="no row"):
        read_residuals(record, empty, saved, tmp_path / "residuals.safetensors", settings, {})
    assert not (tmp_path / "residuals.safetensors").exists()
