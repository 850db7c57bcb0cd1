"""Whether features tell which concept a token holds, beside neurons, random features, and a probe of the residual stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix, csr_matrix
from scipy.stats import wilcoxon
from sklearn.linear_model import LogisticRegression

from undertone.lab.context_table import read_contexts
from undertone.lab.feature_examples import shown_texts
from undertone.lab.firings import Firings, FiringSums, first_contexts
from undertone.lab.held import LEVEL
from undertone.lab.marks import Text, marked
from undertone.lab.matching import (
    Active,
    best_threshold,
    dense_auroc,
    f1_of,
    greatest_f1,
    of_dense,
    of_sparse,
    quartiles,
    scored,
    sparse_auroc,
    spread,
)
from undertone.lab.reading import Reader
from undertone.lm.loading import load
from undertone.lm.neurons import n_neurons, neurons
from undertone.models.concepts import read_concepts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.saved import load_sae_at
from undertone.stats.ranks import auroc
from undertone.study.config.lab import Specificity

FIGURES = ("auroc", "f1", "f1_null", "p", "base", "threshold", "recall", "precision")
SCHEMA: dict[str, Any] = {
    "kind": pl.String,
    "unit": pl.Int64,
    "sign": pl.Int64,
    "concept": pl.String,
    **dict.fromkeys(FIGURES, pl.Float64),
    "bands": pl.List(pl.Float64),
    "bands_n": pl.List(pl.Int64),
}


@dataclass(frozen=True)
class Half:
    """What is read on one half of the text: features, neurons (`[n, 0]` if they are not known), residuals, concepts."""

    acts: csc_matrix
    neurons: Float[np.ndarray, "n d_mlp"]
    residual: Float[np.ndarray, "n d_model"]
    held: Bool[np.ndarray, "n k"]

    def active(self, kind: str, unit: int, sign: int) -> Active:
        """Return the tokens at which a feature, or a neuron with one sign, is active."""
        return of_sparse(self.acts, unit) if kind == "feature" else of_dense(self.neurons[:, unit], sign)


Halves = tuple[Half, Half]


@dataclass(frozen=True)
class Kind:
    """Units of a kind, `feature` or `neuron`, as detectors of concepts.

    `f1` is the F1 of the best threshold on half 0; a neuron has the better of its two signs (`signs`). `auroc` is that of the
    raw values on each half; for a neuron with the other sign it is 1 − that.
    """

    name: str
    units: Int[np.ndarray, " m"]
    signs: Int[np.ndarray, "m k"]
    f1: Float[np.ndarray, "m k"]
    auroc: tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m k"]]

    def best_auroc(self, concept: int) -> float:
        """Return the AUROC on half 1 of the unit with the best AUROC on half 0; a neuron may have either sign."""
        chosen, own = (ranked[:, concept] for ranked in self.auroc)
        if self.name == "feature":
            return float(own[chosen.argmax()])
        best = int(np.abs(chosen - 0.5).argmax())
        return float(own[best] if chosen[best] >= 0.5 else 1 - own[best])


def make_specificity(
    model: Path,
    sae: Path,
    text: Path,
    concepts: Path,
    units: Path,
    specificity: Path,
    settings: Specificity,
    max_norm: float,
    stamp: Stamp,
) -> str:
    """Write each unit's best concept (`units`) and each concept's best units; return a message for the log.

    The best are chosen on contexts of even number and scored on those of odd number. Raises ConfigError if no concept is
    held by `settings.min_count` tokens of each half.
    """
    known = read_concepts(concepts, "specificity.concepts")
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    contexts = first_contexts(read_contexts(text), settings.tokens)
    firings, dense, residual = read_units(Reader(loaded, dictionary, at, contexts, max_norm, 0, 0), settings)
    held = marked(Text.of(contexts, shown_texts(loaded), set(loaded.special.tolist())), known)[firings.place]
    names, left_out = common([*known], held, firings, settings.min_count)
    kept = held[:, [[*known].index(name) for name in names]]
    first, second = (
        Half(firings.of(each), dense[each], residual[each], kept[each]) for each in (firings.half == 0, firings.half == 1)
    )
    halves = (first, second)
    kinds = [feature_kind(halves, settings.min_count)] + ([neuron_kind(halves)] if dense.shape[1] else [])
    scorer = Scorer(halves, settings.bands, draws(len(second.held), settings))
    table = pl.DataFrame([row for kind in kinds for row in unit_rows(kind, scorer, names)], schema=SCHEMA, orient="row")
    rng = np.random.default_rng(settings.seed)
    by_concept = {name: of_concept(k, kinds, scorer, rng) for k, name in enumerate(names)}
    result = {
        "tokens": len(firings.row),
        "halves": [len(first.held), len(second.held)],
        "layer": at.layer,
        "left_out": left_out,
        "concepts": by_concept,
        **{f"{kind.name}s": of_kind(table.filter(kind=kind.name)) for kind in kinds},
        "paired": paired(by_concept) if len(kinds) > 1 else None,
    }
    write_parquet(units, table, stamp)
    write_json(specificity, result, stamp)
    features = of_kind(table.filter(kind="feature"))
    return f"{len(names)} concepts, {features['n']} features, of which {features['specific']} hold one beyond chance"


def read_units(
    reader: Reader, settings: Specificity
) -> tuple[Firings, Float[np.ndarray, "n d_mlp"], Float[np.ndarray, "n d_model"]]:
    """Return features, neurons of the SAE's layer, and standardised residuals (mean 0, variance 1) at each token read.

    At most `settings.neurons` neurons are used, drawn at random. A model whose layers have no MLP has none.
    """
    model = reader.loaded.model
    d_mlp = n_neurons(model, reader.at.layer)
    rng = np.random.default_rng(settings.seed)
    drawn = np.sort(rng.choice(d_mlp, min(d_mlp, settings.neurons), replace=False))
    sums, n = FiringSums(reader), len(reader.rows)
    dense, residuals = [], []
    with neurons(model, [reader.at.layer] if d_mlp else []) as seen, progress(n, "specificity", "context") as bar:
        for read in reader.batches():
            sums.add(read)
            residuals.append(read.residual[read.kept].cpu().numpy())
            if d_mlp:
                dense.append(seen[reader.at.layer][read.kept][:, drawn].float().cpu().numpy())
            bar.update(len(read.row))
    residual = np.concatenate(residuals)
    residual = (residual - residual.mean(0)) / (residual.std(0) + 1e-6)
    return sums.firings(), np.concatenate(dense) if d_mlp else np.empty((sums.n, 0), np.float32), residual


def common(names: list[str], held: Bool[np.ndarray, "n k"], firings: Firings, least: int) -> tuple[list[str], dict[str, int]]:
    """Return the concepts held by enough tokens of each half, and for the others their tokens in the scarcer half."""
    counts = np.minimum(held[firings.half == 0].sum(0), held[firings.half == 1].sum(0))
    left_out = {name: int(n) for name, n in zip(names, counts, strict=True) if n < least}
    if len(left_out) == len(names):
        raise ConfigError(
            f"specificity.concepts: none of the {len(names)} concepts stands on {least} tokens of each half of the text; give "
            "others, or read more text (contexts.tokens, specificity.tokens)"
        )
    return [name for name in names if name not in left_out], left_out


def draws(n: int, settings: Specificity) -> list[int]:
    """Draw by how many of n tokens concepts are shifted."""
    return np.random.default_rng(settings.seed).integers(1, max(2, n), settings.shifts).tolist()


def feature_kind(halves: Halves, least: int) -> Kind:
    """Return the features that fire on at least `least` tokens of each half."""
    counts = np.min([np.diff(half.acts.indptr) for half in halves], axis=0)
    units = np.flatnonzero(counts >= least)
    ranked = [sparse_auroc(half.acts[:, units], half.held) for half in halves]
    f1 = all_f1("feature", units, 1, halves[0])
    return Kind("feature", units, np.ones(f1.shape, dtype=int), f1, (ranked[0], ranked[1]))


def neuron_kind(halves: Halves) -> Kind:
    """Return the neurons, each with the sign that is better on half 0 for each concept."""
    units = np.arange(halves[0].neurons.shape[1])
    up, down = (all_f1("neuron", units, sign, halves[0]) for sign in (1, -1))
    first, second = (dense_auroc(half.neurons, half.held) for half in halves)
    return Kind("neuron", units, np.where(up >= down, 1, -1), np.maximum(up, down), (first, second))


def all_f1(kind: str, units: Int[np.ndarray, " m"], sign: int, half: Half) -> Float[np.ndarray, "m k"]:
    """Return the F1 of the best threshold for each unit and concept."""
    held, total = csr_matrix(half.held), half.held.sum(0)
    scores = [greatest_f1(half.active(kind, unit, sign), held, total) for unit in units.tolist()]
    return np.array(scores).reshape(len(units), len(total))


@dataclass(frozen=True)
class Scorer:
    """Scores a unit for a concept: precision in `bands`, and a null with the concept shifted by each of `shifts` tokens."""

    halves: Halves
    bands: int
    shifts: list[int]

    def __call__(self, kind: Kind, at: int, concept: int) -> dict[str, Any]:
        """Score one of a kind's units, given by its place among them."""
        first, second = self.halves
        unit, sign = int(kind.units[at]), int(kind.signs[at, concept])
        active = (first.active(kind.name, unit, sign), second.active(kind.name, unit, sign))
        held = (first.held[:, concept], second.held[:, concept])
        ranked = float(kind.auroc[1][at, concept])
        own = scored(active, held, self.bands, self.shifts)
        return {"unit": unit, "sign": sign, "auroc": ranked if sign > 0 else 1 - ranked, **own}


