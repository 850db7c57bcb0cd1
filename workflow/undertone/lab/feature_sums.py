"""Sums over tokens, in float64, from which every feature's figures are computed."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from undertone.lab.reading import Read

# Bins between 0 and a feature's greatest activation: for computing quantiles, and for display.
FINE, SHOWN = 1000, 50
# Most tokens of a line after a special token that counts as a role's name.
LINE = 5
# Most pairs of feature and token that wait to be summed.
WAITING = 2**22
# Random draws of tokens for the null of an entropy, and token counts at which it is simulated.
DRAWS, COUNTS = 20, 24


class Sums:
    """Sums of the first pass, for each feature: counts, activations, positions, and activation by token."""

    def __init__(self, d_sae: int, junk: Bool[Tensor, " vocab"], newline: Bool[Tensor, " vocab"]):
        """`junk` marks the token ids that count as junk wherever they stand, `newline` those that hold a line end."""
        self.vocab, self.is_junk, self.is_newline, device = len(junk), junk, newline, junk.device
        self.tokens = self.outliers = self.positions = 0
        self.count, self.total, self.greatest, self.position, self.junk = (
            torch.zeros(d_sae, dtype=torch.float64, device=device) for _ in range(5)
        )
        self.by_token = torch.zeros(self.vocab, dtype=torch.float64, device=device)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._waiting = 0

    def add(self, read: Read) -> None:
        """Add a batch of contexts."""
        place = torch.arange(read.ids.shape[1], device=read.ids.device)
        self.tokens += int(read.kept.sum())
        self.outliers += int((read.text & ~read.kept).sum())
        self.positions += int((read.kept * place).sum())
        self.by_token.index_add_(0, read.ids[read.kept], torch.ones_like(read.ids[read.kept], dtype=torch.float64))
        row, position, feature = read.acts.nonzero(as_tuple=True)
        acts = read.acts[row, position, feature].double()
        self.count.index_add_(0, feature, torch.ones_like(acts))
        self.total.index_add_(0, feature, acts)
        self.position.index_add_(0, feature, position.double())
        self.greatest = torch.maximum(self.greatest, read.acts.amax((0, 1)).double())
        token = read.ids[row, position]
        role = roles((read.ids >= 0) & ~read.text, self.is_newline[read.ids.clamp(min=0)])
        self.junk.index_add_(0, feature, acts * (self.is_junk[token] | role[row, position]))
        self._pairs.append((feature * self.vocab + token, acts))
        self._waiting += len(acts)
        if self._waiting > WAITING:
            self._pairs, self._waiting = [self.pairs()], 0

    def pairs(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Return feature · vocab + token of each pair that occurs, ascending, and the feature's total activation on it."""
        keys, inverse = torch.unique(torch.cat([key for key, _ in self._pairs]), return_inverse=True)
        sums = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
        return keys, sums.index_add_(0, inverse, torch.cat([acts for _, acts in self._pairs]))


class Widths:
    """Sums of the second pass, in units of each feature's greatest activation, which the first pass has seen.

    `fine` `[d_sae, 1000]` counts activations by bin. `seen` counts the occurrences of each feature's `token`, `silent` those
    on which the feature is 0.
    """

    def __init__(self, greatest: Float[Tensor, " d_sae"], token: Int[Tensor, " d_sae"]):
        self.greatest, self.token = greatest.float(), token
        self.fine = torch.zeros(len(greatest) * FINE, dtype=torch.float64, device=greatest.device)
        self.seen, self.silent = (torch.zeros(len(greatest), dtype=torch.float64, device=greatest.device) for _ in range(2))

    def add(self, read: Read) -> None:
        """Add a batch of contexts."""
        row, position, feature = read.acts.nonzero(as_tuple=True)
        share = read.acts[row, position, feature] / self.greatest[feature]
        bins = (share * FINE).long().clamp(max=FINE - 1)
        self.fine.index_add_(0, feature * FINE + bins, torch.ones_like(share, dtype=torch.float64))
        own = self.own(read)
        self.seen += own.sum((0, 1))
        self.silent += (own & (read.acts == 0)).sum((0, 1))

    def own(self, read: Read) -> Bool[Tensor, "n_rows n_tokens d_sae"]:
        """Mark the places of each feature's own token."""
        return (read.ids.unsqueeze(-1) == self.token) & read.kept.unsqueeze(-1)

    def histogram(self) -> Int[Tensor, "d_sae bins"]:
        """Count activations in 50 bins of equal width between 0 and the feature's greatest."""
        return self.fine.view(len(self.token), SHOWN, -1).sum(-1).long()

    def quantiles(self, at: list[float]) -> Float[Tensor, "d_sae n_quantiles"]:
        """Return quantiles of the positive activations, to a thousandth of the greatest; 0 for a feature that never fires."""
        rising = self.fine.view(len(self.token), FINE).cumsum(1)
        asked = torch.tensor(at, dtype=torch.float64, device=rising.device) * rising[:, -1:]
        edge = (torch.searchsorted(rising, asked) + 1).clamp(max=FINE).double() / FINE
        return edge * self.greatest.double().unsqueeze(1)


def roles(
    special: Bool[Tensor, "n_rows n_tokens"], newline: Bool[Tensor, "n_rows n_tokens"]
) -> Bool[Tensor, "n_rows n_tokens"]:
    """Mark what a chat template writes after a special token: the token right after it, and a short line, such as `user`.

    A line is short if it ends within 5 tokens. In plain text, the token right after a BOS is a document's first.
    """

    def later(where: Tensor, k: int) -> Tensor:
        return pad(where, (k, 0))[:, : where.shape[1]]

    marked = later(special, 1)
    clear = torch.ones_like(special)  # neither a special token nor the end of a line stands in between
    for k in range(2, LINE + 1):
        clear = clear & ~later(special | newline, k - 1)
        ends = newline & later(special, k) & clear
        for back in range(k):
            marked = marked | pad(ends, (0, back))[:, back:]
    return marked


def entropies(keys: Int[Tensor, " n"], sums: Float[Tensor, " n"], d_sae: int, vocab: int) -> Float[Tensor, " d_sae"]:
    """Return −Σ p log p over tokens, in nats, where p is a token's share of a feature's activation; NaN if it never fires."""
    feature = keys // vocab
    total = torch.zeros(d_sae, dtype=torch.float64, device=keys.device).index_add_(0, feature, sums)
    share = sums / total[feature]
    entropy = torch.zeros_like(total).index_add_(0, feature, -share * share.log())
    return torch.where(total > 0, entropy, torch.nan)


def entropies_by_chance(
    by_token: Float[np.ndarray, " vocab"], count: Float[np.ndarray, " d_sae"], seed: int
) -> Float[np.ndarray, " d_sae"]:
    """Return the entropy, in nats, of as many random tokens of the text as each feature fires on, mean of 20 draws.

    It is simulated at 24 counts and interpolated between them.
    """
    rng = np.random.default_rng(seed)
    counts = np.unique(np.geomspace(1, max(2.0, count.max()), COUNTS).round().astype(int))
    means = []
    for n in counts:
        shares = rng.multinomial(n, by_token / by_token.sum(), DRAWS) / n
        means.append(-np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares)), axis=1).mean() + 0.0)
    return np.interp(np.log(np.maximum(count, 1)), np.log(counts), means)
