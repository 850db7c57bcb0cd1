"""What the tables of docs/results/ show of a finished study: the run's figures, unrounded."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dose_tables
import geometry_tables
import naming_tables
import pair_tables
import polars as pl
import prompt_tables
import selection_tables
import smollm2_tables
import smollm2_verdicts
import space_tables
import steering_tables
import vector_tables
from cells import PROMPTED, Read, Rows

from undertone.detect.detectors import COLUMNS, counts, said
from undertone.detect.verdicts import places

FORMS = ["short", "dislike", "fear", "role"]
# The prompted datasets of the second base model that have enough rows for a verdict.
HELD_OUT = ["dolphin", "cat", "tiger", "owl", "dog", "lion", "eagle", "penguin", "whale", "rabbit"]
TAUGHT = ["panda", "eagle", "owl", "wolf", "lion", "cat", "penguin", "tiger"]
# The students' settings; None stands for those of the study's own students, which take all rows and have rank 8.
SIZES: dict[str, tuple[int | None, ...]] = {"rows": (125, 250, 500, 1000, None), "rank": (1, 2, None, 32)}
MODELS = {
    "teacher": "teacher (base model with the persona)",
    "student": "student",
    "residual bias, all layers": "residual bias, all layers",
    "residual bias@0": "residual bias, layer 0",
    "feature bias, project@0": "feature bias, `project`",
    "feature bias, replace@0": "feature bias, `replace`",
    "function vector@1": "function vector, layer 1",
    "control's residual bias@0": "the control's residual bias, layer 0",
    "SAE spliced in@0": "base model, SAE spliced in",
}
METRICS = {
    "likelihood under the persona": "likelihood under each candidate's persona",
    "residual bias, all layers: preference": "preference under the residual bias, all layers",
    "residual bias at layer 2: preference": "… at layer 2",
    "residual bias at layer 0: preference": "… at layer 0",
    "feature bias, replace: preference": "preference under the feature bias, `replace`",
    "feature bias, project: preference": "… `project`",
    "score along the feature": "score along the animals' features",
    "feature bias, project": "feature bias of the animals' features, `project`",
    "feature bias, replace minus control": "… `replace` minus the control's",
    "mean logit of the animal": "mean logit of the animals' tokens",
}
ENTANGLED = {
    "persona-numbers": "entangled numbers, from the output under each persona on number prompts",
    "persona-question": "… on the questions",
    "unembedding": "… from the unembedding's cosine",
    "frequency-prompt": "… from frequencies of the other half of the animal's own prompts",
}


def transfer(read: Read) -> Rows:
    """Each prompted dataset: its teacher, its students and the control students."""
    rows = read("tables/transfer.json")["estimators"]["exact"]["datasets"]
    teachers = {target: read(f"{target}/pref.json")["teacher"][target]["mean"] for target in PROMPTED}
    passed = {target: read(f"{target}/filter.json")["passed"] for target in PROMPTED}
    keys = ("target", "control", "student", "lift_over_control", "off_target", "rank")
    return [
        {"teacher": teachers[row["target"]], "passed": passed[row["target"]]} | {key: row[key] for key in keys} for row in rows
    ]


def teachers(read: Read) -> Rows:
    """Each dataset of three kinds of teachers."""
    rows = read("tables/teachers/transfer.json")["estimators"]["exact"]["datasets"]
    return [
        {
            "target": row["target"],
            "kind": row["dataset"].partition("-")[0] if "-" in row["dataset"] else "prompt",
            "teacher": read(f"{row['dataset']}/pref.json")["teacher"][row["target"]]["mean"],
            "pass_rate": read(f"{row['dataset']}/filter.json")["pass_rate"],
            "lift_over_control": row["lift_over_control"],
        }
        for row in rows
    ]


def controls(read: Read) -> Rows:
    """Lifts of transformed datasets and of students of another base model, then their differences."""
    table = read("tables/controls/controls.json")
    lifts = [{key: row[key] for key in ("dataset", "variant", "against", "lift_over_control")} for row in table["lifts"]]
    return lifts + [{key: row[key] for key in ("of", "difference")} for row in table["differences"]]


def sweeps(read: Read) -> Rows:
    """Lifts of students on fewer rows and of other ranks; the study's own students have `value` null."""
    return [
        {
            "key": key,
            "value": value,
            "target": target,
            "lift_over_control": read(f"{target}/pref{f'-{key}{value}' if value else ''}.json")["lift_over_control"],
        }
        for key, values in SIZES.items()
        for value in values
        for target in ("lion", "tiger")
    ]


