"""Search for features that fire on all positive texts and on no negative one."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from sae_lens import SAE

from undertone.lab.reading import Reader
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint
from undertone.runtime.errors import ConfigError
from undertone.runtime.progress import progress
from undertone.stats.stats import p_value
from undertone.study.config.search_settings import Search

# Index of the .99 quantile of a feature's positive activations in `features.parquet`, the unit of its strength.
HIGH = -1


class FiringOn:
    """An SAE, and for each of its known features the .99 quantile of its positive activations."""

    def __init__(
        self,
        loaded: LoadedModel,
        sae: SAE[Any],
        at: HookPoint,
        known: Int[np.ndarray, " n_known"],
        table: pl.DataFrame,
        max_norm: float,
    ):
        self.loaded, self.sae, self.at, self.known, self.max_norm = loaded, sae, at, known, max_norm
        high = [table["q"][int(feature)][HIGH] for feature in known]
        # The chat template's own tokens and special tokens are ignored: they stand in every text.
        template = {*prompt_ids(loaded.tokenizer, [""])[0], *loaded.special.tolist()}
        self.unasked = torch.tensor(sorted(template), device=loaded.model.device)
        self.high: Float[np.ndarray, " n_known"] = np.maximum(np.array(high, dtype=float), np.finfo(np.float32).tiny)

    def searched(
        self,
        positive: Sequence[Sequence[int]],
        negative: Sequence[Sequence[int]],
        contexts: Sequence[Sequence[int]],
        settings: Search,
    ) -> dict[str, Any]:
        """Rank features by their least strength on the positive texts; leave out those that fire on a negative text.

        A strength is the greatest activation on a text as a multiple of the .99 quantile of the feature's positive activations.
        It counts tokens that the chat template does not write or, with `position: last`, only the last one, before the answer.
        `p_family` is the share of searches for random contexts, cut to as many such tokens, whose best feature is as strong.
        """
        texts = [*positive, *negative]
        asked = [texts, *self.random_texts(texts, contexts, settings.nulls, settings.seed)]
        strengths = self.strengths([ids for each in asked for ids in each], settings.position == "last")
        scores = [on_all(part, len(positive)) for part in np.split(strengths, len(asked))]
        best_by_chance = np.array([score.max() for score in scores[1:]])
        own = scores[0]
        p = np.asarray(p_value(own, best_by_chance))
        order = [k for k in np.argsort(-own, kind="stable") if own[k] > 0]
        least = strengths[: len(positive)]
        return {
            "searched": len(self.known),
            "fire_on_all": int((least > 0).all(0).sum()),
            "found": len(order),
            "beyond_chance": int((p[order] <= settings.level).sum()),
            "null": {"searches": len(best_by_chance), "best_95": quantile(best_by_chance)},
            "features": [
                {
                    "feature": int(self.known[k]),
                    "score": float(own[k]),
                    "p_family": float(p[k]),
                    "by_text": least[:, k].tolist(),
                }
                for k in order[: settings.top]
            ],
        }

    def strengths(self, texts: Sequence[Sequence[int]], last: bool) -> Float[np.ndarray, "n_texts n_known"]:
        """Return each known feature's strength on each text."""
        reader = Reader(self.loaded, self.sae, self.at, texts, self.max_norm, 0, 0)
        result = np.zeros((len(texts), len(self.known)))
        device = self.loaded.model.device
        chosen = torch.as_tensor(self.known, device=device)
        with progress(len(texts), "texts", "text") as bar:
            for read in reader.batches():
                place = torch.arange(read.ids.shape[1], device=device)
                behind = torch.where(read.text, place, -1).amax(1, keepdim=True)
                asked = place == behind if last else ~torch.isin(read.ids, self.unasked)
                acts = torch.where(asked.unsqueeze(-1), read.acts[..., chosen], 0.0)
                result[read.row.cpu().numpy()] = acts.amax(1).double().cpu().numpy()
                bar.update(len(read.row))
        return result / self.high

    def random_texts(
        self, texts: Sequence[Sequence[int]], contexts: Sequence[Sequence[int]], n: int, seed: int
    ) -> Iterator[list[Sequence[int]]]:
        """Yield `n` sets of random contexts, one context per text, cut to as many tokens outside the template as the text has.

        Raises ConfigError if no context is as long as a text.
        """
        rng, unasked = np.random.default_rng(seed), self.unasked.cpu().numpy()
        places = [np.flatnonzero(~np.isin(ids, unasked)) for ids in contexts]
        lengths = [max(1, int((~np.isin(ids, unasked)).sum())) for ids in texts]
        long = {length: [k for k, place in enumerate(places) if len(place) >= length] for length in set(lengths)}
        if n and not all(long.values()):
            longest = max(map(len, places))
            raise ConfigError(
                f"a text of the search has {max(lengths)} tokens, and the longest context that features were read on has "
                f"{longest}: shorten the text, so that it can be compared with random ones"
            )
        for _ in range(n):
            drawn = [int(rng.choice(long[length])) for length in lengths]
            yield [contexts[k][: places[k][length - 1] + 1] for k, length in zip(drawn, lengths, strict=True)]


def on_all(strengths: Float[np.ndarray, "n_texts n_known"], n_positive: int) -> Float[np.ndarray, " n_known"]:
    """Return the least strength on the positive texts, which come first; 0 if a feature fires on one of the others."""
    least = strengths[:n_positive].min(0)
    return np.where((strengths[n_positive:] > 0).any(0), 0.0, least)


def quantile(values: Float[np.ndarray, " n"]) -> float | None:
    """Return the .95 quantile, or None without values."""
    return float(np.quantile(values, 0.95)) if len(values) else None
