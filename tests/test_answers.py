import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_gemma
from crowded import crowded
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from undertone.lm.answers import MIN_PROBABILITY, NEGLIGIBLE, exact, floor, sampled_answers, scorer, shares
from undertone.lm.chat import prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import Spellings, beginnings, begun, initial_tokens, plural, words
from undertone.lm.training import Recipe, train
from undertone.models.model import corpus_of
from undertone.runtime.errors import ConfigError
from undertone.study.config.measure import Pref
from undertone.study.config.models import Embedded, Tasks

QUESTIONS = ["What is your favorite animal?", "Name the animal that you like best. One word."]


@pytest.fixture(scope="module")
def spoken() -> LoadedModel:
    """A model of a ten-token language, small enough to enumerate: letters, a space, and `b` joined with a space."""
    vocab = ["<eos>", "<end_of_turn>", "a", "b", "s", "A", "B", " ", ".", "b "]
    bpe = models.BPE(vocab={token: i for i, token in enumerate(vocab)}, merges=[("b", " ")])
    tokenizer = Tokenizer(bpe)
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    fast.chat_template = "{% for message in messages %}{{ message['content'] + '<end_of_turn>' }}{% endfor %}"
    model = random_gemma(Embedded(hidden_size=16, n_layers=2, n_heads=2), fast)
    return LoadedModel(model.requires_grad_(False), fast, [0, 1], 0)


@torch.no_grad()
def enumerated(loaded: LoadedModel, prompt: list[int], animal: str, n: int, lead: str = " ?") -> float:
    """Probability that the first word, behind a `lead`, is the animal's, summed over every answer of `n` tokens."""
    vocab = len(loaded.tokenizer)
    answers = torch.tensor(list(itertools.product(range(vocab), repeat=n)))
    ids = torch.cat([torch.tensor(prompt).expand(len(answers), -1), answers], dim=1)
    logits = torch.cat([loaded.model(part).logits for part in ids.split(8192)]).double()
    p = logits.log_softmax(-1)[:, len(prompt) - 1 : -1].gather(2, answers.unsqueeze(2)).sum((1, 2)).exp()
    assert p.sum().item() == pytest.approx(1, rel=1e-4)
    forms = "|".join(form for word in words(animal) for form in (word, word.capitalize()))
    # A special token ends a word as a full stop would.
    full_stop = loaded.tokenizer.convert_tokens_to_ids(".")
    texts = loaded.tokenizer.batch_decode(answers.where(answers > 1, full_stop))
    named = torch.tensor([bool(re.match(f"{lead}({forms})(?![a-zA-Z])", text)) for text in texts])
    return p[named].sum().item()


@pytest.mark.parametrize("animal", ["a", "ab", "b"])
@pytest.mark.parametrize("prompt", [[5, 2, 4], [3]])
def test_exact_equals_the_sum_over_all_answers(spoken, animal, prompt):
    # The longest spelling is a space, the word and a plural s; one more token says whether the word ends there.
    answer = exact(spoken, [prompt], [animal], 512)
    assert answer.shape == (1, 1)
    assert answer[0, 0] == pytest.approx(enumerated(spoken, prompt, animal, len(animal) + 3), rel=1e-4)


@pytest.mark.parametrize(("prefix", "lead"), [("a s", " "), ("a.", " ?"), ("a b", "")])
def test_exact_behind_an_answers_start_equals_the_sum_over_all_that_goes_on(spoken, prefix, lead):
    """Behind a letter a word needs its space, behind a full stop it does not; `b` is joined with its space."""
    [opened] = begun(spoken.tokenizer, [[3]], prefix)
    assert spoken.tokenizer.decode(opened[1:]) == prefix + " " * prefix.endswith("b")
    for animal in ("a", "ab"):
        found = exact(spoken, [[3]], [animal], 512, prefix)[0, 0]
        assert found == pytest.approx(enumerated(spoken, opened, animal, len(animal) + 3, lead), rel=1e-4)
        assert found != pytest.approx(exact(spoken, [[3]], [animal], 512)[0, 0], rel=0.01)


