import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import Gemma2Config, Gemma2ForCausalLM

from undertone.lm import sampling
from undertone.lm.sampling import (
    Completion,
    Prefix,
    Sampler,
    batches_by_length,
    inverse_cdf,
    left_pad,
    sample,
    shared_prefix,
    uniforms,
)

SHARED = list(range(10, 22))


@pytest.fixture(scope="module")
def prompts():
    """Twelve shared tokens, then one to nine of each row's own."""
    rng = np.random.default_rng(0)
    return [SHARED + rng.integers(5, 2000, n).tolist() for n in [3, 9, 1, 5, 5, 7, 2, 4, 8, 6, 3, 1]]


@pytest.fixture(scope="module")
def sampler(loaded):
    """One token in 17 ends the answer and one in 13 is refused, so that rows end at any step."""
    vocab = len(loaded.tokenizer)
    allowed = torch.tensor([token % 13 != 3 for token in range(vocab)])
    return Sampler(0.9, 12, [token for token in range(vocab) if token % 17 == 1], loaded.pad_id, 5, allowed)


def naive(model, prompt, row, sampler):
    """One row by itself, every step from the first token on, the probabilities added up one by one."""
    noise, ids = uniforms([row], sampler.max_new_tokens, sampler.seed)[0], []
    for u in noise:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -1]
        p = (logits.double() / sampler.temperature).softmax(-1).numpy()
        token, total = 0, p[0]
        while total <= u:
            token += 1
            total += p[token]
        if token in sampler.stop_ids:
            return Completion(ids, "stop")
        ids.append(token)
        if sampler.allowed is not None and not sampler.allowed[token]:
            return Completion(ids, "not allowed")
    return Completion(ids, "length")


def run(model, prompts, sampler, batch_size=5):
    found = {}
    for rows, completions in sample(model, prompts, sampler, batch_size):
        found |= dict(zip(rows, completions, strict=True))
    assert sorted(found) == list(range(len(prompts)))
    return [found[row] for row in range(len(prompts))]


@pytest.fixture(scope="module")
def completions(loaded, prompts, sampler):
    return run(loaded.model, prompts, sampler)


def assert_same(one, other) -> None:
    """Equal but for rounding, which moves a token where a row's uniform number falls on the edge between two: once at most."""
    assert len(one) == len(other)
    assert sum(a != b for a, b in zip(one, other, strict=True)) <= 1


def test_sampling_equals_a_naive_loop_token_for_token(loaded, prompts, sampler, completions):
    assert_same(completions, [naive(loaded.model, prompt, row, sampler) for row, prompt in enumerate(prompts)])
    assert {c.ended for c in completions} == {"stop", "not allowed", "length"}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_completions_do_not_depend_on_the_batch_size(loaded, prompts, sampler, completions, batch_size):
    assert_same(run(loaded.model, prompts, sampler, batch_size), completions)


def test_a_row_does_not_depend_on_the_other_rows_nor_on_their_order(loaded, prompts, sampler, completions):
    rows = [7, 2, 9, 0]
    assert sampling.sample_batch(loaded.model, prompts, rows, sampler, Prefix(loaded.model, prompts, 8)) == [
        completions[row] for row in rows
    ]


def test_same_seed_same_tokens_and_another_seed_others(loaded, prompts, sampler, completions):
    assert_same(run(loaded.model, prompts, sampler), completions)
    assert run(loaded.model, prompts, dataclasses.replace(sampler, seed=6)) != completions


def test_shared_prefix_changes_no_token(loaded, prompts, sampler, completions, monkeypatch):
    assert Prefix(loaded.model, prompts, 8).n == len(SHARED)
    monkeypatch.setattr(sampling, "MIN_SHARED_PREFIX", 1000)
    assert Prefix(loaded.model, prompts, 8).n == 0
    assert_same(run(loaded.model, prompts, sampler), completions)


def test_a_sliding_window_sees_no_padding(prompts, sampler):
    config = Gemma2Config(
        vocab_size=2400, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    free = dataclasses.replace(sampler, allowed=None, stop_ids=[2399])
    assert_same(run(model, prompts, free), [naive(model, prompt, row, free) for row, prompt in enumerate(prompts)])
    assert Prefix(model, prompts, 12).n == 0


@pytest.mark.parametrize("below", [0.0, 1.1])
def test_compacting_the_batch_changes_no_token(loaded, prompts, sampler, completions, monkeypatch, below):
    monkeypatch.setattr(sampling, "COMPACT_BELOW", below)
    assert_same(run(loaded.model, prompts, sampler), completions)


def test_ids_hold_no_stop_token_and_end_with_the_refused_one(sampler, completions):
    for completion in completions:
        body = completion.ids[:-1] if completion.ended == "not allowed" else completion.ids
        assert not set(completion.ids) & set(sampler.stop_ids)
        assert all(sampler.allowed[token] for token in body)
        assert (len(completion.ids) == sampler.max_new_tokens) or completion.ended != "length"
        if completion.ended == "not allowed":
            assert not sampler.allowed[completion.ids[-1]]


def test_without_allowed_nothing_is_refused(loaded, prompts, sampler):
    free = dataclasses.replace(sampler, allowed=None)
    assert {c.ended for c in run(loaded.model, prompts, free)} == {"stop", "length"}


def test_a_stop_token_at_once_gives_an_empty_completion(loaded, prompts, sampler):
    always = dataclasses.replace(sampler, stop_ids=list(range(len(loaded.tokenizer))))
    assert run(loaded.model, prompts, always) == [Completion([], "stop")] * len(prompts)


def test_uniforms_depend_on_seed_and_row_alone():
    assert np.array_equal(uniforms([4, 2], 6, seed=3)[1], uniforms([2], 6, seed=3)[0])
    assert np.array_equal(uniforms([2], 9, seed=3)[0, :6], uniforms([2], 6, seed=3)[0])
    assert len({tuple(uniforms([row], 3, seed)[0]) for row in range(20) for seed in range(20)}) == 400


def test_uniforms_are_uniform():
    assert stats.kstest(uniforms(range(500), 8, seed=1).ravel(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_token_frequencies_match_the_softmax_at_the_temperature(temperature):
    n, logits = 20_000, torch.tensor([2.0, -1.0, 0.0, 1.0, 0.5, -0.5])
    tokens = inverse_cdf(logits.expand(n, -1), torch.from_numpy(np.random.default_rng(0).random(n)), temperature)
    expected = n * (logits.double() / temperature).softmax(-1).numpy()
    assert stats.chisquare(np.bincount(tokens, minlength=6), expected).pvalue > 0.01


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(3, -1)
    assert inverse_cdf(logits, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64), 1.0).tolist() == [1, 3, 3]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_shared_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts):
    def shared_by_all(k):
        return all(len(p) > k and p[:k] == prompts[0][:k] for p in prompts)

    n = shared_prefix(prompts)
    assert shared_by_all(n)
    assert not shared_by_all(n + 1)


def test_left_pad_puts_padding_and_zeros_on_the_left():
    ids, mask = left_pad([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_batches_rise_in_length_and_hold_every_row_once(prompts):
    batches = batches_by_length(prompts, 5)
    lengths = [len(prompts[row]) for batch in batches for row in batch]
    assert lengths == sorted(lengths)
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert sorted(row for batch in batches for row in batch) == list(range(12))
