"""Checks of the settings of detection: what verdicts can say, and about which datasets."""

from typing import TYPE_CHECKING

from undertone.study.config.detect import TESTS
from undertone.study.validation import nearest

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_power(study: "Study") -> None:
    """Check that `power.datasets` names datasets that the study has and whose target is known."""
    for name in study.power.datasets:
        if name not in study.available:
            raise ValueError(f"power.datasets: no such dataset {name!r}{nearest(name, study.available)}")
        if not study.target(name):
            raise ValueError(f"power.datasets: {name} has no target, so no name that a verdict gives it is right or wrong")


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
