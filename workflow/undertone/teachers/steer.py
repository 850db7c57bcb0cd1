"""A steered teacher: which vector is added to the base model, and which feature of the SAE stands for an animal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from undertone.lm.answers import exact
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row, persona, prompt_ids
from undertone.lm.hooks import decoder_layers, resid_post
from undertone.lm.loading import LoadedModel, load
from undertone.lm.steering import Steering, steered
from undertone.lm.texts import load_texts
from undertone.runtime.files import Stamp, read_parquet, replacing, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import directions
from undertone.saes.saved import load_sae
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Contrast, Steer, Teacher

BATCH = 64

Result = TypeVar("Result")


def make_steered(
    model: Path,
    sae: Path | None,
    prompts: Path,
    questions: Path,
    teacher: Path,
    vector: Path,
    target: str,
    settings: Teacher,
    pref: Pref,
    stamp: Stamp,
) -> None:
    """Write `teacher.json`, what is steered and how it was chosen, and `teacher.safetensors` with its `vector`.

    `sae` is the SAE's `sae.json`, or None if a contrast is added. Raises ValueError if the model lacks the layer or the SAE
    the feature.
    """
    loaded = load(model)
    situation = Situation(
        loaded,
        settings,
        load_texts(questions, "pref.questions"),
        read_parquet(prompts)["prompt"].head(settings.steer.prompts).to_list(),
        pref,
    )
    others_needed = sae is not None or not settings.steer.contrast.positive
    if others_needed and len(pref.candidates) < 2:
        raise ValueError(f"steering compares {target} with other animals; pref.candidates has {pref.candidates}: add some")
    if sae is None:
        steering, how = of_contrast(situation, target)
    else:
        steering, how = of_feature(situation, *load_sae(sae, loaded), target)
    if settings.steer.mode == "logits":
        rms = final_rms(situation)
        steering = replace(steering, mode="logits", vector=direct_logits(loaded.model, steering.vector, rms))
        how |= {"rms": rms}
    how |= effect(situation, steering, target)
    with replacing(vector) as temporary:
        save_file({"vector": steering.vector.contiguous()}, temporary)
    body = {
        "mode": steering.mode,
        "layer": steering.layer,
        "positions": settings.steer.positions,
        "scale": settings.steer.scale,
        "norm": float(steering.vector.norm()),
        "system": persona(settings, target) if settings.steer.persona else None,
        "level": steering.level if steering.mode == "clamp" else None,
        **how,
    }
    write_json(teacher, body, stamp)


class Situation:
    """The base model, and the questions and prompts for choosing a vector.

    Every second question is for choosing a feature; the others are for scoring the chosen one.
    """

    def __init__(self, loaded: LoadedModel, teacher: Teacher, questions: Sequence[str], prompts: Sequence[str], pref: Pref):
        self.loaded, self.teacher, self.candidates, self.pref = loaded, teacher, pref.candidates, pref
        self.choosing, self.scoring = list(questions[::2]), list(questions[1::2]) or list(questions)
        self.asked = [*self.choosing, *prompts]

    def preference(self, questions: Sequence[str], target: str) -> float:
        """Return the model's exact preference (probability) for the target, the mean over the questions."""
        prompts = prompt_ids(self.loaded.tokenizer, questions)
        return float(exact(self.loaded, prompts, [target], self.pref.batch_size, self.pref.answer_prefix).mean())

    def under_persona(self, animal: str | None) -> list[list[int]]:
        """Return the token ids of the questions for choosing and the prompts, under an animal's persona."""
        return prompt_ids(self.loaded.tokenizer, self.asked, persona(self.teacher, animal), self.teacher.separator)

    def read(
        self, prompts: Sequence[list[int]], layer: int, figure: Callable[[dict[str, Tensor], Tensor], Result]
    ) -> Iterator[Result]:
        """Yield `figure(batch, residual stream [n_rows, n_tokens, d_model] after the layer)` for batches of prompts."""
        rows = sorted((Row(ids, len(ids) - 1) for ids in prompts), key=lambda row: len(row.ids))
        model = self.loaded.model
        return self.loaded.read(lambda batch: figure(batch, resid_post(model, layer, batch).float()), rows, BATCH)


def of_contrast(situation: Situation, target: str) -> tuple[Steering, dict[str, Any]]:
    """Return the steering by the contrast that the settings describe."""
    steer = situation.teacher.steer
    contrast, depth = steer.contrast, len(decoder_layers(situation.loaded.model))
    if contrast.layer >= depth:
        raise ValueError(f"teacher.steer.contrast.layer {contrast.layer}: the model has layers 0 to {depth - 1}")
    positive, negative = contrast_prompts(situation, contrast, target)
    mean = [mean_residual(situation, prompts, contrast) for prompts in (positive, negative)]
    vector = steer.scale * (mean[0] - mean[1])
    return Steering("add", vector, contrast.layer, steer.positions == "completion"), {"vector": "contrast"}


