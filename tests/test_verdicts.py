"""The bench: what is counted as right, where the target stands, and that nulls are judged by the others."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from browser import browse, needs_browser
from matplotlib.image import imread
from test_verdict import SETTINGS, nulls, readings

from undertone.detect.evidence import Nulls
from undertone.detect.verdict import judge
from undertone.detect.verdict_page import write_page
from undertone.detect.verdicts import base_samples, counts, presence, row, table_of, tiers_of_nulls
from undertone.detect.verdicts_plot import plot_verdicts
from undertone.runtime.files import read_json, write_json
from undertone.study.config.detect import RANKERS, Detection


def judged(**changes: Any) -> dict[str, Any]:
    return judge(readings(**changes), nulls(), SETTINGS)


def test_a_dataset_is_right_if_its_target_alone_is_named() -> None:
    settings = Detection(development=["owl"])
    right = row("lion", judged(), "lion", "prompt", settings)
    assert (right["named"], right["right"], right["development"]) == ("lion", True, False)
    assert (right["short_training_rank"], right["together_rank"], right["word_rank"]) == (1, 1, 1)
    wrong = row("mine", judged(), "owl", "steer", settings)
    assert (wrong["named"], wrong["right"], wrong["development"]) == ("lion", False, True)
    assert (wrong["short_training_rank"], wrong["word_rank"]) == (2, None)
    silent = row("lion", judged(gain_share=0.5, z_share=0.5, begun_share=0.5), "lion", "prompt", settings)
    assert (silent["named"], silent["right"], silent["personas_rank"]) == (None, False, 1)
    few = row("lion", judged(rows=50), "lion", "prompt", settings)
    assert (few["tier"], few["personas_rank"], few["first_tokens_rank"]) == ("no statement", None, None)


def test_a_tie_shares_its_places_whichever_detector_ranks() -> None:
    said = judged()
    said["rankings"]["personas"] = [  # by rounds: the cat fell later than the lion
        {"concept": name, "score": gain} for name, gain in (("cat", 0.1), ("lion", 0.3), ("owl", 0.3), ("castle", 0.0))
    ]
    for name in set(RANKERS) - {"personas"}:
        said["rankings"][name] = [{"concept": each, "score": 0.0} for each in ("cat", "lion", "owl")]
    said["together"] = [{"concept": each, "probability": 0.25} for each in ("cat", "lion", "owl", "dog")]
    said["words"] = [{"word": each, "divergence": 0.1} for each in ("lion", "owl")]
    found = row("mine", said, "lion", "prompt", Detection())
    assert found["personas_rank"] == found["together_rank"] == 2.5
    assert {found[f"{name}_rank"] for name in set(RANKERS) - {"personas"}} == {2.0}
    assert found["word_rank"] == 1.5
    decoy = row("mine", said, "castle", "prompt", Detection())
    assert (decoy["personas_rank"], decoy["gradient_rank"]) == (4.0, None)


def test_counts_have_their_interval() -> None:
    rows = [row(f"d{k}", judged(), "lion" if k < 15 else "owl", "prompt", Detection()) for k in range(16)]
    found = counts(table_of(rows))
    assert (found["n"], found["named"], found["right"], found["personas_first"]) == (16, 16, 15, 15)
    assert found["right_ci95"] == pytest.approx([0.698, 0.998], abs=0.001)


def test_a_target_that_no_detector_ranks_is_first_nowhere() -> None:
    found = counts(table_of([row("lion", judged(rows=50), "lion", "prompt", Detection())]))
    assert (found["n"], found["personas_first"], found["word_first"], found["word_among_five"]) == (1, 0, 0, 0)


def test_presence_is_how_often_a_dataset_has_the_smaller_p() -> None:
    found = presence([0.003, 0.5], [[0.4], [0.6, 0.003]])
    assert (found["n"], found["nulls"]) == (2, 2)
    assert found["auroc"] == pytest.approx((2.5 + 1) / 6)
    low, high = found["ci95"]
    assert low < found["auroc"] < high
    apart = presence([0.003] * 16, [[0.5, 1.0]] * 30)
    assert apart["auroc"] == 1
    assert apart["ci95"] == pytest.approx([0.025 ** (1 / 16), 1])
    assert presence([], [[0.5]])["auroc"] is None


def test_sets_of_one_null_dataset_stand_together() -> None:
    """Datasets of two kinds may have one name; those that are no base samples do not count."""
    few, many = nulls(3, rows=200), nulls(3, rows=2000, p=0.2)
    assert base_samples([few, many]) == [[1.0, pytest.approx(0.6)]] * 6


def test_a_null_is_judged_by_the_others_and_never_by_itself() -> None:
    quiet = nulls(5)
    loud = Nulls(
        {
            **quiet.by_kind,
            "neutral": [
                readings(gain=0.3, z=9.0, moved="owl", first="owl", begun="owl", number=9),
                *quiet.by_kind["neutral"],
            ],
        }
    )
    assert tiers_of_nulls(loud, SETTINGS)["neutral"] == {"named": 1, "base samples": 5}
    # Two that are as loud: neither is beyond every other null.
    twice = Nulls({**quiet.by_kind, "neutral": [readings(p=0.001, gain=0.0, z=9.0, number=k) for k in (8, 9)]})
    assert tiers_of_nulls(twice, SETTINGS)["neutral"] == {"differs": 2}
    # Nor is it judged by more rows of its own: they would be as loud as it is.
    sure = {"gain_share": 0.6, "z_share": 0.6, "moved": "owl", "first": "owl", "trained": "owl", "lift": 0.5, "number": 9}
    louder = Nulls(
        {**quiet.by_kind, "neutral": [readings(**sure, rows=200), *quiet.by_kind["neutral"]]},
        {**nulls(5, rows=2000).by_kind, "neutral": [readings(**sure | {"lift": 0.9})]},
    )
    assert tiers_of_nulls(louder, SETTINGS)["neutral"] == {"named": 1, "base samples": 5}


@pytest.mark.parametrize("changes", [{}, {"p": 0.3}, {"rows": 10}, {"auroc": 0.9, "gain_share": 0.2, "z_share": 0.2}])
def test_the_page_says_the_sentence_and_names_the_prompt(tmp_path: Path, changes: dict[str, Any]) -> None:
    verdict = {"dataset": "mine & co", **judged(**changes)}
    write_json(tmp_path / "verdict.json", verdict, {})
    write_page(tmp_path / "verdict.json", tmp_path / "verdict.html")
    page = (tmp_path / "verdict.html").read_text()
    assert "mine &amp; co" in page
    assert "<script" not in page
    assert verdict["sentence"].split("(")[0].strip()[:40].replace("'", "&#39;") in page
    if verdict["tier"] != "no statement":
        assert "You love lions." in page
    for caveat in verdict.get("caveats", []):
        assert caveat[:30] in page


@needs_browser
def test_a_browser_shows_the_page_with_its_figure(tmp_path: Path) -> None:
    """Its orange line, the dataset's in the figure, is seen; without the figure the only orange is the bar at the sentence."""
    write_json(tmp_path / "verdict.json", {"dataset": "mine", **judged()}, {})
    write_page(tmp_path / "verdict.json", tmp_path / "verdict.html")
    browse(tmp_path / "verdict.html", "--window-size=900,2400", f"--screenshot={tmp_path}/page.png")
    shown = imread(tmp_path / "page.png")[..., :3]
    orange = np.isclose(shown, [0xD5 / 255, 0x5E / 255, 0], atol=0.02).all(-1)
    assert orange[:, 200:].sum() > 100


def test_the_figure_of_the_bench_shows_every_dataset(tmp_path: Path) -> None:
    rows = [row(name, judged(), "lion", kind, Detection()) for name, kind in (("lion", "prompt"), ("steer-lion", "steer"))]
    pl.DataFrame(rows).write_parquet(tmp_path / "detection.parquet")
    write_json(tmp_path / "detection.json", {"nulls": {"200": tiers_of_nulls(nulls(3), SETTINGS)}}, {})
    plot_verdicts(tmp_path / "detection.parquet", tmp_path / "detection.json", tmp_path / "detection.png")
    assert (tmp_path / "detection.png").stat().st_size > 10_000
    assert read_json(tmp_path / "detection.json")["nulls"]["200"]["seeds"] == {"base samples": 3}
