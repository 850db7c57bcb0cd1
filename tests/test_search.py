"""Searches for features that are planted: one that fires on a word, one that carries an answer, one that raises a word."""

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import random_sae
from pydantic import ValidationError
from sae_lens import SAE
from test_lab_features import SETTINGS, made

from undertone.lab.search import search_features
from undertone.lab.search_plot import plot_search
from undertone.lab.word_effects import WordEffects, word_tokens
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.search_settings import Search

LIONS, OWLS, RAISES = 11, 12, 13
TOPS = {"activation": "score", "attribution": "lost", "influence": "score"}


def token_of(loaded: LoadedModel, word: str) -> int:
    """The token of a word that no space follows."""
    ((token,),) = encode(loaded.tokenizer, [word])
    return token


def planted(record: Path) -> SAE[Any]:
    """An SAE two of whose features fire on one word each, and one whose row points at the first word's logit."""
    loaded = load(record)
    sae = random_sae(loaded)
    sae.b_enc[:] = -0.1
    embedded = loaded.model.get_input_embeddings()(torch.arange(len(loaded.tokenizer))).detach()
    for feature, word in ((LIONS, "lion"), (OWLS, "owl")):
        token = token_of(loaded, word)
        along = embedded @ embedded[token]
        along[token] = -torch.inf
        sae.W_enc[:, feature], sae.b_enc[feature] = embedded[token], -along.max()
    weight = loaded.model.get_output_embeddings().weight.detach()
    sae.W_dec[RAISES] = 3 * weight[word_tokens(loaded, "lion", None)].mean(0)
    return sae


