"""Inputs of a stage that differ between datasets: the user's files, and other stages.

Functions for files return paths. Functions for stages yield nodes; `graph` drops those that the study does not have.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undertone.study.config.detect import MIXTURES, NULLS
from undertone.study.config.entries import CONTROL
from undertone.study.formats import SAE_FILES, files_of
from undertone.study.node import Node
from undertone.study.study import Study


def own_file(study: Study, node: Node) -> list[str]:
    """The file of a dataset that is the user's own."""
    return [study.files[node.dataset].file] if node.dataset in study.files else []


def own_model(study: Study, node: Node) -> Iterator[Node]:
    """The study's own base model, whatever the stage is about."""
    yield Node("model")


def corpus_of_sae(study: Study, node: Node) -> list[str]:
    """The corpus of the embedded model that an SAE reads."""
    return [study.base_model(study.model_of(node.variant)).embedded.corpus]


def model_of_sae(study: Study, node: Node) -> Iterator[Node]:
    """The base model that an SAE reads."""
    yield Node("model", None, study.model_of(node.variant))


def judging_model(study: Study, node: Node) -> Iterator[Node]:
    """The model that grades features' examples."""
    yield Node("model", None, study.judge.model)


def text_of_sae(study: Study, node: Node) -> Iterator[Node]:
    """The text that features are read on, in the tokens of the SAE's model."""
    model = study.model_of(node.variant)
    yield Node("retokenized", None, model) if model else Node("chats")


def corpus(study: Study, node: Node) -> list[str]:
    """The text that the embedded model is trained on."""
    return [study.base_model(node.variant).embedded.corpus]


def checkpoint_files(study: Study, node: Node) -> list[str]:
    """The files of a base model that is a folder or a GGUF file; a Hub model's settings hold its commit instead."""
    path = Path(str(study.base_model(node.variant).name))
    if path.is_dir():
        return [str(file) for file in files_of(path)]
    return [str(path)] if path.is_file() else []


def sae_files(study: Study, node: Node) -> list[str]:
    """The files of an SAE that is a folder."""
    folder = study.dictionary(node.variant).folder
    return [f"{folder}/{name}" for name in SAE_FILES] if folder else []


def text_files(study: Study, node: Node) -> list[str]:
    """The files of text that the SAE is trained on; the settings of text on the Hub hold its commit instead."""
    return [source.file for source in study.sae.text if source.file]


def sampled_text(study: Study, node: Node) -> Iterator[Node]:
    """The samples that the SAE is trained on."""
    yield from (Node("samples", source.samples) for source in study.sae.text if source.samples)


def text_or_prompts(study: Study, node: Node) -> Iterator[Node]:
    """The source of the text for reading features: what follows the SAE's training text if it has any, else number prompts."""
    yield from (Node("text"), *sampled_text(study, node)) if study.sae.text else (Node("prompts"),)


def texts(study: Study, node: Node) -> list[str]:
    """The files of text that the SAE is trained on; if there are none, those of questions and of neutral texts."""
    return text_files(study, node) if study.sae.text else [*questions(study, node), *neutral_texts(study, node)]


def template(study: Study, node: Node) -> list[str]:
    """The template of the number prompts."""
    return [study.prompts.template]


def neutral_texts(study: Study, node: Node) -> list[str]:
    """Texts that have nothing to do with numbers or animals."""
    return [study.differences.neutral]


def questions(study: Study, node: Node) -> list[str]:
    """The questions of the preference."""
    return [study.pref.questions]


def concepts(study: Study, node: Node) -> list[str]:
    """The file of concepts that features are compared with."""
    return [study.specificity.concepts]


def saes_as_wide(study: Study, node: Node) -> Iterator[Node]:
    """The SAEs that an SAE's features are looked for in."""
    yield from (Node("sae", None, name) for name in study.as_wide(node.variant))


def searched_sae(study: Study, node: Node) -> Iterator[Node]:
    """The SAE whose features are searched, and the description of these features."""
    yield from (Node(name, None, study.searches[node.variant].sae) for name in ("sae", "features"))


def searched_model(study: Study, node: Node) -> Iterator[Node]:
    """The model that the searched SAE reads."""
    yield Node("model", None, study.model_of(study.searches[node.variant].sae))


def searched_text(study: Study, node: Node) -> Iterator[Node]:
    """The text on which the searched SAE's features were read."""
    yield from text_of_sae(study, Node("sae", None, study.searches[node.variant].sae))


def sae_text(study: Study, node: Node) -> Iterator[Node]:
    """The table of text that the SAE is trained on, if there is one."""
    if study.sae.text:
        yield Node("text")


def names(study: Study, node: Node) -> list[str]:
    """The file of names that may have a feature."""
    return [study.completeness.names]


def bank(study: Study, node: Node) -> list[str]:
    """The bank of system prompts that are tried on a dataset."""
    return [study.personas.bank]


def bank_and_grammar(study: Study, node: Node) -> list[str]:
    """The bank, whose decoys are tried, and the grammar in which system prompts are written."""
    return [*bank(study, node), study.prompt_search.grammar]


def bank_and_questions(study: Study, node: Node) -> list[str]:
    """The bank of system prompts, and the questions of the preference."""
    return [*bank(study, node), *questions(study, node)]


def indirect_questions(study: Study, node: Node) -> list[str]:
    """The questions of the preference and those of the indirect evaluation."""
    return [study.pref.questions, study.indirect.forms, study.indirect.facts]


