"""Running lists of the best examples of all features of an SAE, while contexts are read."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from undertone.lab.reading import Read

NONE = -1


@dataclass
class Peaks:
    """Each feature's `n` best examples so far: the best token of each context, and only the best of equal windows of tokens.

    `score` `[d_sae, n]` is descending, and -inf where there is no example. For each entry, `row` is its row in the table of
    contexts, `position` its position there, `window` a hash of the tokens shown, and `acts` `[d_sae, n, n_window]` the
    activations on these.
    """

    score: Float[Tensor, "d_sae n"]
    row: Int[Tensor, "d_sae n"]
    position: Int[Tensor, "d_sae n"]
    window: Int[Tensor, "d_sae n"]
    acts: Float[Tensor, "d_sae n n_window"]

    @classmethod
    def none(cls, d_sae: int, n: int, n_window: int, device: torch.device) -> "Peaks":
        """Create empty lists."""
        integers = torch.full((d_sae, n), NONE, device=device)
        score = torch.full((d_sae, n), -torch.inf, device=device)
        acts = torch.zeros(d_sae, n, n_window, device=device)
        return cls(score, integers, integers.clone(), integers.clone(), acts)

    def add(self, score: Float[Tensor, "n_rows n_tokens d_sae"], read: Read) -> None:
        """Add a batch of contexts; a token whose score is -inf is no example."""
        n = self.score.shape[1]
        if not n:
            return
        best, position = (each.T for each in score.max(1))
        rows = torch.arange(len(read.row), device=score.device)
        windows = read.windows[rows, position]
        scores = torch.cat([self.score, best], dim=1)
        hashes = torch.cat([self.window, windows], dim=1)
        self.score, chosen = scores.masked_fill(repeated(scores, hashes), -torch.inf).topk(n, dim=1)
        new = chosen >= n  # from this batch; `at` is the row there
        at = torch.where(new, chosen - n, 0)
        kept = torch.where(new, 0, chosen)

        def pick(old: Tensor, this: Tensor) -> Tensor:
            return torch.where(new, this.gather(1, at), old.gather(1, kept))

        features = torch.arange(len(best), device=score.device).unsqueeze(1)
        self.acts = torch.where(new.unsqueeze(-1), read.around(at, position.gather(1, at), features), self.acts[features, kept])
        self.row = pick(self.row, read.row.expand(len(best), -1))
        self.position = pick(self.position, position)
        self.window = pick(self.window, windows)


def repeated(score: Float[Tensor, "d_sae n"], window: Int[Tensor, "d_sae n"]) -> Bool[Tensor, "d_sae n"]:
    """Mark entries with the window of another entry that has a greater score, or the same score further left."""
    by_score = score.argsort(dim=1, descending=True, stable=True)
    hashes, by_hash = window.gather(1, by_score).sort(dim=1, stable=True)
    again = torch.zeros_like(hashes, dtype=torch.bool)
    again[:, 1:] = hashes[:, 1:] == hashes[:, :-1]
    return torch.zeros_like(again).scatter(1, by_score.gather(1, by_hash), again)
