"""A language model that grades features' examples: judges that know, that guess, and that do not answer."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from undertone.lab import judge as module
from undertone.lab.feature_examples import SCHEMA as EXAMPLES
from undertone.lab.judge import AT_ONCE, GRADES, make_judge
from undertone.lab.judge_plot import plot_judge
from undertone.lab.specificity import SCHEMA as UNITS
from undertone.lm.loading import load
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.lab import Judge

Grader = Callable[[str, str], list[float]]
MARKED, CONCEPT = re.compile("«(.*?)»"), re.compile('signs, where it stands: "(.*?)"')
N_FEATURES, N_EXAMPLES = 12, 10
# Ids of tokens, one for each of three concepts; feature j holds concept j % 3.
IDS = (40, 50, 60)


def knows(token: str, concept: str) -> list[float]:
    """3 where the token is the one that the concept is called by, else mostly 0."""
    return [0, 0, 0, 0.5] if token.strip() == concept else [0.3, 0.1, 0, 0]


def guesses(seed: int) -> Grader:
    rng = np.random.default_rng(seed)
    return lambda token, concept: rng.dirichlet(np.ones(4)).tolist()


@pytest.fixture
def judged(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Grades of features whose examples' tokens are their concept's in `share` of all cases, by a judge that is given."""

    def graded(
        grade: Grader, share: float = 1.0, concepts: Sequence[int] = (0, 1, 2), parts: int = 5, **changed: Any
    ) -> dict[str, Any]:
        loaded = load(record)
        words = [loaded.tokenizer.decode([token]).strip() for token in IDS]
        (tmp_path / "concepts.yaml").write_text(yaml.safe_dump({word: {"tokens": [word]} for word in words}))
        of = {j: concepts[j % len(concepts)] for j in range(N_FEATURES)}
        write(record, tmp_path, of, share, parts)
        held = [{"kind": "feature", "unit": j, "concept": words[k], "p": 0.04} for j, k in of.items()]
        held.append({"kind": "feature", "unit": 99, "concept": words[0], "p": 0.2})
        write_parquet(tmp_path / "units.parquet", pl.DataFrame(held, schema=UNITS), {})

        def answers(loaded: Any, prompts: Sequence[str], batch_size: int) -> np.ndarray:
            # The first pair of signs is the rubric's own.
            asked = [(MARKED.findall(text)[1], CONCEPT.search(text)[1]) for text in prompts]  # type: ignore[index]
            return np.array([grade(*each) for each in asked]).reshape(len(prompts), len(GRADES))

        monkeypatch.setattr(module, "graded", answers)
        files = [tmp_path / name for name in ("text.parquet", "concepts.yaml", "examples.parquet", "units.parquet")]
        out = tmp_path / "judge.parquet", tmp_path / "sae/judge.json"
        make_judge(record, record, *files, *out, Judge(**changed), {"of": "it"})
        return {**read_json(out[1]), "rows": pl.read_parquet(out[0]), "home": tmp_path}

    return graded


def write(record: Path, home: Path, of: dict[int, int], share: float, parts: int = 5) -> None:
    """A context for each example: some tokens, and in the middle the example's."""
    rng = np.random.default_rng(0)
    contexts, rows = [], []
    for feature, concept in of.items():
        for n in range(N_EXAMPLES):
            holds = rng.random() < share
            contexts.append([2, 70, 71, IDS[concept] if holds else 80, 72, 2])
            group, rank = f"q{n % parts}", n // parts + 1
            rows.append((feature, group, rank, len(contexts) - 1, 3, 1.0, 0, ["?"] * 6, [None, 0, 0, 1, 0, None], None))
    rows.append((0, "top", 1, 0, 3, 9.0, 0, ["?"] * 6, [0.0] * 6, None))
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
    write_parquet(home / "examples.parquet", pl.DataFrame(rows, schema=EXAMPLES, orient="row"), {})


