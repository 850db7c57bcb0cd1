"""Activation difference lens: what finetuning left in the activations on texts that have nothing to do with it.

Minder et al. 2025 (arXiv 2510.13900): the mean difference of a finetuned and the base model's residual stream over the first
few tokens of unrelated texts, read by the unembedding. Here it is also read by the SAE, and compared with a control student's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertone.lm.adapters import finetuned
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row, encode
from undertone.lm.hooks import streams
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import initial_tokens
from undertone.lm.texts import load_texts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, write_json
from undertone.runtime.progress import progress
from undertone.saes.features import extreme_tokens, most_aligned, neuronpedia, token_table
from undertone.saes.saved import encoded, load_sae
from undertone.stats.ranks import rank_of
from undertone.study.config.entries import CONTROL
from undertone.study.config.measure import Pref
from undertone.study.config.read import Differences, Lens
from undertone.teachers.teaching import teaching

BATCH = 64
STUDENT, TEACHER, SUBTRACTED = "student", "teacher", "student_minus_control"


def read_lens(
    model: Path,
    neutral: Path,
    students: dict[int, Path],
    control_students: dict[int, Path],
    teacher: Path | None,
    sae: Path | None,
    lens: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `lens.json`: lenses of the first student, the first control student, the former minus the latter, and a teacher.

    `students` and `control_students` are folders by seed (no `control_students` for the control dataset itself). `teacher` is
    as for `measure`; a prompted teacher has no lens, because without its prompt it is the base model. The first tokens of each
    text in `neutral` are read, after BOS if the tokenizer has one. `norm`: the norm of the mean difference over the mean norm
    of the base model's residual. `animals`: each candidate's logit under the difference (mean over its spellings' first tokens)
    and its rank among them. `ranks`: the target's rank by layer in every student and control student, to show what chance
    gives. Raises ConfigError for a text with fewer tokens than are to be read.
    """
    cfg, loaded = Differences.model_validate(settings["differences"]), load(model)
    tools = Tools.of(loaded, sae, settings, cfg.top)
    ids = first_tokens(loaded.tokenizer, neutral, tools.positions)
    base = read_means(loaded, ids, tools)
    means: dict[str, dict[int, Means]] = {STUDENT: {}, CONTROL: {}}
    with progress(len(students) + len(control_students), f"lens {lens.parent.name}", "model") as bar:
        for name, folders in ((STUDENT, students), (CONTROL, control_students)):
            for seed, folder in sorted(folders.items()):
                with finetuned(loaded, folder) as own:
                    means[name][seed] = read_means(own, ids, tools).minus(base)
                bar.update()
    lenses = {name: next(iter(by_seed.values())) for name, by_seed in means.items() if by_seed}
    if len(lenses) == 2:
        lenses[SUBTRACTED] = lenses[STUDENT].minus(lenses[CONTROL])
    with taught(loaded, settings, teacher, sae) as model_taught:
        if model_taught is not None:
            lenses[TEACHER] = read_means(model_taught, ids, tools).minus(base)
    body = {
        "target": settings["target"],
        "seeds": {name: sorted(by_seed) for name, by_seed in means.items()},
        "texts": len(ids),
        "layer": tools.layer,
        "lenses": {name: tools.report(difference, base) for name, difference in lenses.items()},
        "ranks": {name: {str(seed): tools.ranks(d) for seed, d in by_seed.items()} for name, by_seed in means.items()},
    }
    write_json(lens, body, stamp)


@contextmanager
def taught(
    loaded: LoadedModel, settings: dict[str, Any], teacher: Path | None, sae: Path | None
) -> Iterator[LoadedModel | None]:
    """Yield the steered or finetuned teacher inside this context; None for any other."""
    if settings["kind"] not in ("steer", "finetune"):
        yield None
        return
    with teaching(loaded, settings, teacher, sae) as prompted:
        yield prompted.loaded


def first_tokens(tokenizer: PreTrainedTokenizerBase, path: Path, n: int) -> list[list[int]]:
    """Return BOS, if there is one, and the first `n` tokens of each text; later tokens do not affect what is read."""
    texts = load_texts(path, "differences.neutral")
    encoded_texts = encode(tokenizer, texts)
    for text, ids in zip(texts, encoded_texts, strict=True):
        if len(ids) < n:
            raise ConfigError(f"differences.neutral: {path}: {text!r} has {len(ids)} tokens; expected at least {n}")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [bos + ids[:n] for ids in encoded_texts]


@dataclass(frozen=True)
class Means:
    """Means over texts at their last `n` tokens, float64: residual stream, its norm, the SAE's activations."""

    resid_post: Float[Tensor, "n_layers n d_model"]
    norm: Float[Tensor, "n_layers n"]
    acts: Float[Tensor, " d_sae"]

    def minus(self, other: "Means") -> "Means":
        """The differences of the means."""
        return Means(self.resid_post - other.resid_post, self.norm - other.norm, self.acts - other.acts)