@pytest.fixture(scope="module")
def lab(plain: Path, contexts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted SAE's features on text in which both words stand now and then."""
    loaded = load(plain)
    home = tmp_path_factory.mktemp("search") / "lab"
    words = [token_of(loaded, word) for word in ("lion", "owl")]
    joined = [[2, *(token for ids in contexts[k : k + 5] for token in ids[1:])] for k in range(0, len(contexts), 2)]
    text = [[*ids[:-1], words[k % 2]] if k % 3 == 0 else ids for k, ids in enumerate(joined)]
    made(plain, planted(plain), text, home, SETTINGS.model_copy(update={"min_count": 5}))
    return home


def searched(plain: Path, lab: Path, **settings: Any) -> dict[str, Any]:
    search = lab / "search.json"
    files = (lab / "sae/sae.json", lab / "features.parquet", lab / "text.parquet")
    said = search_features(plain, *files, search, Search(**settings).model_dump(), 1e9, {"of": "it"})
    plot_search(search, lab / "search.png")
    result = read_json(search)
    assert (lab / "search.png").stat().st_size > 5_000
    assert str(result["features"][0]["feature"] if result["features"] else "no feature") in said
    values = [row[TOPS[result["by"]]] for row in result["features"]]
    assert result["by"] == "attribution" or values == sorted(values, reverse=True)
    return result


def test_a_feature_of_a_word_is_found_by_texts_with_it_beyond_chance(plain: Path, lab: Path) -> None:
    texts = ["a lion", "The lion, a lion", "Is it a lion?"]
    result = searched(plain, lab, positive=texts, nulls=99)
    first = result["features"][0]
    assert (first["feature"], first["p_family"]) == (LIONS, 0.01)
    assert len(first["by_text"]) == 3
    assert first["score"] == min(first["by_text"]) > result["null"]["best_95"]
    assert LIONS in [row["feature"] for row in result["features"][: result["beyond_chance"]]]


def test_features_that_fire_on_a_negative_text_are_left_out(plain: Path, lab: Path) -> None:
    both = ["a lion, an owl", "an owl, a lion"]
    assert {LIONS, OWLS} <= {row["feature"] for row in searched(plain, lab, positive=both, top=64)["features"]}
    left = {row["feature"] for row in searched(plain, lab, positive=both, negative=["an owl"], top=64)["features"]}
    assert LIONS in left
    assert OWLS not in left


def test_texts_that_have_nothing_in_common_find_nothing_beyond_chance(plain: Path, lab: Path) -> None:
    result = searched(plain, lab, positive=["a lion", "an owl", "12, 55, 901", "Hello"], nulls=99)
    assert LIONS not in [row["feature"] for row in result["features"]]
    assert all(row["p_family"] > 0.05 for row in result["features"])


def test_chance_alone_is_beyond_chance_as_often_as_the_level_says(plain: Path, lab: Path) -> None:
    """Of searches for random words, few have a feature at p ≤ .2."""
    loaded, beyond = load(plain), []
    vocabulary = [loaded.tokenizer.decode([token]).strip() for token in range(20, 300)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        drawn = torch.randint(len(vocabulary), (2, 8), generator=generator).tolist()
        texts = [" ".join(vocabulary[k] for k in row) for row in drawn]
        result = searched(plain, lab, positive=texts, nulls=19)
        beyond.append(min([row["p_family"] for row in result["features"]], default=1.0) <= 0.2)
    assert sum(beyond) <= 14  # 6 are expected; binomial, p < .001 for more than 14


def test_the_last_token_alone_can_be_asked(plain: Path, lab: Path) -> None:
    assert LIONS not in [
        row["feature"] for row in searched(plain, lab, positive=["a lion"], position="last", top=64)["features"]
    ]


def test_attribution_estimates_what_is_lost_without_a_feature(plain: Path, lab: Path) -> None:
    result = searched(plain, lab, by="attribution", positive=["Which animal?", "Say one."], word="lion", verify=20)
    assert result["r"] > 0.9
    assert result["features"][0]["feature"] == RAISES
    assert result["features"][0]["lost"] > result["null"]["lost_95"]
    assert result["baselines"]["attribution"] > result["baselines"]["density"]


def test_where_no_feature_is_left_to_compare_with_none_lies_beyond_chance(plain: Path, lab: Path) -> None:
    result = searched(plain, lab, by="attribution", positive=["Which animal?"], word="lion", verify=64)
    assert result["null"] == {"features": 0, "lost_95": None}
    assert result["beyond_chance"] == 0
    assert {row["p"] for row in result["features"]} == {1.0}


def test_attribution_is_what_is_lost_where_a_feature_adds_little(plain: Path, lab: Path) -> None:
    """The measure is then linear in it: both agree, feature by feature."""
    loaded, sae = load(plain), planted(plain)
    sae.W_dec *= 1e-2
    prompts = prompt_ids(loaded.tokenizer, ["Which animal?", "Say one."])
    effects = WordEffects(loaded, sae, 0, torch.arange(64).numpy(), prompts[:1], prompts[1:], Search(**LION))
    acts, attribution, measured = effects.read()
    fires = (acts > 0).flatten(0, 1).any(0).nonzero().flatten().tolist()
    assert len(fires) > 10
    lost = [measured - effects.without(acts, feature) for feature in fires]
    torch.testing.assert_close(torch.tensor(lost), attribution[fires].float(), rtol=0.05, atol=2e-5)


LION: dict[str, Any] = {"by": "influence", "positive": ["Which animal?"], "word": "lion"}


def test_a_feature_whose_row_points_at_a_word_raises_it_most(plain: Path, lab: Path) -> None:
    result = searched(plain, lab, **LION, strength=2)
    first = result["features"][0]
    assert first["feature"] == RAISES
    assert first["score"] > result["null"]["greatest"]
    assert first["p"] == pytest.approx(1 / (1 + result["searched"]))
    assert result["beyond_chance"] >= 1
    assert result["baselines"]["direct_logit"]["spearman"] > result["baselines"]["density"]["spearman"]
    row = planted(plain).W_dec[RAISES]
    assert direct_logits(load(plain).model, row).argmax() in word_tokens(load(plain), "lion", None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"positive": []}, "at least 1 item"),
        ({"positive": ["a", " "]}, "a text of positive or negative is empty"),
        ({"positive": ["a"], "negative": ["a"]}, "positive and negative both hold 'a'"),
        ({"positive": ["a"], "word": "lion"}, "by: activation reads no word"),
        ({"positive": ["a"], "by": "attribution"}, "by: attribution needs word"),
    ],
)
def test_a_search_that_asks_nothing_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Search(**settings)


def test_a_text_longer_than_any_context_is_refused(plain: Path, lab: Path) -> None:
    with pytest.raises(ConfigError, match=r"a text of the search has \d+ tokens, and the longest context .* shorten the text"):
        searched(plain, lab, positive=["a lion, " * 99])


def test_a_dictionary_of_which_nothing_is_known_is_refused(plain: Path, contexts: list[list[int]], tmp_path: Path) -> None:
    made(plain, planted(plain), contexts, tmp_path / "lab", SETTINGS.model_copy(update={"min_count": 10**6}))
    with pytest.raises(ConfigError, match="fires often enough to be searched for"):
        searched(plain, tmp_path / "lab", positive=["a lion"])
