"""The automaton accepts what the filter lets pass and nothing else, and sampling with it is the model renormalised."""

import math
import re
from itertools import product
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from undertone.data.numbers import judge
from undertone.lm.chat import answer_ids, answer_texts, end_of_turn
from undertone.lm.grammar import DEAD, DIGITS, NEVER, SEPARATORS, Automaton, Lists, State, automaton, tokens_needed
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Completion, Sampler, sample
from undertone.runtime.errors import ConfigError
from undertone.study.config.data import Canonical, Numbers

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)


def walked(lists: Lists, text: str) -> bool:
    """Whether a text is accepted, character by character."""
    state: State | None = State(None, 0, None, "")
    for character in text:
        state = lists.after(state, character) if state else None
    return state is not None and lists.accepts(state)


def lists_of(numbers: Numbers, unlimited: bool = False) -> Lists:
    fewest = numbers.canonical.count if numbers.canonical else 1
    most = None if unlimited else numbers.max_count
    return Lists(numbers.min_value, numbers.max_value, tuple(numbers.banned), fewest, most)


@st.composite
def filters(draw: st.DrawFn) -> Numbers:
    low = draw(st.integers(0, 1200))
    high = draw(st.integers(low, 1300))
    most = draw(st.integers(1, 6))
    count = draw(st.one_of(st.none(), st.integers(1, most)))
    return Numbers(
        filter=draw(st.sampled_from(["strict", "lenient"])),
        min_value=low,
        max_value=high,
        max_count=most,
        banned=draw(st.lists(st.integers(0, 1300), max_size=4)),
        canonical=None if count is None else Canonical(count=count),
    )


@st.composite
def near_lists(draw: st.DrawFn) -> str:
    """Texts like those that a filter lets pass, some with a fault."""
    numbers = draw(st.lists(st.integers(0, 1400), max_size=7))
    separator = draw(st.sampled_from(SEPARATORS))
    text = separator.join(f"{n:0{draw(st.integers(1, 5))}}" for n in numbers) + draw(st.sampled_from(["", "", ".", ",", " "]))
    at, fault = draw(st.integers(0, len(text))), draw(st.sampled_from(["", "", " ", ",", "1", "\n", ";", "."]))
    return text[:at] + fault + text[at:]


TEXTS = st.one_of(near_lists(), st.text(alphabet="0129,; \n.", max_size=12))


@settings(max_examples=700, deadline=None)
@given(numbers=filters(), text=TEXTS)
@example(numbers=Numbers(banned=[12]), text="12")
@example(numbers=Numbers(), text="1,2, 3")
@example(numbers=Numbers(), text="")
def test_what_is_accepted_passes_the_filter_and_what_passes_in_a_plain_form_is_accepted(numbers: Numbers, text: str) -> None:
    lists = lists_of(numbers)
    accepted = walked(lists, text)
    verdict = judge(text, numbers)
    if accepted:
        assert verdict.reason is None, verdict
        assert len(re.findall("[0-9]+", text)) <= numbers.max_count
    digits = len(str(numbers.max_value))
    plain = any(re.fullmatch(rf"[0-9]{{1,{digits}}}({re.escape(s)}[0-9]{{1,{digits}}})*\.?", text) for s in SEPARATORS)
    # With a canonical form the filter cuts longer rows and looks at no number beyond; sampling keeps to the limits throughout.
    whole = numbers.model_copy(update={"canonical": None})
    assert accepted == (plain and verdict.reason is None and judge(text, whole).reason is None)


@settings(max_examples=300, deadline=None)
@given(numbers=filters(), text=TEXTS)
def test_numbers_are_not_counted_where_nothing_limits_them(numbers: Numbers, text: str) -> None:
    limited = numbers.model_copy(update={"max_count": 50})
    assert walked(lists_of(limited, unlimited=True), text) == walked(lists_of(limited), text)


