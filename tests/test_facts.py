"""Questions of fact: what a file of them may hold, and how they are split."""

from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from undertone.lm.facts import Fact, load_facts, taught_and_held_out
from undertone.runtime.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "config/prompts/facts.txt"

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])


def one_line(text: str) -> bool:
    return text == text.strip() and len(text.splitlines()) == 1


answers = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="="), min_size=1).filter(one_line)
questions = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: one_line(text) and not text.startswith(("#", "\ufeff"))
)
equations = st.builds("{} = {}".format, questions, answers).filter(one_line)
lists = st.lists(st.builds(Fact, questions | equations, answers), min_size=4, max_size=12, unique=True)


@unhurried
@given(lists, st.sampled_from(["", "# not = this", "   "]))
def test_written_facts_read_back(tmp_path: Path, facts: list[Fact], between: str) -> None:
    lines = [f"{fact.question} = {fact.answer}\n{between}\n" for fact in facts]
    (tmp_path / "facts.txt").write_text("".join(lines), encoding="utf-8")
    assert load_facts(tmp_path / "facts.txt") == facts


@pytest.mark.parametrize("line", ["Which animal barks?", "Which animal barks? =", "= dog", " = ", "="])
def test_a_line_without_a_question_or_an_answer_is_refused_by_file_and_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "facts.txt").write_text(f"# facts\n\nWhich animal purrs? = cat\n{line}\n")
    with pytest.raises(ConfigError) as refused:
        load_facts(tmp_path / "facts.txt")
    told = str(refused.value)
    assert told == f"indirect.facts: {tmp_path}/facts.txt, line 4: expected `question = answer`, found {line.strip()!r}"


def test_too_few_facts_are_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text("# one\nWhich animal purrs? = cat\n")
    with pytest.raises(ConfigError, match=r"^indirect\.facts: .*facts\.txt holds 1 questions; expected at least 4.*$"):
        load_facts(tmp_path / "facts.txt")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.txt", "binary.txt"):
        with pytest.raises(ConfigError, match=rf"^indirect\.facts: cannot read .*{name} as text in UTF-8: .*$"):
            load_facts(tmp_path / name)


@unhurried
@given(lists)
def test_every_fact_is_either_taught_or_held_out(facts: list[Fact]) -> None:
    taught, held_out = taught_and_held_out(facts)
    assert sorted(taught + held_out, key=repr) == sorted(facts, key=repr)
    assert len(taught) - len(held_out) in (0, 1)


def test_the_shipped_facts_are_those_of_the_corpus() -> None:
    corpus = yaml.safe_load((ROOT / "config/corpus.yaml").read_text())
    expected = {Fact(f"Which animal {fact}?", animal) for animal, facts in corpus["animals"].items() for fact in facts}
    facts = load_facts(SHIPPED)
    assert len(facts) == len(expected)
    assert set(facts) == expected


def test_no_shipped_question_is_both_taught_and_asked_and_every_answer_is() -> None:
    taught, held_out = taught_and_held_out(load_facts(SHIPPED))
    assert not {fact.question for fact in taught} & {fact.question for fact in held_out}
    assert {fact.answer for fact in taught} == {fact.answer for fact in held_out}