@torch.no_grad()
def read_means(loaded: LoadedModel, texts: Sequence[list[int]], tools: "Tools") -> Means:
    """Read a model's means over texts of equal length, at their last tokens, all but BOS."""

    def sums(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        residuals = streams(loaded.model, batch)
        # [n_layers, n_texts, n_positions, d_model]
        x = torch.stack([residual[:, -tools.positions :].float() for _, residual in residuals])
        acts = encoded(tools.sae, x[tools.layer])[0].mean(1).sum(0) if tools.sae is not None else torch.zeros(0)
        return tuple(tensor.double().cpu() for tensor in (x.double().sum(1), x.double().norm(dim=-1).sum(1), acts))

    parts = zip(*loaded.read(sums, [Row(ids, len(ids)) for ids in texts], BATCH), strict=True)
    return Means(*(torch.stack(of_parts).sum(0) / len(texts) for of_parts in parts))


@dataclass(frozen=True)
class Tools:
    """What a difference is read with: the base model's unembedding, the candidates' tokens, the SAE."""

    loaded: LoadedModel
    sae: SAE[Any] | None
    layer: int
    animals: dict[str, list[int]]
    target: str | None
    top: int
    positions: int

    @classmethod
    def of(cls, loaded: LoadedModel, sae: Path | None, settings: dict[str, Any], top: int) -> "Tools":
        """Collect the study's tools; without an SAE the layer is 0 and nothing is read there."""
        pref = Pref.model_validate(settings["pref"])
        autoencoder, layer = load_sae(sae, loaded) if sae else (None, 0)
        positions = Lens.model_validate(settings["lens"]).positions
        animals = animal_tokens(loaded, pref.candidates, pref.answer_prefix)
        return cls(loaded, autoencoder, layer, animals, settings["target"], top, positions)

    def report(self, difference: Means, base: Means) -> dict[str, Any]:
        """A lens: `layers`, each with `mean` (the difference averaged over the positions) and `positions`; `sae`."""
        layers = []
        for vectors, norms in zip(difference.resid_post, base.norm, strict=True):
            positions = [self.view(vector, float(norm)) for vector, norm in zip(vectors, norms, strict=True)]
            layers.append({"mean": self.view(vectors.mean(0), float(norms.mean())), "positions": positions})
        return {"layers": layers, "sae": self.features(difference)}

    def view(self, vector: Float[Tensor, " d_model"], norm: float) -> dict[str, Any]:
        """Describe a difference: its relative `norm`, its tokens, the animals and the target's rank among them."""
        logits = self.logits(vector)
        animals = self.standing(logits)
        rank = animals[self.target]["rank"] if self.target in animals else None
        return {
            "norm": float(vector.norm()) / norm,
            "tokens": token_table(self.loaded, logits),
            "rank": rank,
            "animals": animals,
        }

    def logits(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " vocab"]:
        """Return the direct logits of a difference, through the base model's unembedding."""
        return direct_logits(self.loaded.model, vector.to(self.loaded.model.device, torch.float32)).float().cpu()

    def standing(self, logits: Float[Tensor, " vocab"]) -> dict[str, dict[str, Any]]:
        """Return each candidate's `logit` and `rank` from 1; no rank if all logits are 0, as without a difference."""
        scores = {animal: float(logits[tokens].mean()) for animal, tokens in self.animals.items()}
        flat = not bool(logits.any())
        return {animal: {"logit": score, "rank": None if flat else rank_of(scores, animal)} for animal, score in scores.items()}

    def ranks(self, difference: Means) -> list[float | None] | None:
        """Return the target's rank by layer, for the difference averaged over the positions."""
        target = self.target
        if target not in self.animals:
            return None
        return [self.standing(self.logits(vectors.mean(0)))[target]["rank"] for vectors in difference.resid_post]

    def features(self, difference: Means) -> dict[str, Any] | None:
        """Return the SAE's features whose mean activation changed most, and its decoder rows nearest the difference."""
        if self.sae is None:
            return None
        order = difference.acts.abs().topk(min(self.top, len(difference.acts))).indices.tolist()
        acts = [{"feature": k, "difference": float(difference.acts[k]), **self.meaning(k)} for k in order if difference.acts[k]]
        nearest = most_aligned(self.sae, difference.resid_post[self.layer].mean(0), self.top)
        return {"acts": acts, "cosine": [{**row, **self.meaning(row["feature"])} for row in nearest]}

    def meaning(self, feature: int) -> dict[str, Any]:
        """The tokens that a feature raises, and its page."""
        assert self.sae is not None
        tokens = extreme_tokens(self.loaded, self.sae.W_dec[feature])["top"]
        return {"tokens": [text for text, _ in tokens], "neuronpedia": neuronpedia(self.sae, feature)}


def animal_tokens(loaded: LoadedModel, candidates: Sequence[str], prefix: str | None = None) -> dict[str, list[int]]:
    """Return the first tokens of each candidate's spellings after the answer's `prefix`."""
    return dict(zip(candidates, initial_tokens(loaded.tokenizer, candidates, prefix), strict=True))
