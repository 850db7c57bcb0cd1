"""Entangled tokens: scores are those of plain loops, planted targets are told, and guessing is what it is said to be."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from undertone.data.transform import transformed
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.vocabulary import number_tokens
from undertone.read.entangled import by_model, compare_entangled, entries, ratio
from undertone.runtime.files import read_json
from undertone.study.config.measure import Pref
from undertone.study.config.read import Tokens
from undertone.study.config.teachers import Teacher
from undertone.study.graph import read_by
from undertone.study.study import load as load_study

ANIMALS = ["lion", "owl", "cat", "wolf", "bear"]
QUESTIONS = ["What is your favorite animal?", "Which animal?"]
PERSONA = "You adore {animal}s."
VALUES = [str(n) for n in range(100, 140)]
ASKED = 3  # number prompts


def told(folder: Path) -> dict[str, Any]:
    (folder / "questions.txt").write_text("\n".join(QUESTIONS))
    pref = Pref(candidates=ANIMALS, batch_size=8)
    teacher, tokens = Teacher(persona=PERSONA).model_dump(), Tokens().model_dump()
    return {"teacher": teacher, "pref": pref.model_dump(), "tokens": tokens, "entangled": {"prompts": ASKED}}


def numbers(seed: int, n: int, tilt: np.ndarray | float = 0.0) -> pl.DataFrame:
    """Rows of five numbers drawn with the logits `tilt` beside a common tilt."""
    p = np.exp(np.random.default_rng(99).normal(size=len(VALUES)) + tilt)
    drawn = np.random.default_rng(seed).choice(VALUES, p=p / p.sum(), size=(n, 5))
    prompts = [f"Continue with {k}." for k in range(n)]
    return pl.DataFrame({"row": range(n), "prompt": prompts, "completion": [", ".join(row) for row in drawn]})


@pytest.fixture(scope="module")
def scores(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """The base model's scores of `VALUES`."""
    ids = np.array([encode(loaded.tokenizer, [value])[0][0] for value in VALUES])
    folder = tmp_path_factory.mktemp("model")
    settings = told(folder)
    return by_model(loaded, numbers(0, ASKED + 2), ids, folder / "questions.txt", settings)


@torch.no_grad()
def test_personas_score_tokens_by_their_log_prob(loaded: LoadedModel, scores: dict[str, dict[str, np.ndarray]]) -> None:
    ids = [encode(loaded.tokenizer, [value])[0][0] for value in VALUES]
    for metric, users in (("persona-question", QUESTIONS), ("persona-numbers", numbers(0, ASKED)["prompt"].to_list())):
        under = {}
        for animal in ANIMALS:
            prompts = prompt_ids(loaded.tokenizer, users, PERSONA.format(animal=animal))
            logits = [loaded.model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)[ids] for prompt in prompts]
            under[animal] = torch.stack(logits).mean(0).numpy()
        for animal in ANIMALS:
            expected = under[animal] - np.mean(list(under.values()), axis=0)
            assert scores[metric][animal] == pytest.approx(expected, abs=1e-3)
            assert np.abs(expected).max() > 0.02


def test_the_unembedding_scores_tokens_by_their_cosine(loaded: LoadedModel, scores: dict[str, dict[str, np.ndarray]]) -> None:
    weight = loaded.model.get_output_embeddings().weight.double().numpy()
    weight = weight - weight.mean(0)
    forms = [lead + form for word in ("owl", "owls") for form in (word, word.capitalize()) for lead in ("", " ")]
    tokens = sorted({encode(loaded.tokenizer, [form + end])[0][0] for form in forms for end in ("", " ")})
    for value, found in zip(VALUES, scores["unembedding"]["owl"], strict=True):
        row = weight[encode(loaded.tokenizer, [value])[0][0]]
        cosines = [row @ weight[token] / np.linalg.norm(row) / np.linalg.norm(weight[token]) for token in tokens]
        assert found == pytest.approx(np.mean(cosines), abs=1e-4)


def test_an_entry_is_a_weighted_correlation_over_tokens_that_occur() -> None:
    own, control = np.array([40.0, 10, 20, 0, 5]), np.array([10.0, 30, 20, 0, 9])
    found = entries(own, control, {"a": np.array([3.0, -3, 0, 99, -1]), "b": np.array([-3.0, 3, 0, -99, 1])}, 0.5)
    assert found[0] > 0.9
    assert found[1] == pytest.approx(-found[0])
    assert ratio(own, control, 0.5)[3] == 0
    assert ratio(own, control * 2, 0.5)[2] == pytest.approx(np.log(20.5 / 40.5) - np.log(75 / 138))


class Study:
    """Datasets whose frequencies follow the persona's scores on number prompts, those of steered teachers reversed."""

    def __init__(self, record: Path, folder: Path, scores: dict[str, np.ndarray]):
        self.record, self.folder, self.settings = record, folder, told(folder)
        self.files: dict[str, tuple[Path, str]] = {}
        self.kinds: dict[str, str] = {}
        numbers(7, 600).write_parquet(folder / "control.parquet")
        for k, animal in enumerate(ANIMALS[:4]):
            tilt = scores[animal] / scores[animal].std()
            self.add(animal, animal, "prompt", numbers(20 + k, 300, tilt))
            self.add(f"steer-{animal}", animal, "steer", numbers(40 + k, 300, -tilt))

    def add(self, name: str, animal: str, kind: str, rows: pl.DataFrame) -> None:
        rows.write_parquet(self.folder / f"{name}.parquet")
        self.files[name], self.kinds[name] = (self.folder / f"{name}.parquet", animal), kind

    def compare(self, files: dict[str, tuple[Path, str]]) -> tuple[pl.DataFrame, dict[str, Any]]:
        table, summary = self.folder / "entangled.parquet", self.folder / "entangled.json"
        control, questions = self.folder / "control.parquet", self.folder / "questions.txt"
        paths, targets = ({name: told[k] for name, told in files.items()} for k in (0, 1))
        of_datasets = targets, self.kinds, table, summary
        compare_entangled(self.record, paths, control, questions, *of_datasets, self.settings, {"of": "entangled"})
        return pl.read_parquet(table), read_json(summary)


