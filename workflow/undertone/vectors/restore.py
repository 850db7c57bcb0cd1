"""Which downstream features a vector's effect needs (put back as they were), and which suffice (put in without the vector)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from undertone.lm.answers import first_logits
from undertone.lm.chat import generation_prompt, prompt_ids
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import left_pad
from undertone.lm.spellings import beginnings, begun, words
from undertone.lm.steering import after
from undertone.lm.texts import load_texts
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.stats.stats import mean_interval
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Restore
from undertone.vectors.downstream import greatest
from undertone.vectors.last_token import ends, steered
from undertone.vectors.steering_by import Direction

# A patch of a residual stream `[n_rows, n_tokens, d_model]`.
Patch = Callable[[Tensor], Tensor]


def restore_features(
    model: Path,
    questions: Path,
    vector: Path,
    downstream: Path,
    table: Path,
    saes: dict[str, Path],
    restore: Path,
    settings: Restore,
    pref: Pref,
    stamp: Stamp,
) -> str:
    """Write `restore.json`: for each SAE after the vector, what its greatest features carry; return a line for the log.

    `table` is `downstream.parquet`; its figures on other prompts rank the features. The effect is on the log-odds of the
    target's first tokens against the mean of the other candidates', at the questions that no contrast is built from.
    """
    loaded, direction, record = load(model), Direction.read(vector), read_json(downstream)
    if not record["window"]:
        sentence = "no effect at any scale: the vector has no window, so nothing of it can be restored"
        write_json(restore, {"target": direction.target, "scale": record["scale"], "verdict": sentence, "saes": []}, stamp)
        return sentence
    effect = Effect(loaded, questions, pref, direction, record["scale"])
    ranked = read_parquet(table).filter(position="all")
    rows: list[dict[str, Any]] = []
    with progress(len(saes), f"restore {restore.parent.name}", "SAE") as bar:
        for name, path in saes.items():
            sae, layer = load_sae(path, loaded)
            moved = ranked.filter((pl.col("sae") == name) & (pl.col("delta") != 0))
            order = moved.sort(greatest(moved), descending=True, nulls_last=True)["feature"].to_list()
            if order:
                rows.append({"sae": name, "layer": layer, **Restored(effect, sae, layer).read(order, settings)})
            bar.update()
    whole = mean_interval(effect.steered - effect.base).as_dict()
    body = {
        "target": direction.target,
        "scale": record["scale"],
        "effect": whole,
        "base": float(effect.base.mean()),
        "saes": rows,
    }
    verdict = said(rows)
    write_json(restore, {**body, "verdict": verdict}, stamp)
    return verdict


class Effect:
    """The log-odds of the target's first tokens at some questions, in the base run, the steered run, and patched runs."""

    def __init__(self, loaded: LoadedModel, questions: Path, pref: Pref, direction: Direction, scale: float):
        self.loaded, self.direction = loaded, direction
        asked = load_texts(questions, "pref.questions")
        self.prompts = begun(loaded.tokenizer, prompt_ids(loaded.tokenizer, asked[1::2] or asked), pref.answer_prefix)
        self.steering = direction.steering(direction.unit.to(loaded.model.device), scale)
        self.tokens = [beginnings(loaded.tokenizer, words(name), pref.answer_prefix) for name in pref.candidates]
        self.own = pref.candidates.index(str(direction.target))
        self.base, self.steered = self.measure(), self.measure(steer=True)

    @torch.no_grad()
    def measure(
        self, layer: int = 0, patch: Patch = lambda residual: residual, steer: bool = False
    ) -> Float[np.ndarray, " n_questions"]:
        """Return the log-odds at each question with the stream after a layer patched, with or without the vector."""
        with steered(self.loaded, self.steering) if steer else nullcontext(), rewritten(self.loaded.model, layer, patch):
            return self.log_odds()

    def log_odds(self) -> Float[np.ndarray, " n_questions"]:
        """Return the log-probability of the target's first tokens minus the mean over the other candidates'."""
        log_probs = first_logits(self.loaded, self.prompts).float().log_softmax(-1)
        each = torch.stack([log_probs[:, own].logsumexp(-1) for own in self.tokens], dim=-1)
        others = [k for k in range(each.shape[1]) if k != self.own]
        return (each[:, self.own] - each[:, others].mean(-1)).double().cpu().numpy()

    def stream(self, layer: int, steer: bool) -> Float[Tensor, "n_questions n_tokens d_model"]:
        """The residual stream after a layer in one of the two runs."""
        seen: list[Tensor] = []

        def look(residual: Tensor) -> Tensor:
            seen[:] = [residual]
            return residual

        self.measure(layer, look, steer)
        return seen[0]

    def masks(self) -> tuple[Bool[Tensor, "n_questions n_tokens"], Bool[Tensor, "n_questions n_tokens"]]:
        """Mark the tokens of the padded prompts that are not padding, and those that the vector is added to."""
        ids, mask = (tensor.to(self.loaded.model.device) for tensor in left_pad(self.prompts, self.loaded.pad_id))
        opening = torch.tensor(generation_prompt(self.loaded.tokenizer), device=ids.device)
        reached = {"all": mask.bool(), "completion": after(ids, opening, False), "last": ends(ids, opening)}
        return mask.bool(), reached[self.direction.positions]


