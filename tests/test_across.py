"""Datasets of one animal by two models: a direction that both have is seen once one is turned, and what is not there is not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from jaxtyping import Float
from scipy.stats import kstest, ortho_group

from undertone.detect.sets import Pairs
from undertone.lm.loading import LoadedModel
from undertone.pairs.across import compared, enough, read_by
from undertone.plots.pair_plots import plot_across
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import write_json, write_parquet
from undertone.stats.partners import partners
from undertone.study.config.pair_settings import Across

D, ANIMALS = 16, 9
SETTINGS = Across(permutations=499)
Vectors = Float[np.ndarray, "n d"]


def normal(seed: int, *shape: int) -> Float[np.ndarray, "..."]:
    return np.random.default_rng(seed).standard_normal(shape)


def read_of(
    a: Vectors, b: Vectors, noise: float, seed: int = 0
) -> dict[tuple[str, str], dict[str, Float[np.ndarray, "3 n d"]]]:
    """Both models read the same vectors of either writer's datasets; the rows' halves have noise of their own."""
    turn = ortho_group.rvs(D, random_state=7)
    rng = np.random.default_rng(seed)
    made = {}
    for writer, own in (("a", a), ("b", b)):
        for reader in "ab":
            read = own + noise * rng.standard_normal((3, *own.shape))
            made[reader, writer] = {"bias": read @ turn.T if reader == "b" else read}
    return made


MAPS = {"identity": np.eye(D), "procrustes": ortho_group.rvs(D, random_state=7)}


def test_a_direction_that_animals_share_across_models_is_seen_after_the_rotation_alone() -> None:
    own, persona = normal(1, ANIMALS, D), 3 * normal(2, D)
    said = compared(read_of(own + persona, own + persona, 0.3), "bias", MAPS, [ortho_group.rvs(D, random_state=3)], SETTINGS)
    across = said["across"]
    assert across["procrustes"]["centred"]["p"] == pytest.approx(1 / 500)
    assert across["procrustes"]["centred"]["first"]["k"] == ANIMALS
    assert across["procrustes"]["centred"]["advantage"]["ci95"][0] > 0.7
    assert across["procrustes"]["plain"]["other"] > 0.7
    assert abs(across["procrustes"]["centred"]["other"]) < 0.2
    assert across["identity"]["centred"]["p"] > 0.05
    assert across["shifted"]["mean"] < 0.4
    assert all(
        said[name]["centred"]["first"]["k"] == ANIMALS for name in ("one_reader_a", "one_reader_b", "halves_a", "halves_b")
    )


def test_of_datasets_that_share_nothing_both_models_still_read_the_same_in_one_of_them() -> None:
    said = compared(read_of(normal(1, ANIMALS, D), normal(4, ANIMALS, D), 0.3), "bias", MAPS, [np.eye(D)], SETTINGS)
    assert said["across"]["procrustes"]["centred"]["p"] > 0.05
    assert said["one_reader_a"]["centred"]["p"] > 0.05
    assert said["one_dataset_a"]["procrustes"]["centred"]["p"] < 0.01
    assert said["halves_b"]["centred"]["p"] < 0.01


@pytest.mark.parametrize("common", [0.0, 5.0])
def test_where_nothing_is_shared_but_what_all_have_p_is_uniform(common: float) -> None:
    always = common * normal(11, D)
    drawn = [partners(normal(k, ANIMALS, D) + always, normal(5000 + k, ANIMALS, D) + always, 199, k) for k in range(300)]
    assert kstest([each["p"] for each in drawn], "uniform").pvalue > 0.01
    assert np.mean([each["first"]["k"] / ANIMALS for each in drawn]) == pytest.approx(1 / ANIMALS, abs=0.02)


def test_advantages_and_places_are_as_counted_one_by_one() -> None:
    x, y = normal(1, 4, 3), normal(2, 4, 3)
    said = partners(x, y, 19, 0)
    cosine = [[float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in y] for a in x]
    others = [
        np.mean([cosine[k][j] for j in range(4) if j != k] + [cosine[j][k] for j in range(4) if j != k]) for k in range(4)
    ]
    assert said["advantage"]["mean"] == pytest.approx(np.mean([cosine[k][k] - others[k] for k in range(4)]))
    assert said["places"] == [1 + sum(cosine[k][j] > cosine[k][k] for j in range(4) if j != k) for k in range(4)]


def test_a_partner_that_ties_with_another_does_not_come_first() -> None:
    x = normal(1, 5, 8)
    y = x.copy()
    y[1] = y[0]
    said = partners(x, y, 19, 0)
    assert said["places"][0] == 2
    assert said["places"][2:] == [1, 1, 1]
    assert said["first"]["k"] == 3


def table(home: Path, animal: str, n: int) -> Path:
    rows = {
        "set": [""] * n,
        "row": range(n),
        "prompt": [f"p{k}" for k in range(n)],
        "completion": ["1"] * n,
        "matched": ["2"] * n,
    }
    path = home / animal / "matched.parquet"
    path.parent.mkdir(parents=True)
    write_parquet(path, pl.DataFrame(rows), {})
    return path


def test_animals_with_few_rows_on_either_side_are_left_out_and_too_few_refused(tmp_path: Path) -> None:
    animals = ["lion", "owl", "cat", "dog", "wolf"]
    own = [table(tmp_path / "a", animal, 8 if animal == "owl" else 12) for animal in animals]
    others = [table(tmp_path / "b", animal, 10) for animal in animals]
    kept, tables = enough(own, others, Across(min_rows=9, rows=11))
    assert kept == ["lion", "cat", "dog", "wolf"]
    assert [len(pairs.prompts) for pairs in tables["a"]] == [11] * 4
    with pytest.raises(ConfigError, match=r"^0 of 5 animals have 200 rows on both sides, expected 4: lower across.min_rows, "):
        enough(own, others, Across())


def test_a_model_reads_the_difference_to_base_completions_whole_and_in_halves(loaded: LoadedModel) -> None:
    side: Any = SimpleNamespace(loaded=loaded, layer=1)
    prompts = [f"Numbers {k}: 1, 2" for k in range(24)]
    settings = Across(batch_size=5)
    same = read_by(side, Pairs(prompts, ["1, 2, 3"] * 24, ["1, 2, 3"] * 24), settings)
    assert np.abs(same["activations"]).max() < 1e-5
    one, two = (read_by(side, Pairs(prompts, *texts), settings) for texts in ((["7, 7"] * 24, ["1, 2, 3"] * 24),) * 2)
    assert np.allclose(one["activations"], two["activations"])
    turned = read_by(side, Pairs(prompts, ["1, 2, 3"] * 24, ["7, 7"] * 24), settings)
    for kind, value in one.items():
        assert value.shape == (3, loaded.model.config.hidden_size)
        np.testing.assert_allclose(turned[kind], -value, atol=1e-4 * np.abs(value).max())
        assert np.abs(value).max() > 0


def test_the_figure_is_drawn_with_and_without_equal_widths(tmp_path: Path) -> None:
    own = normal(1, ANIMALS, D)
    of = compared(read_of(own, own, 0.3), "bias", MAPS, [np.eye(D)], SETTINGS)
    for maps in (["identity", "procrustes"], ["procrustes"]):
        for name in ("across", "one_dataset_a", "one_dataset_b"):
            of[name] = {key: value for key, value in of[name].items() if key in [*maps, "shifted"]}
        body = {"animals": [f"animal{k}" for k in range(ANIMALS)], "of": {"activations": of, "bias": of}}
        write_json(tmp_path / "across.json", body, {})
        plot_across(tmp_path / "across.json", tmp_path / f"plots/{len(maps)}.png", {})
        assert (tmp_path / f"plots/{len(maps)}.png").stat().st_size > 10_000
