"""How a dataset's activations differ from the control's, and a teacher's from the base model's on the same rows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from undertone.data.rows import dataset_rows, first
from undertone.lm.loading import LoadedModel, load
from undertone.read.sums import COMPLETION, TEMPLATE, Activations
from undertone.runtime.files import Stamp, provenance, read_parquet, replacing, write_json
from undertone.runtime.progress import progress
from undertone.saes.decoder import animal_features
from undertone.saes.features import describe, extreme_tokens, most_aligned, unit_rows
from undertone.saes.saved import load_sae
from undertone.stats.blocks import Blocks, Independent, Paired, Tested, judge
from undertone.stats.stats import p_value
from undertone.study.config.read import Differences

CONTROL, PERSONA, HALVES = "control", "persona", "halves"
TABLES = ("acts", "acts_pre")
# The classes whose top features are described and whose residual direction is compared with the decoder.
MAIN_CLASSES = (COMPLETION, TEMPLATE)
METHOD_NOTES = {
    "se, t, p": "blocks of rows are the units; independent: Welch's t; paired: t of the blocks' differences; p is two-sided",
    "q": "Benjamini-Hochberg over the tested features of one pair, table and class",
    "p_max, p": "share of permutations (independent: of blocks between groups; paired: sign flips) whose greatest |t| is "
    "as large: holds for all features of one pair, table and class together, not across them",
    "difference": "on the rows that also ranked the features, so the top ones' are too large; split_half tells by how much",
    "split_half": "features ranked on the even blocks, looked at on the odd ones",
    "cosine.p": "share of permuted difference vectors whose greatest |cosine| with a decoder row is as large",
}


def compare_activations(
    model: Path,
    numbers: Path,
    sae: Path | None,
    activations: Path,
    control_activations: Path | None,
    teacher_activations: Path | None,
    steered: dict[str, Path],
    differences: Path,
    differences_tensors: Path,
    settings: Differences,
    stamp: Stamp,
) -> None:
    """Write `differences.json`, and the mean difference vectors to `differences.safetensors`.

    Tensors: `PAIR.resid_post.CLASS` [n_layers, d_model] (and `PAIR.mlp_in.CLASS`, if it was read), `PAIR.acts.CLASS` and
    `PAIR.acts_pre.CLASS` [d_sae]. `activations` and `control_activations` are `activations.safetensors` of the base model on
    the dataset's and on the control's rows, `teacher_activations` that of the teacher on the dataset's rows (None if there is
    none). Pairs: `control` (own minus control, independent), `persona` (teacher minus own, paired by block; the function
    vector), `halves` (the dataset's even blocks minus its odd ones, where nothing should differ). `steered` holds the
    `teacher.json` of the animals' steered teachers. `numbers` are the dataset's rows, for examples. Raises ValueError if the
    files do not fit each other.
    """
    loaded = load(model)
    paths = {HALVES: activations, CONTROL: control_activations, PERSONA: teacher_activations}
    by_name = {name: Activations.load(path) for name, path in paths.items() if path}
    check_fit(by_name, activations)
    base = by_name[HALVES]
    found_sae = load_sae(sae, loaded)[0] if sae else None
    reader = Reader(loaded, found_sae, base.layer, settings, animal_features(steered))
    pairs = [Pair(name, base, by_name[name]) for name in (CONTROL, PERSONA, HALVES) if name in by_name]
    with progress(sum(len(pair.classes) for pair in pairs), f"differences {differences.parent.name}", "class") as bar:
        body: dict[str, Any] = {"pairs": {pair.name: reader.read(pair, bar) for pair in pairs}}
    body["features"] = {}
    if found_sae is not None and base.layer is not None:
        rows = dataset_rows(loaded, first(read_parquet(numbers), base.rows))
        body["features"] = describe(loaded, found_sae, base.layer, rows, sorted(reader.described), settings.examples)
    tensors = {f"{pair.name}.{name}": tensor for pair in pairs for name, tensor in pair.vectors().items()}
    with replacing(differences_tensors) as temporary:
        save_file(tensors, temporary, metadata={"undertone": json.dumps(provenance(stamp))})
    head: dict[str, Any] = {"rows": {"own" if name == HALVES else name: each.rows for name, each in by_name.items()}}
    head |= {"layer": base.layer, "settings": settings.model_dump(exclude={"neutral"}), "how": METHOD_NOTES}
    write_json(differences, {**head, **body}, stamp)


def check_fit(activations: dict[str, Activations], own: Path) -> None:
    """Raise ValueError if the files were not written by the same model, SAE and settings."""
    base = activations[HALVES]
    expected = shapes(base)
    for name, other in activations.items():
        if shapes(other) != expected or (other.classes, other.layer) != (base.classes, base.layer):
            raise ValueError(
                f"{own}: its activations and those for the pair {name!r} differ in model, SAE or settings; read them again"
            )
    if PERSONA in activations and not torch.equal(activations[PERSONA].tensors["count"][:, 2:], base.tensors["count"][:, 2:]):
        raise ValueError(f"{own}: the teacher's activations are of other rows than the base model's; read them again")


def shapes(activations: Activations) -> dict[str, tuple[int, ...]]:
    """Return the tensors' shapes without the number of blocks, which grows with the rows."""
    blocked = {name for name in activations.tensors if name == "count" or name.endswith(".sum")}
    return {name: tuple(tensor.shape[name in blocked :]) for name, tensor in activations.tensors.items()}


@dataclass(frozen=True)
class Pair:
    """Two groups of activations: `other` is the control, the teacher, or for the halves the dataset itself."""

    name: str
    base: Activations
    other: Activations

    @property
    def classes(self) -> list[str]:
        """The classes that are compared: template, completion, and the completion's places that rows reach."""
        positions = [c for c in self.base.classes if c.isdecimal()]
        return [c for c in (COMPLETION, TEMPLATE, *positions) if self.enough(c)]

    def enough(self, position: str) -> bool:
        """Whether both groups hold tokens of the class in at least two blocks."""
        return all(int((count > 0).sum()) >= 2 for _, count in self.groups(position, "resid_post", 0))

    def groups(self, position: str, name: str, layer: int | None = None) -> tuple[Blocks, Blocks]:
        """The two groups' sums and counts by block."""
        base, other = self.base.blocks(position, name, layer), self.other.blocks(position, name, layer)
        if self.name == HALVES:
            return (base[0][::2], base[1][::2]), (base[0][1::2], base[1][1::2])
        return (other, base) if self.name == PERSONA else (base, other)

    def of(self, position: str, name: str, layer: int | None = None) -> Independent | Paired:
        """The pair, ready to be tested."""
        return (Paired if self.name == PERSONA else Independent)(*self.groups(position, name, layer))

    def halves(self, position: str, name: str) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]] | None:
        """t of the even and of the odd blocks; None for the halves themselves or with too few blocks."""
        if self.name == HALVES:
            return None
        a, b = self.groups(position, name)
        try:
            parts = [((a[0][k::2], a[1][k::2]), (b[0][k::2], b[1][k::2])) for k in (0, 1)]
            even, odd = ((Paired if self.name == PERSONA else Independent)(*part).observed().t for part in parts)
        except ValueError:
            return None
        return even, odd

    def difference(self, position: str, name: str, layer: int | None = None) -> Float[Tensor, " d"]:
        """The difference of the means, in float64."""
        (a, n_a), (b, n_b) = self.groups(position, name, layer)
        return a.sum(0) / n_a.sum() - b.sum(0) / n_b.sum()

    def vectors(self) -> dict[str, Tensor]:
        """Mean differences as `NAME.CLASS`, float32: `resid_post`, `mlp_in` [n_layers, d_model]; `acts`, `acts_pre` [d_sae]."""
        vectors = {}
        for position in self.classes:
            for name in ("resid_post", "mlp_in"):
                if f"{name}.sum" in self.base.tensors:
                    layers = [self.difference(position, name, layer) for layer in range(self.base.n_layers)]
                    vectors[f"{name}.{position}"] = torch.stack(layers)
            for name in TABLES if self.base.layer is not None else ():
                vectors[f"{name}.{position}"] = self.difference(position, f"sae.{name}")
        return {name: tensor.float().contiguous() for name, tensor in vectors.items()}


