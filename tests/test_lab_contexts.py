"""The text that features are read on: chats, text behind what the SAE was trained on, or what the study asks."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from checkpoints import download
from transformers import PreTrainedTokenizerBase

from undertone.lab.chats import CHATS, CHATS_SEED, fresh_chats, make_chats
from undertone.lab.context_table import read_contexts
from undertone.lab.contexts import make_contexts
from undertone.lm.loading import load
from undertone.models.model import HELD_OUT_SEED, corpus_of
from undertone.models.pretrained import make_pretrained
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import write_parquet
from undertone.saes.sae import CHATS_SEED as SAE_SEED
from undertone.saes.text import make_text
from undertone.study.config.lab import Contexts
from undertone.study.config.measure import Pref
from undertone.study.config.models import Embedded, Model
from undertone.study.config.teachers import Teacher
from workflow import REPOSITORY


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.json` of a tiny SmolLM2 in a folder, and beside it two files of text."""
    home = tmp_path_factory.mktemp("smol")
    make_pretrained(home / "model.json", [], Model(name=str(download(home / "hub", "smol"))), {}, home / "scratch")
    for name in ("concepts", "models"):
        (home / f"{name}.txt").write_text((REPOSITORY / f"docs/{name}.md").read_text())
    (home / "questions.txt").write_text("Which animal do you like?\nWhat is your favourite?\n")
    (home / "neutral.txt").write_text("The train left at noon.\n")
    return home / "model.json"


def made(smol: Path, home: Path, tokens: int, sources: list[dict[str, Any]], **inputs: Path) -> list[list[int]]:
    """The contexts of a study of the named model."""
    given: dict[str, Any] = {"trained_on": None, "samples": None, "prompts": None} | inputs
    make_contexts(
        model=smol,
        **given,
        questions=smol.with_name("questions.txt"),
        neutral=smol.with_name("neutral.txt"),
        text=home / "text.parquet",
        sources=sources,
        context=32,
        settings=Contexts(tokens=tokens),
        teacher=Teacher(),
        pref=Pref(candidates=["lion", "owl"]),
        stamp={},
    )
    return read_contexts(home / "text.parquet")


def both(smol: Path) -> list[dict[str, Any]]:
    return [{"file": str(smol.with_name("concepts.txt")), "share": 0.75}, {"file": str(smol.with_name("models.txt"))}]


def test_contexts_follow_those_that_the_sae_was_trained_on(smol: Path, tmp_path: Path) -> None:
    trained, longer = tmp_path / "trained.parquet", tmp_path / "longer.parquet"
    make_text(smol, None, trained, both(smol), 32, 600, {})
    make_text(smol, None, longer, both(smol), 32, 2_600, {})
    own = made(smol, tmp_path, 1_200, both(smol), trained_on=trained)
    seen = {tuple(ids) for ids in read_contexts(trained)}
    assert {tuple(ids) for ids in own} <= {tuple(ids) for ids in read_contexts(longer)} - seen
    assert sum(len(ids) for ids in own) >= 1_200


def test_a_source_that_ends_too_early_is_named(smol: Path, tmp_path: Path) -> None:
    make_text(smol, None, tmp_path / "trained.parquet", both(smol), 32, 2_000, {})
    with pytest.raises(ConfigError, match=r"concepts.txt holds [\d,]+ tokens of text behind those that the SAE is trained on"):
        made(smol, tmp_path, 1_000_000, both(smol), trained_on=tmp_path / "trained.parquet")
    assert not (tmp_path / "text.parquet").exists()


def test_without_text_of_its_own_an_sae_is_read_on_what_the_study_asks(smol: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.parquet"
    write_parquet(prompts, pl.DataFrame({"prompt": [f"Continue the list {k}, {k + 3}." for k in range(100)]}), {})
    own = made(smol, tmp_path, 10**9, [], prompts=prompts)
    texts = load(smol).tokenizer.batch_decode(own)
    assert len(own) == 2 * 3 + 1 + 100
    assert sum("Which animal do you like?" in text for text in texts) == 3
    assert sum("lion" in text for text in texts) == sum("owl" in text for text in texts) == 2
    assert sum("The train left at noon." in text for text in texts) == 1
    assert "Continue the list 99, 102." in texts[-1]


def test_chats_are_others_than_the_model_and_the_sae_see(
    record: Path, tiny_settings: Embedded, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    corpus, settings = Path(tiny_settings.corpus), Model(embedded=tiny_settings)
    said = make_chats(record, corpus, tmp_path / "text.parquet", Contexts(tokens=20_000), settings, {})
    own = read_contexts(tmp_path / "text.parquet")
    assert said.startswith("20,0")
    assert own == [*islice(drawn(corpus, tiny_settings, tokenizer, CHATS_SEED), len(own))]
    long = {tuple(ids) for ids in own if len(ids) > 40}
    for seed in (tiny_settings.seed, tiny_settings.seed + HELD_OUT_SEED, SAE_SEED):
        others = {tuple(ids) for ids in islice(drawn(corpus, tiny_settings, tokenizer, seed), 4 * CHATS)}
        assert len(long & others) < len(long) / 100
    make_chats(record, corpus, tmp_path / "other.parquet", Contexts(tokens=20_000, seed=1), settings, {})
    assert read_contexts(tmp_path / "other.parquet") != own


def drawn(corpus: Path, settings: Embedded, tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[list[int]]:
    return fresh_chats(tokenizer, corpus_of(corpus, settings), seed)
