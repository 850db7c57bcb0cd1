"""The search for a system prompt: it climbs to planted sentences, stays where nothing is better, and reads no row twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from undertone.detect.prompt_search import Likelihoods, Search, prompt_of, search_prompt, surely_best
from undertone.detect.rounds import Round, Trial
from undertone.detect.sets import Reading
from undertone.lm.loading import LoadedModel
from undertone.models.prompt_grammar import Grammar
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.detect import Detectors, PromptSearch
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

ROOT = Path(__file__).parents[1]
GRAMMAR = Grammar(
    {
        "opening": ["You {verb} {x}s.", "You are a {x}."],
        "rank": ["", "{x}s are your favorite.", "Nothing is worse than a {x}."],
    },
    {"verb": ["love", "hate", "fear"]},
)
CONCEPTS = ["lion", "owl", "cat", *(f"thing{k}" for k in range(40))]
SETTINGS = PromptSearch(passes=2, rows=40, final_rows=60, finalists=3)
DETECTORS = Detectors(bootstraps=50)


def test_words_stand_in_the_sentences_that_name_them() -> None:
    chosen = {"verb": "fear", "opening": "You {verb} {x}s.", "rank": "{x}s are your favorite."}
    assert GRAMMAR.wording(chosen) == "You fear {x}s. {x}s are your favorite."
    assert prompt_of((GRAMMAR.wording({**chosen, "rank": ""}), "owl")) == "You fear owls."
    assert GRAMMAR.wording(GRAMMAR.first()) == "You love {x}s."


def personas(settings: Any) -> Iterator[str]:
    """Every persona of a config."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from [value] if key == "persona" and isinstance(value, str) else personas(value)


def test_the_shipped_grammar_can_be_read_and_has_no_sentence_of_a_teachers_persona() -> None:
    grammar = Grammar.read(ROOT / "config/prompts/grammar.yaml")
    choices = (sentence for sentences in grammar.sentences.values() for sentence in sentences)
    written = {sentence.format(verb=verb, x="{animal}") for sentence, verb in product(choices, grammar.words["verb"])}
    configs = [yaml.safe_load(path.read_text()) for path in (ROOT / "config").glob("*.yaml")]
    taught = [Teacher().persona, *(text for config in configs for text in personas(config))]
    assert len(set(taught)) > 5
    for text in taught:
        assert not {f"{sentence}." for sentence in text.rstrip(".").split(". ")} & written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentences: {a: ['You love {x}s.', 'You are a {x}.']}", "expected the keys sentences and words"),
        ("sentences: {a: ['You love {x}s.']}\nwords: {}", "expected two different texts or more"),
        (
            "sentences: {a: ['You {verb} {x}s.', 'You are a {x}.']}\nwords: {}",
            "in a stands 'You {verb} {x}s.'; expected in braces x, found 'verb'",
        ),
        ("sentences: {a: ['You love {x}s.', '{x} {']}\nwords: {}", "in a stands '{x} {'; expected in braces x, found '{'"),
        ("sentences: {a: ['You love {x}s.', '{x} {}']}\nwords: {}", "expected in braces x, found ''"),
        ("sentences: {a: ['', 'You are a {x}.']}\nwords: {}", "every choice of the first sentence must hold {x}"),
        ("[]", "expected the keys sentences and words"),
    ],
)
def test_a_grammar_that_is_none_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "grammar.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Grammar.read(tmp_path / "grammar.yaml")


@dataclass(frozen=True)
class Planted(Likelihoods):
    """Rows whose gain is what is planted for the parts of a system prompt, and noise that all prompts share but for a part."""

    planted: dict[str, float] = field(default_factory=dict)
    seen: list[Sequence[int]] = field(default_factory=list)

    def gains(self, part: Sequence[int], trials: Sequence[Trial]) -> Round:
        self.seen.append(part)
        rng = np.random.default_rng(len(self.seen))
        means = [sum(gain for text, gain in self.planted.items() if text in prompt_of(trial)) for trial in trials]
        noise = rng.normal(0, 0.3, (len(part), 1)) + rng.normal(0, 0.05, (len(part), len(trials)))
        return Round(list(trials), np.asarray(part), np.array(means) + noise)


def searched(likelihoods: Planted) -> Reading:
    """What is found in rows in which something is planted."""
    prompts = [prompt for prompt, _ in likelihoods.rows]
    return Search(likelihoods, GRAMMAR, SETTINGS).read(prompts, CONCEPTS, {"lion", "owl", "cat"}, DETECTORS)


def planted(kind: type[Planted] = Planted, n: int = 600, **gains: float) -> Planted:
    """Rows in which these gains are planted, of what stands in a system prompt."""
    rows = [(f"Take {k}.", "1, 2") for k in range(n)]
    return kind(None, rows, "", None, {text.replace("_", " "): gain for text, gain in gains.items()})  # type: ignore[arg-type]


