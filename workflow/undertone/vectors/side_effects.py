"""Side effects of steering, on text that has nothing to do with it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering, steered
from undertone.lm.training import label_logits

BATCH = 16


@torch.no_grad()
def side_effects(loaded: LoadedModel, rows: Sequence[Row], steerings: Sequence[Steering]) -> list[dict[str, float]]:
    """Return `kl`, KL(steered ‖ base), and `loss` on text, in nats per token: of the model itself, then under each steering."""

    def sums(batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        kept = batch["labels"][:, 1:]
        labels = kept[kept != -100]
        base = label_logits(loaded.model, batch).log_softmax(-1)
        parts = [torch.stack([torch.zeros((), device=base.device), cross_entropy(base, labels, reduction="sum")])]
        for steering in steerings:
            with steered(loaded, steering):
                own = label_logits(loaded.model, batch).log_softmax(-1)
            kl = (own.exp() * (own - base)).sum()
            parts.append(torch.stack([kl, cross_entropy(own, labels, reduction="sum")]))
        return torch.stack(parts).double().cpu(), len(labels)

    totals, counts = zip(*loaded.read(sums, rows, BATCH), strict=True)
    per_token = torch.stack(totals).sum(0) / sum(counts)
    return [{"kl": max(kl, 0.0), "loss": loss} for kl, loss in per_token.tolist()]
