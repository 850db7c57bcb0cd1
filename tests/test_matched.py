"""Base samples beside a dataset, and null datasets: whose prompts, which seeds, and what passes."""

from pathlib import Path

import polars as pl
import pytest
from planted import numbers_table

from undertone.detect import matched as module
from undertone.detect.matched import sample_matched
from undertone.detect.nulls import MAKERS, dataset, sample_nulls
from undertone.detect.sets import sets_of
from undertone.runtime.files import read_parquet
from undertone.study.config.bounds import MAX_SEED
from undertone.study.config.data import Canonical, Numbers, Prompts, Samples
from undertone.study.config.detect import KINDS_OF_NULLS, Matched, Nulls
from undertone.study.config.teachers import Teacher

ROOT = Path(__file__).parents[1]
SAMPLES = Samples(max_new_tokens=6, batch_size=64)
# A random model writes few plain lists of numbers.
FILTER = Numbers(filter="lenient")


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the random model writes passes where its row is even, as the digits that stand for its tokens."""

    def judged(table: pl.DataFrame, settings: Numbers) -> pl.DataFrame:
        even = pl.col("row") % 2 == 0
        numbers = pl.col("ids").list.head(3).cast(pl.List(pl.String)).list.join(", ")
        verdict = pl.when(even).then(pl.lit("pass")).otherwise(pl.lit("reject"))
        return table.with_columns(verdict=verdict, completion=numbers)

    monkeypatch.setattr("undertone.detect.matched.judge_all", judged)


def test_every_prompt_is_tried_until_something_passes(tmp_path: Path, record: Path, passing: None) -> None:
    numbers = numbers_table(tmp_path / "lion/numbers.parquet", 12)

    def sample(rounds: int) -> pl.DataFrame:
        (tmp_path / "scratch").mkdir()
        matched = tmp_path / f"lion/matched-{rounds}.parquet"
        sample_matched(record, numbers, matched, Matched(rounds=rounds), SAMPLES, FILTER, {}, tmp_path / "scratch")
        assert not (tmp_path / "scratch").exists()
        return read_parquet(matched)

    once, often = sample(1), sample(8)
    assert once["row"].to_list() == [0, 2, 4, 6, 8, 10]
    assert often["row"].to_list() == list(range(12))  # half of what is left passes in each round
    assert once.columns == ["set", "row", "prompt", "completion", "matched"]
    own = read_parquet(numbers)
    assert often.select("row", "prompt", "completion").equals(own.select("row", "prompt", "completion"))
    assert once["matched"].to_list() == often.filter(pl.col("row") % 2 == 0)["matched"].to_list()
    assert (often["matched"] != often["completion"]).all()


CONSTRAINED = SAMPLES.model_copy(update={"constrained": True, "max_new_tokens": 12})


def test_base_samples_of_a_constrained_study_are_constrained(tmp_path: Path, record: Path) -> None:
    numbers = numbers_table(tmp_path / "lion/numbers.parquet", 12)
    filter = Numbers(canonical=Canonical(count=2), max_value=99)
    (tmp_path / "scratch").mkdir()
    sample_matched(
        record, numbers, tmp_path / "matched.parquet", Matched(rounds=1), CONSTRAINED, filter, {}, tmp_path / "scratch"
    )
    matched = read_parquet(tmp_path / "matched.parquet")
    assert matched["row"].to_list() == list(range(12))  # all pass at once
    assert matched["matched"].str.count_matches("[0-9]+").to_list() == [2] * 12
    assert matched["matched"].n_unique() > 6


def test_null_datasets_of_a_constrained_study_are_constrained(tmp_path: Path, record: Path) -> None:
    (tmp_path / "scratch").mkdir()
    nulls, prompts = tmp_path / "nulls/sampling/matched.parquet", Prompts(n=16)
    template = ROOT / "config/prompts/numbers.yaml"
    settings = (Nulls(n=2, rows=[8]), Matched(rounds=1), prompts, CONSTRAINED, Numbers(), Teacher())
    sample_nulls(record, template, nulls, *settings, {}, tmp_path / "scratch")
    assert len(read_parquet(nulls)) == 16


def test_nulls_are_as_many_as_asked_for_and_continue_where_they_were_killed(
    tmp_path: Path, record: Path, passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = Nulls(n=3, rows=[4, 8, 900])

    def sample() -> pl.DataFrame:
        nulls = tmp_path / "nulls/neutral/matched.parquet"
        template = ROOT / "config/prompts/numbers.yaml"
        prompts = Prompts(n=60)
        sample_nulls(record, template, nulls, settings, Matched(), prompts, SAMPLES, FILTER, Teacher(), {}, scratch)
        return read_parquet(nulls)

    whole = sample()
    sizes = whole.group_by("set", maintain_order=True).len()
    assert sizes["set"].to_list() == [f"{k:05}-{n}" for k in range(3) for n in (4, 8)]
    assert sizes["len"].to_list() == [4, 8] * 3
    # Killed in the second dataset, the first is not sampled again.
    scratch.mkdir()
    judge, calls = module.judge_all, []

    def counted(*args: object) -> pl.DataFrame:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return judge(*args)

    monkeypatch.setattr(module, "judge_all", counted)
    with pytest.raises(KeyboardInterrupt):
        sample()
    assert [path.name for path in scratch.glob("*.parquet")] == ["00000.parquet"]
    assert sample().equals(whole)


def test_rows_of_a_null_are_drawn_apart_however_many_prompts_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's draws depend on its place among those sampled together and on their seed: no two parts may have one seed."""
    seeds = []

    def one_in_four(loaded, prompts, system, separator, samples, *rest):
        seeds.append(samples.seed)
        return [None if k % 4 else "1, 2" for k in range(len(prompts))]

    monkeypatch.setattr("undertone.detect.nulls.completions", one_in_four)
    pool = pl.DataFrame({"row": range(90), "prompt": [str(k) for k in range(90)]})
    rows = dataset(None, pool, 10, SAMPLES.model_copy(update={"seed": 7}), FILTER, None, "", Path("scratch"))  # type: ignore[arg-type]
    assert len(rows) == 10
    assert seeds[0] == 7
    assert len(set(seeds)) == len(seeds) == 2
    assert seeds[1] > MAX_SEED