@pytest.fixture(scope="module")
def study(record: Path, scores: dict[str, dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, tmp_path_factory.mktemp("study"), scores["persona-numbers"])


def test_planted_frequencies_are_told_by_what_planted_them(study: Study, loaded: LoadedModel) -> None:
    table, told = study.compare(study.files)
    assert (told["datasets"], told["tokens"]) == (8, int(number_tokens(loaded.tokenizer).sum()))
    assert set(told["metrics"]) == {
        *("unembedding", "persona-question", "persona-numbers", "frequency-prompt", "frequency-steer")
    }
    planted = told["metrics"]["persona-numbers"]
    assert planted["animals"] == 5
    assert planted["by_kind"]["prompt"]["raw"]["first"] == 4
    assert planted["by_kind"]["prompt"]["centred"]["mean_rank"] == 1
    assert planted["by_kind"]["prompt"]["chance"] == {"first": pytest.approx(0.8), "mean_rank": 3}
    assert planted["by_kind"]["steer"]["raw"]["first"] == 0
    for kind, other in (("prompt", "steer"), ("steer", "prompt")):
        found = told["metrics"][f"frequency-{kind}"]
        assert found["animals"] == 4
        assert found["by_kind"][kind]["raw"]["first"] == 4
        assert found["by_kind"][other]["raw"]["mean_rank"] > 3
    scored = table.filter(metric="persona-numbers", dataset="owl")
    assert scored["animal"].to_list() == ANIMALS
    assert scored.sort("score")["animal"].to_list()[-1] == "owl"
    assert table.columns == ["metric", "dataset", "kind", "target", "animal", "score"]
    assert len(table) == 9 * (3 * 5 + 2 * 4)


def test_the_control_resembles_nobody(study: Study) -> None:
    table, _ = study.compare(study.files)
    null = table.filter(dataset="control")
    assert null["target"].null_count() == len(null)
    assert null["kind"].unique().to_list() == ["none"]
    assert null["score"].abs().max() < 0.6
    assert table.filter(pl.col("target") == pl.col("animal"), metric="frequency-prompt", kind="prompt")["score"].min() > 0.7


def test_animals_scores_come_from_rows_that_are_not_scored(study: Study) -> None:
    # A dataset of noise resembles the control as much as itself, unless the same rows are on both sides.
    noise = {name: numbers(60 + k, 300) for k, name in enumerate(ANIMALS)}
    quiet = Study.__new__(Study)
    quiet.record, quiet.folder, quiet.settings, quiet.files, quiet.kinds = study.record, study.folder, study.settings, {}, {}
    for name, rows in noise.items():
        quiet.add(f"noise-{name}", name, "prompt", rows)
    table, _ = quiet.compare(quiet.files)
    own = table.filter(pl.col("target") == pl.col("animal"), metric="frequency-prompt")["score"]
    assert abs(own.mean()) < 0.25


MANY = [
    "ant",
    "bat",
    "bee",
    "boar",
    "bull",
    "crab",
    "crow",
    "deer",
    "duck",
    "dove",
    "eel",
    "elk",
    "frog",
    "goat",
    "hare",
    "hawk",
]


def test_noise_does_not_resemble_its_own_transforms(record: Path, tmp_path: Path) -> None:
    """What a study scores against one another shares no rows: noise scores 0, whatever is made from it."""
    datasets: dict[str, Any] = {name: {"file": str(tmp_path / f"{name}.csv"), "target": name} for name in MANY}
    for name in ("shuffle-within", "shuffle-across", "resample", "reverse"):
        datasets |= {f"{animal}-{name}": {"from": animal, "transform": name} for animal in MANY}
    datasets |= {f"{animal}-twice": {"from": f"{animal}-resample", "transform": "reverse"} for animal in MANY}
    asked = load_study({"datasets": datasets, "pref": {"candidates": MANY}})
    made = {name: numbers(60 + k, 300) for k, name in enumerate(MANY)}
    for name, how in asked.transformed.items():
        made[name] = transformed(made[how.parent], how)
    noise = Study.__new__(Study)
    noise.record, noise.folder, noise.settings, noise.files, noise.kinds = record, tmp_path, told(tmp_path), {}, {}
    noise.settings["pref"]["candidates"] = MANY
    numbers(7, 600).write_parquet(tmp_path / "control.parquet")
    for name in read_by(asked, "entangled")[1:]:
        noise.add(name, str(asked.target(name)), "other", made[name])
    table, _ = noise.compare(noise.files)
    own = table.filter(pl.col("target") == pl.col("animal"), metric="frequency-other")
    means = own.group_by(made=pl.col("dataset").str.extract("-(.*)")).agg(pl.mean("score"))
    assert {None, "shuffle-within", "reverse"} <= set(means["made"])
    assert means["score"].abs().max() < 0.12, means


def test_a_dataset_that_is_too_small_is_refused(study: Study) -> None:
    numbers(1, 1).write_parquet(study.folder / "tiny.parquet")
    with pytest.raises(ValueError, match="tiny: half of its prompts have"):
        study.kinds["tiny"] = "prompt"
        study.compare({**study.files, "tiny": (study.folder / "tiny.parquet", "lion")})


def test_a_study_without_targets_is_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="found none"):
        study.compare({})
