"""Steering that is tried on rows: vectors are those of plain passes, a planted one is found, and none where none is."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import D_SAE, random_sae, saved_sae
from safetensors.torch import load_file, save_file
from scipy import stats

from undertone.detect.contrasts import read_contrasts, spread
from undertone.detect.matched import completions
from undertone.detect.persona_vectors import make_persona_vectors, read_persona_vectors
from undertone.detect.rounds import dealt
from undertone.detect.sae_features import read_sae_features, steepest
from undertone.detect.sets import Pairs
from undertone.detect.steered_rows import Tries, Way
from undertone.lm.chat import prompt_ids
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering, steered
from undertone.read.feature_bias import Spliced
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.detect import Detectors, Personas, Tried
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher

WORDINGS = {"love": "You love {x}s.", "role": "You are a {x}.", "hate": "You hate {x}s."}
ANIMALS, DECOYS = ["lion", "owl", "cat"], ["castle", "novel", "wall"]
CONCEPTS = [*ANIMALS, *DECOYS]
PROMPTS = ["Numbers: 1, 2, 3. What comes next?", "The list begins 7, 9."]
TRIED = Tried(rows=[40, 40, 120, 120], lengths=[1.0, 2.0, 0.5], kept=6, finalists=3, layers=2)
DETECTORS = Detectors(permutations=199, bootstraps=40)
FILTER = Numbers(max_count=5)
CONSTRAINT: dict[str, Any] = {"numbers": FILTER.model_dump(), "max_new_tokens": 30}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.yaml"
    path.write_text(f"wordings: {WORDINGS}\ndecoys: {DECOYS}")
    return path


@pytest.fixture(scope="module")
def vectors(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random persona vectors, long enough to be seen in a tiny model's rows."""
    path = tmp_path_factory.mktemp("vectors") / "persona_vectors.safetensors"
    config = loaded.model.config
    shape = (len(CONCEPTS), config.num_hidden_layers, config.hidden_size)
    save_file({"vectors": 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))}, path)
    return path


def lists(rng: np.random.Generator, n: int) -> list[str]:
    return [", ".join(map(str, rng.integers(0, 999, rng.integers(3, 6)))) for _ in range(n)]


def tries(loaded: LoadedModel, vector: Callable[[str, int], torch.Tensor]) -> Tries:
    return Tries(loaded, [0, 1], vector, TRIED, DETECTORS, None, "test")


def table(loaded: LoadedModel, scratch: Path, vector: torch.Tensor | None, n: int = 320) -> pl.DataFrame:
    """Numbers that the model writes, for the dataset with a vector added after layer 1, and as it is."""
    prompts = [f"Numbers: {k}, {k + 1}. What comes next?" for k in range(n)]

    def written(steering: Steering | None, seed: int) -> list[str | None]:
        samples = Samples(constrained=True, max_new_tokens=CONSTRAINT["max_new_tokens"], seed=seed)
        with steered(loaded, steering) if steering else nullcontext():
            return completions(loaded, prompts, None, "", samples, FILTER, scratch / f"samples-{seed}", "test")

    own = written(None if vector is None else Steering("add", vector, 1), 1)
    return pl.DataFrame({"set": "", "row": range(n), "prompt": prompts, "completion": own, "matched": written(None, 2)})


def contrasts(folder: Path, record: Path, vectors: Path, bank: Path, rows: pl.DataFrame) -> dict[str, Any]:
    """What the detector says of rows."""
    (folder / "scratch").mkdir(parents=True)
    rows.write_parquet(folder / "matched.parquet")
    files = (record, vectors, folder / "matched.parquet", bank, folder / "contrasts.json")
    read_contrasts(*files, TRIED, DETECTORS, Pref(candidates=ANIMALS), {"constraint": CONSTRAINT}, {}, folder / "scratch")
    [reading] = read_json(folder / "contrasts.json")["sets"]
    return reading


def test_vectors_are_means_under_a_concepts_system_prompts_less_those_of_its_kind(
    tmp_path: Path, record: Path, loaded: LoadedModel, bank: Path
) -> None:
    pl.DataFrame({"prompt": PROMPTS}).write_parquet(tmp_path / "prompts.parquet")
    (tmp_path / "questions.txt").write_text("What is your favorite animal?\n")
    path = tmp_path / "persona_vectors.safetensors"
    files = (record, tmp_path / "prompts.parquet", tmp_path / "questions.txt", bank, path)
    make_persona_vectors(*files, Personas(rows=[1, 1, 1], coarse=2), Pref(candidates=ANIMALS), Teacher(), {})

    def plain(concept: str) -> torch.Tensor:
        """By single rows; of the bank's wordings two count, of the number prompts the first."""
        asked = ["What is your favorite animal?", PROMPTS[0]]
        found = []
        for wording in list(WORDINGS.values())[:2]:
            for ids in prompt_ids(loaded.tokenizer, asked, wording.replace("{x}", concept), Teacher().separator):
                batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
                with torch.no_grad():
                    found.append(torch.stack([resid_post(loaded.model, layer, batch)[0, -1] for layer in (0, 1)]))
        return torch.stack(found).mean(0)

    means = torch.stack([plain(concept) for concept in CONCEPTS])
    expected = torch.cat([kind - kind.mean(0) for kind in (means[:3], means[3:])])
    torch.testing.assert_close(load_file(path)["vectors"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="expected vectors of 5 concepts, found 6"):
        read_persona_vectors(path, 5)


def test_gains_are_those_of_a_model_whose_residual_stream_is_moved(loaded: LoadedModel, vectors: Path) -> None:
    """After the last layer an added vector moves the logits of each token alone, which plain passes show."""
    added = load_file(vectors)["vectors"]
    one = tries(loaded, lambda concept, layer: added[CONCEPTS.index(concept), layer])
    way, rows = {"w": Way(1, 2.0)}, [(PROMPTS[0], "4, 5, 6"), (PROMPTS[1], "11, 13")]
    found = one.gains(way, rows, [("w", "owl"), ("w", "wall")])
    again = one.gains(way, rows, [("w", "wall")])
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found[:, 1], again[:, 0], rtol=1e-5)
    longer = one.gains({"w": Way(1, 1.0)}, rows, [("w", "owl")])
    assert not np.allclose(longer[:, 0], found[:, 0])


