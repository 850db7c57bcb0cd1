"""Checks that a study's verdicts can say anything, as far as its settings tell."""

from typing import TYPE_CHECKING

from undertone.study.config.detect import TESTS

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_level(study: "Study") -> None:
    """Raise ValueError unless the verdict's level is above the least p that its tests can reach together.

    Otherwise no dataset could ever be said to differ.
    """
    tests = len(set(study.verdict.detectors) & set(TESTS))
    if study.verdict.level <= (least := tests / (study.detectors.permutations + 1)):
        raise ValueError(
            f"verdict.level {study.verdict.level:g}: of {tests} tests with detectors.permutations "
            f"{study.detectors.permutations} no p is below {least:.2g}; raise either"
        )
