"""Spellings as a trie: each node's probability, in every kind of attention, is that of plain forward passes."""

import numpy as np
import pytest
import torch
from test_suffix import ARCHITECTURES, NO_HEAD_DIM, SIZE
from transformers import AutoModelForCausalLM, MistralConfig, Phi3Config, PretrainedConfig

from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Prefix
from undertone.lm.spellings import Spellings
from undertone.lm.trie import Trie, named, prefilled

WINDOWS = {
    "mistral": MistralConfig(**SIZE, sliding_window=4),
    "phi3": Phi3Config(**NO_HEAD_DIM, sliding_window=4),
}
# (token ids, candidate, whether the word is over with the last of them); one spelling begins another.
SPELLED = [
    ((3,), 0, False),
    ((3, 4), 1, False),
    ((3, 4, 5), 0, False),
    ((6, 4), 1, True),
    ((7, 8, 9, 3), 2, False),
    ((9,), 2, True),
]
HEADER = [11, 12, 13, 14, 15, 16, 17, 18]
PROMPTS = [[*HEADER, 20], [*HEADER, 21, 22, 23], [*HEADER, 24, 25, 26, 27, 28]]


def spellings() -> Spellings:
    lengths = torch.tensor([len(ids) for ids, _, _ in SPELLED])
    ids = torch.zeros(len(SPELLED), 4, dtype=torch.long)
    for row, (spelling, _, _) in enumerate(SPELLED):
        ids[row, : len(spelling)] = torch.tensor(spelling)
    return Spellings(ids, lengths, torch.tensor([c for _, c, _ in SPELLED]), torch.tensor([over for *_, over in SPELLED]))


def test_a_trie_holds_what_spellings_share_once():
    trie = Trie.of(spellings())
    assert len(trie.token) == 10 + 1  # the tokens of six spellings, 3 and 3 4 once, and the root
    assert (trie.longest, trie.widest) == (4, 4)
    by_depth = [sorted(trie.token[trie.depth == depth].tolist()) for depth in (1, 2, 3, 4)]
    assert by_depth == [[3, 6, 7, 9], [4, 4, 8], [5, 9], [3]]
    assert sorted(trie.within[:-1].sum(1).tolist()) == sorted(trie.depth[:-1].tolist())
    assert not trie.goes_on[trie.over].any()


@pytest.mark.parametrize("negligible", [0.0, 2e-2])
@pytest.mark.parametrize("config", [*ARCHITECTURES.values(), *WINDOWS.values()], ids=[*ARCHITECTURES, *WINDOWS])
@torch.no_grad()
def test_words_have_the_probability_of_plain_forward_passes(config: PretrainedConfig, negligible: float):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        weight += 0.3 * torch.randn_like(weight) * (weight.dim() > 1)
    loaded = LoadedModel(model, None, [1], 0)
    vocab = model.get_output_embeddings().weight.shape[0]
    ends = torch.arange(vocab) % 3 == 0
    trie = Trie.of(spellings())
    run = prefilled(loaded, PROMPTS, Prefix(model, PROMPTS, trie.longest))
    found = torch.cat([named(loaded, run.part(rows), trie, ends, negligible, 3) for rows in (slice(0, 2), slice(2, 3))])
    expected = np.zeros((len(PROMPTS), 3))
    for row, prompt in enumerate(PROMPTS):
        for ids, candidate, over in SPELLED:
            p = model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0].double().softmax(-1)[len(prompt) - 1 :]
            tokens = p[torch.arange(len(ids)), list(ids)].cumprod(0)
            if (tokens[: len(ids) - over] > negligible).all():
                expected[row, candidate] += tokens[-1] * (1 if over else p[-1, ends].sum())
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
