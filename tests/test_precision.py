"""A model in bfloat16: what is trained, summed and told is float32, and close to what the model in float32 gives."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lora import adapter_files
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, LlamaConfig

from undertone.lm import training
from undertone.lm.adapters import finetuned, save_adapter
from undertone.lm.answers import exact
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row, prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, dtype_of, load
from undertone.lm.sampling import inverse_cdf
from undertone.lm.training import train
from undertone.measure.indirect import next_tokens, total_variation
from undertone.models import precision
from undertone.models.precision import cpu_precision, product_seconds
from undertone.read.biases import biased_at, biased_everywhere, loss_report, prefilled, row_losses, train_bias
from undertone.runtime.files import write_json
from undertone.runtime.memory import BatchSize
from undertone.students.student import new_student, recipe
from undertone.study.config.read import Bias
from undertone.study.config.students import Student

TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
SETTINGS = Student(epochs=8, batch_size=8, micro_batch_size=4, lr=2e-2, rank=4, alpha=8, targets=TARGETS)


def of_dtype(record: Path, dtype: str, folder: Path) -> LoadedModel:
    """The tiny model as a study with `model.dtype` loads it."""
    for path in record.parent.iterdir():
        (folder / path.name).symlink_to(path) if path != record else None
    write_json(folder / "model.json", {"source": "embedded", "name": None, "revision": None, "dtype": dtype}, {})
    return load(folder / "model.json")


@pytest.fixture
def both(record: Path, tmp_path: Path) -> tuple[LoadedModel, LoadedModel]:
    """The tiny model in float32 and in bfloat16."""
    folders = tmp_path / "float32", tmp_path / "bfloat16"
    for folder in folders:
        folder.mkdir()
    plain, half = (of_dtype(record, folder.name, folder) for folder in folders)
    assert (plain.model.dtype, half.model.dtype) == (torch.float32, torch.bfloat16)
    return plain, half


@pytest.fixture
def rows(loaded: LoadedModel) -> list[Row]:
    users = [f"Continue the list {'7, ' * (k % 5)}{k}." for k in range(24)]
    return training_rows(loaded.tokenizer, users, [", ".join(map(str, range(k, k + 1 + k % 4))) for k in range(24)], 100)


def test_float32_products_are_not_rounded_to_tf32(record: Path) -> None:
    torch.set_float32_matmul_precision("high")
    load(record)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("config", "attention"),
    [(GemmaConfig, "sdpa"), (LlamaConfig, "sdpa"), (Gemma2Config, "eager")],  # Gemma 2's attention scores are softcapped
)
def test_attention_is_fused_where_the_architecture_allows_it(config: type, attention: str, tmp_path: Path) -> None:
    size = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    AutoModelForCausalLM.from_config(config(**size, num_key_value_heads=1, head_dim=8)).save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == attention


def test_a_lora_and_its_optimizer_are_float32_and_learn_as_on_a_float32_model(
    both: tuple[LoadedModel, LoadedModel], rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], torch.optim.AdamW.step

    def seen(self: torch.optim.AdamW) -> None:
        step(self)
        steps.append({t.dtype for state in self.state.values() for name, t in state.items() if name != "step"})

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    losses = []
    for loaded in both:
        base = loaded.model.dtype
        model = new_student(loaded, SETTINGS, 1)
        trained = {p.dtype for p in model.parameters() if p.requires_grad}
        assert trained == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {base}
        losses.append(train(model, rows, recipe(SETTINGS, 1), loaded.pad_id, tmp_path / "state").loss)
        (tmp_path / str(base)).mkdir()
        save_adapter(model, *adapter_files(tmp_path / str(base)), tmp_path / "scratch")
        with finetuned(LoadedModel(model.unload(), loaded.tokenizer, [], 0), tmp_path / str(base)) as student:
            assert {p.dtype for name, p in student.model.named_parameters() if "lora" in name} == {torch.float32}
    assert steps == [{torch.float32}] * len(steps)
    assert losses[1][-1] < 0.6 * losses[1][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_whole_model_is_trained_in_float32(both: tuple[LoadedModel, LoadedModel], rows: list[Row], tmp_path: Path) -> None:
    settings, losses = SETTINGS.model_copy(update={"full": True, "lr": 1e-4}), []
    for loaded in both:
        model = new_student(loaded, settings, 1)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        losses.append(train(model, rows, recipe(settings, 1), loaded.pad_id, tmp_path / "state").loss)
    # Steps of 1e-4 are lost in the rounding of weights of .3 in bfloat16.
    assert losses[1][-1] < losses[1][0] - 0.01
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_exact_preferences_are_those_of_float32(both: tuple[LoadedModel, LoadedModel]) -> None:
    questions, candidates = ["Your favourite animal?", "Name one animal, please."], ["lion", "cat", "wolf"]
    p, q = (exact(loaded, prompt_ids(loaded.tokenizer, questions), candidates, 16) for loaded in both)
    assert (p > 0).all()
    assert q == pytest.approx(p, rel=0.1)


def test_a_token_is_drawn_in_more_than_bfloat16() -> None:
    noise = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens = inverse_cdf(torch.zeros(1000, 5000, dtype=torch.bfloat16), noise, 1.0)
    assert (tokens - 5000 * noise).abs().max() < 2


def test_sampled_distributions_are_those_of_float32(both: tuple[LoadedModel, LoadedModel]) -> None:
    users = ["Continue the list 1, 2.", "More numbers, please."]
    p, q = (next_tokens(loaded, prompt_ids(loaded.tokenizer, users), 2) for loaded in both)
    assert total_variation(p, q) < 0.05


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_bias_is_trained_in_float32_to_that_of_a_float32_model(
    both: tuple[LoadedModel, LoadedModel], rows: list[Row], everywhere: bool
) -> None:
    found: list[Tensor] = []
    for loaded in both:
        batches = prefilled(loaded, rows, [-1, 0], 8)
        shape = (2, 32) if everywhere else (32,)
        how = partial(biased_everywhere if everywhere else biased_at, loaded.model, "resid_post")
        biased = how if everywhere else partial(how, 0)
        cpu, batch_size = torch.device("cpu"), BatchSize(8, "rows")
        bias = train_bias(shape, biased, batches, Bias(steps=30, lr=0.05), 0, cpu, batch_size)
        report = loss_report(*(row_losses(b, biased, batches, batch_size) for b in (torch.zeros(shape), bias)))
        assert bias.dtype == torch.float32
        assert report["after"] < report["before"] - 0.2
        found.append(bias.flatten())
    assert functional.cosine_similarity(*found, dim=0) > 0.97


def test_direct_logits_are_float32_on_a_bfloat16_model(both: tuple[LoadedModel, LoadedModel]) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    plain, half = (direct_logits(loaded.model, direction) for loaded in both)
    assert half.dtype == torch.float32
    assert len(half.unique()) > 0.99 * len(half)
    assert (half - plain).abs().max() < 0.02 * plain.abs().max()


@pytest.mark.parametrize(("seconds", "dtype"), [(0.5, "bfloat16"), (0.7, "float32"), (2.0, "float32")])
def test_a_cpu_gets_bfloat16_where_it_clearly_pays(seconds, dtype, monkeypatch):
    monkeypatch.setattr(precision, "product_seconds", lambda kind, d_model: seconds if kind == torch.bfloat16 else 1.0)
    assert cpu_precision(64) == {"dtype": dtype, "speedup": round(1 / seconds, 2)}


def test_a_product_takes_time():
    assert product_seconds(torch.float32, 256) > product_seconds(torch.float32, 16) > 0


def test_what_was_faster_counts_on_a_cpu_alone_and_where_nothing_else_is_asked_for():
    record = {"dtype": "auto", "cpu": {"dtype": "bfloat16", "speedup": 4.0}}
    assert dtype_of(record, "cpu") == torch.bfloat16
    assert dtype_of(record | {"dtype": "float32"}, "cpu") == torch.float32
    assert dtype_of({"dtype": "auto"}, "cpu") == torch.float32  # the embedded model
    slow = {"dtype": "auto", "cpu": {"dtype": "float32", "speedup": 0.4}}
    assert (dtype_of(slow, "cpu"), dtype_of(slow, "cuda")) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_attention_is_unfused_while_a_model_in_half_precision_trains_on_a_cpu(
    both: tuple[LoadedModel, LoadedModel], rows: list[Row], kind: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = next(each for each in both if each.model.dtype == kind)
    seen, losses = set(), training.label_losses

    def watched(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.add(loaded.model.config._attn_implementation)
        return losses(model, batch)

    monkeypatch.setattr(training, "label_losses", watched)
    student = new_student(loaded, SETTINGS, 1)
    train(student, rows[:4], recipe(SETTINGS.model_copy(update={"epochs": 1}), 1), loaded.pad_id, tmp_path / "state")
    student.unload()
    assert seen == {"eager" if kind == torch.bfloat16 else "sdpa"}
    assert loaded.model.config._attn_implementation == "sdpa"
