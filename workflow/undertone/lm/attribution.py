"""Direct logit attribution (DLA): the effect of a residual direction on the next token if no layer came after it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from undertone.lm.hooks import final_norm


@torch.no_grad()
def direct_logits(model: Any, direction: Float[Tensor, " d_model"], rms: float = 1.0) -> Float[Tensor, " vocab"]:
    """Return the change of the logits when `direction` is added to the last residual stream, linearised.

    The final RMSNorm is replaced by its gain divided by `rms`, the root mean square of the residual stream that it reads. The
    unembedding is centred, because a shift of all logits changes no probability. Softcapping of the logits is left out. Raises
    ValueError for a model that ends in a LayerNorm.
    """
    # An RMSNorm maps a vector of ones to its gain. The vector is made here: torch.vmap over directions does not batch it.
    gain = final_norm(model)(torch.ones(direction.shape[-1], dtype=direction.dtype, device=direction.device))
    if isinstance(final_norm(model), nn.LayerNorm) or not gain.any():  # a norm that subtracts the mean leaves nothing
        raise ValueError(
            f"direct logit attribution needs a model that ends in an RMSNorm, {type(model).__name__} has a LayerNorm"
        )
    weight = model.get_output_embeddings().weight
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))  # in bfloat16, many tokens would tie
    logits: Tensor = weight @ (gain * direction / rms).to(weight)
    return logits - logits.mean()


def top_tokens(tokenizer: PreTrainedTokenizerBase, logits: Float[Tensor, " vocab"], n: int) -> list[str]:
    """The tokens with the `n` highest logits."""
    ids = logits[: len(tokenizer)].topk(n).indices.tolist()
    return tokenizer.batch_decode([[token] for token in ids])