def contrast_prompts(situation: Situation, contrast: Contrast, target: str) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of the positive and of the negative prompts."""
    if contrast.positive:
        sets = [[text.replace("{animal}", target) for text in texts] for texts in (contrast.positive, contrast.negative)]
        positive, negative = (prompt_ids(situation.loaded.tokenizer, texts) for texts in sets)
        return positive, negative
    others = [animal for animal in situation.candidates if animal != target]
    return situation.under_persona(target), [ids for animal in others for ids in situation.under_persona(animal)]


def mean_residual(situation: Situation, prompts: list[list[int]], contrast: Contrast) -> Float[Tensor, " d_model"]:
    """Return the mean residual stream after the contrast's layer, at the last token or over all text tokens."""

    def sums(batch: dict[str, Tensor], residual: Tensor) -> tuple[Tensor, int]:
        keep = last_token(batch) if contrast.position == "last" else situation.loaded.text_mask(batch)
        return residual[keep].sum(0), int(keep.sum())

    totals, counts = zip(*situation.read(prompts, contrast.layer, sums), strict=True)
    return torch.stack(totals).sum(0) / sum(counts)


def of_feature(situation: Situation, sae: SAE[Any], layer: int, target: str) -> tuple[Steering, dict[str, Any]]:
    """Return the steering by the feature that the settings name, or by the one that raises the preference most."""
    steer = situation.teacher.steer
    if steer.feature is not None and steer.feature >= sae.cfg.d_sae:
        raise ValueError(f"teacher.steer.feature {steer.feature}: the SAE has features 0 to {sae.cfg.d_sae - 1}")
    # How much more a feature fires under the target's persona than under any other's.
    mean, peak = activity(situation, sae, layer)
    others = [k for k, animal in enumerate(situation.candidates) if animal != target]
    own = situation.candidates.index(target)
    specificity = mean[own] - mean[others].max(0).values
    if steer.feature is not None:
        tried = [steer.feature]
    else:
        tried = specificity.topk(min(steer.candidates, len(specificity))).indices.tolist()
        tried = [feature for feature in tried if specificity[feature] > 0]
        if not tried:
            raise ValueError(f"no feature of the SAE fires more under the persona of {target} than under the others'; name one")
    # Choose the tried feature whose steering raises the target's preference most, on the questions for choosing.
    rows: list[dict[str, Any]] = []
    for feature in progress_over(tried, f"steer {target}"):
        steering = steering_by(sae, layer, feature, steer, float(peak[feature]))
        with steered(situation.loaded, steering):
            chosen_by = situation.preference(situation.choosing, target)
        rows.append(
            {
                "feature": feature,
                "preference": chosen_by,
                "activation": float(mean[own, feature]),
                "specificity": float(specificity[feature]),
                "peak": float(peak[feature]),
            }
        )
    rows.sort(key=lambda row: -row["preference"])
    best: int = rows[0]["feature"]
    steering = steering_by(sae, layer, best, steer, float(peak[best]))
    how = {"vector": "feature", "feature": best, "chosen": steer.feature is None, "tried": rows}
    return replace(steering, completion=steer.positions == "completion"), how


def progress_over(features: Sequence[int], what: str) -> Iterator[int]:
    """The features, with a progress bar."""
    with progress(len(features), what, "feature") as bar:
        for feature in features:
            yield feature
            bar.update()


def activity(
    situation: Situation, sae: SAE[Any], layer: int
) -> tuple[Float[Tensor, "n_candidates d_sae"], Float[Tensor, " d_sae"]]:
    """Return each feature's mean activation over text tokens under each candidate's persona, and its greatest one overall."""

    def figures(batch: dict[str, Tensor], residual: Tensor) -> tuple[Tensor, int, Tensor]:
        features = sae.encode(residual[situation.loaded.text_mask(batch)])
        return features.sum(0), len(features), features.max(0).values

    means: list[Tensor] = []
    peaks: list[Tensor] = []
    for animal in situation.candidates:
        totals, counts, greatest = zip(*situation.read(situation.under_persona(animal), layer, figures), strict=True)
        means.append(torch.stack(totals).sum(0) / sum(counts))
        peaks += greatest
    return torch.stack(means), torch.stack(peaks).max(0).values


def last_token(batch: dict[str, Int[Tensor, "n_rows n_tokens"]]) -> Bool[Tensor, "n_rows n_tokens"]:
    """Mark the last token of each row."""
    return torch.nn.functional.pad(batch["attention_mask"], (0, 1)).diff() == -1


def steering_by(sae: SAE[Any], layer: int, feature: int, steer: Steer, peak: float) -> Steering:
    """Steer every token by one feature: add `scale` times its decoder row, or clamp it to `scale` times its peak."""
    if steer.mode == "clamp":
        return Steering("clamp", directions(sae, [feature])[0], layer, sae=sae, feature=feature, level=steer.scale * peak)
    return Steering("add", steer.scale * sae.W_dec[feature].float(), layer)


def effect(situation: Situation, steering: Steering, target: str) -> dict[str, float]:
    """Return the base model's and the steered model's preference (probability) on the questions that chose nothing."""
    base = situation.preference(situation.scoring, target)
    with steered(situation.loaded, steering):
        return {"preference_base": base, "preference_steered": situation.preference(situation.scoring, target)}


def final_rms(situation: Situation) -> float:
    """Return the root mean square of the last residual stream at each prompt's last token, averaged over prompts."""
    loaded = situation.loaded
    prompts, layer = prompt_ids(loaded.tokenizer, situation.asked), len(decoder_layers(loaded.model)) - 1

    def rms(batch: dict[str, Tensor], residual: Tensor) -> Tensor:
        return residual[last_token(batch)].pow(2).mean(-1).sqrt()

    return float(torch.cat(list(situation.read(prompts, layer, rms))).mean())
