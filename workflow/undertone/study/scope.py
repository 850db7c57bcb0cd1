"""Which datasets have a stage, which datasets a comparison reads, and which stage of a study makes a result."""

from undertone.study.config.detect import NULLS
from undertone.study.config.entries import CONTROL, KINDS
from undertone.study.node import Node
from undertone.study.study import Study


def every_dataset(study: Study) -> list[str]:
    """Every dataset that the study asks for."""
    return study.names


def filtered_here(study: Study) -> list[str]:
    """The datasets with a filter of their own."""
    return [name for name in study.names if name not in study.transformed]


def with_teacher(study: Study) -> list[str]:
    """The datasets whose teacher has a trait and a target."""
    return [name for name in study.names if name in study.of_kind(*KINDS) and study.target(name)]


def mixed(study: Study) -> list[str]:
    """The datasets of which smaller subsets and mixtures are read."""
    return study.power.datasets


def with_target(study: Study) -> list[str]:
    """The datasets with a target, and the control."""
    return [name for name in study.names if study.target(name) or name == CONTROL]


def aimed(study: Study) -> list[str]:
    """The datasets with a target, without the control."""
    return [name for name in study.names if study.target(name)]


def with_separate_halves(study: Study) -> list[str]:
    """The datasets with a target whose halves share no numbers, so that a choice on one half can be scored on the other.

    Datasets with a control of their own are left out, because the frequencies of all are compared with one control's.
    """
    return [name for name in with_target(study) if not study.crosses_rows(name) and study.control(name) in (None, CONTROL)]


def any_dataset(study: Study, dataset: str | None) -> bool:
    """Every dataset of every study."""
    return True


def taught_trait(study: Study, dataset: str | None) -> bool:
    """Datasets whose teacher is known and has a trait."""
    return dataset in study.of_kind(*KINDS)


def is_null(study: Study, dataset: str | None) -> bool:
    """Datasets in which nothing is hidden."""
    return dataset in NULLS


def is_mixture(study: Study, dataset: str | None) -> bool:
    """Names that stand for the smaller subsets and the mixtures of a dataset."""
    return dataset in study.mixtures


def taught_here(study: Study, dataset: str | None) -> bool:
    """Datasets that a teacher of the study writes."""
    return dataset in study.taught


def on_the_hub(study: Study, dataset: str | None) -> bool:
    """Datasets of the Hub."""
    return dataset in study.published


def with_sae(study: Study, dataset: str | None) -> bool:
    """Any dataset of a study with an SAE."""
    return study.has_sae


def base_model(study: Study, node: Node) -> Node:
    """The stage that finds, trains or rerandomizes a base model; of a dataset, the model that its students start from."""
    name = study.base(node.variant) if node.dataset else node.variant
    if study.base_model(name).rerandomized is not None:
        return Node("rerandomized", None, name)
    return Node("pretrained" if study.model.named else "model", None, name)


def dictionary(study: Study, node: Node) -> Node:
    """The stage that finds the SAE if the study names it, or else trains it, on text if the model is named."""
    if study.sae.named:
        return Node("pretrained_sae", None, node.variant)
    return Node("text_sae" if study.model.named else "sae", None, node.variant)


def held_out_text(study: Study, node: Node) -> Node:
    """The stage that makes the text for reading features: chats of the embedded corpus, or text new to a named model's SAE."""
    return Node("contexts" if study.model.named else "chats")


def filtered_or_made(study: Study, node: Node) -> Node:
    """The stage that makes the numbers: the filter, or the transform of a transformed dataset."""
    return node._replace(stage="transform") if node.dataset in study.transformed else node


def matched_or_null(study: Study, node: Node) -> Node:
    """The stage that makes a dataset's base samples; nulls are made with theirs, and mixtures from pairs."""
    if node.dataset in study.mixtures:
        return node._replace(stage="mixtures")
    return node._replace(stage="nulls") if node.dataset in NULLS else node


def itself(study: Study, node: Node) -> Node:
    """The stage itself: no other stage makes its result."""
    return node
