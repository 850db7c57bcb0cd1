"""A vector to steer by: its direction and its null vectors, with sizes in mean norms of the residual stream."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from undertone.lm.answers import exact
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering
from undertone.lm.tensors import stored
from undertone.lm.texts import load_texts
from undertone.runtime.files import read_json
from undertone.study.config.measure import Pref
from undertone.vectors.last_token import AtLast, steered

# Name of null vectors drawn with the covariance of the residuals; null vectors of the vector's own kind have their own name.
GAUSSIAN = "N(0, Cov)"
# Scale, in mean norms, of a vector that has no window.
WITHOUT_WINDOW = 0.2


@dataclass(frozen=True)
class Direction:
    """A vector of `vector.safetensors`: facts of its `vector.json`, its unit vector, and unit null vectors by kind."""

    target: str | None
    layer: int
    positions: str
    mean_norm: float
    norm: float
    unit: Float[Tensor, " d_model"]
    nulls: dict[str, Float[Tensor, "_ d_model"]]

    @classmethod
    def read(cls, vector: Path) -> "Direction":
        """Read a `vector.json`, with the tensors beside it."""
        record, tensors = read_json(vector), dict(stored(vector.with_suffix(".safetensors")))
        null_of = record["null"] and record["null"]["of"]
        return cls.of(record["target"], record["layer"], record["positions"], record["mean_norm"], null_of, tensors)

    @classmethod
    def of(
        cls,
        target: str | None,
        layer: int,
        positions: str,
        mean_norm: float,
        null_of: str | None,
        tensors: Mapping[str, Float[Tensor, "*n d_model"]],
    ) -> "Direction":
        """Build from the `tensors` of a `vector.safetensors`; `null_of` names the null vectors of the vector's own kind."""
        vector, names = tensors["vector"], {"null": null_of or "", "gaussian": GAUSSIAN}
        nulls = {title: normalize(tensors[name], dim=-1) for name, title in names.items() if len(tensors[name])}
        return cls(target, layer, positions, mean_norm, float(vector.norm()), normalize(vector, dim=0), nulls)

    def steering(self, unit: Float[Tensor, " d_model"], scale: float, everywhere: bool = False) -> Steering:
        """Steer by a unit vector, scaled to `scale` mean norms of the residual stream, at its positions or `everywhere`."""
        vector = scale * self.mean_norm * unit
        if self.positions == "last" and not everywhere:
            return AtLast("add", vector, self.layer)
        return Steering("add", vector, self.layer, self.positions == "completion" and not everywhere)


def preferences(
    loaded: LoadedModel, questions: Path, pref: Pref, candidates: Sequence[str]
) -> Callable[[Steering | None], Float[np.ndarray, "n_questions n_candidates"]]:
    """Return a function steering → exact preference of candidates, at the questions that no contrast is built from."""
    asked = load_texts(questions, "pref.questions")
    prompts = prompt_ids(loaded.tokenizer, asked[1::2] or asked)

    def measure(steering: Steering | None) -> Float[np.ndarray, "n_questions n_candidates"]:
        if steering is None:
            return exact(loaded, prompts, candidates, pref.batch_size, pref.answer_prefix)
        with steered(loaded, steering):
            return exact(loaded, prompts, candidates, pref.batch_size, pref.answer_prefix)

    return measure


def strength(dose: dict[str, Any], scale: float | None) -> tuple[float, bool]:
    """Return (scale to steer with, whether the vector has a window): `scale` itself, else the window's greatest, else .2."""
    window = dose["window"] or []
    return (scale if scale is not None else max(window, default=WITHOUT_WINDOW)), bool(window)