def finetuning_texts(study: Study, node: Node) -> list[str]:
    """The file that a finetuned teacher is trained on: facts if it learns their contrary, else questions."""
    contrary = study.taught[str(node.dataset)].trait == "contrary"
    teacher: Any = study.section("teacher", node.dataset)
    return [study.indirect.facts if contrary else teacher.finetune.questions]


def teacher(study: Study, node: Node) -> Iterator[Node]:
    """The stage that makes a steered or finetuned teacher; a prompted one only needs its persona."""
    if (kind := study.kind(node.dataset, node.variant)) in ("steer", "finetune"):
        yield Node(str(kind), node.dataset)


def teachers_model(study: Study, node: Node) -> Iterator[Node]:
    """The base model that a dataset's teacher starts from."""
    yield Node("model", None, study.taught[str(node.dataset)].model or "")


def counterpart(study: Study, node: Node) -> Iterator[Node]:
    """The steered teacher that a prompted one is compared with."""
    if other := study.counterpart(node.dataset):
        yield Node("steer", other)


def features(study: Study, node: Node) -> Iterator[Node]:
    """The steered teachers that determine which of the SAE's features stands for the dataset's target.

    A stage of one dataset reads only the teacher of its own target, so that a new animal does not rerun it. A stage of all
    datasets reads the teachers of all animals.
    """
    yield from (Node("steer", teacher) for teacher in study.features_for(node.dataset).values())


def steered_sae(study: Study, node: Node) -> Iterator[Node]:
    """The SAE, if the teacher is steered along one of its features."""
    teacher: Any = study.section("teacher", node.dataset)
    if teacher.steer.vector == "feature":
        yield Node("sae")


def sources(study: Study, node: Node) -> Iterator[Node]:
    """The numbers that a transformed dataset is made from, and the prompts or row scores by which its rows are chosen."""
    entry = study.transformed[str(node.dataset)]
    if entry.transform == "one-format":
        yield Node("prompts")
    if entry.transform == "select":
        yield Node("row_scores", entry.parent)
    yield from (Node("numbers", source) for source in study.sources(str(node.dataset)))


def selected(study: Study, node: Node) -> Iterator[Node]:
    """The preferences that are compared; for mixtures also the scores of their rows and the rows that were mixed in."""
    for parent, arms in study.selections.items():
        yield from (Node("pref", of) for of in arms)
        entry = study.transformed.get(parent)
        if entry and entry.transform == "mix":
            yield from (Node("row_scores", parent), Node("numbers", entry.other))


def candidate_students(study: Study, node: Node) -> Iterator[Node]:
    """The dataset's students, for the table of losses, unless the study leaves them out."""
    if study.losses.students:
        yield Node("student", node.dataset)


def detectors(study: Study, node: Node) -> Iterator[Node]:
    """Every detector of the verdict, on the dataset and on the nulls of each kind."""
    yield from (Node(detector, of) for of in (node.dataset, *NULLS) for detector in study.verdict.detectors)


def mixed_pairs(study: Study, node: Node) -> Iterator[Node]:
    """The pairs of the dataset that is mixed, and those of the nulls on the study's own prompts."""
    yield Node("matched", mixed_dataset(node.dataset))
    yield Node("matched", NULLS[0])


def mixed_dataset(mixture: str | None) -> str:
    """The dataset whose rows a mixture holds."""
    return str(mixture).removeprefix(f"{MIXTURES}/")


def mixture_detectors(study: Study, node: Node) -> Iterator[Node]:
    """Every detector of the verdict, on each dataset that is mixed, on its mixtures, and on the nulls of each kind."""
    read = [*study.power.datasets, *study.mixtures, *NULLS]
    yield from (Node(detector, of) for of in read for detector in study.verdict.detectors)


def plotted(study: Study, node: Node) -> Iterator[Node]:
    """The reading that a figure's variant names, of the dataset and of its control."""
    yield Node(node.variant, node.dataset)
    yield Node(node.variant, study.control(node.dataset) or CONTROL)


def compared_prefs(study: Study, node: Node) -> Iterator[Node]:
    """The preferences that a figure compares."""
    yield from (Node("pref", of, variant) for of, variant in compared(study, node))


def swept_students(study: Study, node: Node) -> Iterator[Node]:
    """The students of a sweep over rows, whose records tell how many rows a student takes if it takes all."""
    if node.variant == "rows":
        yield from (Node("student", of, variant) for of, variant in compared(study, node))


def compared(study: Study, node: Node) -> list[tuple[str, str]]:
    """(dataset, variant) of each preference that a figure compares; the figure's variant is the key of a sweep, or "".

    For a sweep: the datasets of its variants, with the study's own students and with the variants' students. Otherwise: every
    dataset with a target, followed by its transforms and its students of variants that no sweep has. A dataset whose teacher
    starts from another model has students of variants only.
    """
    if node.variant:
        pairs = [(of, variant) for of, variant in study.varied if variant in study.sweeps[node.variant]]
        return [*dict.fromkeys((of, "") for of, _ in pairs), *pairs]
    swept = {variant for variants in study.sweeps.values() for variant in variants}
    varied = [(of, variant) for of, variant in study.varied if variant not in swept]
    parents = {name: dataset.parent for name, dataset in study.transformed.items()}

    def beside(source: str) -> list[tuple[str, str]]:
        own = [(source, "")] if study.kind(source) or source not in study.taught else []
        made = [(name, "") for name, parent in parents.items() if parent == source]
        return [*own, *made, *(pair for pair in varied if pair[0] == source)]

    sources = dict.fromkeys([*parents.values(), *(of for of, _ in varied)])
    # A transform that others are made from is a source, and stands beside its own.
    return list(dict.fromkeys(pair for source in sources if study.target(source) for pair in beside(source)))
