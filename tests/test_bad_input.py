"""Every bad input is refused in one sentence, before anything is written; what only looks odd is accepted."""

from pathlib import Path

import pytest
from bad_inputs.case import Case

CASES: list[Case] = []


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