class Restored:
    """One SAE's features in both runs, to be exchanged at every token of the prompts; the SAE's errors are kept."""

    def __init__(self, effect: Effect, sae: Any, layer: int):
        self.effect, self.layer, self.rows = effect, layer, directions(sae)
        self.base, self.steered = (effect.stream(layer, steer) for steer in (False, True))
        with torch.no_grad():
            self.change = sae.encode(self.steered.float()) - sae.encode(self.base.float())
        real, self.reached = effect.masks()
        self.change *= real.unsqueeze(-1)

    def part(self, features: Sequence[int]) -> Float[Tensor, "n_questions n_tokens d_model"]:
        """What the change of some features adds to the stream."""
        chosen = list(features)
        return (self.change[..., chosen] @ self.rows[chosen]).to(self.base)

    def necessary(self, features: Sequence[int]) -> dict[str, Any]:
        """Return the share of the effect that is lost if these features are put back as in the base run."""
        part = self.part(features)
        return self.share(
            self.effect.steered - self.effect.measure(self.layer, lambda residual: self.steered - part, steer=True)
        )

    def sufficient(self, features: Sequence[int]) -> dict[str, Any]:
        """Return the share of the effect that is there if only these features are changed, without the vector."""
        part = self.part(features)
        return self.share(self.effect.measure(self.layer, lambda residual: self.base + part) - self.effect.base)

    def share(self, moved: Float[np.ndarray, " n_questions"]) -> dict[str, Any]:
        """Return a change as a share of the whole effect's mean; the t interval over questions is of the change alone."""
        whole = float((self.effect.steered - self.effect.base).mean())
        return mean_interval(moved / whole).as_dict()

    def read(self, order: Sequence[int], settings: Restore) -> dict[str, Any]:
        """Return shares by number of features, against features drawn from the others that change; and without the vector."""
        rng = np.random.default_rng(settings.seed)
        rows = []
        for n in settings.features:
            rest = order[n:]
            draws = [rng.permutation(rest)[:n].tolist() for _ in range(settings.controls)] if len(rest) >= n else []
            row: dict[str, Any] = {"features": min(n, len(order)), "chosen": order[:n][:10]}
            for name, measure in (("necessary", self.necessary), ("sufficient", self.sufficient)):
                null = [measure(drawn)["mean"] for drawn in draws]
                ends = {"null_mean": float(np.mean(null)), "null_95": float(np.quantile(null, 0.95))} if null else {}
                row[name] = {**measure(order[:n]), **ends}
            rows.append(row)
        every = {name: getattr(self, name)(order) for name in ("necessary", "sufficient")}
        vector = self.effect.steering.vector.to(self.base)
        without = self.steered - self.reached.unsqueeze(-1) * vector
        plain = self.effect.measure(self.layer, lambda residual: without, steer=True)
        return {"rows": rows, "all_features": every, "vector_removed": self.share(self.effect.steered - plain)}


def said(rows: Sequence[dict[str, Any]]) -> str:
    """Say how much of the effect the last SAE's features carry."""
    if not rows:
        return "no SAE behind the vector has a feature that changes"
    last = rows[-1]
    row = last["rows"][-1]
    shares = f"{row['necessary']['mean']:.2f} of the effect is lost without {row['features']} features of {last['sae']}"
    return f"{shares}, {row['sufficient']['mean']:.2f} is there with them alone"