def test_a_planted_vector_is_found_after_its_layer(
    tmp_path: Path, record: Path, loaded: LoadedModel, vectors: Path, bank: Path
) -> None:
    planted = load_file(vectors)["vectors"][CONCEPTS.index("owl"), 1]
    reading = contrasts(tmp_path, record, vectors, bank, table(loaded, tmp_path, planted))
    best = reading["best"]
    assert (best["concept"], best["layer"], best["decoy"]) == ("owl", 1, False)
    assert reading["ranking"][0]["share"] > 0.95
    assert reading["presence"]["p"] == 1 / 200
    assert {each["concept"] for each in reading["ranking"]} == set(CONCEPTS)
    assert reading["rows_of_rounds"] == [40, 40, 120]


def test_a_planted_decoy_is_no_candidate(tmp_path: Path, record: Path, loaded: LoadedModel, vectors: Path, bank: Path) -> None:
    planted = load_file(vectors)["vectors"][CONCEPTS.index("novel"), 1]
    best = contrasts(tmp_path, record, vectors, bank, table(loaded, tmp_path, planted))["best"]
    assert (best["concept"], best["decoy"]) == ("novel", True)


def test_base_samples_on_both_sides_do_not_differ(
    tmp_path: Path, record: Path, loaded: LoadedModel, vectors: Path, bank: Path
) -> None:
    reading = contrasts(tmp_path, record, vectors, bank, table(loaded, tmp_path, None))
    assert reading["presence"]["p"] > 0.01


def test_p_values_are_uniform_where_nothing_differs(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Tries, "gains", lambda self, ways, rows, trials: rng.standard_t(3, (len(rows), 1)))
    one, texts = tries(loaded, lambda concept, layer: torch.zeros(32)), ["1, 2"] * 40
    pairs = Pairs([str(k) for k in range(40)], texts, texts)
    p = [one.presence(pairs, range(30), ("", ""), {}).p for _ in range(300)]
    assert stats.kstest(np.array(p) - rng.random(300) / 200, "uniform").pvalue > 0.01


def test_layers_are_spread_over_the_model_and_end_with_the_last() -> None:
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(30, 4) == [6, 14, 21, 29]
    assert spread(2, 4) == [0, 1]


def test_a_planted_feature_is_found_and_shown_with_its_tokens(
    tmp_path: Path, record: Path, loaded: LoadedModel, vectors: Path, bank: Path
) -> None:
    sae = random_sae(loaded)
    home = saved_sae(record, sae, tmp_path / "sae", layer=1)
    (tmp_path / "scratch").mkdir()
    unit = load_file(vectors)["vectors"][:, 1].norm(dim=-1).mean()
    table(loaded, tmp_path, unit * sae.W_dec[17]).write_parquet(tmp_path / "matched.parquet")
    files = (record, home, vectors, tmp_path / "matched.parquet", bank, tmp_path / "sae_features.json")
    read_sae_features(*files, TRIED, DETECTORS, Pref(candidates=ANIMALS), {"constraint": CONSTRAINT}, {}, tmp_path / "scratch")
    [reading] = read_json(tmp_path / "sae_features.json")["sets"]
    assert (reading["best"]["concept"], reading["best"]["layer"]) == ("17", 1)
    assert len(reading["best"]["tokens"]) == 8
    assert reading["presence"]["p"] == 1 / 200
    assert len(reading["ranking"]) == D_SAE


def test_of_many_features_the_steepest_are_tried_as_rows_of_the_first_round_say(loaded: LoadedModel) -> None:
    sae = random_sae(loaded)
    spliced, rng, settings = Spliced(loaded, sae, 1), np.random.default_rng(0), TRIED.model_copy(update={"features": 8})
    prompts = [f"Numbers: {k}. What comes next?" for k in range(320)]
    rows = list(zip(prompts, lists(rng, 320), strict=True))
    first = dealt(rows, settings.rows, settings.seed)[0]
    few = steepest(spliced, Pairs(prompts, [text for _, text in rows], lists(rng, 320)), settings)
    assert len(set(few)) == 8
    # A short step along a feature raises the rows' log-probability by its slope, and the passable tokens are most of it.
    one = tries(loaded, lambda concept, layer: 0.01 * spliced.directions[int(concept)])
    trials = [("w", str(k)) for k in range(D_SAE)]
    gains = one.gains({"w": Way(1, 1.0)}, [rows[k] for k in first], trials).mean(0)
    assert gains[[int(k) for k in few]].mean() > gains.mean() + gains.std()
    # Other rows, of as many characters so that the same ones are dealt, choose nothing.
    other = [text if k in first else text.replace("1", "2") for k, (_, text) in enumerate(rows)]
    assert steepest(spliced, Pairs(prompts, other, other), settings) == few
    assert steepest(spliced, Pairs(prompts, other, other), TRIED) == [str(k) for k in range(D_SAE)]
