"""Effects of features on the probability of a word: what it loses without them, and what it gains when they are set high."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from scipy.stats import spearmanr
from torch import Tensor

from undertone.lab.firing_texts import quantile
from undertone.lm.answers import first_logits
from undertone.lm.chat import Row
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import left_pad
from undertone.lm.spellings import beginnings, begun
from undertone.lm.suffix import prefill, run_above
from undertone.runtime.errors import ConfigError
from undertone.runtime.progress import progress
from undertone.saes.decoder import directions
from undertone.stats.correlation import pearson
from undertone.stats.stats import p_value
from undertone.study.config.search_settings import Search

Baselines = dict[str, Float[np.ndarray, " n_known"]]


class WordEffects:
    """Effects of an SAE's features on a word as the beginning of the answer to positive texts, minus that to negative ones.

    The measure is the log-probability, in nats, of the tokens with which the word begins, mean over the positive texts minus
    mean over the negative ones. What the SAE does not reconstruct is left as it is.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sae: SAE[Any],
        layer: int,
        known: Int[np.ndarray, " n_known"],
        positive: Sequence[Sequence[int]],
        negative: Sequence[Sequence[int]],
        settings: Search,
    ):
        self.loaded, self.sae, self.layer, self.known, self.settings = loaded, sae, layer, known, settings
        self.rows: Float[Tensor, "d_sae d_model"] = directions(sae)
        self.prompts = begun(loaded.tokenizer, [*positive, *negative], settings.answer_prefix)
        self.tokens = word_tokens(loaded, str(settings.word), settings.answer_prefix)
        shares = [1 / len(positive)] * len(positive) + [-1 / max(1, len(negative))] * len(negative)
        self.weights = torch.tensor(shares, device=loaded.model.device)

    def measure(self, log_probs: Float[Tensor, "n_texts vocab"]) -> Float[Tensor, ""]:
        """Return the word's log-probability, in nats: mean over positive texts minus mean over negative ones."""
        return self.weights @ log_probs[:, self.tokens].logsumexp(-1)

    def read(self) -> tuple[Float[Tensor, "n_texts n_tokens d_sae"], Float[Tensor, " d_sae"], float]:
        """Return every feature's activations on the texts, its attribution, and the measure.

        The attribution of a feature is the sum over tokens of its activation times d measure / d activation: what the measure
        would lose without the feature if the layers above were linear.
        """
        kept: list[Tensor] = []

        def leaf(residual: Tensor) -> Tensor:
            kept.append(residual.detach().float().requires_grad_())
            return kept[0].to(residual)

        with torch.enable_grad(), rewritten(self.loaded.model, self.layer, leaf):
            measured = self.measure(first_logits(self.loaded, self.prompts).float().log_softmax(-1))
        (gradient,) = torch.autograd.grad(measured, kept)
        ids, mask = (tensor.to(gradient.device) for tensor in left_pad(self.prompts, self.loaded.pad_id))
        text = mask.bool() & self.loaded.is_text(ids)
        with torch.no_grad():
            acts = self.sae.encode(kept[0]) * text.unsqueeze(-1)
            return acts, (acts * (gradient @ self.rows.T)).sum((0, 1)), float(measured)

    @torch.no_grad()
    def without(self, acts: Float[Tensor, "n_texts n_tokens d_sae"], feature: int) -> float:
        """Return the measure when one feature adds nothing to the residual stream."""
        part = acts[..., feature].unsqueeze(-1) * self.rows[feature]
        with rewritten(self.loaded.model, self.layer, lambda residual: residual - part.to(residual)):
            return float(self.measure(first_logits(self.loaded, self.prompts).float().log_softmax(-1)))

    def attributed(self, baselines: Baselines) -> dict[str, Any]:
        """Return the features of greatest |attribution|, each with what the measure really loses without it (`lost`).

        `p` compares |lost| with that of as many features, drawn at random among the others that fire: the share whose |lost|
        is as great. `baselines` holds, for each order of features, the mean |lost| of its first features.
        """
        acts, every, measured = self.read()
        attribution = every[torch.as_tensor(self.known, device=every.device)].double().cpu().numpy()
        fires = (acts > 0).flatten(0, 1).any(0).cpu().numpy()[self.known]
        n = min(self.settings.verify, int(fires.sum()))
        orders = {"attribution": np.abs(attribution), **{name: np.abs(values) for name, values in baselines.items()}}
        first = {name: np.argsort(-np.where(fires, values, -np.inf), kind="stable")[:n] for name, values in orders.items()}
        others = np.setdiff1d(np.flatnonzero(fires), first["attribution"])
        drawn = np.random.default_rng(self.settings.seed).permutation(others)[:n]
        taken = np.unique(np.concatenate([*first.values(), drawn])).astype(int)
        lost: dict[int, float] = {}
        with progress(len(taken), "features taken away", "feature") as bar:
            for k in taken:
                lost[int(k)] = measured - self.without(acts, int(self.known[k]))
                bar.update()
        null = np.abs([lost[int(k)] for k in drawn])
        chosen = first["attribution"].tolist()
        return {
            "measure": measured,
            "searched": int(fires.sum()),
            "beyond_chance": int((np.abs([lost[k] for k in chosen]) > null.max()).sum()) if len(null) else 0,
            "r": pearson(attribution[taken], [lost[int(k)] for k in taken]),
            "null": {"features": len(null), "lost_95": quantile(null)},
            "baselines": {name: mean_size([lost[k] for k in order.tolist()]) for name, order in first.items()},
            "features": [
                {
                    "feature": int(self.known[k]),
                    "score": float(attribution[k]),
                    "lost": lost[k],
                    "p": float(p_value(abs(lost[k]), null)),
                }
                for k in chosen[: self.settings.top]
            ],
        }

    @torch.no_grad()
    def influential(self, table: pl.DataFrame, baselines: Baselines) -> dict[str, Any]:
        """Return the features that raise the measure most when each is set high at the last token, before the answer.

        High is `strength` times the greatest activation on text. The null is as many random directions, each as long as the
        change by one of the features: `p` is the share of these that raise the measure as much.
        """
        greatest = table["max"].to_numpy()[self.known] * self.settings.strength
        rows = [Row([*ids, self.loaded.pad_id], len(ids)) for ids in self.prompts]
        batch = prefill(self.loaded, rows, [self.layer])
        residual = batch.residual[self.layer]
        acts = self.sae.encode(residual.float())
        measured = self.risen(batch, residual)
        generator = torch.Generator().manual_seed(self.settings.seed)
        own, null = np.zeros(len(self.known)), np.zeros(len(self.known))
        with progress(len(self.known), "features set high", "feature") as bar:
            for k, feature in enumerate(self.known.tolist()):
                missing = (greatest[k] - acts[..., feature]).unsqueeze(-1)
                own[k] = self.risen(batch, residual + (missing * self.rows[feature]).to(residual)) - measured
                random = torch.randn(self.rows.shape[1], generator=generator).to(self.rows)
                random *= self.rows[feature].norm() / random.norm()
                null[k] = self.risen(batch, residual + (missing * random).to(residual)) - measured
                bar.update()
        p = np.asarray(p_value(own, null))
        order = np.argsort(-own, kind="stable")
        return {
            "measure": measured,
            "searched": len(own),
            "beyond_chance": int((own > null.max()).sum()),
            "null": {"directions": len(null), "rise_95": quantile(null), "greatest": float(null.max())},
            "baselines": {name: self.ranked_as(own, values) for name, values in baselines.items()},
            "features": [
                {"feature": int(self.known[k]), "score": float(own[k]), "p": float(p[k])} for k in order[: self.settings.top]
            ],
        }

    def ranked_as(self, own: Float[np.ndarray, " n_known"], values: Float[np.ndarray, " n_known"]) -> dict[str, float]:
        """Return Spearman's ρ with another order of the features, and the mean rise by as many of its first as are listed."""
        first = np.argsort(-values, kind="stable")[: self.settings.top]
        return {"spearman": float(spearmanr(own, values).statistic), "rise": float(own[first].mean())}

    def risen(self, batch: Any, residual: Float[Tensor, "n_texts n_tokens d_model"]) -> float:
        """Return the measure with `residual` as the stream after the SAE's layer at each text's last token."""
        return float(self.measure(run_above(self.loaded.model, batch, self.layer, residual).log_softmax(-1)))


def word_tokens(loaded: LoadedModel, word: str, prefix: str | None) -> list[int]:
    """Return the tokens that a word, small or capital, begins with in an answer. Raises ConfigError if it has no token."""
    tokens = beginnings(loaded.tokenizer, [word], prefix)
    if loaded.tokenizer.unk_token_id in tokens:
        raise ConfigError(f"searches: the model's tokenizer has no token for {word!r}; choose a word that it can write")
    return tokens


def mean_size(values: Sequence[float]) -> float | None:
    """Return the mean of the absolute values, or None without values."""
    return float(np.mean(np.abs(values))) if values else None
