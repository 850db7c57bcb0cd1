"""The stages of the workflow: what each one reads, and which of them a dataset and a variant have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from undertone.lm.checkpoint import SAE_FILES, files_of
from undertone.study.config import CONTROL, KINDS
from undertone.study.study import Study


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow; rule, script and module share its name.

    `after` names the stages it reads, for the same dataset and variant; `after_control` those it reads for the control;
    `after_all` those it reads for every dataset. `sections` are the settings it uses, `files` the study's files it reads.
    With `features` it reads which of the SAE's features stands for the target; what reads all animals' does so once for the
    whole study, so that another animal reruns no reading.
    """

    sections: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    after_control: tuple[str, ...] = ()
    after_all: tuple[str, ...] = ()
    files: Callable[[Study, "Node"], list[str]] = lambda study, node: []
    shared: bool = False  # one for the whole study, not one per dataset
    features: bool = False
    varied: bool = False  # one per variant: of the students, or of the base model for the stage that makes it


class Node(NamedTuple):
    """A stage of a dataset (None where it is one of the whole study) and a variant ("" is the study's own)."""

    stage: str
    dataset: str | None = None
    variant: str = ""

    @property
    def key(self) -> str:
        """The name under which a stamp holds the stage's settings."""
        stage = f"{self.stage}-{self.variant}" if self.variant else self.stage
        return f"{self.dataset}/{stage}" if self.dataset else stage


def _own_file(study: Study, node: Node) -> list[str]:
    return [study.files[node.dataset].file] if node.dataset in study.files else []


def _corpus(study: Study, node: Node) -> list[str]:
    return [study.base_model(node.variant).embedded.corpus]


def checkpoint_files(study: Study, node: Node) -> list[str]:
    """The files of a base model that is a folder; those of a Hub model are told by their commit."""
    folder = Path(str(study.base_model(node.variant).name))
    return [str(path) for path in files_of(folder)] if folder.is_dir() else []


def _sae_files(study: Study, node: Node) -> list[str]:
    return [f"{study.sae.folder}/{name}" for name in SAE_FILES] if study.sae.folder else []


def _questions(study: Study, node: Node) -> list[str]:
    return [study.pref.questions]


def _taught(study: Study, node: Node) -> list[str]:
    contrary = study.taught[str(node.dataset)].trait == "contrary"
    teacher: Any = study.section("teacher", node.dataset)
    return [study.indirect.facts if contrary else teacher.finetune.questions]