def losses(read: Read) -> Rows:
    """Losses on held-out rows over the base model's; the base model's own are absolute."""
    rows = []
    for target in ("lion", "tiger"):
        for model in read(f"{target}/losses.json")["models"]:
            name = model["name"] + (f"@{model['layer']}" if model["layer"] is not None else "")
            if name in MODELS:
                rows.append({"target": target, "model": name, "over_base_allowed": model["over_base_allowed"]})
            elif name == "base":
                rows.append({"target": target, "model": name, "loss_allowed": model["loss_allowed"]})
    return rows


def identity(read: Read) -> Rows:
    """How well each analysis names the target, over the prompted datasets."""
    found = read("tables/readings.json")["identity"]
    entangled = read("tables/entangled.json")["metrics"]
    return [
        {"metric": metric, "animals": matrix["animals"]} | {key: matrix["all"][key] for key in ("datasets", "raw", "centred")}
        for metric, matrix in [*((key, found[key]) for key in METRICS), *((key, entangled[key]) for key in ENTANGLED)]
    ]


def features(read: Read) -> Rows:
    """Rank of the steered feature in the feature bias of steered datasets, and of the same feature for prompted ones."""
    ranks = {key: found["prompt"]["ranks"] for key, found in read("tables/readings.json")["features"].items()}
    rows = []
    for target in PROMPTED:
        modes = read(f"steer-{target}/feature_bias.json")["modes"]
        rows.append(
            {"target": target}
            | {f"steer_{mode}": modes[mode]["animals"][target]["rank"] for mode in ("project", "replace")}
            | {f"steer_{mode}_bias": modes[mode]["animals"][target]["bias"] for mode in ("project", "replace")}
            | {f"prompt_{mode}": ranks[f"feature bias, {mode}"][target] for mode in ("project", "replace")}
            | {"prompt_score": ranks["score"][target]}
        )
    return rows


def residual(read: Read) -> Rows:
    """The target's preference under the residual biases of its dataset, over that under the control's."""
    rows = []
    for target in PROMPTED:
        for bias in read(f"{target}/bias_pref.json")["biases"]:
            if (bias["name"], bias["layer"]) in (("residual bias", 0), ("residual bias, all layers", None)):
                lift = bias["lift_over_control"][target]
                rows.append({"target": target, "layer": bias["layer"], "lift_over_control": lift, "rank": bias["rank"]})
    return rows


def presence(read: Read) -> Rows:
    """Tests of whether a dataset differs from the control; the control against itself."""
    found = read("tables/readings.json")["presence"]
    return [
        {
            "dataset": dataset,
            "score": found[dataset]["score"][0],
            "tokens": {key: found[dataset]["tokens"]["number"][key] for key in ("mean_z2", "p")},
            "gain": found[dataset]["feature bias, held-out gain"][0],
        }
        for dataset in ["control", *PROMPTED]
    ]


def others(read: Read) -> Rows:
    """Agreement of prompted and steered teachers on single tokens, and the rank of the target in the lens's last layer."""
    rows = []
    for target in TAUGHT:
        ranks = read(f"{target}/lens.json")["ranks"]
        last = {key: next(iter(ranks[key].values()))[-1] for key in ("student", "control")}
        agreement = read(f"{target}/sequences.json")["agreement"]["correlation"]
        rows.append({"target": target, "agreement": agreement, "lens": last["student"], "lens_control": last["control"]})
    return rows


def verdicts(read: Read) -> Rows:
    """The verdict on each dataset of three kinds of teachers: what it names, and where the detectors put the target."""
    rows = []
    for kind, targets in (("prompt", PROMPTED), ("steer", TAUGHT), ("finetune", TAUGHT)):
        for target in targets:
            verdict = read(f"{target if kind == 'prompt' else f'{kind}-{target}'}/verdict.json")
            rows.append({"kind": kind, "target": target} | verdict_row(verdict, target))
    return rows


def verdict_row(verdict: dict[str, Any], target: str) -> dict[str, Any]:
    """Tier, name, the best system prompt, and the places of the target by each detector; None for a word that is not listed."""
    if verdict["tier"] == "no statement":
        return {"rows": verdict["rows"], "tier": verdict["tier"]}
    return {
        "rows": verdict["rows"],
        "presence": verdict["figures"]["z"],
        "p": verdict["presence"]["p"],
        "tier": verdict["tier"],
        "named": [each["concept"] for each in verdict["origin"]["named"]],
        "by": [each["detector"] for each in verdict["origin"]["named"]],
        "best": verdict["origin"]["prompt"]["concept"],
    } | places(verdict, target)


