"""How well an SAE reconstructs the base model's activations at its hook point, on the study's prompts and on text."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from torch import Tensor

from undertone.lm.chat import Row, persona, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint, read_at, rewritten_at
from undertone.lm.texts import load_texts
from undertone.lm.training import label_losses
from undertone.lm.vocabulary import TOKEN_KINDS, token_kinds
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.saes.cautions import of_variance
from undertone.saes.saved import load_sae_at
from undertone.study.config.measure import Pref
from undertone.study.config.saes import SaeMetrics
from undertone.study.config.teachers import Teacher

BATCH = 32
# Bins of log10 of the share of tokens on which a feature is active, and the lowest edge; rarer features go into the first bin.
BINS, RAREST = 50, -5
# Sums over tokens that compare activations x with reconstructions x̂.
ANGLES = ("cos(x, x̂)", "‖x‖", "‖x̂‖", "x·x̂", "‖x̂‖²")


def measure_sae(
    model: Path,
    sae: Path,
    prompts: Path,
    questions: Path,
    text: Path,
    metrics: Path,
    settings: SaeMetrics,
    teacher: Teacher,
    pref: Pref,
    max_norm: float,
    stamp: Stamp,
) -> None:
    """Write `metrics.json`, measured on the text tokens (no padding, no special token) of the study's prompts and questions.

    - `outliers`: tokens left out because their norm is more than `max_norm` times the median. In real models a few tokens are
      a hundred times as long as the rest, and their direction alone would be most of the variance.
    - `l0`: features active per token. `l1`: mean over tokens of the sum of activations. `dead`: share of features active on
      no token. `density`: counts of the others in 50 equal bins of log10 of the share of tokens they are active on, from 1e-5
      (and rarer) to 1.
    - `explained_variance`: 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², over all tokens and by kind of token, each kind around its own mean.
      `pca`: the same for as many principal components of these tokens as features are active.
    - `cosine`: mean of cos(x, x̂). `norm_ratio`: Σ‖x̂‖ / Σ‖x‖. `reconstruction_bias`: Σ‖x̂‖² / Σ x·x̂, below 1 if
      reconstructions are too short (Rajamanoharan et al. 2024, arXiv 2407.14435).
    - `loss`: nats per token of the plain model, with the SAE's reconstruction spliced in, and with the mean activation
      instead. `loss_recovered`: (mean − spliced) / (mean − plain).
    - `on_text`: the same on `settings.text` tokens of the table `text`. `expected_l0`: the registry's, or None if it has none.
      `warning`: a sentence if principal components explain more of the text than the SAE, else None.
    """
    loaded = load(model)
    autoencoder, point = load_sae_at(sae, loaded)
    users = read_parquet(prompts)["prompt"].head(settings.prompts).to_list()
    asked = quality(loaded, autoencoder, point, text_rows(loaded, users, questions, teacher, pref), max_norm)
    on_text = quality(loaded, autoencoder, point, context_rows(text, settings.text), max_norm)
    first = {"warning": of_variance(on_text), "expected_l0": expected_l0(read_json(sae))}
    write_json(metrics, {**first, **asked, "on_text": on_text}, stamp)


def quality(loaded: LoadedModel, sae: SAE[Any], point: HookPoint, rows: Sequence[Row], max_norm: float) -> dict[str, Any]:
    """Return the metrics of `metrics.json` for some rows, without tokens whose norm exceeds `max_norm` times the median."""
    greatest = max_norm * median_norm(loaded, point, rows)
    seen = Moments(sae, loaded, greatest)
    seen.read(point, rows)
    return {**seen.report(), **spliced_losses(loaded, sae, point, rows, seen.mean(), greatest)}


@torch.no_grad()
def median_norm(loaded: LoadedModel, point: HookPoint, rows: Sequence[Row]) -> float:
    """Return the median norm of the rows' text tokens at the hook point."""

    def norms(batch: dict[str, Tensor]) -> Tensor:
        return read_at(loaded.model, point, batch)[loaded.text_mask(batch)].float().norm(dim=-1).cpu()

    return float(torch.cat(list(loaded.read(norms, rows, BATCH))).median())


def context_rows(text: Path, tokens: int) -> list[Row]:
    """Draw contexts from a table of text, as many as hold `tokens` tokens, and sort them by length."""
    ids = read_parquet(text)["ids"].sample(fraction=1, shuffle=True, seed=0)
    before = ids.list.len().cum_sum() - ids.list.len()
    return sorted((Row(context, 1) for context in ids.filter(before < tokens).to_list()), key=lambda row: len(row.ids))


