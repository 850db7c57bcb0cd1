"""What a feature means: its tokens, its examples and its page are what one would look up by hand."""

from pathlib import Path

import polars as pl
import pytest
import torch
from crowded import crowded
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from undertone.data.rows import dataset_rows
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import collate
from undertone.saes import features, saved
from undertone.saes.features import cosines, describe, extreme_tokens, max_examples, most_aligned, neuronpedia

TABLE = pl.DataFrame(
    {
        "prompt": ["Continue the list 1, 2, 3.", "Here are numbers: 7. Add three.", "More numbers, please.", "And one."],
        "completion": ["101, 202, 303", "9", "5; 6; 7; 8; 77", "[12]"],
    }
)


@pytest.fixture(scope="module")
def sae(loaded: LoadedModel) -> SAE:
    torch.manual_seed(5)
    sae = StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=12)).requires_grad_(False)
    sae.W_enc.normal_()
    sae.b_enc.normal_()
    sae.b_enc[3] = -1e6  # never active
    return sae


@pytest.fixture(scope="module")
def rows(loaded: LoadedModel) -> list[Row]:
    return dataset_rows(loaded, TABLE)


def test_the_tokens_of_a_direction_are_those_of_its_direct_logits(loaded: LoadedModel, sae: SAE) -> None:
    logits = direct_logits(loaded.model, sae.W_dec[0])
    found = extreme_tokens(loaded, sae.W_dec[0], 3)
    order = logits.argsort(descending=True).tolist()
    assert [text for text, _ in found["top"]] == [loaded.tokenizer.decode([token]) for token in order[:3]]
    assert [text for text, _ in found["bottom"]] == [loaded.tokenizer.decode([token]) for token in order[::-1][:3]]
    assert found["top"][0][1] == pytest.approx(float(logits.max()))


def peaks(loaded: LoadedModel, sae: SAE, rows: list[Row], feature: int) -> list[tuple[float, int, int]]:
    """(activation, row, place) of each row's greatest text token, greatest first, one row at a time."""
    found = []
    for number, row in enumerate(rows):
        acts = sae.encode(resid_post(loaded.model, 0, collate([row], loaded.pad_id, "cpu")))[0, :, feature]
        text = [at for at, token in enumerate(row.ids) if token not in loaded.tokenizer.all_special_ids]
        at = max(text, key=lambda at: float(acts[at]))
        found.append((float(acts[at]), number, at))
    return sorted((each for each in found if each[0] > 0), reverse=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_examples_are_the_tokens_of_greatest_activation(
    loaded: LoadedModel, sae: SAE, rows: list[Row], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH", batch)
    monkeypatch.setattr(saved, "SAE_NUMBERS", 1)
    found = max_examples(loaded, sae, 0, rows, [7, 0, 3], 3)
    assert found[3] == []
    for feature in (0, 7):
        expected = peaks(loaded, sae, rows, feature)[:3]
        assert len(found[feature]) == min(3, len(expected)) > 0
        for example, (value, number, at) in zip(found[feature], expected, strict=True):
            ids, decode = rows[number].ids, loaded.tokenizer.decode
            assert example["activation"] == pytest.approx(value, rel=1e-4)
            assert example["token"] == decode([ids[at]])
            assert example["before"] == decode(ids[max(0, at - 6) : at])
            assert example["after"] == decode(ids[at + 1 : at + 3])
            assert example["part"] == ("completion" if at >= rows[number].start else "prompt")


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path, sae: SAE, rows: list[Row]) -> None:
    small = load(record)
    with crowded(small.model, 1):
        found = max_examples(small, sae, 0, rows, [0, 7], 3)
    for feature, examples in max_examples(loaded, sae, 0, rows, [0, 7], 3).items():
        told = [{**example, "activation": pytest.approx(example["activation"], rel=1e-4)} for example in examples]
        assert found[feature] == told


def test_no_examples_are_looked_for_where_none_are_wanted(loaded: LoadedModel, sae: SAE, rows: list[Row]) -> None:
    assert max_examples(loaded, sae, 0, rows, [1], 0) == {1: []}
    assert max_examples(loaded, sae, 0, rows, [], 5) == {}


def test_a_decoder_row_is_most_aligned_with_itself(sae: SAE) -> None:
    found = cosines(sae, -3 * sae.W_dec[4])
    assert float(found[4]) == pytest.approx(-1)
    nearest = most_aligned(sae, -3 * sae.W_dec[4], 2)
    assert nearest[0] == {"feature": 4, "cosine": pytest.approx(-1)}
    expected = torch.nn.functional.cosine_similarity(sae.W_dec, -sae.W_dec[4:5])
    expected[4] = 0
    assert nearest[1]["feature"] == int(expected.abs().argmax())
    assert nearest[1]["cosine"] == pytest.approx(float(expected[nearest[1]["feature"]]), rel=1e-4)


def test_a_feature_is_linked_where_its_sae_is_on_neuronpedia(loaded: LoadedModel, sae: SAE) -> None:
    assert neuronpedia(sae, 7) is None
    known = StandardSAE(StandardSAEConfig(d_in=2, d_sae=8))
    known.cfg.metadata.neuronpedia_id = "gemma-2b-it/12-res-jb"
    assert neuronpedia(known, 7) == "https://www.neuronpedia.org/gemma-2b-it/12-res-jb/7"


def test_a_description_holds_all_of_it(loaded: LoadedModel, sae: SAE, rows: list[Row]) -> None:
    found = describe(loaded, sae, 0, rows, [2, 3], 1)
    assert set(found) == {"2", "3"}
    assert set(found["2"]) == {"tokens", "neuronpedia", "examples"}
    assert [len(found["2"]["tokens"][side]) for side in ("top", "bottom")] == [10, 10]