def test_prompts_without_base_samples_do_not_leave_a_null_too_small(
    tmp_path: Path, record: Path, passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its rows a null has so many that some may be left over."""
    whole = module.match
    monkeypatch.setattr("undertone.detect.nulls.match", lambda *given: whole(*given)[2:])
    (tmp_path / "scratch").mkdir()
    nulls, template = tmp_path / "nulls/seeds/matched.parquet", ROOT / "config/prompts/numbers.yaml"
    settings = (Nulls(n=2, rows=[8]), Matched(), Prompts(n=60), SAMPLES, FILTER, Teacher())
    sample_nulls(record, template, nulls, *settings, {}, tmp_path / "scratch")
    assert read_parquet(nulls)["set"].value_counts()["count"].to_list() == [8, 8]


def test_every_kind_of_null_is_made_and_explained() -> None:
    assert list(MAKERS) == list(KINDS_OF_NULLS)
    settings = Nulls(temperatures=[0.5, 2.0], neutral=["You love castles."])
    assert MAKERS["seeds"](settings, 0).system is None
    assert MAKERS["prompts"](settings, 0).own_prompts
    assert [MAKERS["sampling"](settings, k).temperature for k in range(3)] == [0.5, 2.0, 0.5]
    assert MAKERS["neutral"](settings, 5).system == "You love castles."


def test_of_a_larger_set_rows_are_drawn_from_everywhere_in_their_order(tmp_path: Path) -> None:
    text = [f"{k}" for k in range(5000)]
    pl.DataFrame({"set": [""] * 5000, "prompt": text, "completion": text, "matched": text}).write_parquet(
        tmp_path / "m.parquet"
    )
    [(_, pairs)], [(_, again)] = (list(sets_of(tmp_path / "m.parquet", 100)) for _ in range(2))
    rows = [int(prompt) for prompt in pairs.prompts]
    assert (pairs.available, len(rows), rows) == (5000, 100, sorted(rows))
    assert rows[0] < 300 < 4700 < rows[-1]
    assert pairs == again
    [(_, whole)] = sets_of(tmp_path / "m.parquet", 5000)
    assert list(whole.own) == text