def text_rows(loaded: LoadedModel, prompts: Sequence[str], questions: Path, teacher: Teacher, pref: Pref) -> list[Row]:
    """Return what the study asks, sorted by length: number prompts, and questions, plain and under each candidate's persona."""
    asked = load_texts(questions, "pref.questions")
    ids = prompt_ids(loaded.tokenizer, prompts)
    for animal in (None, *pref.candidates):
        ids += prompt_ids(loaded.tokenizer, asked, persona(teacher, animal), teacher.separator)
    # A token is predicted from the one before it, so the loss is on all but the first.
    return sorted((Row(row, 1) for row in ids), key=lambda row: len(row.ids))


class Moments:
    """Sums over tokens whose norm is at most `greatest`, in float64, from which the metrics are computed."""

    def __init__(self, sae: SAE[Any], loaded: LoadedModel, greatest: float):
        self.sae, self.loaded, self.greatest = sae, loaded, greatest
        self.outliers, self.l1 = 0, 0.0
        self.kind = torch.tensor(token_kinds(loaded.tokenizer))
        n, d = len(TOKEN_KINDS), sae.cfg.d_in
        self.count, self.square, self.error = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
        self.sum = torch.zeros(n, d, dtype=torch.float64)
        self.product = torch.zeros(d, d, dtype=torch.float64)
        self.angles = torch.zeros(len(ANGLES), dtype=torch.float64)
        self.fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)

    def read(self, point: HookPoint, rows: Sequence[Row]) -> None:
        """Add the activations of the rows' text tokens at the hook point."""
        for outliers, l1, *sums in self.loaded.read(partial(self._of, point), rows, BATCH):
            self.outliers += outliers
            self.l1 += l1
            self._add(*sums)

    @torch.no_grad()
    def _of(self, point: HookPoint, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the number of a batch's text tokens that are left out, and for the others what the metrics need.

        That is the sum of feature activations; kind `[n]`, activation x `[n, d_model]` and squared error `[n]` of each token;
        how many tokens each feature is active on `[d_sae]`; Σ x xᵀ `[d_model, d_model]`; and the sums of `ANGLES`.
        """
        x, text = read_at(self.loaded.model, point, batch).float(), self.loaded.text_mask(batch)
        keep = text & short_enough(x, self.greatest)
        outliers = int((text & ~keep).sum())
        x, kind = x[keep], self.kind[batch["input_ids"][keep].cpu()]
        features = self.sae.encode(x)
        x, rebuilt = x.double(), self.sae.decode(features).double()
        error = (x - rebuilt).square().sum(-1)
        fired = (features > 0).sum(0).double()
        sums = (x, error, fired, x.T @ x, angles(x, rebuilt))
        return outliers, float(features.double().sum()), kind, *(each.cpu() for each in sums)

    def _add(self, kind: Tensor, x: Tensor, error: Tensor, fired: Tensor, product: Tensor, angles: Tensor) -> None:
        self.fired += fired
        self.product += product
        self.angles += angles
        self.count.index_add_(0, kind, torch.ones(len(x), dtype=torch.float64))
        self.square.index_add_(0, kind, x.square().sum(-1))
        self.error.index_add_(0, kind, error)
        self.sum.index_add_(0, kind, x)

    def mean(self) -> Float[Tensor, " d_model"]:
        """Return the mean activation."""
        return (self.sum.sum(0) / self.count.sum()).float()

    def report(self) -> dict[str, Any]:
        """Return the metrics of the reconstruction, in the order of `metrics.json`."""
        # Σ‖x − x̄‖² = Σ‖x‖² − ‖Σx‖² / n, by kind of token and for all tokens.
        around = self.square - self.sum.square().sum(-1) / self.count.clamp(min=1)
        total = self.square.sum() - self.sum.sum(0).square().sum() / self.count.sum()
        by_kind = {
            name: {"tokens": int(self.count[i]), "explained_variance": float(1 - self.error[i] / around[i])}
            for i, name in enumerate(TOKEN_KINDS)
            if self.count[i] > 1 and around[i] > 0
        }
        l0 = float(self.fired.sum() / self.count.sum())
        return {
            "tokens": int(self.count.sum()),
            "outliers": self.outliers,
            "l0": l0,
            "l1": self.l1 / float(self.count.sum()),
            "dead": float((self.fired == 0).double().mean()),
            "density": self.density(),
            "explained_variance": float(1 - self.error.sum() / total),
            "pca": self.components(round(l0)),
            **self.directions(),
            "by_kind": by_kind,
        }

    def density(self) -> list[int]:
        """Count features in bins of log10 of the share of tokens they are active on; dead features are in no bin."""
        share = self.fired[self.fired > 0] / self.count.sum()
        counts = torch.histogram(share.log10().clamp(min=RAREST), BINS, range=(RAREST, 0)).hist
        return [int(count) for count in counts]

    def components(self, k: int) -> dict[str, Any]:
        """Return the share of the variance in the first `k` principal components, which an SAE of that L0 should exceed."""
        total = self.sum.sum(0)
        covariance = self.product - torch.outer(total, total) / self.count.sum()
        variances = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
        k = min(max(k, 1), len(variances))
        return {"components": k, "explained_variance": float(variances[:k].sum() / variances.sum())}

    def directions(self) -> dict[str, float | None]:
        """Return `cosine`, `norm_ratio` and `reconstruction_bias`; the last is None if Σ x·x̂ is 0."""
        cosine, norm, rebuilt_norm, product, rebuilt_square = self.angles.tolist()
        return {
            "cosine": cosine / float(self.count.sum()),
            "norm_ratio": rebuilt_norm / norm,
            "reconstruction_bias": rebuilt_square / product if product else None,
        }


def short_enough(x: Float[Tensor, "*n d_model"], greatest: float) -> Bool[Tensor, "*n"]:
    """Return whether each activation has a norm of at most `greatest`."""
    return x.float().norm(dim=-1) <= greatest


def angles(x: Float[Tensor, "n d_model"], rebuilt: Float[Tensor, "n d_model"]) -> Float[Tensor, " n_angles"]:
    """Return the sums over tokens that `ANGLES` names; a reconstruction of zero has a cosine of 0."""
    product, norm, rebuilt_norm = (x * rebuilt).sum(-1), x.norm(dim=-1), rebuilt.norm(dim=-1)
    cosine = torch.where(rebuilt_norm > 0, product / (norm * rebuilt_norm), 0.0)
    return torch.stack([each.sum() for each in (cosine, norm, rebuilt_norm, product, rebuilt_norm.square())])


@torch.no_grad()
def spliced_losses(
    loaded: LoadedModel,
    sae: SAE[Any],
    point: HookPoint,
    rows: Sequence[Row],
    mean: Float[Tensor, " d_model"],
    greatest: float,
) -> dict[str, Any]:
    """Return `loss` (nats per token: `plain`, `spliced`, `mean`) and `loss_recovered`, over all tokens but the rows' first.

    Special tokens, and tokens whose norm is more than `greatest`, keep their activations.
    """
    ways = {"plain": lambda x: x, "spliced": lambda x: sae(x.float()).to(x.dtype), "mean": lambda x: mean.to(x).expand_as(x)}

    def losses(batch: dict[str, Tensor]) -> Tensor:
        text, by_way = loaded.text_mask(batch), []
        for way in ways.values():
            with rewritten_at(loaded.model, point, partial(at, text, greatest, way)):
                by_way.append(label_losses(loaded.model, batch).double().cpu())
        return torch.stack(by_way)

    mean_losses = torch.cat(list(loaded.read(losses, rows, BATCH)), dim=1).mean(1)
    loss = dict(zip(ways, mean_losses.tolist(), strict=True))
    return {"loss": loss, "loss_recovered": (loss["mean"] - loss["spliced"]) / (loss["mean"] - loss["plain"])}


def at(
    text: Bool[Tensor, "n_rows n_tokens"],
    greatest: float,
    way: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n_rows n_tokens d_model"],
) -> Float[Tensor, "n_rows n_tokens d_model"]:
    """Apply `way` to the activations of text tokens whose norm is at most `greatest`; leave the others as they are."""
    return torch.where((text & short_enough(x, greatest)).unsqueeze(-1), way(x), x)


def expected_l0(record: dict[str, Any]) -> float | None:
    """Return the SAE's L0 according to SAELens's registry, or None if it has none."""
    if record["source"] != "registry":
        return None
    release = get_pretrained_saes_directory().get(record["release"])
    return release.expected_l0.get(record["id"]) if release else None