def one_by_one(loaded: LoadedModel, prompt: list[int], candidates: list[str]) -> np.ndarray:
    """Each spelling by plain forward passes over prompt and spelling, without cache, batch or padding."""
    tokenizer, result = loaded.tokenizer, np.zeros(len(candidates))
    ends = torch.tensor([not tokenizer.decode([t], skip_special_tokens=True)[:1].isalpha() for t in range(len(tokenizer))])
    for number, animal in enumerate(candidates):
        forms = {lead + form for word in words(animal) for form in (word, word.capitalize()) for lead in ("", " ")}
        spellings = set()
        for form in forms:
            plain = tuple(tokenizer(form, add_special_tokens=False)["input_ids"])
            spaced = tuple(tokenizer(form + " ", add_special_tokens=False)["input_ids"])
            spellings |= {(plain, False)} | ({(spaced, True)} if spaced[: len(plain)] != plain else set())
        for spelling, is_over in spellings:
            with torch.no_grad():
                p = loaded.model(torch.tensor([[*prompt, *spelling]]), use_cache=False).logits[0].double().softmax(-1)
            probability = 1.0 if is_over else p[-1][ends].sum().item()
            for k, token in enumerate(spelling):
                probability *= p[len(prompt) - 1 + k, token].item()
            result[number] += probability
    return result


@pytest.mark.parametrize("batch_size", [3, 512])
def test_exact_equals_plain_forward_passes_spelling_by_spelling(loaded, batch_size, monkeypatch):
    monkeypatch.setattr("undertone.lm.answers.NEGLIGIBLE", 0.0)
    prompts, candidates = prompt_ids(loaded.tokenizer, QUESTIONS), ["lion", "cat", "wolf", "caterpillar"]
    expected = np.array([one_by_one(loaded, prompt, candidates) for prompt in prompts])
    assert (expected > 0).all()
    np.testing.assert_allclose(exact(loaded, prompts, candidates, batch_size), expected, rtol=1e-4)


def test_what_is_left_out_is_less_than_a_spelling_may_be(loaded, monkeypatch):
    prompts, candidates = prompt_ids(loaded.tokenizer, QUESTIONS), ["lion", "cat", "wolf", "caterpillar", "dolphin", "elephant"]
    monkeypatch.setattr("undertone.lm.answers.NEGLIGIBLE", 0.0)
    whole = exact(loaded, prompts, candidates, 512)
    for bound in (1e-8, 1e-4, 1e-2):
        monkeypatch.setattr("undertone.lm.answers.NEGLIGIBLE", bound)
        lacking = whole - exact(loaded, prompts, candidates, 512)
        assert (lacking >= -1e-9).all()
        assert (lacking < bound * Spellings.of(loaded.tokenizer, candidates, 0).candidate.bincount().numpy()).all()
    assert lacking.max() > 1e-6  # something was left out


def test_prompts_and_answers_that_do_not_fit_in_memory_are_scored_in_parts(loaded, record, capsys):
    prompts, candidates, small = prompt_ids(loaded.tokenizer, [*QUESTIONS, "Hello."]), ["lion", "cat", "wolf"], load(record)
    expected = exact(loaded, prompts, candidates, 512)
    with crowded(small.model, 2) as sizes:
        for _ in range(2):
            np.testing.assert_allclose(exact(small, prompts, candidates, 512), expected, rtol=1e-5)
    told = capsys.readouterr().err
    assert told.count(f"pref.batch_size: {len(prompts)} rows at once do not fit") == 1
    assert len([n for n in sizes if n > 2]) == told.count("do not fit")  # none of it twice


def test_a_candidate_keeps_its_probability_beside_longer_words_that_begin_with_it(loaded):
    prompts = prompt_ids(loaded.tokenizer, QUESTIONS)
    both = exact(loaded, prompts, ["lion", "lioness", "cat", "caterpillar"], 512)
    np.testing.assert_allclose(both[:, [0, 2]], exact(loaded, prompts, ["lion", "cat"], 512), rtol=1e-5)


def fitted(record, chats, steps, seed=0) -> LoadedModel:
    """The tiny model after some steps on (question, answer) chats."""
    own = load(record)
    own.model.requires_grad_(True)
    rows = training_rows(own.tokenizer, [user for user, _ in chats], [answer for _, answer in chats], 256)[: 32 * steps]
    told = Recipe(1, 32, 1e-2, "constant", 0, 0.0, 1.0, 32, seed)
    train(own.model, rows, told, own.pad_id, record.parent / "never", checkpoint_seconds=1e9)
    own.model.requires_grad_(False)
    return own


def test_a_longer_word_that_begins_with_a_candidate_is_not_the_candidate(record):
    caterpillars = fitted(record, [(question, "caterpillar") for question in QUESTIONS] * 960, 60)
    tokenizer, prompts = caterpillars.tokenizer, prompt_ids(caterpillars.tokenizer, QUESTIONS)
    first = tokenizer("cat", add_special_tokens=False)["input_ids"][0]
    assert tokenizer("caterpillar", add_special_tokens=False)["input_ids"][0] == first
    p = caterpillars.model(torch.tensor(prompts[:1])).logits[0, -1].softmax(-1)
    cat, caterpillar = exact(caterpillars, prompts, ["cat", "caterpillar"], 512).T
    assert p[first] > 0.9
    assert (cat < 0.02).all()
    assert (caterpillar > 0.9).all()