# What is read of a dataset, each in a JSON and a figure of its name; `summary_plot` shows some of them on one page.
READINGS = (
    "differences",
    "score",
    "feature_bias",
    "residual_bias",
    "bias_pref",
    "losses",
    "tokens",
    "sequences",
    "lens",
)
SUMMARISED = ("score", "feature_bias", "residual_bias", "bias_pref", "losses", "tokens")
STAGES = {
    "model": Stage(("model",), files=_corpus, shared=True, varied=True),
    "pretrained": Stage(("model",), files=checkpoint_files, shared=True, varied=True),
    "sae": Stage(("sae", "model"), after=("model",), files=_corpus, shared=True),
    "pretrained_sae": Stage(("sae",), after=("model",), files=_sae_files, shared=True),
    "sae_metrics": Stage(("teacher", "pref"), after=("sae", "prompts"), files=_questions, shared=True),
    "prompts": Stage(("prompts",), files=lambda study, _: [study.prompts.template], shared=True),
    "model_metrics": Stage(
        ("model", "teacher", "samples", "numbers", "pref"), after=("model", "prompts"), files=_questions, shared=True
    ),
    "steer": Stage(("teacher", "pref"), after=("model", "prompts"), files=_questions),
    "finetune": Stage(("teacher",), after=("model",), files=_taught),
    "samples": Stage(("teacher", "samples"), after=("model", "prompts")),
    "numbers": Stage(("numbers",), after=("samples",), files=_own_file),
    "transform": Stage(),
    "student": Stage(("student",), after=("model", "numbers"), varied=True),
    "pref": Stage(("pref", "teacher"), after=("student",), after_control=("pref",), files=_questions, varied=True),
    "indirect": Stage(
        ("pref", "indirect", "teacher"),
        after=("student",),
        after_control=("student",),
        files=lambda study, _: [study.pref.questions, study.indirect.forms, study.indirect.facts],
    ),
    "diagnosis": Stage(
        ("diagnosis", "teacher"), after=("numbers", "student", "pref", "indirect"), after_control=("numbers", "student")
    ),
    "activations": Stage(("activations",), after=("model", "sae", "numbers")),
    "teacher_activations": Stage(("activations", "teacher"), after=("model", "sae", "numbers")),
    "student_activations": Stage(("activations",), after=("model", "sae", "numbers", "student")),
    "residuals": Stage(("activations",), after=("model", "sae", "numbers")),
    "differences": Stage(
        ("differences", "activations"),
        after=("model", "sae", "numbers", "activations", "teacher_activations"),
        after_control=("activations",),
        features=True,
    ),
    "lens": Stage(
        ("differences", "pref", "teacher"),
        after=("model", "sae", "student"),
        after_control=("student",),
        files=lambda study, _: [study.differences.neutral],
    ),
    "score": Stage(("score",), after=("model", "sae", "numbers"), after_control=("numbers",), features=True),
    "feature_bias": Stage(("feature_bias",), after=("model", "sae", "numbers"), after_control=("feature_bias",), features=True),
    "residual_bias": Stage(("residual_bias",), after=("model", "sae", "numbers"), after_control=("residual_bias",)),
    "bias_pref": Stage(
        ("pref",), after=("feature_bias", "residual_bias", "differences"), after_control=("bias_pref",), files=_questions
    ),
    "losses": Stage(
        ("losses", "pref", "teacher"),
        after=("numbers", "student", "feature_bias", "residual_bias", "differences"),
        after_control=("feature_bias", "residual_bias"),
        files=_questions,
    ),
    "tokens": Stage(("tokens", "pref"), after=("model", "sae", "numbers"), after_control=("numbers",), features=True),
    "sequences": Stage(("teacher",), after=("model", "numbers")),
    "entangled": Stage(("tokens", "pref", "teacher"), after=("model",), after_all=("numbers",), files=_questions, shared=True),
    "readings": Stage(after_all=("score", "feature_bias", "bias_pref", "losses", "tokens"), features=True, shared=True),
    "reading_plot": Stage(varied=True),
    "summary_plot": Stage(after=SUMMARISED, after_control=SUMMARISED),
    "entangled_plot": Stage(after=("entangled",), shared=True),
    "bias_map_plot": Stage(after_all=("bias_pref",), shared=True),
    "filter_plot": Stage(after=("numbers",), after_control=("numbers",)),
    "student_plot": Stage(after=("student",), after_control=("student",)),
    "pref_plot": Stage(after=("pref",)),
    "indirect_plot": Stage(after=("indirect",)),
    "transfer": Stage(after_all=("pref",), shared=True),
    "transfer_plot": Stage(after=("transfer",), shared=True),
    "preference_matrix": Stage(after=("transfer",), shared=True),
    "preference_matrix_plot": Stage(after=("preference_matrix",), shared=True),
    "controls": Stage(shared=True),
    "controls_plot": Stage(after=("controls",), shared=True),
    "sweep_plot": Stage(shared=True, varied=True),
    "teachers_plot": Stage(after_all=("pref", "numbers"), shared=True),
    "compliance": Stage(after_all=("numbers",), shared=True),
    "compliance_plot": Stage(after=("compliance",), shared=True),
    "costs": Stage(shared=True),
    "costs_plot": Stage(after=("costs",), shared=True),
}
# Stages that read what a teacher of the study is.
TEACHING = ("samples", "pref", "indirect", "diagnosis", "teacher_activations", "lens", "losses", "sequences")
# Stages of datasets that have a teacher with a trait.
OF_TEACHERS = ("diagnosis", "teacher_activations", "sequences")


def ancestors(study: Study, node: Node) -> list[Node]:
    """A stage and all before it, those first."""
    found: dict[Node, None] = {}

    def visit(each: Node) -> None:
        if each not in found:
            for before in _before(study, each):
                visit(before)
            found[each] = None

    visit(node)
    return list(found)


def _before(study: Study, node: Node) -> Iterator[Node]:
    """The stages that a stage reads."""
    stage, dataset = STAGES[node.stage], node.dataset
    yield from _own_before(study, node)
    yield from _teachers(study, node)
    if node.stage == "steer" and study.section("teacher", dataset).steer.vector == "feature":  # type: ignore[attr-defined]
        yield _place(study, Node("sae"))
    if dataset and (control := study.control(dataset)):
        after_control = (parent for parent in stage.after_control if has(study, parent, control))
        yield from (_place(study, Node(parent, control, node.variant)) for parent in after_control)
    for parent in stage.after_all:
        others = (other for other in read_by(study, node.stage) if has(study, parent, other))
        yield from (_place(study, Node(parent, other)) for other in others)


