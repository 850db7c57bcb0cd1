"""Names and features of their own: a dictionary of the commonest names, and counts that are known."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from planted import saved_sae
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from sklearn.linear_model import LogisticRegression

from undertone.lab.completeness import counted, make_completeness, rises
from undertone.lab.completeness_plot import plot_completeness
from undertone.lab.logistic import fitted, half_way
from undertone.lm.loading import LoadedModel, load
from undertone.models.concepts import read_names
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.lab import Completeness
from undertone.study.config.saes import Sae
from workflow import REPOSITORY

N_NAMES, HELD = 12, 5
SETTINGS = Completeness(min_count=2, shuffles=3, permutations=199, bootstraps=200)


def words(loaded: LoadedModel, n: int) -> dict[int, str]:
    """Tokens that are a word each, and no two the same or one the other's plural."""
    found: dict[int, str] = {}
    for token in range(300, len(loaded.tokenizer)):
        text = loaded.tokenizer.decode([token]).strip().casefold()
        known = found.values()
        if re.fullmatch("[a-z]{3,}[a-rt-z]", text) and not any(text in other or other in text for other in known):
            found[token] = text
        if len(found) == n:
            break
    return found


def detectors(loaded: LoadedModel, tokens: list[int]) -> SAE[Any]:
    """An SAE with a feature for each of some tokens, on embeddings as they are; decoder rows are random."""
    width = loaded.model.config.hidden_size
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=len(tokens), apply_b_dec_to_input=False))
    sae.requires_grad_(False)
    embedded = loaded.model.get_input_embeddings().weight.detach() * width**0.5
    generator = torch.Generator().manual_seed(1)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=-1))
    for j, token in enumerate(tokens):
        along = embedded @ embedded[token]
        along[token] = -torch.inf
        sae.W_enc[:, j], sae.b_enc[j] = embedded[token], -along.max()
    return sae