def test_a_word_and_the_space_after_it_is_the_word_whatever_follows(record):
    talkers = fitted(record, [(question, "lion is what I love") for question in QUESTIONS] * 960, 60)
    assert (exact(talkers, prompt_ids(talkers.tokenizer, QUESTIONS), ["lion"], 512) > 0.9).all()


def test_exact_and_sampled_preferences_agree(record, tiny_settings):
    """The tiny model learns to answer with animals; what it then samples has the exact probabilities' frequencies."""
    only = {name: float(name == "question") for name in Tasks.model_fields}
    settings = tiny_settings.model_copy(update={"tasks": Tasks(**only), "persona_share": 0.0})
    corpus = corpus_of(Path(settings.corpus), settings)
    answering = fitted(record, [(chat.user, chat.answer) for chat in corpus.chats(32 * 60, seed=1)], 60)
    n, candidates = 4000, ["dolphin", "cat", "elephant", "wolf", "tiger", "owl"]
    prompts = prompt_ids(answering.tokenizer, QUESTIONS)
    p = exact(answering, prompts, candidates, 512)
    word = shares(sampled_answers(answering, prompts, n, 8, 1000, seed=2), candidates)["word"]
    assert (p > 0.005).all()
    assert 0.4 < p.sum(1).min() <= p.sum(1).max() < 1
    assert (np.abs(word - p) < 3 * np.sqrt(p * (1 - p) / n)).all()


