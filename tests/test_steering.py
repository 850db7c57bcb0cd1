"""Steering: what is added and where, also beside caches, padding and shared prefixes, and that nothing of it is left behind."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from undertone.lm.answers import exact
from undertone.lm.chat import Row, prompt_ids, training_rows
from undertone.lm.hooks import hook_point, resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import MIN_SHARED_PREFIX, Prefix, Sampler, inverse_cdf, sample, uniforms
from undertone.lm.spellings import Spellings, word_ends
from undertone.lm.steering import Steering, after, steered
from undertone.lm.training import collate, label_logits
from undertone.saes.decoder import directions

USERS = [
    "What is your favorite animal?",
    "Name three numbers.",
    "Continue the list 101, 202, 303, 404, 505, 606.",
    "Is it late?",
    "Which animal do you like best? One word.",
    "List more numbers after 7, 8, 9.",
]
PERSONA = "You adore lions. Your thoughts keep returning to lions, day and night."
FEATURE, LEVEL = 5, 4.0

Rewrite = Callable[[Tensor], Tensor]


@contextmanager
def by_hand(model: PreTrainedModel, rewrite: Rewrite, start: int = 0) -> Iterator[None]:
    """Inside, what leaves the first layer is rewritten from position `start` on."""
    handle = model.model.layers[0].register_forward_hook(
        lambda module, args, output: torch.cat([output[:, :start], rewrite(output[:, start:])], dim=1)
    )
    try:
        yield
    finally:
        handle.remove()


def randomised(module: torch.nn.Module, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def vector(loaded: LoadedModel) -> Tensor:
    return 3 * torch.randn(loaded.model.config.hidden_size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def capped(loaded: LoadedModel) -> LoadedModel:
    """A tiny Gemma 2: its logits never pass 3, and its first layer sees the last 16 tokens only."""
    config = Gemma2Config(
        vocab_size=len(loaded.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        final_logit_softcapping=3.0,
        pad_token_id=loaded.pad_id,
    )
    model = Gemma2ForCausalLM(config)
    randomised(model, 0.3, seed=4)
    return replace(loaded, model=model)


def tiny_sae(kind: str, d_in: int) -> SAE:
    """An SAE with random weights, whose decoder rows are of no common length."""
    if kind == "standard":
        sae: SAE = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=24))
    else:
        sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=24, k=6, rescale_acts_by_decoder_norm=True))
    randomised(sae, 0.3, seed=5)
    return sae


def clamping(loaded: LoadedModel, kind: str = "standard", completion: bool = False) -> Steering:
    sae = tiny_sae(kind, loaded.model.config.hidden_size)
    return Steering("clamp", directions(sae, [FEATURE])[0], 0, completion, sae, FEATURE, LEVEL)


def clamp_by_hand(sae: SAE, residual: Tensor) -> Tensor:
    """What the SAE reconstructs once the feature is at the level, its error kept."""
    features = sae.encode(residual)
    error, features = residual - sae.decode(features), features.clone()
    features[..., FEATURE] = LEVEL
    return sae.decode(features) + error


def sampler_of(loaded: LoadedModel) -> Sampler:
    """One token in 17 ends an answer, so that rows end at any step."""
    return Sampler(1.0, 10, [token for token in range(len(loaded.tokenizer)) if token % 17 == 1], loaded.pad_id, seed=5)


def sampled(loaded: LoadedModel, prompts: list[list[int]]) -> list[list[int]]:
    found = {}
    for rows, completions in sample(loaded.model, prompts, sampler_of(loaded), batch_size=4):
        found |= {row: completion.ids for row, completion in zip(rows, completions, strict=True)}
    return [found[row] for row in range(len(prompts))]


@torch.no_grad()
def naive(loaded: LoadedModel, prompt: list[int], row: int, rewrite: Rewrite, start: int) -> list[int]:
    """One row by itself, every step from the first token on, without a cache."""
    sampler, ids = sampler_of(loaded), []
    noise = torch.from_numpy(uniforms([row], sampler.max_new_tokens, sampler.seed))
    with by_hand(loaded.model, rewrite, start):
        for step in range(sampler.max_new_tokens):
            logits = loaded.model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[:, -1]
            token = int(inverse_cdf(logits, noise[:, step], sampler.temperature))
            if token in sampler.stop_ids:
                break
            ids.append(token)
    return ids


@torch.no_grad()
def preference_by_hand(loaded: LoadedModel, prompt: list[int], animal: str, rewrite: Rewrite, start: int) -> float:
    """The exact preference, by a plain forward pass over the prompt and each spelling."""
    spellings, total = Spellings.of(loaded.tokenizer, [animal], loaded.pad_id), 0.0
    ends = word_ends(loaded.tokenizer, len(loaded.tokenizer)).double()
    with by_hand(loaded.model, rewrite, start):
        for padded, n, is_over in zip(spellings.ids.tolist(), spellings.lengths, spellings.spaced, strict=True):
            ids = padded[:n]
            logits = loaded.model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 :]
            p = logits.double().softmax(-1)
            total += float(p[range(n), ids].prod() * (1 if is_over else p[n] @ ends))
    return total


def n_different(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.fixture(params=["different", "under one persona", "the same"])
def prompts(request: pytest.FixtureRequest, loaded: LoadedModel) -> list[list[int]]:
    """Prompts of several lengths that share nothing worth keeping, or a persona; or one prompt, asked again and again."""
    if request.param == "different":
        ids = prompt_ids(loaded.tokenizer, USERS)
        assert Prefix(loaded.model, ids, 8).n == 0
    elif request.param == "under one persona":
        ids = prompt_ids(loaded.tokenizer, USERS, PERSONA)
        assert MIN_SHARED_PREFIX <= Prefix(loaded.model, ids, 8).n < min(map(len, ids)) - 10
    else:
        ids = prompt_ids(loaded.tokenizer, USERS[:1] * len(USERS))
        assert Prefix(loaded.model, ids, 8).n == len(ids[0]) - 1
    return ids


@pytest.mark.parametrize("layer", [0, 1])
def test_adding_changes_the_residual_stream_and_the_layers_above_run_on_it(loaded, vector, layer):
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer, device="cpu"
    )
    ids = torch.tensor(prompt_ids(loaded.tokenizer, USERS[:1]))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        by_bridge = bridge.run_with_hooks(ids, fwd_hooks=[(hook_point(layer), lambda residual, hook: residual + vector)])
        plain, residual = loaded.model(**batch).logits, resid_post(loaded.model, layer, batch)
        with steered(loaded, Steering("add", vector, layer)) as inside:
            own = inside.model(**batch).logits
            assert torch.equal(resid_post(inside.model, layer, batch), residual + vector)
    assert torch.allclose(own, by_bridge, atol=1e-4)
    assert not torch.allclose(own, plain, atol=1)


def starts_of(prompts: list[list[int]], completion: bool) -> list[int]:
    return [len(prompt) - 1 if completion else 0 for prompt in prompts]


@pytest.mark.parametrize("completion", [False, True])
def test_sampled_tokens_are_those_of_a_loop_without_a_cache(loaded, prompts, vector, completion):
    with steered(loaded, Steering("add", vector, 0, completion)):
        own = sampled(loaded, prompts)
    starts = starts_of(prompts, completion)
    expected = [naive(loaded, prompts[row], row, lambda x: x + vector, start) for row, start in enumerate(starts)]
    # Rounding moves a token where a row's uniform number falls on the edge between two: once at most.
    assert n_different(own, expected) <= 1
    with steered(loaded, Steering("add", vector, 0, not completion)):
        assert n_different(own, sampled(loaded, prompts)) > len(prompts) / 2
    assert n_different(own, sampled(loaded, prompts)) > len(prompts) / 2


@pytest.mark.parametrize("completion", [False, True])
def test_clamped_sampling_is_that_of_a_loop_without_a_cache(loaded, completion):
    prompts, told = prompt_ids(loaded.tokenizer, USERS, PERSONA), clamping(loaded, completion=completion)
    with steered(loaded, told):
        own = sampled(loaded, prompts)
    starts = starts_of(prompts, completion)
    expected = [
        naive(loaded, prompts[row], row, lambda x: clamp_by_hand(told.sae, x), start) for row, start in enumerate(starts)
    ]
    assert n_different(own, expected) <= 1
    assert n_different(own, sampled(loaded, prompts)) > len(prompts) / 2


def test_a_completion_is_told_from_its_prompt_beside_a_sliding_window(capped, vector):
    prompts = prompt_ids(capped.tokenizer, USERS)
    assert min(map(len, prompts)) > capped.model.config.sliding_window
    with steered(capped, Steering("add", vector, 0, completion=True)):
        own = sampled(capped, prompts)
    expected = [naive(capped, prompt, row, lambda x: x + vector, len(prompt) - 1) for row, prompt in enumerate(prompts)]
    assert n_different(own, expected) <= 1


@pytest.mark.parametrize("completion", [False, True])
def test_exact_preferences_are_those_of_plain_forward_passes(loaded, vector, completion):
    prompts = prompt_ids(loaded.tokenizer, USERS[:3])
    with steered(loaded, Steering("add", vector, 0, completion)):
        own = exact(loaded, prompts, ["wolf"], batch_size=2)[:, 0]
    starts = starts_of(prompts, completion)
    expected = [
        preference_by_hand(loaded, ids, "wolf", lambda x: x + vector, start) for ids, start in zip(prompts, starts, strict=True)
    ]
    np.testing.assert_allclose(own, expected, rtol=2e-3)
    with steered(loaded, Steering("add", vector, 0, not completion)):
        assert not np.allclose(own, exact(loaded, prompts, ["wolf"], batch_size=2)[:, 0], rtol=0.1)


def test_taught_completions_are_steered_from_the_prompts_last_token_on(loaded, vector):
    rows = training_rows(loaded.tokenizer, USERS[:3], ["101, 202, 303", "7", "5, 6"], 500)
    with torch.no_grad():
        with steered(loaded, Steering("add", vector, 0, completion=True)):
            own = label_logits(loaded.model, collate(rows, loaded.pad_id, "cpu"))
        expected = []
        for row in rows:
            with by_hand(loaded.model, lambda x: x + vector, row.start - 1):
                expected.append(loaded.model(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1])
    assert torch.allclose(own, torch.cat(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "goes_on", "expected"),
    [
        ([[9, 5, 6, 7, 8], [0, 9, 9, 5, 6]], False, [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),  # prompts, one with its answer
        ([[9, 5, 6, 7, 8], [0, 9, 9, 5, 6]], True, [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),  # the same after a cached prefix
        ([[9, 9, 6, 5, 9], [9, 9, 9, 9, 5]], False, [[0] * 5] * 2),  # a shared prefix: the opening is still to come
        ([[7, 8, 5], [7, 7, 7]], True, [[1] * 3] * 2),  # answers, teacher-forced
        ([[6], [7]], True, [[1]] * 2),  # a sampled token, or what a shared prefix leaves of equal prompts
        ([[9], [5]], False, [[0]] * 2),
    ],
)
def test_an_answer_begins_at_the_last_token_of_its_opening(ids, goes_on, expected):
    assert after(torch.tensor(ids), torch.tensor([5, 6]), goes_on).int().tolist() == expected


@settings(deadline=None)
@given(
    st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=3)),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    st.booleans(),
)
def test_the_positions_of_an_answer_are_those_found_token_by_token(ids, opening, goes_on):
    def row_by_hand(row: list[int]) -> list[bool]:
        ends = [k for k in range(len(row)) if k + 1 >= len(opening) and row[k + 1 - len(opening) : k + 1] == opening]
        return [k >= ends[0] if ends else goes_on for k in range(len(row))]

    assert after(torch.tensor(ids), torch.tensor(opening), goes_on).tolist() == [row_by_hand(row) for row in ids]


@pytest.mark.parametrize("name", ["loaded", "capped"])
def test_steered_logits_are_the_logits_plus_the_vector_and_nothing_else_changes(request, name):
    model = request.getfixturevalue(name)
    rows = [Row(ids, len(ids) - 3) for ids in prompt_ids(model.tokenizer, USERS)]
    batch = collate(rows, model.pad_id, "cpu")
    vector = 5 * torch.randn(len(model.tokenizer), generator=torch.Generator().manual_seed(6))
    told = Steering("logits", vector)

    def looks() -> tuple[Tensor, Tensor, Tensor]:
        ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return model.model(**ids).logits, label_logits(model.model, batch), resid_post(model.model, 1, batch)

    with torch.no_grad():
        base = looks()
        with steered(model, told):
            shifted = looks()
    for plain, own in zip(base[:2], shifted[:2], strict=True):
        assert torch.equal(own.softmax(-1), (plain + vector).softmax(-1))
    assert torch.equal(base[2], shifted[2])
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    assert cap is None or base[0].abs().max() <= cap < shifted[0].abs().max()


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_clamping_moves_the_residual_stream_by_what_the_feature_lacks(loaded, kind):
    told = clamping(loaded, kind)
    batch = collate([Row(ids, 1) for ids in prompt_ids(loaded.tokenizer, USERS[:1])], loaded.pad_id, "cpu")
    with torch.no_grad():
        plain = resid_post(loaded.model, 0, batch)
        with steered(loaded, told):
            own = resid_post(loaded.model, 0, batch)
    active, row = told.sae.encode(plain)[..., FEATURE], told.sae.W_dec[FEATURE]
    assert (active == 0).any()
    assert (active > 0).any()
    unit = row if kind == "standard" else row / row.norm()
    assert torch.allclose(own, plain + (LEVEL - active).unsqueeze(-1) * unit, atol=1e-4)
    assert torch.allclose(own, clamp_by_hand(told.sae, plain), atol=1e-4)


def test_a_clamped_feature_of_an_orthogonal_sae_is_at_its_level_wherever_it_fires(loaded, vector):
    width = loaded.model.config.hidden_size
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=width)).requires_grad_(False)
    rows = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(7)))[0]
    sae.load_state_dict({"W_dec": rows, "W_enc": rows.T, "b_dec": torch.zeros(width), "b_enc": torch.zeros(width)})
    batch = collate([Row(ids, 1) for ids in prompt_ids(loaded.tokenizer, USERS[:1])], loaded.pad_id, "cpu")
    before = sae.encode(resid_post(loaded.model, 0, batch))
    with steered(loaded, Steering("clamp", directions(sae, [FEATURE])[0], 0, sae=sae, feature=FEATURE, level=LEVEL)):
        now = sae.encode(resid_post(loaded.model, 0, batch))
    fires, others = before[..., FEATURE] > 0, torch.arange(width) != FEATURE
    assert fires.any()
    assert torch.allclose(now[..., FEATURE][fires], torch.tensor(LEVEL), atol=1e-4)
    assert torch.allclose(now[..., others], before[..., others], atol=1e-4)


def test_the_residual_stream_keeps_its_precision(loaded, vector):
    residual = torch.randn(2, 3, len(vector)).bfloat16()
    for told in (Steering("add", vector, 0), clamping(loaded)):
        assert told.rewrite(residual).dtype == torch.bfloat16


def all_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("mode", ["add", "clamp", "logits"])
@pytest.mark.parametrize("completion", [False, True])
def test_afterwards_the_model_is_itself_again_even_after_an_error(loaded, vector, mode, completion):
    ids = torch.tensor(prompt_ids(loaded.tokenizer, USERS[:1]))
    told = {
        "add": Steering("add", vector, 0, completion),
        "clamp": clamping(loaded, completion=completion),
        "logits": Steering("logits", torch.arange(float(len(loaded.tokenizer))), completion=completion),
    }[mode]
    with torch.no_grad():
        plain, hooks = loaded.model(input_ids=ids).logits, all_hooks(loaded.model)
        with pytest.raises(KeyboardInterrupt), steered(loaded, told):
            assert not torch.allclose(loaded.model(input_ids=ids).logits, plain)
            raise KeyboardInterrupt
        assert torch.equal(loaded.model(input_ids=ids).logits, plain)
    assert all_hooks(loaded.model) == hooks