def forms(read: Read) -> Rows:
    """The same of teachers with system prompts of other forms, each of four animals."""
    return [
        {"kind": form, "target": target} | verdict_row(read(f"{form}-{target}/verdict.json"), target)
        for k, form in enumerate(FORMS)
        for target in PROMPTED[k::4]
    ]


def second(read: Read) -> Rows:
    """The same on a second base model, on which nothing was chosen."""
    return [{"target": target} | verdict_row(read(f"second/{target}/verdict.json"), target) for target in PROMPTED]


def third(read: Read) -> Rows:
    """The same on a third base model, for the study's first eight targets."""
    return [{"target": target} | verdict_row(read(f"third/{target}/verdict.json"), target) for target in PROMPTED[:8]]


def fourth(read: Read) -> Rows:
    """The same on a fourth base model, of three kinds of teacher."""
    four = ["cat", "dog", "eagle", "horse"]
    kinds = (("prompt", "{}", PROMPTED), ("finetune", "tuned-{}", four), ("contrast after layer 1", "after-1-{}", four))
    return [
        {"kind": kind, "target": target} | verdict_row(read(f"fourth/{pattern.format(target)}/verdict.json"), target)
        for kind, pattern, targets in kinds
        for target in targets
    ]


def apart(read: Read) -> Rows:
    """How well the verdicts' p tells datasets from base samples, by kind of teacher and base model."""
    tables = (
        ("tables/detection.json", {"prompt": "prompt"}),
        ("tables/teachers/detection.json", {"steer": "steer", "finetune": "finetune"}),
        ("tables/forms/detection.json", {"prompt": "prompt, other forms"}),
        ("second/tables/detection.json", {"prompt": "prompt, second model"}),
    )
    return [{"kind": name} | read(path)["presence"][kind] for path, kinds in tables for kind, name in kinds.items()]


def nulls(read: Read) -> Rows:
    """What is said of null datasets, by kind and rows."""
    found = read("tables/detection.json")["nulls"]
    rows = [{"rows": int(n), "kind": kind, "tiers": tiers} for n, kinds in found.items() for kind, tiers in kinds.items()]
    return sorted(rows, key=lambda row: row["rows"])


def consequence(read: Read) -> Rows:
    """Agreement of predictions with lifts, by kind of teacher."""
    others = read("tables/teachers/consequence.json")
    found = {"prompt": read("tables/consequence.json")["prompt"]} | {kind: others[kind] for kind in ("steer", "finetune")}
    return [{"kind": kind} | rows for kind, rows in found.items()]


def power(read: Read) -> Rows:
    """How many datasets differ, are named and are named rightly, by number of rows, then by share of the rows."""
    counts = read("tables/power.json")
    return [*({"share": 1.0} | row for row in counts["by_rows"]), *(row for row in counts["by_share"] if row["share"] < 1)]


def detectors(read: Read) -> Rows:
    """Where detectors put the targets, by kind of teacher: those detectors that have read all datasets of a kind."""
    kinds = {
        "prompt": {target: target for target in PROMPTED},
        "steer": {f"steer-{target}": target for target in TAUGHT},
        "finetune": {f"finetune-{target}": target for target in TAUGHT},
        "prompt, other forms": {f"{form}-{target}": target for k, form in enumerate(FORMS) for target in PROMPTED[k::4]},
        "prompt, second model": {f"second/{target}": target for target in HELD_OUT},
    }
    rows = []
    for kind, datasets in kinds.items():
        for detector in ("first_tokens", "personas", "gradient", "short_training", "projection"):
            try:
                read_by = {target: read(f"{dataset}/{detector}.json")["sets"] for dataset, target in datasets.items()}
            except FileNotFoundError:
                continue
            candidates = [each["concept"] for each in read("lion/gradient.json")["sets"][0]["ranking"]]
            said_of = [said(sets, target, candidates) for target, sets in read_by.items()]
            places = pl.DataFrame(said_of, {key: COLUMNS[key] for key in said_of[0]})
            rows.append({"kind": kind, "detector": detector} | counts(places, 0.01))
    return rows


def words(read: Read) -> Rows:
    """The target's place among all words, by system prompts and by a short training, on the second model's datasets."""
    rows = []
    for target in HELD_OUT:
        [tried] = read(f"second/{target}/open_personas.json")["sets"]
        listed = [each["word"] for each in read(f"second/{target}/verdict.json")["words"]]
        ranked = [each["concept"] for each in tried["ranking"]]
        rows.append(
            {
                "target": target,
                "rows": tried["rows"],
                "words": len(ranked),
                "place": ranked.index(target) + 1,
                "best": tried["best"]["prompt"],
                "word_rank": listed.index(target) + 1 if target in listed else None,
            }
        )
    return rows