class Reader:
    """Turns pairs into JSON, and collects the features that are to be described."""

    def __init__(
        self,
        loaded: LoadedModel,
        sae: SAE[Any] | None,
        layer: int | None,
        settings: Differences,
        animals: dict[str, int],
    ):
        self.loaded, self.sae, self.layer, self.settings, self.animals = loaded, sae, layer, settings, animals
        self.described: set[int] = set(animals.values())
        if (sae is None) != (layer is None):
            raise ValueError(
                "the activations were read with an SAE or without one, and this call is not; pass the same sae.json"
            )
        for animal, feature in animals.items():
            if sae is not None and feature >= sae.cfg.d_sae:
                raise ValueError(f"the teacher of {animal} is steered by feature {feature}, the SAE has {sae.cfg.d_sae}")

    def read(self, pair: Pair, bar: Any) -> dict[str, Any]:
        """The JSON of a pair."""
        tests: dict[str, dict[str, Tested]] = {}
        classes: dict[str, Any] = {}
        for position in pair.classes:
            classes[position] = {"tokens": [int(count.sum()) for _, count in pair.groups(position, "resid_post", 0)]}
            tests[position] = {}
            for name in TABLES if self.sae is not None else ():
                test = judge(pair.of(position, f"sae.{name}"), self.settings.permutations, self.settings.seed)
                tests[position][name] = test
                classes[position][name] = self.table(test) | {"split_half": self.split_half(pair, position, f"sae.{name}")}
                if pair.name != HALVES and position in MAIN_CLASSES:
                    self.described |= {row["feature"] for row in classes[position][name]["top"]}
            bar.update()
        main = [position for position in MAIN_CLASSES if position in tests]
        return {
            "design": Paired.design if pair.name == PERSONA else Independent.design,
            "classes": classes,
            "animals": {animal: self.standing(tests, main, k) for animal, k in self.animals.items()} if self.sae else {},
            "cosine": {position: self.cosine(pair, position) for position in main} if self.sae else {},
            "direct": {position: self.direct(pair, position) for position in main},
        }

    def table(self, test: Tested) -> dict[str, Any]:
        """Summarise one class's features: how many differ, the family-wise p of the whole, and the top ones."""
        order = test.order()
        return {
            "tested": int(test.tested.sum()),
            "significant": int((test.q < self.settings.fdr).sum()),
            "max_t": float(test.difference.t.abs().max()),
            "p": float(test.p_max.min()),
            "top": [test.row(k) for k in order[: self.settings.top]],
        }

    def split_half(self, pair: Pair, position: str, name: str) -> dict[str, float] | None:
        """Return how the even blocks' top features by |t| do on the odd ones: share of equal sign, and mean ratio of t."""
        halves = pair.halves(position, name)
        if halves is None:
            return None
        even, odd = halves
        top = even.abs().topk(min(self.settings.top, len(even))).indices
        top = top[even[top] != 0]
        if not len(top):
            return None
        ratio = float((odd[top] / even[top]).mean())
        return {"features": len(top), "same_sign": float((even[top] * odd[top] > 0).double().mean()), "t_ratio": ratio}

    def standing(self, tests: dict[str, dict[str, Tested]], positions: list[str], k: int) -> dict[str, Any]:
        """Return the rank of an animal's feature by |t| among all features, and its figures, by class and table."""
        rows = {c: {name: {"rank": test.rank(k), **test.row(k)} for name, test in tests[c].items()} for c in positions}
        return {"feature": k, **{c: {name: drop(row) for name, row in of.items()} for c, of in rows.items()}}

    def cosine(self, pair: Pair, position: str) -> dict[str, Any]:
        """Compare the residual difference at the SAE's layer with every decoder row, by cosine.

        The null is from difference vectors of permuted blocks, not from random directions. Residuals vary in few directions,
        along which some decoder rows always lie; only permuted differences vary as the observed one does.
        """
        assert self.sae is not None
        blocks, rows = pair.of(position, "resid_post", self.layer), unit_rows(self.sae)
        difference = blocks.observed().mean.float()
        permuted = blocks.permuted(self.settings.permutations, self.settings.seed)
        null = np.concatenate([greatest_cosine(rows, some.mean) for some in permuted])
        observed = float(greatest_cosine(rows, blocks.observed().mean.unsqueeze(0))[0])
        return {
            "max": observed,
            "p": float(p_value(observed, null)),
            "null": {"mean": float(null.mean()), "q95": float(np.quantile(null, 0.95))},
            "top": most_aligned(self.sae, difference, 5),
        }

    def direct(self, pair: Pair, position: str) -> list[dict[str, Any]]:
        """Return, by layer, the `norm` of the residual difference, and the tokens that it raises and lowers most by itself."""
        by_layer = []
        for layer in range(pair.base.n_layers):
            vector = pair.difference(position, "resid_post", layer)
            by_layer.append({"norm": float(vector.norm()), **extreme_tokens(self.loaded, vector)})
        return by_layer


def drop(row: dict[str, Any]) -> dict[str, Any]:
    """Remove the feature's index from a row; it is given one level above."""
    return {name: value for name, value in row.items() if name != "feature"}


def greatest_cosine(rows: Float[Tensor, "d_sae d_model"], vectors: Float[Tensor, "n d_model"]) -> Float[np.ndarray, " n"]:
    """Return the greatest |cosine| of each of `vectors` with any unit row.

    In double precision, a permutation that equals the observed arrangement has exactly its cosine, and counts as a tie.
    """
    unit, rows = torch.nn.functional.normalize(vectors.double(), dim=-1), rows.double()
    # In parts: a table of permutations by features would be large.
    return np.concatenate([(part @ rows.T).abs().amax(-1).numpy() for part in torch.split(unit, 256)])