@pytest.fixture(scope="module")
def made(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Twelve names, the first the commonest, of which the first five have a feature each."""
    home, loaded = tmp_path_factory.mktemp("completeness"), load(plain)
    names = words(loaded, N_NAMES)
    tokens = [*names]
    rng = np.random.default_rng(0)
    # Name k stands on about 200 / (k + 1) tokens of either half, among tokens that are none, behind a full stop each.
    drawn = [token for k, token in enumerate(tokens) for _ in range(400 // (k + 1))]
    stop = loaded.tokenizer.encode(".", add_special_tokens=False)[-1]
    rng.shuffle(drawn)
    contexts = [[2, *[each for token in drawn[k : k + 6] for each in (token, stop)]] for k in range(0, len(drawn), 6)]
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
    (home / "names.yaml").write_text(yaml.safe_dump({"words": [*names.values()], "numbers": {"from": 0, "to": 9}}))
    files = [home / name for name in ("text.parquet", "names.yaml", "text.parquet")]
    places = [home / "table.parquet", home / "completeness.json"]
    of_sae = Sae(text=[{"file": "a.txt"}], tokens=10**9)
    sae = saved_sae(plain, detectors(loaded, tokens[:HELD]), home)
    make_completeness(plain, sae, *files, *places, SETTINGS, of_sae, 1e9, {})
    return {"names": [*names.values()], "table": pl.read_parquet(places[0]), "result": read_json(places[1]), "home": home}


def test_exactly_the_names_that_the_dictionary_holds_are_covered(made: dict[str, Any]) -> None:
    table = made["table"]
    assert table["name"].to_list() == made["names"]
    assert table["covered"].to_list() == [True] * HELD + [False] * (N_NAMES - HELD)
    assert table["feature"].to_list()[:HELD] == [*range(HELD)]
    assert table["count"].to_list() == [400 // (k + 1) for k in range(N_NAMES)]
    assert table["f1"].head(HELD).min() == 1
    group = made["result"]["groups"]["words"]
    assert (group["n"], group["covered"], group["features"]) == (N_NAMES, HELD, HELD)
    assert made["result"]["left_out"] == {"words": 0, "numbers": 10}
    assert set(made["result"]["groups"]) == {"words"}


def test_the_count_at_one_half_is_where_the_step_is(made: dict[str, Any]) -> None:
    group = made["result"]["groups"]["words"]
    # The last that is covered stands 80 times, the next 66.
    assert 60 < group["count_50"] < 90
    assert made["result"]["counted"] == "training"
    assert group["p"] <= 0.01


def test_names_that_change_places_are_not_covered_by_chance(made: dict[str, Any]) -> None:
    # The commonest stands on a third of the tokens that carry any name.
    assert made["result"]["groups"]["words"]["chance"] <= 1


def test_the_figure_names_the_groups_and_where_half_is(made: dict[str, Any]) -> None:
    plot_completeness(made["home"] / "table.parquet", made["home"] / "completeness.json", made["home"] / "plot.png")
    texts = Image.open(made["home"] / "plot.png").info["Description"]
    assert re.search(r"words, half at [678]\d", texts)
    assert re.search(r"^[125]0+$", texts, re.MULTILINE)  # counts are plain numbers
    assert "mathdefault" not in texts
    assert "times that the name stands in the SAE's training" in texts


def test_names_are_counted_up_to_so_many_tokens(loaded: LoadedModel) -> None:
    names = words(loaded, 2)
    (first, second), index = names, {name: k for k, name in enumerate(names.values())}
    stop = loaded.tokenizer.encode(".", add_special_tokens=False)[-1]
    contexts = [[2, first, stop, first], [2, second, stop, stop], [2, first, stop, stop]]
    assert counted(loaded, contexts, index, 10**9).tolist() == [3, 1]
    assert counted(loaded, contexts, index, 6).tolist() == [2, 1]


def test_without_a_name_in_the_text_there_is_nothing_to_cover(plain: Path, made: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("a: [xyzzy]")
    sae = saved_sae(plain, detectors(load(plain), [40]), tmp_path)
    files = [made["home"] / "text.parquet", tmp_path / "names.yaml", None, tmp_path / "a", tmp_path / "b"]
    with pytest.raises(ConfigError, match="none of the 1 names stands on 2 tokens of each half"):
        make_completeness(plain, sae, *files, SETTINGS, Sae(folder=str(tmp_path)), 1e9, {})


def test_a_curve_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    count = np.round(10 ** rng.uniform(1, 4, 500)).astype(int)
    x = np.log10(count + 0.5)
    covered = rng.random(500) < 1 / (1 + np.exp(-2.0 * (x - 2.5)))
    (curve,) = fitted(x[None], covered[None])
    theirs = LogisticRegression(C=1e6).fit(x[:, None], covered)
    np.testing.assert_allclose(curve, [theirs.intercept_[0], theirs.coef_[0, 0]], rtol=0.01)
    result = half_way(count, covered, 500, 0)
    low, high = result["ci95"]
    assert low < 10**2.5 < high
    assert low < result["count_50"] < high
    assert rises(x, covered, 99, 0) == 0.01


def test_nothing_is_extrapolated_and_no_step_has_no_middle() -> None:
    count = np.arange(10, 60)
    assert half_way(count, np.ones(50, dtype=bool), 20, 0) == {"count_50": None, "ci95": None, "curve": None}
    assert rises(np.log(count), np.zeros(50, dtype=bool), 99, 0) is None
    few = np.zeros(50, dtype=bool)
    few[-2:] = True
    scattered = np.random.default_rng(0).permutation(few)
    assert half_way(count, scattered, 20, 0)["count_50"] is None
    falling = half_way(count, ~few, 20, 0)
    assert falling["count_50"] is None


BAD: list[tuple[Any, str]] = [
    ({}, "holds no group of names"),
    ({"a": []}, "a of .*: expected a list of single words"),
    ({"a": ["two words"]}, "expected a list of single words"),
    ({"a": {"from": 3, "to": 1}}, "expected 0 <= from <= to"),
    ({"a": {"from": 0, "to": 10**6}}, "at most 100,000 numbers"),
    ({"a": {"from": 0}}, "from and to"),
    ({"a": ["lion"], "b": ["Lion"]}, "has the name 'lion' twice"),
]


@pytest.mark.parametrize(("groups", "sentence"), BAD)
def test_bad_names_are_refused(groups: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(groups))
    with pytest.raises(ConfigError, match=f"^completeness.names: .*{sentence}"):
        read_names(tmp_path / "names.yaml", "completeness.names")


def test_the_shipped_names_are_read() -> None:
    names = read_names(REPOSITORY / "config/prompts/names.yaml", "completeness.names")
    assert {group: len(words) for group, words in names.items()} == {"animals": 24, "integers": 1000}
