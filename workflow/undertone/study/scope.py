"""Of which datasets a stage is, which datasets a comparison reads, and which stage of a study makes a thing."""

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
    """The datasets of which fewer rows and mixtures are read."""
    return study.power.datasets


def with_target(study: Study) -> list[str]:
    """The datasets with a target, and the control."""
    return [name for name in study.names if study.target(name) or name == CONTROL]


def aimed(study: Study) -> list[str]:
    """The datasets with a target, without the control."""
    return [name for name in study.names if study.target(name)]


def with_separate_halves(study: Study) -> list[str]:
    """Of the datasets with a target those whose halves share no numbers: what is found on one is scored on the other."""
    return [name for name in with_target(study) if not study.crosses_rows(name)]


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
    """What stands for fewer rows and mixtures of a dataset."""
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
    """The base model, found, trained or made from the study's own; of a dataset, the one that its students start from."""
    name = study.base(node.variant) if node.dataset else node.variant
    if study.base_model(name).rerandomized is not None:
        return Node("rerandomized", None, name)
    return Node("pretrained" if study.model.named else "model", None, name)


def dictionary(study: Study, node: Node) -> Node:
    """The SAE: found if the study names it, else trained, a named model's on text."""
    if study.sae.named:
        return Node("pretrained_sae", None, node.variant)
    return Node("text_sae" if study.model.named else "sae", None, node.variant)


def held_out_text(study: Study, node: Node) -> Node:
    """The text that features are read on: chats of the embedded model's corpus, or what a named model's SAE has not seen."""
    return Node("contexts" if study.model.named else "chats")


def filtered_or_made(study: Study, node: Node) -> Node:
    """The numbers: a transform makes those of a transformed dataset."""
    return node._replace(stage="transform") if node.dataset in study.transformed else node


def matched_or_null(study: Study, node: Node) -> Node:
    """Base samples beside a dataset; nulls are made with theirs, and mixtures from pairs."""
    if node.dataset in study.mixtures:
        return node._replace(stage="mixtures")
    return node._replace(stage="nulls") if node.dataset in NULLS else node


def itself(study: Study, node: Node) -> Node:
    """What no other stage makes."""
    return node