def unit_rows(kind: Kind, scorer: Scorer, names: list[str]) -> list[tuple[Any, ...]]:
    """Return a row per unit with the columns of `SCHEMA`: the concept of greatest F1 on half 0, and its scores on half 1."""
    rows = []
    for at, best in enumerate(kind.f1.argmax(1).tolist()):
        own = {**scorer(kind, at, best), "kind": kind.name, "concept": names[best]}
        rows.append(tuple(own[key] for key in SCHEMA))
    return rows


def of_concept(concept: int, kinds: list[Kind], scorer: Scorer, rng: np.random.Generator) -> dict[str, Any]:
    """Score a concept: its best unit of each kind by F1, the AUROC of the best by AUROC, a random feature, and a probe."""
    held = scorer.halves[1].held[:, concept]
    result: dict[str, Any] = {"n": int(held.sum()), "base": float(held.mean())}
    for kind in (each for each in kinds if len(each.units)):
        result[kind.name] = scorer(kind, int(kind.f1[:, concept].argmax()), concept)
        result[kind.name]["best_auroc"] = kind.best_auroc(concept)
    features = kinds[0]
    result["random"] = scorer(features, int(rng.integers(len(features.units))), concept) if len(features.units) else None
    return {**result, "probe": probe(scorer.halves, concept)}


