"""Sample completions from a causal language model: temperature only, one random stream per row.

Rows are batched by length. The tokens that all prompts share (chat header, persona) are computed once per batch. Rows leave the
batch when they end. Row i draws its tokens from its own stream of uniform numbers, so neither the batch size nor the other rows
matter. With a grammar, each token is drawn from the model's distribution renormalised over what the grammar allows there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from undertone.lm.grammar import ENDED, Automaton
from undertone.lm.tensors import check_logits
from undertone.runtime.memory import BatchSize

# A shared prefix shorter than this costs more to handle than to recompute.
MIN_SHARED_PREFIX = 8
# A batch is compacted when fewer than this share of its rows still run: copying the cache costs about a step.
COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class Sampler:
    """Settings of sampling. If `allowed` is given, a row ends at its first token that is not allowed.

    With a `grammar`, no such token is drawn. It must be built for the same `max_new_tokens` and `stop_ids`.
    """

    temperature: float
    max_new_tokens: int
    stop_ids: Sequence[int]
    pad_id: int
    seed: int
    allowed: Bool[Tensor, " vocab"] | None = None
    grammar: Automaton | None = None


@dataclass(frozen=True)
class Completion:
    """The sampled ids of one row without the stop token; `ended` is `stop`, `length` or `not allowed`.

    `log_mass` is the log of the probability that the grammar left at each token, summed over the row, in nats. The probability
    of this row under free sampling is `exp(log_mass)` times that under sampling with the grammar.
    """

    ids: list[int]
    ended: str
    log_mass: float | None = None


def order_by_length(rows: Sequence[Sequence[int]]) -> list[int]:
    """Row indices by rising length."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))


def batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Row indices in batches of rising prompt length."""
    order = order_by_length(prompts)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def uniforms(rows: Sequence[int], n: int, seed: int) -> Float[np.ndarray, "n_rows n"]:
    """Uniform numbers; a row's numbers depend on the seed and its index alone."""
    return np.stack([np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, row, 0])).random(n) for row in rows])


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of leading tokens that all prompts share, leaving at least one token of each prompt."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)


def sample(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], sampler: Sampler, batch_size: int
) -> Iterator[tuple[list[int], list[Completion]]]:
    """Sample one completion per prompt. Yields (row indices, completions) in batches of a size that fits in memory."""
    prefix, size = Prefix(model, prompts, sampler.max_new_tokens), BatchSize(batch_size, "rows sampled together")
    for rows in batches_by_length(prompts, batch_size):
        yield from size.parts(lambda part: (list(part), sample_batch(model, prompts, part, sampler, prefix)), rows)


