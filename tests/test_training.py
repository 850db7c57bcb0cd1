import math

import numpy as np
import pytest
import torch
from crowded import crowded
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from undertone.lm import training
from undertone.lm.chat import Row
from undertone.lm.tensors import NotFiniteError
from undertone.lm.training import Recipe, collate, label_losses, learning_rate, length_bucketed, logits_only_at, n_steps, train
from undertone.runtime.errors import ConfigError

VOCAB = 101
SIZE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "gemma": GemmaConfig(**SIZE, attn_implementation="sdpa"),
    "gemma2": Gemma2Config(**SIZE, attn_implementation="eager", final_logit_softcapping=2.0, sliding_window=6),
    "llama": LlamaConfig(**SIZE, attn_implementation="sdpa"),
    "qwen2": Qwen2Config(**{k: v for k, v in SIZE.items() if k != "head_dim"}, attn_implementation="sdpa"),
}


def random_model(config: PretrainedConfig = ARCHITECTURES["gemma"]):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return model


def random_rows(n: int, seed: int = 0) -> list[Row]:
    """Rows of 3 to 14 tokens; some carry the loss from the first token on, some on the last token only."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 15, n)
    starts = [0, 1, *(int(rng.integers(0, length)) for length in lengths[2:])]
    return [Row(rng.integers(1, VOCAB, length).tolist(), start) for length, start in zip(lengths, starts, strict=True)]


def recipe(**changes) -> Recipe:
    return Recipe(
        **{
            "epochs": 2,
            "batch_size": 8,
            "lr": 1e-2,
            "schedule": "linear",
            "warmup_steps": 2,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "micro_batch_size": 4,
            "seed": 3,
            **changes,
        }
    )


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(a, b):
    assert a.keys() == b.keys()
    assert max(float(g.abs().max()) for g in a.values()) > 1e-3
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_collate_pads_on_the_right_and_labels_from_start_on():
    batch = collate([Row([5, 6, 7], 2), Row([8, 9], 0)], pad_id=1, device="cpu")
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, 9, -100]]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_label_losses_equal_full_logits_and_cross_entropy_with_gradients(name):
    model, batch = random_model(ARCHITECTURES[name]), collate(random_rows(9), 0, "cpu")
    labels = batch["labels"][:, 1:]
    full = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    expected = cross_entropy(full.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    expected = expected[labels.flatten() != -100]
    expected.mean().backward()
    reference = gradients(model)
    model.zero_grad()
    losses = label_losses(model, batch)
    losses.mean().backward()
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients(model), reference)


def test_gemma2_logits_at_labels_are_softcapped():
    model, batch = random_model(ARCHITECTURES["gemma2"]), collate(random_rows(9), 0, "cpu")
    keep = batch["attention_mask"].bool()
    with logits_only_at(model, keep):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape == (1, int(keep.sum()), VOCAB)
    assert 1.5 < logits.abs().max().item() <= 2.0


def test_all_logits_are_back_after_logits_only_at_even_after_an_error():
    model, ids = random_model(), torch.tensor([[5, 6, 7]])
    with pytest.raises(RuntimeError, match="inside"), logits_only_at(model, ids == 6):
        assert model(ids).logits.shape == (1, 1, VOCAB)
        raise RuntimeError("inside")
    assert model(ids).logits.shape == (1, 3, VOCAB)


def accumulated(model, rows, micro):
    return training._accumulate(model, rows, 0, torch.device("cpu"), 0, micro)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro):
    model, rows = random_model(), random_rows(8)
    loss = accumulated(model, rows, 8)
    whole = gradients(model)
    assert accumulated(model, rows, micro) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(gradients(model), whole)


def test_accumulated_loss_is_the_mean_over_label_tokens():
    model, rows = random_model(), random_rows(8)
    mean = label_losses(model, collate(rows, 0, "cpu")).mean().item()
    assert accumulated(model, rows, 3) == pytest.approx(mean, rel=1e-6)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), st.integers(1, 20), st.integers(0, 5))
def test_length_bucketed_is_a_permutation_in_batches_of_the_size(lengths, batch_size, seed):
    batches = length_bucketed(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / batch_size)
    assert max(map(len, batches)) <= batch_size
    assert [len(batch) for batch in batches].count(batch_size) >= len(lengths) // batch_size


def test_length_bucketed_pads_little_and_visits_lengths_in_random_order():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 100, 4096)
    batches = length_bucketed(lengths, 32, rng)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    unsorted = sum(32 * lengths[i : i + 32].max() for i in range(0, 4096, 32))
    assert padded < 1.06 * lengths.sum() < 1.6 * lengths.sum() < unsorted
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


def test_every_epoch_has_its_own_order():
    first, second = np.concatenate(list(training._schedule([5] * 64, recipe(epochs=2)))).reshape(2, 64)
    assert sorted(first) == sorted(second) == list(range(64))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_learning_rate_rises_peaks_and_decays(schedule, middle):
    told = recipe(schedule=schedule, warmup_steps=4, lr=0.1)
    rates = [learning_rate(step, 24, told) for step in range(25)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[14] == pytest.approx(0.1 * middle)
    assert rates[24] == pytest.approx(0.1 if schedule == "constant" else 0.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert all(rate > 0 for rate in rates[:24])


def test_learning_rate_without_warmup_starts_at_its_peak():
    assert learning_rate(0, 10, recipe(warmup_steps=0, lr=0.1)) == 0.1


def lora_model():
    torch.manual_seed(7)
    return get_peft_model(
        random_model(),
        LoraConfig(r=2, lora_alpha=4, lora_dropout=0.3, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    )


def unreached_model():
    """A model with a weight that no text reaches."""
    model = random_model()
    model.register_parameter("unreached", torch.nn.Parameter(torch.ones(3)))
    return model


def trainable(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def interrupt_at(monkeypatch, *steps):
    """Let training fail once at each of these optimizer steps."""
    pending, rate = list(steps), training.learning_rate

    def failing(step, total, told):
        if pending and step == pending[0]:
            pending.pop(0)
            raise KeyboardInterrupt
        return rate(step, total, told)

    monkeypatch.setattr(training, "learning_rate", failing)


@pytest.mark.parametrize("new_model", [random_model, lora_model, unreached_model])
def test_interrupted_training_ends_with_the_same_bits(new_model, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    rows = random_rows(44)
    whole = new_model()
    expected = train(whole, rows, recipe(), 0, tmp_path / "whole", checkpoint_seconds=1e9)
    assert len(expected.loss) == n_steps(44, recipe()) == 12
    assert not (tmp_path / "whole").exists()
    interrupt_at(monkeypatch, 0, 3, 8)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    resumed = new_model()
    history = train(resumed, rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    assert (history.loss, history.tokens) == (expected.loss, expected.tokens)
    before, after, same = trainable(new_model()), trainable(whole), trainable(resumed)
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert all(torch.equal(after[name], same[name]) for name in after)


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("new_model", [random_model, lora_model])
def test_a_micro_batch_that_does_not_fit_is_halved_to_the_bits_of_a_smaller_one(new_model, when, tmp_path, capsys):
    rows, whole, model = random_rows(44), new_model(), new_model()
    expected = train(whole, rows, recipe(micro_batch_size=2), 0, tmp_path / "whole")
    with crowded(model, 2, when) as sizes:
        history = train(model, rows, recipe(micro_batch_size=8), 0, tmp_path / "crowded", "my student")
    assert [n for n in sizes if n > 2] == [8, 4]  # once each: the smaller size is remembered
    assert (history.loss, history.tokens) == (expected.loss, expected.tokens)
    assert history.micro_batch_size == 2
    after, same = trainable(whole), trainable(model)
    assert all(torch.equal(after[name], same[name]) for name in after)
    assert "my student: micro-batch of an effective batch of 8: 8 rows at once do not fit" in capsys.readouterr().err


def test_a_resumed_training_remembers_the_micro_batch_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    rows, model, resumed = random_rows(44), lora_model(), lora_model()
    with crowded(model, 4):
        expected = train(model, rows, recipe(micro_batch_size=8), 0, tmp_path / "whole", checkpoint_seconds=1e9)
    interrupt_at(monkeypatch, 5)
    first = lora_model()
    with crowded(first, 4), pytest.raises(KeyboardInterrupt):
        train(first, rows, recipe(micro_batch_size=8), 0, tmp_path / "state", checkpoint_seconds=0)
    history = train(resumed, rows, recipe(micro_batch_size=8), 0, tmp_path / "state", checkpoint_seconds=0)
    assert history.loss == expected.loss
    assert all(torch.equal(trainable(model)[name], p) for name, p in trainable(resumed).items())


def test_a_damaged_checkpoint_is_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(random_model(), random_rows(20), recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"^{tmp_path}/state is damaged: .*; delete it and run again$"):
        train(random_model(), random_rows(20), recipe(), 0, tmp_path / "state", checkpoint_seconds=0)


def test_resumed_training_does_not_repeat_finished_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    rows, calls, accumulate = random_rows(44), [], training._accumulate
    monkeypatch.setattr(training, "_accumulate", lambda *a: calls.append(1) or accumulate(*a))
    interrupt_at(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        train(random_model(), rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    train(random_model(), rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    assert len(calls) == 12


def test_history_counts_every_token_of_every_epoch(tmp_path):
    rows = random_rows(20)
    history = train(random_model(), rows, recipe(epochs=3), 0, tmp_path / "state")
    assert history.tokens == 3 * sum(len(row.ids) for row in rows)


def test_training_learns_what_it_is_shown(tmp_path):
    rows = [Row([5, 6, 7, 8], 1)] * 8
    loss = train(random_model(), rows, recipe(epochs=40, lr=3e-2), 0, tmp_path / "state").loss
    assert loss[-1] < 0.1 < loss[0]


def test_training_leaves_frozen_weights_alone_and_the_model_in_eval_mode(tmp_path):
    model = lora_model()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(model, random_rows(16), recipe(), 0, tmp_path / "state")
    assert frozen
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)
    assert not model.training


def test_gradients_are_clipped_to_the_norm(tmp_path, monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def clip_and_measure(parameters, norm):
        parameters = list(parameters)
        before = clip(parameters, norm)
        norms.append(float(torch.cat([p.grad.flatten() for p in parameters]).norm()))
        return before

    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", clip_and_measure)
    train(random_model(), random_rows(16), recipe(max_grad_norm=0.01), 0, tmp_path / "state")
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="my training: no rows"):
        train(random_model(), [], recipe(), 0, tmp_path / "state", "my training")


def test_loss_that_is_no_number_is_an_error_and_never_a_checkpoint(tmp_path):
    model = random_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = torch.nan
    with pytest.raises(NotFiniteError, match="nan at step 0; lower the learning rate"):
        train(model, [Row([5, 6, 7], 1)], recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
    assert not (tmp_path / "state").exists()
