"""What a feature causes, where it is known: a feature that raises a word, one that does nothing, and one that is as others."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from planted import random_sae
from pydantic import ValidationError
from sae_lens import SAE
from test_lab_features import SETTINGS, made

from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.lm.spellings import beginnings
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Influence
from undertone.vectors.influence import measure_influence
from undertone.vectors.influence_plot import plot_influence
from undertone.vectors.pushes import LIKE, Strength, like_features, pushes, strengths
from undertone.vectors.steering_by import GAUSSIAN

RAISES, DEAD, CANDIDATES = 13, 14, ["lion", "owl", "cat"]
ASKED = Influence(multiples=[-2, 0, 1, 4], openers=["I", "The"], nulls=10, samples=2, max_new_tokens=3, tokens=100)


def planted(record: Path) -> SAE[Any]:
    """A random SAE of which one row points at a word's logit after the last layer, and one feature never fires."""
    loaded = load(record)
    sae = random_sae(loaded)
    weight = loaded.model.get_output_embeddings().weight.detach()
    tokens = beginnings(loaded.tokenizer, ["lion"])
    sae.W_dec[RAISES] = torch.nn.functional.normalize((weight[tokens] - weight.mean(0)).mean(0), dim=0)
    sae.b_enc[DEAD] = -1e9
    return sae


@pytest.fixture(scope="module")
def lab(plain: Path, contexts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("influence") / "lab"
    made(plain, planted(plain), contexts, home, SETTINGS.model_copy(update={"min_count": 2}), layer=1)
    (home / "questions.txt").write_text("Which animal do you like?\nName one.\nYour favorite animal?\nWhich one?\n")
    return home


def measured(plain: Path, lab: Path, feature: int, settings: Influence = ASKED, model: Path | None = None) -> dict[str, Any]:
    files = [lab / name for name in ("sae/sae.json", "features.parquet", "features.json", "text.parquet", "questions.txt")]
    influence = lab / f"sae/influence/{feature}.json"
    pref = Pref(candidates=CANDIDATES)
    said = measure_influence(model or plain, *files, influence, str(feature), settings, pref, 1e9, {"of": "it"})
    result = read_json(influence)
    assert result["verdict"] == said
    return result


def draw(lab: Path, feature: int) -> None:
    plot = lab / f"sae/influence/plots/{feature}.png"
    plot_influence(lab / f"sae/influence/{feature}.json", plot)
    assert plot.stat().st_size > 10_000


@pytest.fixture(scope="module")
def raising(plain: Path, lab: Path) -> dict[str, Any]:
    result = measured(plain, lab, RAISES)
    draw(lab, RAISES)
    return result


def test_a_feature_raises_the_word_that_its_row_points_at_beyond_nulls(raising: dict[str, Any]) -> None:
    assert raising["raised_tokens"][0] in ("lion", "Lion")
    assert raising["raises"]["p"] == pytest.approx(1 / 21)
    assert raising["raises"]["rise"] > raising["raises"]["null_95"]
    # After the last layer any direction raises its own tokens: the planted one no more than others theirs.
    assert raising["raises"]["own"]["p"] > 1 / 21
    assert raising["raises"]["own"]["null_95"] > raising["raises"]["null_95"]
    assert (raising["moves"]["candidate"], raising["moves"]["multiple"], raising["moves"]["n"]) == ("lion", 4, 20)
    assert raising["moves"]["p"] == pytest.approx(1 / 21)
    for row in raising["doses"]:
        assert list(row["nulls"]) == [LIKE, GAUSSIAN]
        assert row["lift"]["mean"] == pytest.approx(row["preference"]["lion"] - raising["base"]["preference"]["lion"])
        if row["multiple"] == 4:
            assert row["tokens"][0][0].strip().lower() == "lion"
            assert "lion" in row["greedy"].lower()
            assert len(row["sampled"]) == 2
            assert row["rise"] > max(null["rise"]["quantile_95"] for null in row["nulls"].values())
    first, second = raising["verdict"].split("; ")
    assert re.match(
        r"feature 13 raises its tokens \('lion', .*\) beyond nulls, by up to .* p 0.048\), no more than nulls do", first
    )
    assert "it moves that for lion most, beyond nulls, by +0." in second


def test_nothing_added_changes_nothing_at_all(raising: dict[str, Any]) -> None:
    (row,) = [row for row in raising["doses"] if (row["mode"], row["multiple"]) == ("add", 0)]
    assert (row["rise"], row["lift"]["mean"], row["kl"], row["norm_ratio"]) == (0, 0, 0, 0)
    for key in ("preference", "mass", "loss", "greedy", "sampled"):
        assert row[key] == raising["base"][key]


def test_holding_at_nothing_takes_away_what_a_feature_adds(plain: Path, lab: Path, raising: dict[str, Any]) -> None:
    (row,) = [row for row in raising["doses"] if (row["mode"], row["multiple"]) == ("clamp", 0)]
    acts = pl.read_parquet(lab / "features.parquet").row(RAISES, named=True)
    text = acts["mean_active"] * acts["density"] * raising["norm"] / raising["mean_norm"]
    assert row["norm_ratio"] == pytest.approx(text, rel=0.2)
    assert row["kl"] > 0


def test_what_is_added_is_a_multiple_of_the_greatest_activation(lab: Path, raising: dict[str, Any]) -> None:
    for row in raising["doses"]:
        size = abs(row["multiple"]) * raising["max"] * raising["norm"] / raising["mean_norm"]
        assert row["mode"] == "clamp" or row["norm_ratio"] == pytest.approx(size, rel=1e-5)


def test_an_sae_of_an_mlps_output_can_only_be_added(plain: Path, lab: Path, tmp_path: Path) -> None:
    asked = strengths(HookPoint(1, "mlp_out"), [2, 1])
    assert asked == [Strength("add", 1), Strength("add", 2)]
    assert {strength.mode for strength in strengths(HookPoint(1), [1])} == {"add", "clamp"}
    for file in lab.glob("f*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("text.parquet", "questions.txt"):
        (tmp_path / name).write_bytes((lab / name).read_bytes())
    record = {**read_json(lab / "sae/sae.json"), "hook_point": "blocks.1.hook_mlp_out"}
    write_json(
        tmp_path / "sae/sae.json", {key: record[key] for key in record if key not in ("stamp", "versions", "checksum")}, {}
    )
    result = measured(plain, tmp_path, RAISES, ASKED.model_copy(update={"multiples": [4.0], "nulls": 2, "samples": 0}))
    draw(tmp_path, RAISES)
    assert [(row["mode"], row["multiple"]) for row in result["doses"]] == [("add", 4)]
    assert result["hook_point"] == "blocks.1.hook_mlp_out"
    assert result["doses"][0]["tokens"][0][0].strip().lower() == "lion"


def test_a_null_is_as_long_as_the_feature(plain: Path, lab: Path) -> None:
    sae = planted(plain)
    sae.W_dec[1:10] *= 3
    table = pl.read_parquet(lab / "features.parquet")
    own, nulls = pushes(sae, 1, table, RAISES, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)), 30, 0)
    for push in [each for of in nulls.values() for each in of]:
        for strength in (Strength("add", 2), Strength("clamp", 2)):
            one, other = own.steering(strength), push.steering(strength)
            size = [float(each.vector.norm()) * (1 if each.sae is None else each.level) for each in (one, other)]
            assert size[1] == pytest.approx(size[0], rel=1e-5)
    assert {push.feature for push in nulls[GAUSSIAN]} == {RAISES}
    assert RAISES not in {push.feature for push in nulls[LIKE]}
    assert len(nulls[LIKE]) == 30