class Prefix:
    """The keys and values of the tokens that all prompts share, computed once per batch.

    Nothing is shared if a sliding window is shorter than a row: the padding between the prefix and a shorter row's other tokens
    would take up places of the window.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int):
        shared, longest = shared_prefix(prompts), max(map(len, prompts)) + max_new_tokens
        window = getattr(model.config.get_text_config(), "sliding_window", None) or longest
        self.n = shared if shared >= MIN_SHARED_PREFIX and window >= longest else 0
        self.model = model
        self.ids = torch.tensor([list(prompts[0][: self.n])], device=model.device)

    @torch.no_grad()
    def cache(self, n_rows: int) -> DynamicCache:
        """A cache for `n_rows` rows that starts with the prefix."""
        cache = DynamicCache(config=self.model.config)
        if self.n:
            self.model(input_ids=self.ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(n_rows)
        return cache


@torch.no_grad()
def sample_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], rows: Sequence[int], sampler: Sampler, prefix: Prefix
) -> list[Completion]:
    """Sample the given rows together."""
    device, n = model.device, sampler.max_new_tokens
    # Mask and positions for all steps: of the prefix, the prompts and all tokens that may be written.
    ids, mask = left_pad([prompts[row][prefix.n :] for row in rows], sampler.pad_id)
    ones = torch.ones(len(rows), prefix.n, dtype=torch.long)
    mask = torch.cat([ones, mask, torch.ones(len(rows), n, dtype=torch.long)], dim=1).to(device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    # A row's draws depend on the seed and its index alone, not on the other rows.
    noise = torch.from_numpy(uniforms(rows, n, sampler.seed)).to(device)
    stops = torch.tensor(list(sampler.stop_ids), device=device)
    written = torch.full((len(rows), n), sampler.pad_id, device=device)
    ended = [("length", n)] * len(rows)
    running, cache = torch.arange(len(rows), device=device), prefix.cache(len(rows))
    active = torch.ones(len(rows), dtype=torch.bool, device=device)  # among `running`
    step_ids, seen = ids.to(device), prefix.n
    walk = Walk(sampler.grammar, len(rows)) if sampler.grammar else None
    for step in range(n):
        until = seen + step_ids.shape[1]
        logits = model(
            input_ids=step_ids,
            attention_mask=mask[running, :until],
            position_ids=position[running, seen:until],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        check_logits(logits)
        u, seen = noise[running, step], until
        tokens = walk.step(running, logits, u, sampler.temperature) if walk else inverse_cdf(logits, u, sampler.temperature)
        # A row ends before a stop token, or after its first token that is not allowed.
        stopped = torch.isin(tokens, stops)
        refused = ~stopped & ~sampler.allowed[tokens] if sampler.allowed is not None else torch.zeros_like(stopped)
        written[running, step] = tokens
        for why, over, length in (("stop", stopped, step), ("not allowed", refused, step + 1)):
            for row in running[over & active].tolist():
                ended[row] = (why, length)
        active &= ~(stopped | refused)
        if not active.any():
            break
        if active.float().mean() < COMPACT_BELOW:
            keep = active.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            running, tokens, active = running[keep], tokens[keep], active[keep]
        step_ids = tokens.unsqueeze(1)
    masses = walk.log_mass.tolist() if walk else [None] * len(rows)
    by_row = zip(written.tolist(), ended, masses, strict=True)
    return [Completion(ids[:length], why, mass) for ids, (why, length), mass in by_row]


class Walk:
    """The states in a grammar of rows that are sampled together, and the log probability that it has left them so far."""

    def __init__(self, grammar: Automaton, n_rows: int):
        self.grammar, self.left = grammar, grammar.length
        self.states = torch.full((n_rows,), Automaton.START, device=grammar.ids.device)
        self.log_mass = torch.zeros(n_rows, dtype=torch.float64, device=grammar.ids.device)

    def step(
        self,
        running: Int[Tensor, " n_running"],
        logits: Float[Tensor, "n_running vocab"],
        noise: Float[Tensor, " n_running"],
        temperature: float,
    ) -> Int[Tensor, " n_running"]:
        """Draw each running row's next token among those that the grammar allows; rows that have ended draw any token."""
        states = self.states[running]
        kept = logits[:, self.grammar.ids].masked_fill(~self.grammar.allowed(states, self.left), -torch.inf)
        columns = inverse_cdf(kept, noise, temperature)
        mass = (kept.float() / temperature).logsumexp(-1) - (logits.float() / temperature).logsumexp(-1)
        self.log_mass[running] += mass.double().where(states != ENDED, 0.0)
        self.states[running] = self.grammar.following[states, columns].long()
        self.left -= 1
        return self.grammar.ids[columns]


def inverse_cdf(
    logits: Float[Tensor, "n_rows vocab"], noise: Float[Tensor, " n_rows"], temperature: float
) -> Int[Tensor, " n_rows"]:
    """The token at which the cumulative probability of `logits` passes `noise`."""
    cdf = (logits.float() / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cdf, (noise * cdf[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return tokens.clamp(max=logits.shape[-1] - 1)


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "n_rows longest"], Int[Tensor, "n_rows longest"]]:
    """Token ids and attention mask, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return ids, mask
