"""Probabilities of many short texts after prompts. Their common beginnings are run once, improbable ones not at all.

The spellings form a trie of tokens. After each prompt's keys and values, its nodes are run level by level as one sequence, in
which each node attends only to the prompt and to its ancestors. A node is run only if the tokens up to it are probable enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Prefix, left_pad
from undertone.lm.spellings import Spellings
from undertone.lm.tensors import check_logits
from undertone.lm.training import logits_only_at


@dataclass(frozen=True)
class Trie:
    """Spellings as nodes of one token each. The last node stands for padding and for the root.

    `candidate`: the candidate that a node's spelling names, or -1. `over`: whether the word ends with the node's own token.
    `within`: for each node, itself and the nodes it comes from. `goes_on`: whether the model must be run on a node to know what
    follows.
    """

    token: Int[Tensor, " n_nodes"]
    parent: Int[Tensor, " n_nodes"]
    depth: Int[Tensor, " n_nodes"]
    candidate: Int[Tensor, " n_nodes"]
    over: Bool[Tensor, " n_nodes"]
    goes_on: Bool[Tensor, " n_nodes"]
    within: Bool[Tensor, "n_nodes n_nodes"]

    @classmethod
    def of(cls, spellings: Spellings) -> "Trie":
        """Build the trie of spellings, on the CPU."""
        rows = [tuple(ids[:n].tolist()) for ids, n in zip(spellings.ids, spellings.lengths, strict=True)]
        paths = sorted({row[:n] for row in rows for n in range(1, len(row) + 1)}, key=lambda path: (len(path), path))
        number = {path: node for node, path in enumerate(paths)} | {(): len(paths)}
        named_by = dict(zip(rows, zip(spellings.candidate.tolist(), spellings.spaced.tolist(), strict=True), strict=True))
        ends = [named_by.get(path, (-1, False)) for path in paths]
        parent = torch.tensor([*(number[path[:-1]] for path in paths), len(paths)])
        candidate = torch.tensor([*(candidate for candidate, _ in ends), -1])
        over = torch.tensor([*(over for _, over in ends), False])
        goes_on = (candidate >= 0) & ~over
        goes_on[parent] = True
        goes_on[-1] = False
        within = torch.eye(len(parent), dtype=torch.bool)
        for node, path in enumerate(paths):
            within[node, [number[path[:n]] for n in range(1, len(path))]] = True
        token = torch.tensor([*(path[-1] for path in paths), paths[0][0]])
        depth = torch.tensor([*map(len, paths), 0])
        return cls(token, parent, depth, candidate, over, goes_on, within)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest spelling."""
        return int(self.depth.max())

    @property
    def widest(self) -> int:
        """The number of nodes of the largest level."""
        return int(self.depth.bincount().max())

    def to(self, device: torch.device) -> "Trie":
        """Return the trie on a device."""
        return Trie(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Run:
    """Prompts that were run.

    `past`: keys and values of every token by layer. `mask`: which tokens are not padding. `position`: their positions. `first`:
    the probabilities of the next token.
    """

    past: list[tuple[Tensor, Tensor]]
    mask: Bool[Tensor, "n_prompts n_tokens"]
    position: Int[Tensor, "n_prompts n_tokens"]
    first: Float[Tensor, "n_prompts vocab"]

    def part(self, rows: slice) -> "Run":
        """Return some of the prompts."""
        past = [(keys[rows], values[rows]) for keys, values in self.past]
        return replace(self, past=past, mask=self.mask[rows], position=self.position[rows], first=self.first[rows])


def prefilled(loaded: LoadedModel, prompts: Sequence[Sequence[int]], header: Prefix) -> Run:
    """Run prompts that all begin with a header. Raises NotFiniteError if a logit is not finite."""
    ids, mask = (tensor.to(loaded.model.device) for tensor in left_pad([ids[header.n :] for ids in prompts], loaded.pad_id))
    mask = torch.cat([mask.new_ones(len(prompts), header.n), mask], dim=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    # Without a header, the cache keeps every token, even those that have left a sliding window: the masks say what is seen.
    cache = header.cache(len(prompts)) if header.n else DynamicCache()
    logits = loaded.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position[:, header.n :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    check_logits(logits)
    return Run([(layer.keys, layer.values) for layer in cache.layers], mask.bool(), position, logits.float().softmax(-1))


def named(
    loaded: LoadedModel, run: Run, trie: Trie, ends: Bool[Tensor, " vocab"], negligible: float, n_candidates: int
) -> Float[Tensor, "n_prompts n_candidates"]:
    """Return the probability of each candidate as the next word after each prompt.

    `ends` marks the tokens before which a word is over.
    """
    n, cache = len(run.mask), DynamicCache(ddp_cache_data=run.past)
    # For each node: the probability of its tokens (`p`), and that of the word ending there (`word`).
    p = torch.zeros(n, len(trie.token), dtype=torch.float64, device=run.mask.device)
    word = p.new_zeros(p.shape)
    begins = trie.depth == 1
    p[:, begins] = run.first[:, trie.token[begins]].double()
    seen = torch.zeros(n, 0, dtype=torch.long, device=p.device)
    for depth in range(1, trie.longest + 1):
        live = (p > negligible) & (trie.depth == depth) & trie.goes_on
        if not live.any():
            break
        nodes = _packed(live)
        seen = torch.cat([seen, nodes], dim=1)
        there = nodes < len(trie.token) - 1
        follows = _after(loaded, run, trie, cache, nodes, seen, there)
        prompt, node = there.nonzero()[:, 0], nodes[there]
        word[prompt, node] = (follows @ ends.to(follows)).double()
        # A child's probability, if its parent was run.
        row = torch.full(p.shape, -1, device=p.device)
        row[prompt, node] = torch.arange(len(node), device=p.device)
        deeper = (trie.depth == depth + 1).nonzero().squeeze(1)
        of = row[:, trie.parent[deeper]]
        p[:, deeper] = p[:, trie.parent[deeper]] * follows[of.clamp(min=0), trie.token[deeper]].double().where(of >= 0, 0.0)
    answer = p * word.where(~trie.over, 1.0)
    names = trie.candidate >= 0
    return p.new_zeros(n, n_candidates).index_add_(1, trie.candidate[names], answer[:, names])


def _packed(live: Bool[Tensor, "n_prompts n_nodes"]) -> Int[Tensor, "n_prompts n_most"]:
    """Return each prompt's live nodes, as many as the prompt with the most has; the last node is padding."""
    order = live.byte().argsort(dim=1, descending=True, stable=True)[:, : int(live.sum(1).max())]
    return torch.where(live.gather(1, order), order, live.shape[1] - 1)


def _after(
    loaded: LoadedModel,
    run: Run,
    trie: Trie,
    cache: DynamicCache,
    nodes: Int[Tensor, "n_prompts n_new"],
    seen: Int[Tensor, "n_prompts n_all"],
    there: Bool[Tensor, "n_prompts n_new"],
) -> Float[Tensor, "n_there vocab"]:
    """Return the distribution of the token after each node that is `there`.

    `seen` are all nodes that were run, with these as the last.
    """
    starts = run.position[:, -1:]
    position, before = starts + trie.depth[nodes], starts + trie.depth[seen]
    may_see = torch.cat(
        [run.mask.unsqueeze(1).expand(-1, nodes.shape[1], -1), trie.within[nodes.unsqueeze(2), seen.unsqueeze(1)]], dim=2
    )
    distance = position.unsqueeze(2) - torch.cat([run.position, before], dim=1).unsqueeze(1)
    with logits_only_at(loaded.model, there):
        logits = loaded.model(
            input_ids=trie.token[nodes],
            attention_mask=_masks(loaded.model, may_see, distance),
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).logits.squeeze(0)
    check_logits(logits)
    return logits.float().softmax(-1)


def _masks(model: Any, may_see: Bool[Tensor, "n q kv"], distance: Int[Tensor, "n q kv"]) -> Tensor | dict[str, Tensor]:
    """Return what is added to the attention scores, `[n, 1, q, kv]`; by kind of layer if layers differ."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)

    def added(allowed: Tensor) -> Tensor:
        zero = torch.zeros(allowed.shape, dtype=model.dtype, device=allowed.device)
        return zero.masked_fill(~allowed, torch.finfo(model.dtype).min).unsqueeze(1)

    full, near = added(may_see), added(may_see & (distance < window)) if window else None
    if getattr(config, "layer_types", None):
        return {"full_attention": full} | ({} if near is None else {"sliding_attention": near})
    return full if near is None else near
