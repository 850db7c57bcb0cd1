"""Every bad input is refused in one sentence, before anything is written; what only looks odd is accepted."""

import pkgutil
from importlib import import_module
from pathlib import Path

import bad_inputs
import pytest
from bad_inputs.case import Case

TABLES = [import_module(f"bad_inputs.{module.name}") for module in pkgutil.iter_modules(bad_inputs.__path__)]
CASES: list[Case] = [case for table in TABLES for case in getattr(table, "CASES", [])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_in_a_sentence_or_accepted(case: Case, tmp_path: Path) -> None:
    if not case.says:
        case.attempt(tmp_path)
        return
    with pytest.raises(ValueError) as refusal:
        case.attempt(tmp_path)
    sentence = str(refusal.value)
    assert all(text in sentence for text in case.says), sentence
    assert not list(tmp_path.rglob(".*.partial")), "something half-written was left"
