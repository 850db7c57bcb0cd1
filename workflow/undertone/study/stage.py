"""What a row of the table of stages says."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from undertone.study import dataset_settings as given
from undertone.study import scope
from undertone.study.node import Node
from undertone.study.study import Study

Earlier = Callable[[Study, Node], Iterator[Node]]
Settings = Callable[[Study, Node], dict[str, Any]]
Axis = Literal["students", "models", "saes", "vectors", "pairs", "hierarchies", "searches", "figures", "runs", "stores"]


def no_files(study: Study, node: Node) -> list[str]:
    """No files of the user."""
    return []


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow; rule, script and module share its name."""

    sections: tuple[str, ...] = ()  # sections of the config that it uses
    after: tuple[str | Earlier, ...] = ()  # stages it reads: of the same dataset and variant by name, others by a function
    after_control: tuple[str, ...] = ()  # stages it reads of the control, with the same variant
    after_all: tuple[str, ...] = ()  # stages it reads of each of `datasets`
    datasets: Callable[[Study], list[str]] = scope.every_dataset
    files: Callable[[Study, Node], list[str]] = no_files  # the user's files that it reads
    settings: tuple[Settings, ...] = ()  # settings besides its sections
    teacher_keys: Callable[[Study, Node], set[str]] = given.keys_of_kind  # keys of the section `teacher` that it uses
    pref_keys: Callable[[Study, Node], set[str]] = given.exact_answers  # keys of the section `pref` that it uses
    unused: Mapping[str, Set[str]] = field(default_factory=dict)  # keys of other sections that it does not use
    only: Callable[[Study, str | None], bool] = scope.any_dataset  # the datasets that have it
    made_by: Callable[[Study, Node], Node] = scope.itself  # the stage that makes it in a study
    reading: bool = False  # whether it is a reading of one dataset, with a JSON and a figure of its name
    shared: bool = False  # whether there is one for the whole study, not one per dataset
    variants: Axis | None = None  # what its variants are, with one result for each; None if it has none
