"""SAEs of other base models: one with other tokens, and one whose weights are permuted."""

from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from undertone.lab.context_table import read_contexts
from undertone.lab.retokenized import in_tokens_of, whole_texts
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import read_model, read_tokenizer
from undertone.models.rerandomized import permute
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from workflow import Project


@pytest.fixture(scope="module")
def finished(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = base.copy(tmp_path_factory.mktemp("models") / "project")
    project.configure(
        models={"other": {"embedded": {"seed": 3}}, "untrained": {"rerandomized": 0}},
        saes={"other": {"model": "other", "tokens": 2_000}, "untrained": {"model": "untrained", "tokens": 2_000}},
    )
    project.forked("results/sae-other/features.json", "results/sae-untrained/metrics.json", "results/text-untrained.parquet")
    return project


def test_the_same_text_is_read_in_each_models_tokens(finished: Project) -> None:
    results = finished.root / "results"
    own, other = (read_tokenizer(results / name, name) for name in ("model", "model-other"))
    contexts, theirs = (read_contexts(results / f"{name}.parquet") for name in ("text", "text-other"))
    assert own.get_vocab() != other.get_vocab()
    assert contexts != theirs
    assert whole_texts(own, contexts) == whole_texts(other, theirs)
    assert read_contexts(results / "text-untrained.parquet") == contexts


def test_features_of_another_models_sae_are_read_on_its_own_tokens(finished: Project) -> None:
    results = finished.root / "results"
    tokens = {token["text"] for tokens in pl.read_parquet(results / "sae-other/features.parquet")["tokens"] for token in tokens}
    other = read_tokenizer(results / "model-other", "other")
    assert tokens
    assert tokens <= {other.decode([token]) for token in range(len(other))}
    stamp = read_json(results / "sae-other/features.json")["stamp"]["settings"]
    assert stamp["sae-other"]["model"]["embedded"]["seed"] == 3


def test_a_rerandomized_model_keeps_everything_but_the_order_of_its_matrices_entries(finished: Project) -> None:
    results = finished.root / "results"
    own, control = (read_model(results / name, torch.float32) for name in ("model", "model-untrained"))
    inside = {id(weight) for weight in decoder_layers(own).parameters() if weight.dim() > 1}
    assert len(inside) == 2 * 7
    for (name, weight), (_, other) in zip(own.named_parameters(), control.named_parameters(), strict=True):
        assert torch.equal(weight, other) != (id(weight) in inside), name
        assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values), name
    assert read_json(results / "model-untrained/model.json")["source"] == "rerandomized"


def test_another_seed_permutes_otherwise_and_the_same_alike(finished: Project) -> None:
    first, again, other = (read_model(finished.root / "results/model", torch.float32) for _ in range(3))
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        permute(model, seed)
    layers = [dict(decoder_layers(model).named_parameters())["0.mlp.up_proj.weight"] for model in (first, again, other)]
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_chats_that_are_written_differently_are_refused(finished: Project, tmp_path: Path) -> None:
    results = finished.root / "results"
    own = read_tokenizer(results / "model", "own")
    text = (results / "model-other/tokenizer.json").read_text().replace("<start_of_turn>", "<|im_start|>")
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), name_or_path="theirs")
    with pytest.raises(ConfigError, match=r"'<start_of_turn>', which is no special token of theirs"):
        in_tokens_of(other, own, read_contexts(results / "text.parquet"))


def test_a_change_of_the_other_model_reruns_its_sae_and_no_other(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    targets = ("results/sae-untrained/metrics.json", "results/sae-other/features.json")
    assert project.planned(*targets) == set()
    models = {"other": {"embedded": {"seed": 4}}, "untrained": {"rerandomized": 0}}
    project.configure(models=models)
    assert project.planned(targets[0]) == set()
    assert project.planned(targets[1]) == {
        "Prepare the base model",
        "Prepare the SAE",
        "Write the text in the tokens of model-other",
        "Read what each feature of the SAE is",
    }