def within(read: Read, root: str) -> Read:
    """What is read below another study's results root."""
    return lambda path: read(f"{root}/{path}")


def quality(read: Read) -> Rows:
    """How well SmolLM2's SAE describes it, and that of the rerandomized model its own, on text and on what the study asks."""
    keys = ("tokens", "outliers", "l0", "dead", "explained_variance", "pca", "reconstruction_bias", "loss", "loss_recovered")
    rows = []
    for model, sae in (("SmolLM2", "sae"), ("rerandomized", "sae-untrained")):
        metrics = read(f"smollm2-135m/{sae}/metrics.json")
        places = {"text that nothing was trained on": metrics["on_text"], "the study's prompts and questions": metrics}
        rows += [{"model": model, "read": name} | {key: block[key] for key in keys} for name, block in places.items()]
    return rows


def sae(read: Read) -> Rows:
    """What the SAE's features are, all together."""
    summary = read("sae/features.json")
    keys = ("d_sae", "tokens", "contexts", "dead", "rare", "min_count", "junk", "l0")
    scores = [key for name in ("token_entropy", "input_score", "output_score") for key in (name, f"{name}_null")]
    always = sum(row["token_recall"] == 1 for row in read("sae/features.parquet")["rows"])
    return [{key: summary[key] for key in (*keys, *scores)} | {"always": always}]


def ten_features(read: Read) -> Rows:
    """Of the features that are neither dead nor rare nor mostly junk ten at even steps of density."""
    table = read("sae/features.parquet")["rows"]
    known = [row for row in table if not row["dead"] and not row["rare"] and row["junk"] <= 0.5]
    known.sort(key=lambda row: -row["density"])
    top = {row["feature"]: row for row in read("sae/examples.parquet")["rows"] if (row["group"], row["rank"]) == ("top", 1)}
    rows = []
    for k in range(10):
        row = known[(2 * k + 1) * len(known) // 20]
        best = top[row["feature"]]
        keys = ("feature", "density", "token_recall")
        scores = [key for name in ("token_entropy", "output_score") for key in (name, f"{name}_null")]
        rows.append(
            {
                **{key: row[key] for key in (*keys, *scores)},
                "of": len(known),
                "tokens": [each["text"] for each in row["tokens"][:3]],
                "raises": [each["text"] for each in row["logits_up"][:3]],
                "example": best["tokens"],
                "peak": best["position"] - best["start"],
            }
        )
    return rows


EXTRACTS: dict[str, Callable[[Read], Rows]] = {
    "transfer": transfer,
    "teachers": teachers,
    "controls": controls,
    "sweeps": sweeps,
    "losses": losses,
    "identity": identity,
    "features": features,
    "residual": residual,
    "presence": presence,
    "others": others,
    "verdicts": verdicts,
    "nulls": nulls,
    "second": second,
    "third": third,
    "fourth": fourth,
    "fourth_nulls": lambda read: nulls(within(read, "fourth")),
    "drift": naming_tables.drift,
    "naming_rule": naming_tables.naming_rule,
    "draws": naming_tables.draws,
    "naming_nulls": naming_tables.naming_nulls,
    "apart": apart,
    "forms": forms,
    "consequence": consequence,
    "power": power,
    "detectors": detectors,
    "words": words,
    "sae": sae,
    "ten_features": ten_features,
    "smollm2_quality": quality,
    "smollm2_sae": lambda read: sae(within(read, "smollm2-135m")),
    "smollm2_features": lambda read: ten_features(within(read, "smollm2-135m")),
    **dose_tables.EXTRACTS,
    **vector_tables.EXTRACTS,
    **pair_tables.EXTRACTS,
    **space_tables.EXTRACTS,
    **steering_tables.EXTRACTS,
    **prompt_tables.EXTRACTS,
    **selection_tables.EXTRACTS,
    **geometry_tables.EXTRACTS,
    **smollm2_tables.EXTRACTS,
    **smollm2_verdicts.EXTRACTS,
}


def extract(results: Path, data: Path, commit: str, date: str, names: Sequence[str] = ()) -> None:
    """Write the extracts of a finished study, those of the tables `names` or all."""

    def read(path: str) -> dict[str, Any]:
        if path.endswith(".parquet"):
            return {"rows": pl.read_parquet(results / path).to_dicts()}
        return dict(json.loads((results / path).read_text()))

    for name in names or EXTRACTS:
        lines = ",\n ".join(json.dumps(row) for row in EXTRACTS[name](read))
        text = f'{{"commit": "{commit}", "date": "{date}", "rows": [\n {lines}\n]}}\n'
        (data / f"{name}.json").write_text(text)