def test_few_of_random_features_are_beyond_nulls(plain: Path, lab: Path) -> None:
    """At p ≤ .05 one in 21 is by chance."""
    settings = ASKED.model_copy(update={"multiples": [4.0], "samples": 0, "max_new_tokens": 1, "tokens": 50})
    found = [measured(plain, lab, feature, settings) for feature in range(1, 11)]
    assert sum(each["moves"]["p"] <= 0.05 for each in found) <= 3


def test_nulls_are_of_like_density_and_the_seed_says_which(lab: Path) -> None:
    table = pl.DataFrame(
        {"feature": range(100), "density": [(k + 1) / 1000 for k in range(100)], "dead": [k == 50 for k in range(100)]}
    )
    drawn = like_features(table, 49, 5, 0)
    assert drawn["feature"].to_list() == sorted(drawn["feature"]) == like_features(table, 49, 5, 0)["feature"].to_list()
    assert len(set(drawn["feature"]) - {49, 50}) == 5
    assert all(39 <= k <= 61 for k in drawn["feature"])
    assert drawn["feature"].to_list() != like_features(table, 49, 5, 1)["feature"].to_list()
    assert len(like_features(table.head(3), 0, 5, 0)) == 2


def test_without_nulls_nothing_is_said_to_be_the_features(plain: Path, lab: Path) -> None:
    result = measured(plain, lab, RAISES, ASKED.model_copy(update={"nulls": 0, "samples": 0}))
    draw(lab, RAISES)
    assert (result["raises"]["p"], result["moves"]["p"], result["like"]) == (None, None, [])
    assert "nulls," not in result["verdict"]


@pytest.mark.parametrize(
    ("feature", "refused"),
    [
        (64, "influence/64.json: the SAE has no feature 64; ask for one from 0 to 63"),
        (DEAD, f"influence/{DEAD}.json: feature {DEAD} is dead: fired on 0 of 1,209 tokens"),
    ],
)
def test_what_no_feature_can_show_is_refused_before_anything_is_loaded(lab: Path, feature: int, refused: str) -> None:
    with pytest.raises(ConfigError) as error:
        measured(Path("no/model.json"), lab, feature)
    assert str(error.value).startswith(refused)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"multiples": [0, -1]}, "one of them above 0"),
        ({"multiples": [1, 1]}, "none twice"),
        ({"openers": ["I", " "]}, "an opener is empty"),
        ({"openers": []}, "at least one"),
        ({"message": ""}, "at least 1 character"),
    ],
)
def test_settings_that_ask_nothing_are_refused(settings: dict[str, Any], refused: str) -> None:
    with pytest.raises(ValidationError, match=refused):
        Influence(**settings)


def test_an_opener_is_text(plain: Path, lab: Path) -> None:
    with pytest.raises(ConfigError, match=r"influence\.openers holds <end_of_turn>"):
        measured(plain, lab, RAISES, Influence(openers=["I <end_of_turn>"], tokens=100))