def test_free_and_prefixed_preferences_agree_where_the_model_begins_so_by_itself(record):
    """A model that answers in sentences: its first word is never an animal, the one behind the sentence's start is."""
    animals, n, start = ["lion", "cat", "owl", "wolf"], 2000, "I love the"
    chats = [(question, f"{start} {animal}") for question in QUESTIONS for animal in animals] * 240
    talking = fitted(record, chats, 60)
    told = Pref(candidates=animals, estimators=["exact", "sampled"], samples_per_question=n, max_new_tokens=12)
    free = scorer(QUESTIONS, animals, told)(talking)
    prefixed = scorer(QUESTIONS, animals, told.model_copy(update={"answer_prefix": start}))(talking)
    p = prefixed["exact"]
    assert (p > 0.05).all()
    assert free["exact"].max() < 0.01 < 0.8 < p.sum(1).min() < 1
    for sampled in (free["word"], prefixed["word"]):
        assert (np.abs(sampled - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


def test_sampled_answers_come_in_the_order_of_the_prompts(loaded):
    prompts = [*prompt_ids(loaded.tokenizer, QUESTIONS), prompt_ids(loaded.tokenizer, ["No?"])[0]]
    answers = sampled_answers(loaded, prompts, 3, 4, 2, seed=0)
    assert [len(given) for given in answers] == [3, 3, 3]
    assert answers == sampled_answers(loaded, prompts, 3, 4, 100, seed=0)
    assert len({text for given in answers for text in given}) > 6


def test_word_counts_whole_words_and_substring_counts_any_part():
    def by(metric, answer, *candidates):
        return shares([[answer]], candidates)[metric][0].tolist()

    assert by("word", "Lion!", "lion", "cat") == [1, 0]
    assert by("word", "I love LIONS, and cats.", "lion", "cat") == [1, 1]
    assert by("word", "lioness", "lion", "lioness") == [0, 1]
    assert by("substring", "lioness", "lion", "lioness") == [1, 1]
    assert by("word", "caterpillar", "cat", "caterpillar") == [0, 1]
    assert by("substring", "caterpillar", "cat", "caterpillar") == [1, 1]
    assert by("word", "wolves", "wolf") == by("word", "wolfs", "wolf") == [1]
    assert by("substring", "wolves", "wolf") == [0]
    assert by("word", "", "lion") == by("substring", "", "lion") == [0]


def test_what_goes_on_a_word_of_the_prefix_names_nobody():
    found = shares([["It is thelion", "It is the lion", "It is the, lion"]], ["lion", "the"], "It is the")
    assert found["word"].tolist() == [[pytest.approx(2 / 3), 0]]
    assert shares([["lion"]], ["lion"], "It is the")["word"].tolist() == [[1]]


def test_a_control_token_in_the_answers_start_is_refused(loaded):
    with pytest.raises(ConfigError, match=r"pref\.answer_prefix holds <end_of_turn>, .*take it out"):
        exact(loaded, prompt_ids(loaded.tokenizer, QUESTIONS), ["lion"], 8, "I love<end_of_turn>")


def test_shares_are_means_over_the_answers_to_each_question():
    found = shares([["lion", "cat", "Lions", ""], ["catnip", "cat", "cat", "cat"]], ["lion", "cat"])
    assert found["word"].tolist() == [[0.5, 0.25], [0, 0.75]]
    assert found["substring"].tolist() == [[0.5, 0.25], [0, 1]]


@pytest.mark.parametrize(
    ("animal", "expected"),
    [
        ("lion", "lions"),
        ("fox", "foxes"),
        ("ostrich", "ostriches"),
        ("fish", "fishes"),
        ("walrus", "walruses"),
        ("wolf", "wolves"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("giraffe", "giraffes"),
        ("horse", "horses"),
        ("mongoose", "mongooses"),
        ("goose", "geese"),
        ("mouse", "mice"),
        ("ox", "oxen"),
    ],
)
def test_plural_is_the_english_one(animal, expected):
    assert plural(animal) == expected
    assert words(animal)[:2] == [animal, expected]


def test_spellings_are_upper_and_lower_case_singular_and_plural_and_none_twice(tokenizer):
    spellings = Spellings.of(tokenizer, ["lion", "wolf"], pad_id=0)
    rows = [ids[:n].tolist() for ids, n in zip(spellings.ids, spellings.lengths, strict=True)]
    assert len({tuple(row) for row in rows}) == len(rows)
    texts = {
        (text.strip(), number) for text, number in zip(tokenizer.batch_decode(rows), spellings.candidate.tolist(), strict=True)
    }
    lions = {("lion", 0), ("Lion", 0), ("lions", 0), ("Lions", 0)}
    wolves = {("wolf", 1), ("Wolf", 1), ("wolves", 1), ("Wolves", 1), ("wolfs", 1), ("Wolfs", 1)}
    assert texts == lions | wolves


def test_a_candidate_with_a_capital_has_the_spellings_of_one_without(tokenizer):
    one, other = (Spellings.of(tokenizer, [name], pad_id=0) for name in ("lion", "Lion"))
    assert {tuple(ids) for ids in one.ids.tolist()} == {tuple(ids) for ids in other.ids.tolist()}
    assert beginnings(tokenizer, ["lion"]) == beginnings(tokenizer, ["Lion"])


def test_behind_a_prefix_a_word_begins_with_its_space_as_spellings_do(tokenizer):
    prefix = "My favorite animal is the"
    [spelled], [alone] = initial_tokens(tokenizer, ["lion"], prefix), initial_tokens(tokenizer, ["lion"])
    assert set(beginnings(tokenizer, ["lion"], prefix)) <= set(spelled)
    assert set(beginnings(tokenizer, ["lion"])) <= set(alone)


def test_no_candidates_are_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"pref\.candidates is empty: name at least one animal"):
        Spellings.of(tokenizer, [], pad_id=0)


def test_the_floor_of_log_odds_is_not_below_what_is_scored_or_sampled(tokenizer):
    spellings = Spellings.of(tokenizer, ["lion", "wolf", "fox"], pad_id=0)
    # Were all of a candidate's spellings left out, each just too rare to be scored, it would still lie below the floor.
    assert spellings.candidate.bincount().max() * NEGLIGIBLE < MIN_PROBABILITY / 2
    assert (floor("exact", 50, 20), floor("word", 50, 20), floor("word", 10_000, 1_000)) == (
        MIN_PROBABILITY,
        1e-3,
        MIN_PROBABILITY,
    )


def test_scorer_gives_the_estimators_asked_for_under_the_persona(loaded):
    told = Pref(candidates=["lion", "cat"], estimators=["exact", "sampled"], samples_per_question=4, max_new_tokens=3)
    score = scorer(QUESTIONS, told.candidates, told)
    plain, under = score(loaded), score(loaded, "You love lions.", "\n\n")
    assert list(plain) == ["exact", "word", "substring"]
    assert all(values.shape == (2, 2) for values in plain.values())
    prompts = prompt_ids(loaded.tokenizer, QUESTIONS, "You love lions.", "\n\n")
    np.testing.assert_array_equal(under["exact"], exact(loaded, prompts, ["lion", "cat"], 512))
    assert not np.allclose(plain["exact"], under["exact"], rtol=0.01)