def test_a_judge_that_knows_is_of_use_and_says_what_the_rule_says(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(knows)
    assert result["usable"]
    assert (result["features"], result["examples"], result["unanswered"]) == (N_FEATURES, 2 * N_FEATURES * N_EXAMPLES, 0)
    for name in ("control", "own", "rule"):
        assert (result[name]["mean"], result[name]["n"]) == (1, N_FEATURES)
        # Twelve successes of twelve, which a share of .025 ** (1 / 12) gives with a probability of .025.
        assert result[name]["ci95"] == pytest.approx([0.735, 1], abs=0.001)
    rows = result["rows"]
    own = rows.filter(of=pl.col("feature"))
    assert own["grade"].to_list() == [3.0] * len(own)
    others = rows.filter(pl.col("of") != pl.col("feature"))
    np.testing.assert_allclose(others["grade"], 0.1 / 0.4)
    np.testing.assert_allclose(others["mass"], 0.4)
    assert set(rows["group"]) == {f"q{k}" for k in range(5)}
    assert 99 not in set(rows["feature"])
    assert "top" not in set(rows["group"])
    concept = dict(rows.filter(of=pl.col("feature")).select("feature", "concept").iter_rows())
    assert all(concept[of] != concept[feature] for feature, of in others.select("feature", "of").iter_rows())
    assert [(band["own"], band["holds"], band["others_hold"], band["n"]) for band in result["bands"]] == [(3, 1, 0, 24)] * 5


def test_examples_that_do_not_hold_the_concept_are_told_from_those_that_do(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(knows, share=0.6)
    assert result["control"]["mean"] == 1
    assert result["own"] == result["rule"]
    assert 0.7 < result["own"]["mean"] < 0.9
    assert re.search(r"^the judge, .* AUROC 1\.00 \[0\.74, 1\.00\], .* from another's with 0\.\d\d \[", result["verdict"])


@pytest.mark.parametrize("seed", range(5))
def test_a_judge_that_guesses_is_unusable(judged: Callable[..., dict[str, Any]], seed: int) -> None:
    result = judged(guesses(seed))
    assert not result["usable"]
    assert result["control"]["ci95"][0] < 0.6
    assert 0.35 < result["control"]["mean"] < 0.65
    assert re.match(r"unusable: .* AUROC \d\.\d\d \[.*\], expected 0\.7$", result["verdict"])


def test_a_judge_that_gives_everything_one_grade_is_unusable(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(lambda token, concept: [0, 0, 1, 0])
    assert result["verdict"] == (
        "unusable: the judge tells tokens that hold a concept from others with AUROC 0.50 [0.21, 0.79], expected 0.7"
    )


def test_a_judge_that_gives_no_digit_is_unusable(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(lambda token, concept: [1e-6, 0, 0, 1e-5])
    assert (result["unanswered"], result["rows"]["grade"].null_count()) == (240, 240)
    assert (result["control"], result["bands"]) == ({"mean": None, "ci95": None, "n": 0}, [])
    assert result["verdict"].startswith("unusable: ")


def test_features_of_one_concept_have_nothing_to_be_told_from(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(knows, concepts=(0,))
    assert (result["features"], result["examples"]) == (0, 0)
    assert result["verdict"].startswith("unusable: ")


def test_the_draw_is_of_as_many_features_and_examples_as_are_asked_for(judged: Callable[..., dict[str, Any]]) -> None:
    result = judged(knows, features=3, examples=5)
    assert (result["features"], result["examples"]) == (3, 30)
    assert result["rows"].equals(judged(knows, features=3, examples=5)["rows"])
    assert set(result["rows"]["feature"]) != set(judged(knows, features=3, examples=5, seed=4)["rows"]["feature"])


def test_every_part_of_the_range_is_judged_in_its_order(judged: Callable[..., dict[str, Any]], monkeypatch: Any) -> None:
    monkeypatch.setitem(globals(), "N_EXAMPLES", 12)
    found = judged(knows, parts=12, examples=12)
    assert [each["group"] for each in found["bands"]] == [f"q{k}" for k in range(12)]


def test_grades_are_probabilities_of_the_digits(record: Path) -> None:
    grades = module.graded(load(record), ["How well?", "Grade this."] * (AT_ONCE // 2 + 1), 4)
    assert grades.shape == (AT_ONCE + 2, 4)
    assert (grades >= 0).all()
    assert (grades.sum(1) <= 1).all()
    np.testing.assert_allclose(grades[::2], np.repeat(grades[:1], len(grades) // 2, axis=0), atol=1e-6)


def test_text_with_a_special_token_of_the_judge_is_left_out(
    judged: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, record: Path
) -> None:
    word = load(record).tokenizer.decode([IDS[0]]).strip()
    monkeypatch.setattr(module, "special_texts", lambda tokenizer: [f"«{word}»", "</s>"])
    result = judged(knows)
    assert 0 < result["special"] == 2 * N_FEATURES * N_EXAMPLES - result["examples"]


@pytest.mark.parametrize("grade", [knows, guesses(0), lambda token, concept: [0, 0, 0, 0]])
def test_the_figure_is_drawn_of_any_judge(judged: Callable[..., dict[str, Any]], grade: Grader) -> None:
    home = judged(grade)["home"]
    plot = home / "sae/plots/judge.png"
    plot_judge(home / "sae/judge.json", plot)
    assert Image.open(plot).size[0] > 800
