"""Steering of a prompt's last token: token by token under a cache as in one pass over the whole row, and nowhere else."""

import numpy as np
import pytest
import torch
from test_steering import USERS, n_different, naive, preference_by_hand, prompts, sampled, vector  # noqa: F401
from torch import Tensor
from transformers import DynamicCache

from undertone.lm.answers import exact
from undertone.lm.chat import generation_prompt, prompt_ids, training_rows
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering
from undertone.lm.training import collate, label_logits
from undertone.vectors.last_token import AtLast, LastTokens, ends, steered

ROWS = ["101, 202, 303", "7", "5, 6"]


def first_only(vector: Tensor):  # type: ignore[no-untyped-def]  # noqa: F811
    """A rewrite that adds a vector to the first of some tokens."""
    return lambda residual: torch.cat([residual[:, :1] + vector, residual[:, 1:]], dim=1)


def added_at(place: int, vector: Tensor):  # type: ignore[no-untyped-def]  # noqa: F811
    """A rewrite that adds a vector to one token."""
    return lambda residual: torch.cat([residual[:, :place], first_only(vector)(residual[:, place:])], dim=1)


def test_sampled_tokens_are_those_of_a_loop_without_a_cache(
    loaded: LoadedModel,
    prompts: list[list[int]],  # noqa: F811
    vector: Tensor,  # noqa: F811
) -> None:
    with steered(loaded, AtLast("add", vector, 0)):
        own = sampled(loaded, prompts)
    expected = [naive(loaded, ids, row, first_only(vector), len(ids) - 1) for row, ids in enumerate(prompts)]
    # Rounding moves a token where a row's uniform number falls on the edge between two: once at most.
    assert n_different(own, expected) <= 1
    for other in (Steering("add", vector, 0), Steering("add", vector, 0, completion=True)):
        with steered(loaded, other):
            assert n_different(own, sampled(loaded, prompts)) > len(prompts) / 2
    assert n_different(own, sampled(loaded, prompts)) > len(prompts) / 2


@torch.no_grad()
def test_logits_token_by_token_are_those_of_the_whole_row(loaded: LoadedModel, vector: Tensor) -> None:  # noqa: F811
    rows = training_rows(loaded.tokenizer, USERS[:3], ROWS, 500)
    n_opening = len(generation_prompt(loaded.tokenizer))
    for row in rows:
        ids = torch.tensor([row.ids])
        with rewritten(loaded.model, 0, added_at(row.start - 1, vector)):
            whole = loaded.model(input_ids=ids, use_cache=False).logits[0]
        # The cache may begin to grow at any token, also in the midst of the opening.
        for first in (1, row.start - n_opening, row.start - 1, row.start, row.start + 1):
            cache, parts = DynamicCache(config=loaded.model.config), []
            with steered(loaded, AtLast("add", vector, 0)):
                for some in (ids[:, :first], *ids[:, first:].split(1, dim=1)):
                    parts.append(loaded.model(input_ids=some, past_key_values=cache, use_cache=True).logits[0])
            torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_exact_preferences_are_those_of_plain_forward_passes(loaded: LoadedModel, vector: Tensor, n: int) -> None:  # noqa: F811
    asked = prompt_ids(loaded.tokenizer, USERS[:n])
    with steered(loaded, AtLast("add", vector, 0)):
        own = exact(loaded, asked, ["wolf"], batch_size=2)[:, 0]
    expected = [preference_by_hand(loaded, ids, "wolf", first_only(vector), len(ids) - 1) for ids in asked]
    np.testing.assert_allclose(own, expected, rtol=2e-3)
    with steered(loaded, Steering("add", vector, 0, completion=True)):
        assert not np.allclose(own, exact(loaded, asked, ["wolf"], batch_size=2)[:, 0], rtol=0.01)


@torch.no_grad()
def test_taught_completions_are_steered_at_the_prompts_last_token(loaded: LoadedModel, vector: Tensor) -> None:  # noqa: F811
    rows = training_rows(loaded.tokenizer, USERS[:3], ROWS, 500)
    with steered(loaded, AtLast("add", vector, 0)):
        own = label_logits(loaded.model, collate(rows, loaded.pad_id, "cpu"))
    expected = []
    for row in rows:
        with rewritten(loaded.model, 0, added_at(row.start - 1, vector)):
            expected.append(loaded.model(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1])
    assert torch.allclose(own, torch.cat(expected), atol=1e-4)


def test_where_an_opening_ends() -> None:
    ids = torch.tensor([[9, 5, 6, 7, 5, 6], [0, 9, 9, 9, 9, 5]])
    assert ends(ids, torch.tensor([5, 6])).int().tolist() == [[0, 0, 1, 0, 0, 1], [0] * 6]
    assert ends(ids[:, :1], torch.tensor([5, 6])).int().tolist() == [[0], [0]]
    assert ends(ids, torch.tensor([9])).int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0]]


class Cache:
    """As many cached tokens as are said."""

    n = 0

    def get_seq_length(self) -> int:
        return self.n


@pytest.mark.parametrize("opening", [[5], [5, 6], [5, 6, 7]])
def test_a_cache_is_known_again_and_a_new_one_is_not_taken_for_it(opening: list[int]) -> None:
    last, cache = LastTokens(torch.tensor(opening)), Cache()
    row = [9, *opening, 4, 3]
    said = []
    for token in row:
        said.append(last.of_call({"input_ids": torch.tensor([[token]]), "past_key_values": cache})[0].tolist()[0])
        cache.n += 1
    assert said == [k == len(opening) for k in range(len(row))]
    # The end of an opening by itself, behind another cache or behind none.
    for other in (Cache(), None):
        alone = last.of_call({"input_ids": torch.tensor([opening[1:] or [4]]), "past_key_values": other})
        assert not alone.any()
    # A prefix that is read once for several rows; rows that are taken out of a cache.
    cache = Cache()
    last.of_call({"input_ids": torch.tensor([[9, *opening[:-1]]]), "past_key_values": cache})
    cache.n = len(opening)
    both = last.of_call({"input_ids": torch.tensor([[opening[-1]]] * 2), "past_key_values": cache})
    assert both.tolist() == [[True]] * 2
    assert not last.of_call({"input_ids": torch.tensor([[4]]), "past_key_values": cache}).any()