def test_it_finds_every_sentence_the_word_and_the_concept() -> None:
    reading = searched(planted(owl=0.1, fear=0.1, worse_than=0.05, are_a=-0.1))
    best = reading.details["best"]
    assert best["prompt"] == "You fear owls. Nothing is worse than a owl."
    assert (reading.ranking[0].concept, best["concept"], best["decoy"]) == ("owl", "owl", False)
    assert reading.ranking[0].share > 0.95
    assert best["gain"]["ci95"][0] < 0.25 < best["gain"]["ci95"][1]
    assert {each.concept for each in reading.ranking} == set(CONCEPTS)
    assert [step["slot"] for step in reading.details["steps"]] == ["verb", "opening", "rank"] * 2
    assert reading.details["steps"][0]["prompt"] == "You fear owls."
    assert (
        reading.details["tried"] == len(CONCEPTS) + 3 * 8
    )  # of each finalist: two verbs, an opening, two ranks; verbs and opening with its rank


def test_a_concept_that_the_first_wording_hides_wins_in_its_own() -> None:
    class Hidden(Planted):
        def gains(self, part: Sequence[int], trials: Sequence[Trial]) -> Round:
            each = super().gains(part, trials)
            return Round(each.pairs, each.rows, each.gains + 0.2 * np.array(["fear owls" in prompt_of(of) for of in trials]))

    reading = searched(planted(Hidden, lion=0.1, owl=0.05, fear=0.02, are_a=0.05))
    assert reading.details["best"]["prompt"].startswith("You fear owls.")
    assert [each.concept for each in reading.ranking[:2]] == ["owl", "lion"]


def test_no_row_is_read_twice_and_few_rows_make_fewer_choices() -> None:
    for n in (600, 61, 10, 4):
        likelihoods = planted(n=n, owl=0.1)
        reading = searched(likelihoods)
        seen = [row for part in likelihoods.seen for row in part]
        assert len(seen) == len(set(seen)) <= n
        assert all(len(part) for part in likelihoods.seen)
        assert len(reading.details["steps"]) == min(6, n // 4 - 1)


def test_where_nothing_is_better_nothing_is_changed_more_often_than_the_level_says() -> None:
    rng = np.random.default_rng(0)
    moved = [surely_best(rng.normal(size=(30, 6)), 0.2) != 0 for _ in range(600)]
    assert 0.12 < np.mean(moved) < 0.24  # Bonferroni keeps a little below .2, as the differences share the first option
    assert surely_best(np.ones((30, 3)), 0.2) == 0
    assert surely_best(np.array([[0.0, 1.0]]), 0.2) == 0


def test_what_is_surely_better_is_taken() -> None:
    gains = np.random.default_rng(1).normal(size=(200, 4)) * 0.1
    gains[:, 2] += 0.1
    assert surely_best(gains, 0.05) == 2


def test_the_gains_are_the_log_likelihood_ratio_per_token(loaded: LoadedModel) -> None:
    rows = [("Take 1.", "1, 2"), ("Take 2.", "333, 444, 555, 666"), ("Take 3.", "5")]
    likelihoods = Likelihoods(loaded, rows, "\n", None)
    trials = [("You love {x}s.", "owl"), ("You are a {x}.", "cat")]
    together = likelihoods.gains([0, 1, 2], trials).gains
    alone = np.concatenate([likelihoods.gains([k], trials).gains for k in range(3)])
    tokens = [len(loaded.tokenizer.encode(text, add_special_tokens=False)) + 1 for _, text in rows]
    np.testing.assert_allclose(together, alone * np.array(tokens)[:, None] / np.mean(tokens), rtol=1e-3, atol=1e-5)


def test_the_file_holds_the_prompt_and_the_way_to_it(record: Path, tmp_path: Path) -> None:
    texts = [f"{k}, {2 * k}" for k in range(60)]
    rows = {"set": "", "row": range(60), "prompt": [f"Take {k}." for k in range(60)], "completion": texts, "matched": texts}
    pl.DataFrame(rows, strict=False).write_parquet(tmp_path / "matched.parquet")
    (tmp_path / "bank.yaml").write_text("wordings: {love: 'You love {x}s.'}\ndecoys: [castle]")
    (tmp_path / "grammar.yaml").write_text(yaml.safe_dump({"sentences": GRAMMAR.sentences, "words": GRAMMAR.words}))
    search_prompt(
        record,
        *(tmp_path / name for name in ("matched.parquet", "bank.yaml", "grammar.yaml", "prompt_search.json")),
        PromptSearch(rows=4, final_rows=10, finalists=2),
        DETECTORS,
        Pref(candidates=["lion", "owl", "cat"]),
        Teacher(),
        {},
        {},
        tmp_path / "scratch",
    )
    [reading] = read_json(tmp_path / "prompt_search.json")["sets"]
    assert {each["concept"] for each in reading["ranking"]} == {"lion", "owl", "cat", "castle"}
    assert reading["rows_of_rounds"][-1] == 10
    assert reading["steps"][-1]["prompt"] == reading["best"]["prompt"]
