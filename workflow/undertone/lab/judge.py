"""Grades by a language model of how well features' concepts fit their examples, and whether these grades can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from undertone.lab.context_table import read_contexts
from undertone.lab.feature_examples import shown_texts
from undertone.lab.held import features_with_concepts
from undertone.lab.marks import Text, marked
from undertone.lm.answers import exact
from undertone.lm.chat import prompt_ids, special_texts
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import check_plain
from undertone.models.concepts import read_concepts
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.stats.ranks import auroc
from undertone.stats.stats import mean_interval, share_interval
from undertone.study.config.lab import Judge

GRADES = ("0", "1", "2", "3")
# Start of the answer, so that a model that answers in sentences gives a digit too.
PREFIX = "Grade:"
RUBRIC = (
    "Here is a piece of text in which one token stands between « and ».\n\n{text}\n\n"
    'How well does this description fit the token between the signs, where it stands: "{concept}"?\n'
    "0: it does not fit\n1: it fits a little\n2: it mostly fits\n3: it fits exactly\n"
    "Answer with one digit."
)
# If the grades' total probability is less, the judge gave no answer.
LEAST_MASS = 1e-4
# Prompts between two steps of the progress bar.
AT_ONCE = 128
SCHEMA: dict[str, Any] = {
    "feature": pl.Int64,
    "concept": pl.String,
    "of": pl.Int64,
    "group": pl.String,
    "row": pl.Int64,
    "position": pl.Int64,
    "holds": pl.Boolean,
    "grade": pl.Float64,
    "mass": pl.Float64,
}


@dataclass(frozen=True)
class Examples:
    """Examples of features (`examples.parquet`), the text they come from, and which of its tokens hold which concept."""

    table: pl.DataFrame
    text: Text
    concepts: Mapping[str, int]
    held: Bool[np.ndarray, "n_tokens n_concepts"]

    @classmethod
    def read(cls, model: Path, text: Path, concepts: Path, examples: Path) -> "Examples":
        """Read examples, concepts and `text`, with the token texts of the studied `model`."""
        loaded = load(model)
        known = read_concepts(concepts, "specificity.concepts")
        words = Text.of(read_contexts(text), shown_texts(loaded), set(loaded.special.tolist()))
        table = read_parquet(examples).filter(pl.col("group").str.contains(r"^q\d+$"))
        return cls(table, words, {name: k for k, name in enumerate(known)}, marked(words, known))

    def of(self, feature: int, n: int) -> list[dict[str, Any]]:
        """Return the first `n` examples of a feature: one from each band of its activations, then a second from each."""
        return self.table.filter(feature=feature).sort("rank", band()).head(n).to_dicts()

    def shown(self, example: Mapping[str, Any]) -> str:
        """Return the text around an example's token, which stands between « and »; special tokens become line ends."""
        start, at = example["start"], example["position"] - example["start"]
        tokens = self.text.tokens[example["row"]][start : start + len(example["tokens"])]
        return "".join([*tokens[:at], "«", tokens[at], "»", *tokens[at + 1 :]])

    def holds(self, example: Mapping[str, Any], concept: str) -> bool:
        """Return whether the example's token holds a concept, by rule."""
        return bool(self.held[self.text.first[example["row"]] + example["position"], self.concepts[concept]])


def make_judge(
    judge: Path,
    model: Path,
    text: Path,
    concepts: Path,
    examples: Path,
    units: Path,
    table: Path,
    judged: Path,
    settings: Judge,
    stamp: Stamp,
) -> str:
    """Write the grade of every example (`table`) and a summary (`judged`); return a message for the log.

    The model of the record `judge` grades how well a feature's concept fits examples, for `settings.features` features that
    hold a concept beyond chance: the feature's own examples, and another feature's. A grade is the mean, from 0 to 3, under
    its probabilities of the four digits. The rubric follows Bills et al. 2023; comparing own examples with another feature's
    is EleutherAI's detection score.
    """
    known = Examples.read(model, text, concepts, examples)
    rows = asked(known, dict(features_with_concepts(units).select("unit", "concept").iter_rows()), settings)
    loaded = load(judge)
    special = special_texts(loaded.tokenizer)
    plain = [row for row in rows if is_plain(row["shown"], special)]
    prompts = [RUBRIC.format(text=row["shown"], concept=row["concept"]) for row in plain]
    for row, grades in zip(plain, graded(loaded, prompts, settings.batch_size), strict=True):
        row["mass"] = float(grades.sum())
        row["grade"] = float(grades @ np.arange(len(GRADES)) / row["mass"]) if row["mass"] >= LEAST_MASS else None
    graded_rows = pl.DataFrame([{key: row[key] for key in SCHEMA} for row in plain], schema=SCHEMA)
    result = {
        "judge": read_json(judge)["name"] or "the embedded model",
        "special": len(rows) - len(plain),
        **summary(graded_rows, settings.auroc),
    }
    write_parquet(table, graded_rows, stamp)
    write_json(judged, result, stamp)
    return f"{result['features']} features, {len(plain)} examples: {result['verdict']}"


