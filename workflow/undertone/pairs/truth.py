"""Activations with known features: directions that fire by a known law, summed up as in a residual stream."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, LowRankCorrelationMatrix
from scipy.optimize import brentq
from scipy.sparse import csr_array, vstack
from torch import Tensor

from undertone.study.config.pair_settings import Synthetic

# Samples that are drawn at once.
CHUNK = 4096


@dataclass(frozen=True)
class Truth:
    """True features: what each adds to an activation, and how they fire."""

    dictionary: FeatureDictionary
    generator: ActivationGenerator

    @classmethod
    def drawn(cls, n: int, settings: Synthetic) -> "Truth":
        """Draw `n` features, of which `settings.active` fire at once on average; directions are as orthogonal as `n` allows.

        The features of a group, drawn at random, fire together: their firings are thresholds of normal variables with
        correlation `settings.correlation` (Gaussian copula).
        """
        order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
        loads = torch.zeros(n, -(-n // settings.group))
        loads[order, torch.arange(n) // settings.group] = settings.correlation**0.5
        together = LowRankCorrelationMatrix(loads, torch.full((n,), 1 - settings.correlation))
        p = torch.from_numpy(rates(n, settings)).float()
        return cls(
            FeatureDictionary(n, settings.d_model, seed=settings.seed).requires_grad_(False),
            ActivationGenerator(n, p, settings.spread, 1.0, correlation_matrix=together),
        )

    @property
    def directions(self) -> Float[np.ndarray, "n d_model"]:
        """The features' directions, of length 1."""
        return self.dictionary.feature_vectors.double().numpy()

    def batches(self, size: int) -> Iterator[Float[Tensor, "size d_model"]]:
        """Endless batches of activations, drawn by torch's own generator."""
        while True:
            yield self.dictionary(self.generator.sample(size))

    def sample(self, n: int, seed: int) -> tuple[Float[Tensor, "n d_model"], csr_array]:
        """Draw `n` activations, and return with them how strongly each true feature fires, `[n, n_features]`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fired = [self.generator.sample(min(CHUNK, n - start)) for start in range(0, n, CHUNK)]
        return torch.cat([self.dictionary(each) for each in fired]), csr_array(vstack([csr_array(e.numpy()) for e in fired]))


def rates(n: int, settings: Synthetic) -> Float[np.ndarray, " n"]:
    """Return how often each of `n` features fires, ∝ 1 / rank^`exponent`, at most `max_rate`, so that `active` fire at once."""
    shape = np.arange(1.0, n + 1) ** -settings.exponent

    def too_many(scale: float) -> float:
        return float(np.minimum(settings.max_rate, scale * shape).sum()) - settings.active

    highest = settings.max_rate / shape[-1]
    return np.minimum(settings.max_rate, shape * (brentq(too_many, 0, highest) if too_many(highest) > 0 else highest))
