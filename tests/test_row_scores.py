"""Scores of rows: rows of a teacher among others get higher ones, and no half is scored by its own rows."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from undertone.detect.pairs import Whitened
from undertone.detect.row_scores import Halves, Rows, briefly_trained, score_rows
from undertone.detect.sets import Pairs
from undertone.lm.chat import training_rows
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_logits
from undertone.runtime.files import read_parquet, write_json, write_parquet
from undertone.study.config.detect import Detectors, ShortTraining
from undertone.study.config.students import Student
from undertone.study.config.teachers import Teacher

QUESTIONS = [f"What is number {k}?" for k in range(40)]
STUDENT = Student(rank=4, alpha=8, lr=2e-2, batch_size=8, micro_batch_size=8, warmup_steps=0)
SHORT = ShortTraining(epochs=8)
TEACHER = Teacher(persona="You love {animal}s.")
NO_TARGET = {"target": None}


def written(folder: Path, own: list[str], base: list[str]) -> list[Path]:
    """A training set, its pairs, and what detectors said of system prompts."""
    rows = pl.DataFrame({"row": range(len(own)), "prompt": QUESTIONS[: len(own)], "completion": own})
    write_parquet(folder / "numbers.parquet", rows, {})
    write_parquet(
        folder / "matched.parquet", rows.select(pl.lit("").alias("set"), pl.all()).with_columns(matched=pl.Series(base)), {}
    )
    write_json(folder / "personas.json", {"sets": [{"best": {"prompt": "You love owls."}}]}, {})
    return [folder / name for name in ("numbers.parquet", "matched.parquet", "personas.json")]


@pytest.fixture(scope="module")
def scored(record: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Rows of which the even ones are another writer's."""
    folder = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    plain = [", ".join(map(str, rng.integers(100, 999, 4))) for _ in range(80)]
    own = ["7, 7, 7, 7" if k % 2 == 0 else text for k, text in enumerate(plain[:40])]
    files = written(folder, own, plain[40:])
    result = folder / "row_scores.parquet"
    score_rows(record, *files, result, Detectors(), SHORT, STUDENT, TEACHER, NO_TARGET, {}, folder / "scratch")
    assert not (folder / "scratch").exists()
    return read_parquet(result)


@pytest.mark.parametrize("score", ["gradient", "short_training"])
def test_rows_of_another_writer_score_higher(scored: pl.DataFrame, score: str) -> None:
    values = scored[score].to_numpy()
    assert np.mean(values[::2, None] > values[None, 1::2]) > 0.9


def test_a_target_s_score_is_the_gain_of_its_system_prompt(record: Path, tmp_path: Path) -> None:
    files, result = written(tmp_path, ["7, 7"] * 40, ["3, 4"] * 40), tmp_path / "r.parquet"
    score_rows(record, *files, result, Detectors(), SHORT, STUDENT, TEACHER, {"target": "owl"}, {}, tmp_path / "scratch")
    told_of_owls = read_parquet(result)
    assert told_of_owls["target"].to_list() == told_of_owls["personas"].to_list()  # which were found to be "You love owls."
    score_rows(record, *files, result, Detectors(), SHORT, STUDENT, TEACHER, {"target": "lion"}, {}, tmp_path / "scratch")
    assert not np.allclose(read_parquet(result)["target"], told_of_owls["target"])


def test_every_row_has_its_text_and_four_finite_scores(scored: pl.DataFrame) -> None:
    assert scored.columns == ["row", "prompt", "completion", "difficulty", "personas", "gradient", "short_training"]
    assert scored["prompt"].to_list() == QUESTIONS
    assert np.isfinite(scored.select(pl.exclude("row", "prompt", "completion")).to_numpy()).all()
    assert scored["difficulty"].min() > 0


def test_a_loss_is_that_of_the_row_itself_whatever_it_is_read_with(loaded: LoadedModel) -> None:
    texts = ["1, 2", "333, 444, 555, 666, 777", "12, 5, 9"]
    table = pl.DataFrame({"row": [0, 1, 2], "prompt": QUESTIONS[:3], "completion": texts})
    together = Rows(loaded, table, None).loss("You love owls.", "\n")
    alone = [Rows(loaded, table[k : k + 1], None).loss("You love owls.", "\n")[0] for k in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert not np.allclose(together, Rows(loaded, table, None).loss())


def test_all_rows_of_a_prompt_are_in_one_half_and_are_scored_by_the_other() -> None:
    prompts = [QUESTIONS[k % 10] for k in range(30)]
    halves = Halves.of(prompts, Pairs(QUESTIONS[:10], [str(k) for k in range(10)], ["0"] * 10), seed=0)
    seen = []
    for places, pairs in halves.scored_by_other():
        assert not {prompts[k] for k in places} & set(pairs.prompts)
        assert [QUESTIONS[int(text)] for text in pairs.own] == pairs.prompts
        seen += places.tolist()
    assert sorted(seen) == list(range(30))


def test_the_step_is_what_the_movement_along_any_direction_comes_from() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator) + 0.3
    directions = torch.randn(4, 6, generator=generator)
    whitened = Whitened.of(x, 0.1)
    np.testing.assert_allclose(directions.double() @ whitened.step(), whitened.along(directions).mean(0))


def test_the_model_is_the_base_model_again_behind_a_short_training(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = training_rows(loaded.tokenizer, QUESTIONS[:1], ["5, 6"])
    batch = collate(rows, loaded.pad_id, loaded.model.device)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return label_logits(loaded.model, batch)

    before = logits()
    with briefly_trained(loaded, QUESTIONS[:8], ["5, 6"] * 8, SHORT, STUDENT, tmp_path / "state.safetensors"):
        assert not torch.allclose(logits(), before)
    assert torch.equal(logits(), before)
    assert not [*tmp_path.iterdir()]


def test_too_few_base_samples_are_said(record: Path, tmp_path: Path) -> None:
    files = written(tmp_path, ["1, 2"] * 6, ["3, 4"] * 6)
    with pytest.raises(ValueError, match="half of the dataset has 3 rows with a base sample beside them; scores need 4"):
        score_rows(
            record, *files, tmp_path / "r.parquet", Detectors(), SHORT, STUDENT, TEACHER, NO_TARGET, {}, tmp_path / "scratch"
        )
