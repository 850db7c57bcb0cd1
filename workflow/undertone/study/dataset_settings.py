"""Settings of a stage besides its sections of the config, such as what the dataset is and which students are read.

Each function returns a part of a stage's settings; a row of `stages.STAGES` names those that the stage needs.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from undertone.study.config.entries import CONTROL
from undertone.study.config.measure import Pref
from undertone.study.config.saes import shares
from undertone.study.contents import content_version
from undertone.study.node import Node
from undertone.study.paths import BENCHMARKS, finished_jobs, folder_of
from undertone.study.reads import compared
from undertone.study.study import Study

Settings = dict[str, Any]
WORDING = {"persona", "separator"}
# Keys of a dataset's entry that stages get as separate settings.
NAMED_APART = {"target", "control"}


def rerandomized(study: Study, node: Node) -> Settings:
    """The seed by which a model's matrices are permuted."""
    return {"rerandomized": study.base_model(node.variant).rerandomized}


def target(study: Study, node: Node) -> Settings:
    """The animal that the dataset is meant to carry."""
    return {"target": study.target(str(node.dataset))}


def target_and_kind(study: Study, node: Node) -> Settings:
    """The target and the kind of teacher; the kind is None unless the teacher starts from the same model as the students."""
    return {**target(study, node), "kind": study.kind(node.dataset, node.variant)}


def constraint(study: Study, node: Node) -> Settings:
    """The constraint on sampling; empty if sampling is free, so that the filter's settings then change no stamp."""
    samples: Any = study.section("samples", node.dataset)
    if not samples.constrained:
        return {}
    numbers = study.section("numbers", node.dataset).stamped()
    form = numbers["canonical"]
    bounds = {key: numbers[key] for key in ("min_value", "max_value", "max_count", "banned")}
    own = {**bounds, "canonical": form and {"count": form["count"]}}
    return {"constraint": {"max_new_tokens": samples.max_new_tokens, "numbers": own}}


def target_and_writer(study: Study, node: Node) -> Settings:
    """The target and the kind of teacher that writes the dataset, whatever model it starts from."""
    return {**target(study, node), "kind": study.taught[str(node.dataset)].teacher}


def control(study: Study, node: Node) -> Settings:
    """The dataset that this one is compared with."""
    return {"against": study.control(node.dataset)}


def counterpart(study: Study, node: Node) -> Settings:
    """What a prompted teacher is compared with: the steered teacher of the same animal, where there is one."""
    if not (name := study.counterpart(node.dataset)):
        return {}
    teacher = study.section("teacher", name).stamped()
    keys = keys_of_kind(study, Node(node.stage, name))
    own = {key: value for key, value in teacher.items() if key in keys}
    return {"other": {"kind": "steer", "target": study.target(name), "teacher": own}}


def targets(datasets: Callable[[Study], list[str]]) -> Callable[[Study, Node], Settings]:
    """Return a function that gives the targets and the kinds of teacher of these datasets, without the control."""

    def of_all(study: Study, node: Node) -> Settings:
        names = [name for name in datasets(study) if name != CONTROL]
        kinds = {name: study.taught[name].teacher if name in study.taught else "other" for name in names}
        return {"targets": {name: study.target(name) for name in names}, "kinds": kinds}

    return of_all


def trait(study: Study, node: Node) -> Settings:
    """What a finetuned teacher is taught, with the file of facts if it learns their contrary."""
    taught = study.taught[str(node.dataset)]
    facts = {"indirect": {"facts": study.indirect.facts}} if taught.trait == "contrary" else {}
    return {"target": taught.target, "trait": taught.trait, **facts}


def own_rows(study: Study, node: Node) -> Settings:
    """The entry of a dataset whose rows are a file of the user's own, or are on the Hub."""
    entry = study.files.get(str(node.dataset)) or study.published.get(str(node.dataset))
    return {"dataset": entry.model_dump(mode="json", exclude=NAMED_APART)} if entry else {}


def transform(study: Study, node: Node) -> Settings:
    """The entry of a dataset that is made from another."""
    entry = study.transformed[str(node.dataset)]
    return {"dataset": entry.model_dump(mode="json", exclude=NAMED_APART, exclude_none=True)}


def all_seeds(study: Study, node: Node) -> Settings:
    """The seeds of the dataset's students of this variant."""
    return {"student": {"seeds": study.students(node.dataset, node.variant).seeds}}


def recipe(study: Study, node: Node) -> Settings:
    """How the study's students are trained, without the settings that a short training chooses itself."""
    unused = {"seeds", "epochs", "rows", "full"}
    return {"student": {key: value for key, value in study.student.stamped().items() if key not in unused}}


def level(study: Study, node: Node) -> Settings:
    """The p-value below which a dataset is said to differ from base samples."""
    return {"level": study.verdict.level}


def mixing(study: Study, node: Node) -> Settings:
    """How rows are mixed, without the list of datasets, and the most rows that a detector reads."""
    mixing = {key: value for key, value in study.power.stamped().items() if key != "datasets"}
    return {"power": mixing, "most_rows": study.detectors.rows}


def first_seed(study: Study, node: Node) -> Settings:
    """The seed of the dataset's first student."""
    return {"seed": study.students(node.dataset).seeds[0]}


