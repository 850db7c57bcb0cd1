"""How an answer continues after a few openers: which tokens become likelier, and what is written."""

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from undertone.lm.answers import first_logits, sampled_answers
from undertone.lm.chat import inner_texts, prompt_ids, special_texts
from undertone.lm.loading import LoadedModel
from undertone.lm.spellings import begun
from undertone.lm.steering import Steering, steered
from undertone.lm.texts import check_plain
from undertone.saes.features import token_table
from undertone.study.config.vectors import Influence
from undertone.vectors.forced import continued

# Tokens that are shown of those that become likelier.
SHOWN = 5


class Openers:
    """A model's answers to one message, each begun by one of the openers."""

    def __init__(self, loaded: LoadedModel, settings: Influence):
        special = special_texts(loaded.tokenizer)
        check_plain(settings.openers, special, "influence.openers")
        asked = prompt_ids(loaded.tokenizer, [settings.message])
        self.loaded, self.settings, self.asked = loaded, settings, asked
        self.prompts = [begun(loaded.tokenizer, asked, opener)[0] for opener in settings.openers]
        self.base = self.logits()

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "n_openers vocab"]:
        """Return the logits of the next token in the model's current state, each minus the mean of the vocabulary."""
        logits = first_logits(self.loaded, self.prompts).float()
        return logits - logits.mean(-1, keepdim=True)

    def rise(self, steering: Steering) -> Float[Tensor, " vocab"]:
        """Return each token's rise in logit under steering, in nats against the vocabulary's mean, averaged over the openers.

        Log-probabilities of rare tokens rise under anything that makes the model less sure; these do not.
        """
        with steered(self.loaded, steering):
            return (self.logits() - self.base).mean(0)

    def shown(self, rise: Float[Tensor, " vocab"]) -> list[list[Any]]:
        """Return the tokens that rise most, each (text, nats); none if nothing rises."""
        return [entry for entry in token_table(self.loaded, rise, SHOWN)["top"] if entry[1] > 0]

    def written(self, steering: Steering | None) -> dict[str, Any]:
        """Return how the answer continues after the first opener: once `greedy`, and `sampled` at temperature 1."""
        settings, loaded, sampled = self.settings, self.loaded, [list[str]()]
        with steered(loaded, steering) if steering else nullcontext():
            (row,) = continued(loaded, self.prompts[:1], settings.max_new_tokens)
            if settings.samples:
                size = (settings.samples, settings.max_new_tokens, settings.samples)
                sampled = sampled_answers(loaded, self.asked, *size, settings.seed, settings.openers[0])
        (greedy,) = inner_texts(loaded.tokenizer, [row.ids[len(self.asked[0]) : -1]])
        return {"greedy": greedy, "sampled": sampled[0]}