def probe(halves: Halves, concept: int) -> dict[str, float]:
    """Score a logistic regression on the residual stream, fitted to half 0: what a detector could know."""
    (held_0, held_1) = (half.held[:, concept] for half in halves)
    fitted = LogisticRegression(max_iter=200).fit(halves[0].residual, held_0)
    chosen, own = (Active(np.arange(len(half.residual)), fitted.decision_function(half.residual)) for half in halves)
    said = own.at_least(best_threshold(chosen, held_0))
    return {"auroc": auroc(own.value, held_1), "f1": f1_of(said, held_1, int(held_1.sum()))}


def of_kind(table: pl.DataFrame) -> dict[str, Any]:
    """Summarise all units of a kind, each with its own best concept."""
    keys = ("auroc", "f1", "f1_null", "precision", "recall", "base")
    columns = {key: spread(table[key].drop_nulls().to_list()) for key in keys}
    specific = int((table["p"] <= LEVEL).sum())
    return {"n": len(table), "specific": specific, **columns, "bands": quartiles(table["bands"].to_list())}


def paired(concepts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the best feature with the best neuron of each concept, by Wilcoxon's signed-rank test."""
    pairs = [(each["feature"], each["neuron"]) for each in concepts.values() if "feature" in each]
    result: dict[str, Any] = {"n": len(pairs)}
    for name, key in (("f1", "f1"), ("auroc", "best_auroc")):
        differences = np.array([feature[key] - neuron[key] for feature, neuron in pairs])
        result[name] = {
            "feature": float(np.median([feature[key] for feature, _ in pairs])) if pairs else None,
            "neuron": float(np.median([neuron[key] for _, neuron in pairs])) if pairs else None,
            "better": int((differences > 0).sum()),
            "p": float(wilcoxon(differences).pvalue) if differences.any() else None,
        }
    return result