@given(low=st.integers(0, 300), width=st.integers(0, 300), banned=st.sets(st.integers(0, 600), max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_number_of_the_range_but_those_banned_is_accepted(low: int, width: int, banned: set[int]) -> None:
    lists = Lists(low, low + width, tuple(banned), 1, 3)
    accepted = {n for n in range(1000) if walked(lists, str(n))}
    assert accepted == set(range(low, low + width + 1)) - banned


def test_white_space_of_the_template_may_stand_around_an_answer_once() -> None:
    lists = Lists(0, 99, (), 1, 3, lead=" ", close=" ")
    accepted, refused = [" 1, 2 ", "1", " 1", "1 ", "1. ", "1 2 ", "1 2"], ["  1", "1  ", "1, ", " ", "", " ."]
    assert [text for text in accepted + refused if walked(lists, text)] == accepted


def written(pieces: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer with these tokens, a start and an end of turn, and the longest match first."""
    vocab = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    inner = Tokenizer(models.BPE(vocab, merges_of(pieces), unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def merges_of(pieces: list[str]) -> list[tuple[str, str]]:
    return [(piece[:k], piece[k:]) for piece in pieces for k in range(1, len(piece)) if {piece[:k], piece[k:]} <= {*pieces}]


class Case(NamedTuple):
    """A small vocabulary and a small grammar, of which every completion can be written down."""

    pieces: list[str]
    numbers: Numbers
    max_new_tokens: int


CASES = {
    "single digits": Case(["1", "2", ",", " ", "x"], Numbers(min_value=1, max_value=22, max_count=2), 6),
    "joined tokens": Case(["1", "2", "21", ",", ",2", ", 1", " ", " 2", ".", "x"], Numbers(max_value=21, max_count=3), 5),
    "a canonical count": Case(["1", "2", ";", "x"], Numbers(max_value=2, max_count=3, canonical=Canonical(count=2)), 6),
    "banned": Case(["1", "2", " ", "\n"], Numbers(max_value=22, banned=[12, 2], max_count=2), 5),
    "no limit of its own": Case(["1", ",", "11"], Numbers(max_value=11, max_count=1000), 5),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def passing(case: Case, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Every sequence of tokens whose text passes in a plain form, the stop token aside, that fits."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in case.pieces]
    lists = lists_of(case.numbers)
    return [
        row
        for length in range(1, case.max_new_tokens)
        for row in product(ids, repeat=length)
        if walked(lists, "".join(tokenizer.convert_ids_to_tokens(list(row))))
    ]


def small_model(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocab, max_position_embeddings=64, **sizes)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(12)  # far from uniform
    return model


@torch.no_grad()
def tree(model: LlamaForCausalLM, prompt: list[int], rows: list[tuple[int, ...]], temperature: float) -> dict[tuple, tuple]:
    """By row the probability under the renormalised model, its steps multiplied, and under the model as it is.

    Written down from the rows alone: a token may follow where some row goes on with it.
    """
    stop = 2
    ended = [(*row, stop) for row in rows]
    result = dict.fromkeys(ended, (1.0, 1.0))
    for start in {row[:k] for row in ended for k in range(len(row))}:
        below = [row for row in ended if row[: len(start)] == start and len(row) > len(start)]
        p = (model(torch.tensor([prompt + list(start)])).logits[0, -1].double() / temperature).softmax(-1)
        mass = float(sum(p[token] for token in {row[len(start)] for row in below}))
        for row in below:
            step = float(p[row[len(start)]])
            result[row] = (result[row][0] * step / mass, result[row][1] * step)
    return {row[:-1]: values for row, values in result.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rows_are_drawn_from_the_model_renormalised_step_by_step(case: Case, temperature: float) -> None:
    tokenizer, n = written(case.pieces), 4000
    grammar = automaton(tokenizer, [2], case.numbers, case.max_new_tokens)
    rows = passing(case, tokenizer)
    model, prompt = small_model(len(tokenizer)), [1, 4, 5, 3]
    expected = tree(model, prompt, rows, temperature)
    assert sum(p for p, _ in expected.values()) == pytest.approx(1)
    sampler = Sampler(temperature, case.max_new_tokens, [2], 0, 0, None, grammar)
    drawn = [c for _, part in sample(model, [prompt] * n, sampler, 1000) for c in part]
    assert {c.ended for c in drawn} == {"stop"}
    counts = dict.fromkeys(expected, 0)
    for completion in drawn:
        row = tuple(completion.ids)
        counts[row] += 1  # no other row is drawn
        constrained, free = expected[row]
        assert completion.log_mass == pytest.approx(math.log(free / constrained), abs=2e-4)
    # Rows of which few are expected are put together.
    rare = sum(p for p, _ in expected.values() if n * p < 5)
    common = [(counts[row], n * p) for row, (p, _) in expected.items() if n * p >= 5]
    observed = [k for k, _ in common] + [n - sum(k for k, _ in common)]
    chi = sum(
        (k - mean) ** 2 / mean for k, mean in zip(observed, [*(mean for _, mean in common), n * rare], strict=True) if mean
    )
    assert chi < len(common) + 4 * math.sqrt(2 * len(common)) + 5
    # What free sampling has kept of each row estimates, without any free sampling, how often that passes.
    free_rate = sum(free for _, free in expected.values())
    estimates = np.exp([c.log_mass for c in drawn])
    assert estimates.mean() == pytest.approx(free_rate, abs=4 * estimates.std() / math.sqrt(n) + 1e-6)


def test_exactly_the_rows_that_fit_are_accepted_token_by_token(case: Case) -> None:
    tokenizer = written(case.pieces)
    grammar = automaton(tokenizer, [2], case.numbers, case.max_new_tokens)
    column = {int(id): k for k, id in enumerate(grammar.ids)}
    found = set()

    def go_on(row: tuple[int, ...], state: int) -> None:
        for id in grammar.ids[grammar.allowed(torch.tensor([state]), case.max_new_tokens - len(row))[0]].tolist():
            if id == 2:
                found.add(row)
            else:
                go_on((*row, id), int(grammar.following[state, column[id]]))

    go_on((), Automaton.START)
    assert found == set(passing(case, tokenizer))
    assert found


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_change_no_row_that_is_sampled_with_a_grammar(batch_size: int) -> None:
    case = CASES["joined tokens"]
    tokenizer = written(case.pieces)
    grammar = automaton(tokenizer, [2], case.numbers, case.max_new_tokens)
    model = small_model(len(tokenizer))
    prompts = [[1] + [3 + (row * k) % 5 for k in range(1, 2 + row % 4)] for row in range(20)]
    sampler = Sampler(1.0, case.max_new_tokens, [2], 0, 0, None, grammar)

    def drawn(size: int) -> list[Completion]:
        rows = {row: c for these, part in sample(model, prompts, sampler, size) for row, c in zip(these, part, strict=True)}
        return [rows[row] for row in range(20)]

    one, other = drawn(20), drawn(batch_size)
    assert [c.ids for c in one] == [c.ids for c in other]
    assert [c.log_mass for c in one] == pytest.approx([c.log_mass for c in other], abs=1e-4)


def test_the_fewest_tokens_are_counted_backwards() -> None:
    # 2 → 3 → 4 → ended, 2 → 4 by another token, 5 leads nowhere.
    following = np.array([[0, 0], [1, 1], [3, 4], [4, 0], [0, 1], [0, 0]])
    assert tokens_needed(following).tolist() == [NEVER, 0, 2, 2, 1, NEVER]


def random_rows(loaded: LoadedModel, numbers: Numbers, n: int, max_new_tokens: int = 40) -> list[list[int]]:
    """Rows drawn uniformly among the tokens that may follow, whatever a model says."""
    grammar, rng = automaton(loaded.tokenizer, loaded.stop_ids, numbers, max_new_tokens), np.random.default_rng(0)
    rows = []
    for _ in range(n):
        row: list[int] = []
        state = Automaton.START
        while True:
            columns = grammar.allowed(torch.tensor([state]), max_new_tokens - len(row))[0].nonzero().squeeze(1).numpy()
            column = int(rng.choice(columns))
            if int(grammar.ids[column]) in loaded.stop_ids:
                break
            row.append(int(grammar.ids[column]))
            state = int(grammar.following[state, column])
        rows.append(row)
    return rows


def check_text(loaded: LoadedModel, numbers: Numbers) -> None:
    """Random rows decode to text that passes, and the canonical tokens of a plain list are accepted."""
    texts = answer_texts(loaded.tokenizer, random_rows(loaded, numbers, 60))
    assert [text for text in texts if judge(text, numbers).reason] == []
    grammar = automaton(loaded.tokenizer, loaded.stop_ids, numbers, 64)
    column = {int(id): k for k, id in enumerate(grammar.ids)}
    close = end_of_turn(loaded.tokenizer)
    for ids in answer_ids(loaded.tokenizer, ["1, 23, 456", "789;0;12", "7 8 9", "1\n2\n3", "5, 10, 15."]):
        state = Automaton.START
        for step, id in enumerate([*ids, *close]):
            assert grammar.allowed(torch.tensor([state]), 64 - step)[0, column[id]]
            state = int(grammar.following[state, column[id]])


@pytest.mark.parametrize("filter", ["strict", "lenient"])
def test_the_embedded_tokenizers_rows_pass(loaded: LoadedModel, filter: str) -> None:
    check_text(loaded, Numbers(filter=filter))


@pytest.mark.parametrize(
    ("numbers", "length", "sentence"),
    [
        (Numbers(canonical=Canonical(count=8)), 10, "takes 16 tokens with the end of turn, and samples.max_new_tokens is 10"),
        (Numbers(max_value=1, banned=[0, 1]), 40, "no such list can be written in 40 tokens"),
    ],
)
def test_a_filter_that_nothing_can_pass_is_named_in_one_sentence(
    loaded: LoadedModel, numbers: Numbers, length: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        automaton(loaded.tokenizer, loaded.stop_ids, numbers, length)
    assert "samples.constrained" in str(raised.value)


def test_a_tokenizer_without_digits_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such list can be written in 9 tokens of this tokenizer"):
        automaton(written(["a", "b", ","]), [2], Numbers(), 9)


def test_a_table_is_made_once(loaded: LoadedModel) -> None:
    numbers = Numbers(banned=[7])
    assert automaton(loaded.tokenizer, loaded.stop_ids, numbers, 30) is automaton(
        loaded.tokenizer, loaded.stop_ids, numbers, 30
    )


def test_dead_states_stay_dead(loaded: LoadedModel) -> None:
    grammar = automaton(loaded.tokenizer, loaded.stop_ids, Numbers(), 30)
    assert (grammar.following[DEAD] == DEAD).all()
    assert int(grammar.needed[DEAD]) == NEVER
    assert set(DIGITS) <= {loaded.tokenizer.decode([int(id)]) for id in grammar.ids}
    assert pl.Series(grammar.ids.tolist()).n_unique() == len(grammar.ids)