def asked(known: Examples, concept_of: Mapping[int, str], settings: Judge) -> list[dict[str, Any]]:
    """Return the examples to grade, each with the concept to compare it with and the feature (`of`) that it belongs to.

    For each drawn feature these are its own examples, and as many of the next drawn feature that holds another concept.
    """
    drawn = np.random.default_rng(settings.seed).permutation(sorted(concept_of)).tolist()
    rows = []
    for k, feature in enumerate(drawn[: settings.features]):
        concept = concept_of[feature]
        other = next((each for each in [*drawn[k + 1 :], *drawn[:k]] if concept_of[each] != concept), None)
        for of in (feature, other) if other is not None else ():
            for example in known.of(of, settings.examples):
                given = {"feature": feature, "concept": concept, "of": of}
                rows.append({**example, **given, "shown": known.shown(example), "holds": known.holds(example, concept)})
    return rows


def is_plain(text: str, special: Sequence[str]) -> bool:
    """Return whether a text is free of the judge's special tokens, which would open or close a turn."""
    try:
        check_plain([text], special, "an example")
    except ConfigError:
        return False
    return True


def graded(loaded: LoadedModel, prompts: Sequence[str], batch_size: int) -> Float[np.ndarray, "n_prompts n_grades"]:
    """Return the probability of each grade as the answer's first word."""
    chances = np.zeros((len(prompts), len(GRADES)))
    with progress(len(prompts), "judge", "example") as bar:
        for start in range(0, len(prompts), AT_ONCE):
            part = prompt_ids(loaded.tokenizer, prompts[start : start + AT_ONCE])
            chances[start : start + len(part)] = exact(loaded, part, GRADES, batch_size, PREFIX)
            bar.update(len(part))
    return chances


def summary(rows: pl.DataFrame, least: float) -> dict[str, Any]:
    """Summarise whether the judge is usable, and its grades.

    `control`: the mean over features of the AUROC of grades for whether the token holds the concept by rule. The judge is
    usable if the interval of this mean lies at or above `least`. `own`: the same for whether the example is the feature's own.
    `rule`: the same as `own`, with the rule in place of grades.
    """
    answered = rows.filter(pl.col("grade").is_not_null())
    parts = [part for _, part in answered.group_by("feature", maintain_order=True)]
    own_of = [(part["of"] == part["feature"]).to_numpy() for part in parts]
    grades, holds = ([part[key].to_numpy().astype(float) for part in parts] for key in ("grade", "holds"))
    readings = {
        "control": mean_auroc(grades, [each > 0 for each in holds]),
        "own": mean_auroc(grades, own_of),
        "rule": mean_auroc(holds, own_of),
    }
    interval = readings["control"]["ci95"]
    usable = interval is not None and interval[0] >= least
    return {
        "features": rows["feature"].n_unique(),
        "examples": len(rows),
        "unanswered": len(rows) - len(answered),
        "mass": rows["mass"].median(),
        "least": least,
        **readings,
        "bands": bands(answered),
        "usable": usable,
        "verdict": verdict(readings, usable, least),
    }


def mean_auroc(values: Sequence[Float[np.ndarray, " _"]], positive: Sequence[Bool[np.ndarray, " _"]]) -> dict[str, Any]:
    """Return the mean AUROC over features with examples of both kinds, with an interval over features.

    If all AUROCs are equal, as a perfect judge's are, t has no interval. Then it is that of a share of as many features:
    no other values between 0 and 1 with this mean have a larger variance than zeros and ones.
    """
    scores = [auroc(each, own) for each, own in zip(values, positive, strict=True) if 0 < own.sum() < len(own)]
    n = len(scores)
    if n and min(scores) == max(scores):
        return {"mean": scores[0], "ci95": list(share_interval(n * scores[0], n)), "n": n}
    estimate = mean_interval(scores).as_dict() if scores else {"mean": None, "ci95": None}
    return {**estimate, "n": n}


def bands(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return, by band of activation, mean grades of features' own and of others' examples, and shares that hold the concept."""
    is_own = pl.col("of") == pl.col("feature")
    means = rows.group_by("group", maintain_order=True).agg(
        own=pl.col("grade").filter(is_own).mean(),
        others=pl.col("grade").filter(~is_own).mean(),
        holds=pl.col("holds").filter(is_own).mean(),
        others_hold=pl.col("holds").filter(~is_own).mean(),
        n=is_own.sum(),
    )
    return means.sort(band()).to_dicts()


def band() -> pl.Expr:
    """Return the number of an example's band of activation, to sort by: as text, q10 would come before q2."""
    return pl.col("group").str.slice(1).cast(pl.Int64)


def verdict(readings: Mapping[str, Any], usable: bool, least: float) -> str:
    """Return one sentence on the judge and, if it is usable, on the features."""
    control, own, rule = (readings[key] for key in ("control", "own", "rule"))
    if control["ci95"] is None:
        return "unusable: there is no feature with graded examples that hold its concept and others that do not"
    if not usable:
        of_control = f"AUROC {spelled(control)}, expected {least:g}"
        return f"unusable: the judge tells tokens that hold a concept from others with {of_control}"
    return (
        f"the judge, which tells tokens that hold a concept from others with AUROC {spelled(control)}, tells a feature's own "
        f"examples from another's with {spelled(own)}, and the rule itself with {spelled(rule)}"
    )


def spelled(estimate: Mapping[str, Any]) -> str:
    """Format a mean and its interval."""
    return f"{estimate['mean']:.2f} [{estimate['ci95'][0]:.2f}, {estimate['ci95'][1]:.2f}]"