def _own_before(study: Study, node: Node) -> Iterator[Node]:
    """Of the stages that a stage reads, those of the same dataset, or of what a figure or a transform names."""
    stage, dataset = STAGES[node.stage], node.dataset
    if node.stage in ("controls", "sweep_plot"):
        yield from (Node("pref", of, variant) for of, variant in compared(study, node))
        if node.variant == "rows":  # how many rows are all of them
            yield from (Node("student", of, variant) for of, variant in compared(study, node))
    elif node.stage == "reading_plot":
        own_and_control = dict.fromkeys((str(dataset), study.control(dataset) or CONTROL))
        yield from (Node(node.variant, of) for of in own_and_control if has(study, node.variant, of))
    elif node.stage == "transform" and dataset in study.transformed:
        if study.transformed[dataset].transform == "one-format":
            yield Node("prompts")
        yield from (_place(study, Node("numbers", source)) for source in study.sources(dataset))
    elif node.stage == "samples":
        yield from (_model(study, study.taught[str(dataset)].model or ""), Node("prompts"))
    elif not (node.stage == "numbers" and dataset in study.files):  # a user's own file has no teacher
        after = (parent for parent in stage.after if has(study, parent, dataset) and not _unread(study, node, parent))
        yield from (_place(study, Node(parent, dataset, node.variant)) for parent in after)


def _unread(study: Study, node: Node, parent: str) -> bool:
    """Whether the study's settings leave out what the stage may read."""
    return (node.stage, parent) == ("losses", "student") and not study.losses.students


def has(study: Study, stage: str, dataset: str | None) -> bool:
    """Whether a dataset has a stage: without an SAE none has features, and not every dataset has a known teacher."""
    if stage in OF_TEACHERS:
        return dataset in study.of_kind(*KINDS)
    return study.has_sae or stage not in ("sae", "sae_metrics", "residuals", "feature_bias")


def _place(study: Study, node: Node) -> Node:
    """The node as it stands in the study: shared stages have no dataset, others no variant, and a transform makes numbers.

    What the study names, the model or the SAE, is not trained but found.
    """
    stage, dataset, variant = node
    if stage == "model":
        return _model(study, study.base(variant))
    if stage == "sae" and study.sae.named:
        stage = "pretrained_sae"
    if stage == "numbers" and dataset in study.transformed:
        stage = "transform"
    return Node(stage, None if STAGES[stage].shared else dataset, variant if STAGES[stage].varied else "")


def _model(study: Study, name: str) -> Node:
    """The stage that finds or trains a base model."""
    return Node("pretrained" if study.model.name else "model", None, name)


def _teachers(study: Study, node: Node) -> Iterator[Node]:
    """The stages that make the teachers which a stage reads; a prompted one only needs its persona."""
    if node.stage in TEACHING and (kind := study.kind(node.dataset, node.variant)) in ("steer", "finetune"):
        yield Node(str(kind), node.dataset)
    if node.stage == "sequences" and (other := study.counterpart(node.dataset)):
        yield Node("steer", other)
    if STAGES[node.stage].features:
        yield from (Node("steer", teacher) for teacher in study.features_for(node.dataset).values())


def read_by(study: Study, stage: str) -> list[str]:
    """The datasets that a comparison reads: those that have what it is about.

    `entangled` finds on one half of the rows what it scores on the other: none whose halves share numbers.
    """
    if stage == "teachers_plot":
        return [name for name in study.names if name in study.of_kind(*KINDS) and study.target(name)]
    if stage in ("entangled", "readings", "bias_map_plot"):
        aimed = [name for name in study.names if study.target(name) or name == CONTROL]
        return [name for name in aimed if not (stage == "entangled" and study.crosses_rows(name))]
    if stage == "compliance":
        return [name for name in study.names if name not in study.transformed]
    return study.names


def compared(study: Study, node: Node) -> list[tuple[str, str]]:
    """(dataset, variant) whose preferences are set side by side.

    `controls`: every dataset with a target beside its transforms and its students of variants that no sweep has; one whose
    teacher starts from another model has students of variants only. `sweep_plot`, whose variant is the key of the sweep: the
    datasets of its variants, with the study's own students.
    """
    if node.stage == "sweep_plot":
        pairs = [(of, variant) for of, variant in study.varied if variant in study.sweeps[node.variant]]
        return [*dict.fromkeys((of, "") for of, _ in pairs), *pairs]
    swept = {variant for variants in study.sweeps.values() for variant in variants}
    varied = [(of, variant) for of, variant in study.varied if variant not in swept]
    made = study.transformed

    def own_students(source: str) -> list[tuple[str, str]]:
        return [(source, "")] if study.kind(source) or source not in study.taught else []

    sources = dict.fromkeys([*(told.parent for told in made.values()), *(of for of, _ in varied)])
    return [
        pair
        for source in sources
        if study.target(source)
        for pair in [*own_students(source), *((of, "") for of in made if made[of].parent == source), *_own(varied, source)]
    ]


def finished_jobs(folder: Path) -> list[Path]:
    """Snakemake's records of a study's finished jobs, `folder/RULE/JOB.jsonl`, but for those of what adds them up."""
    return [path for path in sorted(folder.glob("*/*.jsonl")) if path.parent.name not in ("costs", "costs_plot")]


def _own(varied: list[tuple[str, str]], dataset: str) -> list[tuple[str, str]]:
    return [pair for pair in varied if pair[0] == dataset]
