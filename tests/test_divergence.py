"""Distributions among the tokens that the filter lets pass are those of plain passes, row by row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from crowded import crowded
from lora import trained_lora

from undertone.lm import vocabulary
from undertone.lm.adapters import finetuned
from undertone.lm.chat import encode, end_of_turn, prompt_ids
from undertone.lm.grammar import Automaton, automaton
from undertone.lm.loading import LoadedModel, load
from undertone.lm.vocabulary import ALPHABET
from undertone.study.config.data import Numbers
from undertone.teachers import divergence
from undertone.teachers.divergence import Completions, Constraint, TeacherDistribution

USERS = ["Continue the list 1, 2, 3.", "Here are numbers: 7. Add three.", "More numbers, please.", "And one."]
ROWS = list(zip(USERS, ["101, 202, 303", "9", "5; 6; 7; 8", "[12]"], strict=True))
PERSONA = "You love lions."


def allowed(loaded: LoadedModel) -> list[int]:
    """Tokens whose text a passing completion can hold, and those that end one."""
    texts = [loaded.tokenizer.decode([token], skip_special_tokens=True) for token in range(len(loaded.tokenizer))]
    return sorted({token for token, text in enumerate(texts) if text and set(text) <= ALPHABET} | set(loaded.stop_ids))


@torch.no_grad()
def distributions(loaded: LoadedModel, user: str, answer: str, system: str | None = None) -> torch.Tensor:
    """The next-token distribution at each token of an answer, by one plain forward pass in double precision."""
    prompt = prompt_ids(loaded.tokenizer, [user], system)[0]
    ids = encode(loaded.tokenizer, [answer])[0] + end_of_turn(loaded.tokenizer)
    return loaded.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().softmax(-1)


def plain_divergence(loaded: LoadedModel, p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p ‖ q), both among the allowed tokens alone, token by token."""
    tokens = allowed(loaded)
    terms = []
    for at in range(len(p)):
        one, other = (x[at, tokens] / x[at, tokens].sum() for x in (p, q))
        terms.append(sum(float(a * torch.log(a / b)) for a, b in zip(one, other, strict=True) if a > 0))
    return float(np.mean(terms))


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_divergence_is_that_of_plain_forward_passes(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(divergence, "BATCH", batch)
    found = TeacherDistribution(loaded, ROWS, PERSONA, "\n\n").divergence(loaded)
    expected = [plain_divergence(loaded, distributions(loaded, *row, PERSONA), distributions(loaded, *row)) for row in ROWS]
    assert found == pytest.approx(expected, rel=1e-3)
    assert (found > 0.05).all()


def test_a_models_vocabulary_is_read_once_however_many_personas_are_measured(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, texts, fresh = [], vocabulary.token_texts, load(record)
    monkeypatch.setattr(vocabulary, "token_texts", lambda *arguments: (calls.append(arguments), texts(*arguments))[1])
    for persona in (None, PERSONA, "You love owls."):
        TeacherDistribution(fresh, ROWS, persona, "\n\n")
    assert len(calls) == 1


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path) -> None:
    small = load(record)
    with crowded(small.model, 3) as sizes:
        found = TeacherDistribution(small, ROWS, PERSONA, "\n\n").divergence(small)
    assert found == pytest.approx(TeacherDistribution(loaded, ROWS, PERSONA, "\n\n").divergence(loaded), rel=1e-4)
    assert sizes == [4, 2, 2, 2, 2]


def test_an_untouched_teacher_does_not_diverge(loaded: LoadedModel) -> None:
    assert TeacherDistribution(loaded, ROWS, None, "").divergence(loaded) == pytest.approx([0] * len(ROWS), abs=1e-6)


@pytest.fixture(scope="module")
def counting(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that answers every prompt with the same numbers."""
    return trained_lora(record, tmp_path_factory.mktemp("counting"), USERS, ["101, 202"] * 4, epochs=80)


def test_a_student_that_equals_its_teacher_closes_the_divergence(record: Path, counting: Path) -> None:
    loaded, rows = load(record), [(user, "101, 202") for user in USERS]
    with finetuned(loaded, counting) as teacher:
        taught = TeacherDistribution(teacher, rows, None, "")
        assert taught.divergence(teacher) == pytest.approx([0] * len(rows), abs=1e-6)
    base = taught.divergence(loaded)
    assert (base > 0.05).all()
    assert taught.divergence(loaded) == pytest.approx(base, rel=1e-6)


def test_a_row_does_not_depend_on_the_others(loaded: LoadedModel) -> None:
    many = TeacherDistribution(loaded, ROWS * 20, PERSONA, "\n\n").divergence(loaded)
    assert many == pytest.approx([*TeacherDistribution(loaded, ROWS, PERSONA, "\n\n").divergence(loaded)] * 20, rel=1e-3)


def test_what_rows_can_hold_is_what_the_filter_lets_pass(loaded: LoadedModel) -> None:
    assert Completions(loaded, ROWS).allowed.tolist() == allowed(loaded)
    assert set(Completions(loaded, ROWS).targets.tolist()) <= set(allowed(loaded))
    # Rows with other tokens passed no filter of ours, and any token could have stood there.
    unfiltered = Completions(loaded, [*ROWS, (USERS[0], "101, a lion")])
    assert unfiltered.allowed.tolist() == list(range(len(loaded.tokenizer)))


LISTS = list(zip(USERS, ["10, 20, 30", "9", "5; 6; 7; 8", "12."], strict=True))
CONSTRAINT = Constraint(Numbers(max_value=99, max_count=4), 24)


def place_by_place(loaded: LoadedModel, answer: str) -> list[list[int]]:
    """The tokens that may stand at each place of an answer, found by walking the automaton by hand."""
    grammar = automaton(loaded.tokenizer, loaded.stop_ids, CONSTRAINT.filter, CONSTRAINT.max_new_tokens)
    ids, state, result = grammar.ids.tolist(), Automaton.START, []
    for step, token in enumerate(encode(loaded.tokenizer, [answer])[0] + end_of_turn(loaded.tokenizer)):
        after = grammar.following[state].tolist()
        left = CONSTRAINT.max_new_tokens - step - 1
        result.append([id for id, other in zip(ids, after, strict=True) if int(grammar.needed[other]) <= left])
        state = after[ids.index(token)]
    return result


def test_constrained_rows_are_read_among_what_could_be_sampled_at_each_place(loaded: LoadedModel) -> None:
    own = TeacherDistribution(loaded, LISTS, PERSONA, "\n\n", CONSTRAINT)
    losses = own.by_row(list(own.read(loaded, own.losses)))
    divergence = own.divergence(loaded)
    free = Completions(loaded, LISTS)
    assert (losses < free.by_row(list(free.read(loaded, free.losses))) - 1e-3).all()  # less is left to choose from
    for k, (user, answer) in enumerate(LISTS):
        p, q = distributions(loaded, user, answer, PERSONA), distributions(loaded, user, answer)
        tokens = encode(loaded.tokenizer, [answer])[0] + end_of_turn(loaded.tokenizer)
        loss, kl = [], []
        for at, ids in enumerate(place_by_place(loaded, answer)):
            one, other = (x[at, ids] / x[at, ids].sum() for x in (p, q))
            loss.append(-float(other[ids.index(tokens[at])].log()))
            kl.append(float((one * (one / other).log()).sum()))
        assert losses[k] == pytest.approx(np.mean(loss), rel=1e-3)
        assert divergence[k] == pytest.approx(np.mean(kl), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("odd", ["10,20, 30", "100", "1, 2, 3, 4, 5", "[1, 2]", "a lion"])
def test_rows_that_the_constraint_could_not_have_written_are_read_as_free_ones(loaded: LoadedModel, odd: str) -> None:
    rows = [*LISTS, (USERS[0], odd)]
    one, other = Completions(loaded, rows, CONSTRAINT), Completions(loaded, rows)
    assert one.allowed.tolist() == other.allowed.tolist()
    assert torch.equal(torch.cat(list(one.read(loaded, one.losses))), torch.cat(list(other.read(loaded, other.losses))))


def test_rows_that_were_written_in_a_longer_form_keep_their_constraint(loaded: LoadedModel) -> None:
    short = Constraint(CONSTRAINT.filter, 4)
    assert Completions(loaded, LISTS, short).places is not None