def seeds_beside_control(study: Study, node: Node) -> Settings:
    """The seeds of the dataset's students and of its control's."""
    return {"seeds": {str(of): study.students(of).seeds for of in (study.control(node.dataset) or CONTROL, node.dataset)}}


def held_out(study: Study, node: Node) -> Settings:
    """The share of the dataset's rows that no bias of either kind is trained on."""
    return {"held_out": min(study.feature_bias.held_out, study.residual_bias.held_out)}


def pairs(study: Study, node: Node) -> Settings:
    """(dataset, variant) of each preference that is compared."""
    return {"compared": [list(pair) for pair in compared(study, node)]}


def selections(study: Study, node: Node) -> Settings:
    """For each dataset whose rows are selected: what is made from it, and if it is a mixture, the dataset that is mixed in."""
    keys = {"transform", "score", "keep", "fraction"}
    arms = {
        parent: {name: arm.model_dump(mode="json", include=keys, exclude_none=True) for name, arm in made.items()}
        for parent, made in study.selections.items()
    }
    mixtures = {name: study.transformed[name] for name in arms if name in study.transformed}
    mixed_in = {name: entry.other for name, entry in mixtures.items() if entry.transform == "mix"}
    return {"selections": arms, "mixed_in": mixed_in}


def transforms(study: Study, node: Node) -> Settings:
    """Which of the compared datasets are transforms."""
    return {"transforms": [of for of, _ in compared(study, node) if of in study.transformed]}


def variants_models(study: Study, node: Node) -> Settings:
    """The name of the base model of each variant whose preferences are compared, "" for the study's own."""
    variants = dict.fromkeys(variant for _, variant in compared(study, Node("controls")) if variant)
    return {"models": {variant: study.base(variant) for variant in variants}}


def swept(study: Study, node: Node) -> Settings:
    """The key of a sweep and its value in the students of each of the compared: datasets may set it, too."""
    values = [getattr(study.students(of, variant), node.variant) for of, variant in compared(study, node)]
    return {"key": node.variant, "values": values}


def records(study: Study, node: Node) -> Settings:
    """One hash of the records of finished jobs. They are not declared as inputs, because no job should run to make them."""
    folder = Path(folder_of(study.results, BENCHMARKS))
    versions = [f"{path.relative_to(folder)} {content_version(str(path))}" for path in finished_jobs(folder)]
    return {"records": hashlib.sha256("\n".join(versions).encode()).hexdigest()[:16]}


def keys_of_kind(study: Study, node: Node) -> set[str]:
    """The keys of `teacher` for its prompts; the stage that makes a steered or finetuned teacher depends on the others."""
    return _keys(study.kind(node.dataset, node.variant))


def keys_of_writer(study: Study, node: Node) -> set[str]:
    """The same keys for the teacher that writes the dataset, whatever model it starts from."""
    return _keys(study.taught[str(node.dataset)].teacher)


def keys_without_persona(study: Study, node: Node) -> set[str]:
    """The same keys for neutral texts; none for a prompted teacher, as its persona does not precede these texts."""
    return set() if study.kind(node.dataset, node.variant) == "prompt" else keys_of_kind(study, node)


def wording(study: Study, node: Node) -> set[str]:
    """The keys of `teacher` that say how any animal's prompted teacher would speak."""
    return WORDING


def separator(study: Study, node: Node) -> set[str]:
    """The key of `teacher` that says what stands between a system prompt and the user's turn."""
    return {"separator"}


def steering(study: Study, node: Node) -> set[str]:
    """The keys of `teacher` that make a steered one."""
    return WORDING | {"steer"}


def finetuning(study: Study, node: Node) -> set[str]:
    """The keys of `teacher` that make a finetuned one."""
    return {"finetune"}


def wording_of_asked(study: Study, node: Node) -> set[str]:
    """The keys of `teacher` for text that is asked; none if the SAE has text of its own."""
    return set() if study.sae.text else WORDING


def exact_answers(study: Study, node: Node) -> set[str]:
    """The keys of `pref` that say what is asked, without those of the estimator `sampled`."""
    return {"questions", "candidates", "answer_prefix", "batch_size"}


def all_answers(study: Study, node: Node) -> set[str]:
    """The keys of `pref`, for its own stage, which alone samples answers."""
    return set(Pref.model_fields)


def asked_text(study: Study, node: Node) -> set[str]:
    """The keys of `pref` for text that is asked; none if the SAE has text of its own."""
    return set() if study.sae.text else {"questions", "candidates"}


def _keys(kind: str | None) -> set[str]:
    return {"prompt": WORDING, "steer": {"separator"}}.get(str(kind), set())


def text(study: Study, node: Node) -> Settings:
    """What text the SAE is trained on, and how much of it."""
    sae = study.sae
    sources = [{**source.stamped(), "share": share} for source, share in zip(sae.text, shares(sae.text), strict=True)]
    return {"sources": sources, "context": sae.context, "tokens": sae.tokens}


def max_norm(study: Study, node: Node) -> Settings:
    """The limit on norms that decides which tokens of the text are read, the same as for features."""
    return {"max_norm": study.features.max_norm}


def search(study: Study, node: Node) -> Settings:
    """What a search asks for."""
    return {"entry": study.searches[node.variant].stamped()}
