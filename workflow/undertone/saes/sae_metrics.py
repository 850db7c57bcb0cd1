"""How well an SAE describes the base model at its hook point, on what the study asks the model."""

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
from undertone.lm.hooks import resid_post, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.lm.training import label_losses
from undertone.lm.vocabulary import TOKEN_KINDS, token_kinds
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.saes.saved import load_sae
from undertone.study.config.measure import Pref
from undertone.study.config.saes import SaeMetrics
from undertone.study.config.teachers import Teacher

BATCH = 128


def measure_sae(
    model: Path,
    sae: Path,
    prompts: Path,
    questions: Path,
    metrics: Path,
    settings: SaeMetrics,
    teacher: Teacher,
    pref: Pref,
    stamp: Stamp,
) -> None:
    """Write `metrics.json`, measured on the text tokens (no padding, no special token) of the study's prompts and questions.

    `l0`: features active per token. `dead`: share of features active on none. `explained_variance`: 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²,
    of all tokens and, around its own mean, by kind of token. `loss`: nats per token of the plain model, with the SAE's
    reconstruction spliced in, and with the mean activation instead; `loss_recovered` is (mean − spliced) / (mean − plain).
    `expected_l0` is the registry's, None where it does not say.
    """
    loaded = load(model)
    autoencoder, layer = load_sae(sae, loaded)
    users = read_parquet(prompts)["prompt"].head(settings.prompts).to_list()
    rows, seen = text_rows(loaded, users, questions, teacher, pref), Moments(autoencoder, loaded)
    seen.read(layer, rows)
    loss = spliced_losses(loaded, autoencoder, layer, rows, seen.mean())
    write_json(metrics, {**seen.report(), "expected_l0": expected_l0(read_json(sae)), **loss}, stamp)


def text_rows(loaded: LoadedModel, prompts: Sequence[str], questions: Path, teacher: Teacher, pref: Pref) -> list[Row]:
    """What the study asks, by length: number prompts, and the questions, plain and under every candidate's persona."""
    asked = load_texts(questions, "pref.questions")
    ids = prompt_ids(loaded.tokenizer, prompts)
    for animal in (None, *pref.candidates):
        ids += prompt_ids(loaded.tokenizer, asked, persona(teacher, animal), teacher.separator)
    # A token is predicted from the one before it, so the loss is on all but the first.
    return sorted((Row(row, 1) for row in ids), key=lambda row: len(row.ids))


class Moments:
    """Sums over tokens, in float64, from which the metrics follow."""

    def __init__(self, sae: SAE[Any], loaded: LoadedModel):
        self.sae, self.loaded = sae, loaded
        self.kind = torch.tensor(token_kinds(loaded.tokenizer))
        n, d = len(TOKEN_KINDS), sae.cfg.d_in
        self.count, self.square, self.error = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
        self.sum = torch.zeros(n, d, dtype=torch.float64)
        self.fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)

    def read(self, layer: int, rows: Sequence[Row]) -> None:
        """Take in the text tokens of the rows, as the residual stream after the layer has them."""
        for sums in self.loaded.read(partial(self._of, layer), rows, BATCH):
            self._add(*sums)

    @torch.no_grad()
    def _of(self, layer: int, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kind `[n]`, activation `[n, d_model]` and error `[n]` of a batch's tokens; on how many each feature is active."""
        keep = self.loaded.text_mask(batch)
        x = resid_post(self.loaded.model, layer, batch)[keep].float()
        kind, features = self.kind[batch["input_ids"][keep].cpu()], self.sae.encode(x)
        error = (x - self.sae.decode(features)).double().square().sum(-1)
        return kind, x.cpu().double(), error.cpu(), (features > 0).sum(0).cpu().double()

    def _add(self, kind: Tensor, x: Tensor, error: Tensor, fired: Tensor) -> None:
        self.fired += fired
        self.count.index_add_(0, kind, torch.ones(len(x), dtype=torch.float64))
        self.square.index_add_(0, kind, x.square().sum(-1))
        self.error.index_add_(0, kind, error)
        self.sum.index_add_(0, kind, x)

    def mean(self) -> Float[Tensor, " d_model"]:
        """The mean activation."""
        return (self.sum.sum(0) / self.count.sum()).float()

    def report(self) -> dict[str, Any]:
        """`tokens`, `l0`, `dead` and `explained_variance`."""
        # Σ‖x − x̄‖² = Σ‖x‖² − ‖Σx‖² / n, by kind of token and of all.
        around = self.square - self.sum.square().sum(-1) / self.count.clamp(min=1)
        total = self.square.sum() - self.sum.sum(0).square().sum() / self.count.sum()
        by_kind = {
            name: {"tokens": int(self.count[i]), "explained_variance": float(1 - self.error[i] / around[i])}
            for i, name in enumerate(TOKEN_KINDS)
            if self.count[i] > 1 and around[i] > 0
        }
        return {
            "tokens": int(self.count.sum()),
            "l0": float(self.fired.sum() / self.count.sum()),
            "dead": float((self.fired == 0).double().mean()),
            "explained_variance": float(1 - self.error.sum() / total),
            "by_kind": by_kind,
        }


@torch.no_grad()
def spliced_losses(
    loaded: LoadedModel, sae: SAE[Any], layer: int, rows: Sequence[Row], mean: Float[Tensor, " d_model"]
) -> dict[str, Any]:
    """`loss` (nats per token: `plain`, `spliced`, `mean`) and `loss_recovered`; special tokens keep their activations."""
    ways = {"plain": lambda x: x, "spliced": lambda x: sae(x.float()).to(x.dtype), "mean": lambda x: mean.to(x).expand_as(x)}

    def losses(batch: dict[str, Tensor]) -> Tensor:
        keep, by_way = loaded.text_mask(batch).unsqueeze(-1), []
        for way in ways.values():
            with rewritten(loaded.model, layer, partial(at, keep, way)):
                by_way.append(label_losses(loaded.model, batch).double().cpu())
        return torch.stack(by_way)

    mean_losses = torch.cat(list(loaded.read(losses, rows, BATCH)), dim=1).mean(1)
    loss = dict(zip(ways, mean_losses.tolist(), strict=True))
    return {"loss": loss, "loss_recovered": (loss["mean"] - loss["spliced"]) / (loss["mean"] - loss["plain"])}


def at(
    keep: Bool[Tensor, "n_rows n_tokens 1"],
    way: Callable[[Tensor], Tensor],
    residual: Float[Tensor, "n_rows n_tokens d_model"],
) -> Float[Tensor, "n_rows n_tokens d_model"]:
    """The residual stream with `way` applied where `keep` is true."""
    return torch.where(keep, way(residual), residual)


def expected_l0(record: dict[str, Any]) -> float | None:
    """What SAELens's registry says of the SAE's L0."""
    if record["source"] != "registry":
        return None
    release = get_pretrained_saes_directory().get(record["release"])
    return release.expected_l0.get(record["id"]) if release else None
