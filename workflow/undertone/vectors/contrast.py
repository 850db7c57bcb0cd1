"""Contrasts: the difference between the mean residuals of two sets of prompts, its error, and what shuffled labels give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel

BATCH = 64

Read = Callable[[Tensor], Tensor]  # a function of residuals, token by token


@dataclass(frozen=True)
class Contrast:
    """Residuals of two sets of prompts, one row per prompt; `paired`: row k of one belongs to row k of the other."""

    positive: Float[Tensor, "n_positive d_model"]
    negative: Float[Tensor, "n_negative d_model"]
    paired: bool

    @property
    def difference(self) -> Float[Tensor, " d_model"]:
        """Mean of the positives minus mean of the negatives."""
        return self.positive.mean(0) - self.negative.mean(0)

    @property
    def pairs(self) -> Float[Tensor, "n_positive d_model"]:
        """Each positive minus its own negative, or without pairs minus the negatives' mean."""
        return self.positive - (self.negative if self.paired else self.negative.mean(0))

    @property
    def error(self) -> float | None:
        """Standard error of the difference over prompts, the root of the sum over dimensions; None for a single prompt."""
        samples = [self.pairs] if self.paired else [self.positive, self.negative]
        if min(map(len, samples)) < 2:
            return None
        return float(sum(sample.var(0).sum() / len(sample) for sample in samples) ** 0.5)

    def half(self, which: int) -> "Contrast":
        """Every second prompt of each set, from the first (0) or the second (1) on."""
        return Contrast(self.positive[which::2], self.negative[which::2], self.paired)

    def shuffled(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
        """Return `n` differences under shuffled labels, made from the prompts' residuals minus their set's mean.

        For pairs the two labels are exchanged at random. If the effect is stronger on some prompts than on others, the
        differences still point along it by chance. There are none if a set has only one prompt.
        """
        if min(len(self.positive), len(self.negative)) < 2:
            return self.positive.new_zeros(0, self.positive.shape[1])
        if self.paired:
            rest = unbiased(self.pairs)
            signs = torch.randint(0, 2, (n, len(rest)), generator=generator).to(rest) * 2 - 1
            return signs @ rest / len(rest)
        rest = torch.cat([unbiased(self.positive), unbiased(self.negative)])
        weights = torch.cat(
            [torch.full((len(side),), sign / len(side)) for sign, side in ((1, self.positive), (-1, self.negative))]
        ).to(rest)
        orders = (
            torch.stack([torch.randperm(len(rest), generator=generator) for _ in range(n)]) if n else torch.zeros(0, len(rest))
        )
        return weights[orders.long().to(rest.device)] @ rest


def unbiased(sample: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Return a sample minus its mean, scaled up by √(n / (n − 1)) to its size around the true mean."""
    return (sample - sample.mean(0)) * (len(sample) / (len(sample) - 1)) ** 0.5


def principal(pairs: Float[Tensor, "n_pairs d_model"]) -> Float[Tensor, " d_model"]:
    """Return the first principal component of the pairs' differences around 0, as long as their mean projection on it.

    It points in the direction of most pairs. With each pair centred on its own mean, the two sides lie opposite one another, so
    the mean difference is part of the variance. Centring the differences on their own mean would remove it.
    """
    component = torch.linalg.svd(pairs.double(), full_matrices=False).Vh[0].to(pairs)
    along = pairs @ component
    sign = 1.0 if int((along > 0).sum()) * 2 >= len(along) else -1.0
    return sign * component * float((sign * along).mean().abs())


def mean_residuals(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], layer: int, position: str, read: Read = lambda residual: residual
) -> Float[Tensor, "n_prompts d"]:
    """Return what `read` makes of the stream after a layer, at each prompt's last token (`last`) or as a mean over its text."""

    def means(batch: dict[str, Tensor]) -> Tensor:
        residual = read(resid_post(loaded.model, layer, batch).float())
        mask = last_tokens(batch["attention_mask"].bool()) if position == "last" else loaded.text_mask(batch)
        return (residual * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    rows = [Row(list(ids), len(ids) - 1) for ids in prompts]
    return torch.cat(list(loaded.read(means, rows, BATCH))).cpu()


def last_tokens(mask: Bool[Tensor, "n_rows n_tokens"]) -> Bool[Tensor, "n_rows n_tokens"]:
    """Mark the last token of each row; rows are padded on the right."""
    return mask & ~torch.nn.functional.pad(mask[:, 1:], (0, 1))


def over_others(
    loaded: LoadedModel,
    others: Iterator[Sequence[Sequence[int]]],
    layer: int,
    position: str,
    read: Read = lambda residual: residual,
) -> Float[Tensor, "n_prompts d"]:
    """Return what `mean_residuals` reads, averaged row by row over several sets of prompts."""
    each = [mean_residuals(loaded, prompts, layer, position, read) for prompts in others]
    return torch.stack(each).mean(0)
