"""What is said of every feature, where it is known: hand-made SAEs on a model whose first layer adds nothing."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from planted import random_sae, saved_sae
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file, save_file
from torch import nn

from undertone.lab.browser import write_browser
from undertone.lab.context_table import read_contexts, write_contexts
from undertone.lab.contributions import attributed
from undertone.lab.feature_scores import cut, others, output_scores, raised
from undertone.lab.feature_sums import FINE, entropies_by_chance, roles
from undertone.lab.feature_table import make_features
from undertone.lab.map import make_map
from undertone.lab.neighbours import find_neighbours
from undertone.lab.neuron_table import compare_neurons
from undertone.lab.peaks import Peaks
from undertone.lab.reading import Reader
from undertone.lab.specificity import SCHEMA as UNITS_SCHEMA
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.bounds import MAX_SEED
from undertone.study.config.lab import Browser, Features, Map, Neighbours, Neurons

D_SAE, PLANTED = 8, 5
SETTINGS = Features(top=4, bottom=3, per_band=2, misses=3, before=2, after=1, attributed=2, min_count=5)


def planted(loaded: LoadedModel, token: int) -> SAE[Any]:
    """An SAE whose feature 5 fires on one token alone, on embeddings as they are; others are random, and feature 3 is dead."""
    sae = StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=D_SAE, apply_b_dec_to_input=False))
    sae.requires_grad_(False)
    embedded = loaded.model.get_input_embeddings().weight.detach() * loaded.model.config.hidden_size**0.5
    generator = torch.Generator().manual_seed(1)
    sae.W_enc.copy_(torch.randn(sae.W_enc.shape, generator=generator) / 10)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=-1))
    sae.W_enc[:, PLANTED] = embedded[token]
    along = embedded @ embedded[token]
    along[token] = -torch.inf
    sae.b_enc.zero_()
    sae.b_enc[PLANTED] = -along.max()
    sae.b_enc[3] = -1e9
    sae.W_dec[PLANTED] = embedded[token]
    return sae


def made(
    record: Path, sae: SAE[Any], contexts: list[list[int]], home: Path, settings: Features = SETTINGS, layer: int = 0
) -> dict[str, Any]:
    """What `make_features` writes."""
    text, files = home / "text.parquet", [home / name for name in ("features.parquet", "examples.parquet", "features.json")]
    home.mkdir(exist_ok=True)
    table = {"row": range(len(contexts)), "ids": contexts}
    write_parquet(text, pl.DataFrame(table), {})
    make_features(record, saved_sae(record, sae, home, layer), text, *files, settings, {"of": "it"})
    return {"features": pl.read_parquet(files[0]), "examples": pl.read_parquet(files[1]), "summary": read_json(files[2])}


@pytest.fixture(scope="module")
def one_token(plain: Path, contexts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(plain, planted(load(plain), 40), contexts, tmp_path_factory.mktemp("one") / "lab")


def acts_of(record: Path, sae: SAE[Any], contexts: list[list[int]]) -> dict[tuple[int, int], np.ndarray]:
    """(context, position) → activations, one context at a time."""
    reader = Reader(load(record), sae, HookPoint(0), contexts, 1e9, 2, 1)
    by_token = {}
    for k, ids in enumerate(contexts):
        for at, acts in enumerate(reader.read([k]).acts[0].numpy()):
            if ids[at] > 9:
                by_token[k, at] = acts
    return by_token


def test_a_feature_of_one_token_is_known_as_such(
    one_token: dict[str, Any], contexts: list[list[int]], loaded: LoadedModel
) -> None:
    feature = one_token["features"].row(PLANTED, named=True)
    n, hits = sum(len(ids) - 1 for ids in contexts), sum(ids.count(40) for ids in contexts)
    assert one_token["summary"]["tokens"] == n
    assert (feature["count"], feature["density"]) == (hits, hits / n)
    assert feature["token_entropy"] == 0
    assert feature["token_entropy_null"] > 2
    assert feature["tokens"] == [{"text": loaded.tokenizer.decode([40]), "share": 1.0}]
    assert feature["token_recall"] == 1
    assert feature["max"] == pytest.approx(feature["mean_active"], rel=1e-5)
    assert (feature["dead"], feature["rare"]) == (False, False)
    assert sum(feature["histogram"]) == feature["histogram"][-1] == hits
    shown = one_token["examples"].filter(pl.col("feature") == PLANTED)
    assert set(shown["group"]) == {"top", "bottom", "q4"}
    for example in shown.iter_rows(named=True):
        assert contexts[example["row"]][example["position"]] == 40
        at = example["position"] - example["start"]
        assert example["tokens"][at] == loaded.tokenizer.decode([40])
        assert [value for k, value in enumerate(example["values"]) if k != at and value] == []
        assert example["values"][at] == pytest.approx(example["activation"])


def test_a_feature_raises_the_token_that_its_direction_is_of(plain: Path, one_token: dict[str, Any]) -> None:
    feature = one_token["features"].row(PLANTED, named=True)
    raised = [each["value"] for each in feature["logits_up"]]
    assert raised == sorted(raised, reverse=True)
    assert feature["logits_down"][0]["value"] == min(each["value"] for each in feature["logits_down"])
    assert feature["dec_norm"] == pytest.approx(float(planted(load(plain), 40).W_dec[PLANTED].norm()))
    assert 0 <= feature["input_score_null"] <= 1


def test_a_dead_feature_is_counted_and_has_no_figures(one_token: dict[str, Any]) -> None:
    dead = one_token["features"].row(3, named=True)
    assert (dead["dead"], dead["rare"], dead["count"], dead["density"]) == (True, False, 0, 0)
    names = ("max", "mean_active", "token_entropy", "token_recall", "junk", "position_mean", "q", "input_score")
    assert [dead[name] for name in names] == [None] * len(names)
    assert one_token["summary"]["dead"] == 1
    assert one_token["examples"].filter(pl.col("feature") == 3).is_empty()


def test_a_feature_that_fires_on_few_tokens_is_marked(plain: Path, contexts: list[list[int]], tmp_path: Path) -> None:
    few = made(plain, planted(load(plain), 40), contexts, tmp_path / "lab", SETTINGS.model_copy(update={"min_count": 10**6}))
    assert few["summary"]["rare"] == D_SAE - 1
    assert few["features"]["rare"].to_list() == [j != 3 for j in range(D_SAE)]


def test_an_sae_whose_features_are_mostly_dead_is_said_to_be_such(
    plain: Path, contexts: list[list[int]], tmp_path: Path, one_token: dict[str, Any]
) -> None:
    assert one_token["summary"]["warning"] is None
    sae = planted(load(plain), 40)
    sae.b_enc[:5] = -1e9
    assert made(plain, sae, contexts, tmp_path / "lab")["summary"]["warning"] == "5 of 8 features are dead on this text"


def test_an_sae_without_a_living_feature_has_tables_and_a_page(plain: Path, contexts: list[list[int]], tmp_path: Path) -> None:
    sae = planted(load(plain), 40)
    sae.b_enc[:] = -1e9
    silent, home = made(plain, sae, contexts, tmp_path / "lab"), tmp_path / "lab"
    assert (silent["summary"]["dead"], silent["summary"]["l0"], len(silent["examples"])) == (D_SAE, 0, 0)
    near = [home / name for name in ("neighbours.parquet", "neighbours.json")]
    find_neighbours(plain, home / "sae/sae.json", home / "text.parquet", *near, Neighbours(), 10, {})
    places = [home / name for name in ("map.parquet", "map.json")]
    make_map(home / "sae/sae.json", *near, *places, Map(), {})
    like = [home / name for name in ("neurons.parquet", "neurons.json")]
    compare_neurons(plain, home / "sae/sae.json", home / "text.parquet", *like, Neurons(), 10, {})
    write_json(home / "metrics.json", {"warning": None}, {})
    write_parquet(home / "specificity.parquet", pl.DataFrame(schema=UNITS_SCHEMA), {})
    files = [home / name for name in ("features.parquet", "examples.parquet", "features.json", "metrics.json")]
    files += [*near, *places, *like, home / "specificity.parquet"]
    said = write_browser(*files, None, {}, {}, home / "features.html", Browser(), {}, {}, "", {})
    assert said.startswith("8 of 8 features")


@pytest.mark.parametrize("at_once", [1, 7])
def test_figures_are_those_of_all_tokens_at_once(
    plain: Path, contexts: list[list[int]], tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone.lab.reading.ROWS", at_once)
    monkeypatch.setattr("undertone.lab.feature_sums.WAITING", 20)
    sae = planted(load(plain), 40)
    table = made(plain, sae, contexts, tmp_path / "lab")["features"]
    acts = acts_of(plain, sae, contexts)
    values, places = np.array(list(acts.values()), dtype=np.float64), np.array([at for _, at in acts])
    ids = np.array([contexts[k][at] for k, at in acts])
    for j in (0, 1, 6):
        active = values[:, j] > 0
        own, feature = values[active, j], table.row(j, named=True)
        assert feature["count"] == active.sum()
        assert feature["mean_active"] == pytest.approx(own.mean(), rel=1e-5)
        assert feature["max"] == pytest.approx(own.max(), rel=1e-6)
        assert feature["position_mean"] == pytest.approx(places[active].mean())
        assert feature["q"] == pytest.approx(np.quantile(own, [0.5, 0.9, 0.99], method="inverted_cdf"), abs=own.max() / FINE)
        assert feature["histogram"] == np.histogram(own, 50, (0, own.max()))[0].tolist()
        shares = np.bincount(ids[active], own) / own.sum()
        shares = shares[shares > 0]
        assert feature["token_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
        assert [each["share"] for each in feature["tokens"]] == pytest.approx(sorted(shares, reverse=True)[:5], rel=1e-4)
        token = np.bincount(ids[active], own).argmax()
        assert feature["token_recall"] == pytest.approx((active & (ids == token)).sum() / (ids == token).sum())


@pytest.mark.parametrize("at_once", [2, 64])
def test_examples_are_those_that_brute_force_finds(
    plain: Path, contexts: list[list[int]], tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone.lab.reading.ROWS", at_once)
    repeated = contexts + contexts[:9]  # whose windows stand there twice
    sae = planted(load(plain), 40)
    examples = made(plain, sae, repeated, tmp_path / "lab")["examples"]
    acts = acts_of(plain, sae, repeated)
    for j in range(D_SAE):
        for group, sign, n in (("top", 1, 4), ("bottom", -1, 3)):
            best: dict[int, tuple[float, int]] = {}
            for (k, at), values in acts.items():
                if values[j] > 0 and sign * values[j] > best.get(k, (-math.inf, 0))[0]:
                    best[k] = (sign * float(values[j]), at)
            order = sorted(best, key=lambda k: -best[k][0])
            expected, windows = [], []
            for k in order:
                at = best[k][1]
                window = tuple(repeated[k][at - 2 : at + 2]) if at >= 2 else (at, *repeated[k][: at + 2])
                if window not in windows and len(expected) < n:
                    windows.append(window)
                    expected.append(sign * best[k][0])
            own = examples.filter((pl.col("feature") == j) & (pl.col("group") == group)).sort("rank")
            assert own["activation"].to_list() == pytest.approx(expected, rel=1e-5), (j, group)
            assert own["rank"].to_list() == list(range(1, len(expected) + 1))


def test_examples_of_bands_and_misses_stand_where_they_say(record: Path, contexts: list[list[int]], tmp_path: Path) -> None:
    in_context = made(record, random_sae(load(record)), [[*ids, *ids[1:]] for ids in contexts], tmp_path / "lab")
    greatest = dict(zip(in_context["features"]["feature"], in_context["features"]["max"], strict=True))
    texts = {row["feature"]: row["tokens"][0]["text"] for row in in_context["features"].iter_rows(named=True) if row["tokens"]}
    groups = set()
    for example in in_context["examples"].iter_rows(named=True):
        groups.add(example["group"])
        if example["group"].startswith("q"):
            share, band = example["activation"] / greatest[example["feature"]], int(example["group"][1:])
            assert band / 5 <= share <= (band + 1) / 5 + 1e-6
        if example["group"] == "miss":
            assert example["activation"] == 0
            assert example["tokens"][example["position"] - example["start"]] == texts[example["feature"]]
        assert len(example["tokens"]) == len(example["values"])
        if example["start"] == 0:
            assert example["values"][0] is None  # a BOS
        assert (example["gives"] is not None) == (example["group"] == "top" and example["rank"] <= 2)
    assert groups >= {"top", "bottom", "q0", "q1", "miss"}


def test_draws_do_not_depend_on_batches(
    plain: Path, contexts: list[list[int]], tmp_path: Path, one_token: dict[str, Any]
) -> None:
    sae, loaded = planted(load(plain), 40), load(plain)
    alone = Reader(loaded, sae, HookPoint(0), contexts, 10, 2, 1).read([7])
    together = Reader(loaded, sae, HookPoint(0), contexts, 10, 2, 1).read([3, 7])
    n = alone.ids.shape[1]
    assert torch.equal(alone.draws(0)[0], together.draws(0)[1, :n])
    for seed in (1, 3, MAX_SEED):
        assert not torch.equal(alone.draws(0), alone.draws(seed))
    draws = torch.cat([read.draws(0).flatten() for read in Reader(loaded, sae, HookPoint(0), contexts, 10, 2, 1).batches()])
    assert torch.histc(draws, 10, 0, 1).div(len(draws)).sub(0.1).abs().max() < 0.01


def test_contexts_that_do_not_fit_in_memory_are_read_in_parts(plain: Path, contexts: list[list[int]]) -> None:
    sae, small = planted(load(plain), 40), load(plain)
    with crowded(small.model, 8):
        reader = Reader(small, sae, HookPoint(0), contexts[:20], 10, 2, 1)
        rows = [int(k) for read in reader.batches() for k in read.row]
    assert sorted(rows) == list(range(20))


class Copying(nn.Module):
    """A model of one layer that adds to each token's embedding twice that of the token before."""

    def __init__(self, n: int, d: int):
        super().__init__()
        self.embedding = nn.Embedding(n, d).requires_grad_(False)
        self.layers = nn.ModuleList([nn.Identity()])

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_decoder(self) -> "Copying":
        return self

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        x = self.embedding(input_ids)
        return self.layers[0](x + 2 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


def test_what_a_token_gives_is_found_where_the_model_copies_it_from() -> None:
    torch.manual_seed(0)
    model = Copying(20, 16)
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=3, apply_b_dec_to_input=False)).requires_grad_(False)
    sae.W_enc[:, 1] = model.embedding.weight[7]
    sae.b_enc.zero_()
    batch = {"input_ids": torch.tensor([[3, 7, 4, 5]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    loaded: Any = SimpleNamespace(model=model)
    (gives,) = attributed(loaded, sae, HookPoint(0), batch, torch.tensor([2]), torch.tensor([1])).tolist()
    own = float(model.embedding.weight[4] @ model.embedding.weight[7])
    assert gives == pytest.approx([0, 2 * float(model.embedding.weight[7].square().sum()), own, 0], abs=1e-4)
    assert gives[1] == max(gives)


def test_contributions_add_up_where_all_is_linear(plain: Path, one_token: dict[str, Any]) -> None:
    sae = planted(load(plain), 40)
    for example in one_token["examples"].filter(pl.col("gives").is_not_null()).iter_rows(named=True):
        own = [value for value in example["gives"] if value is not None]
        assert len(own) == example["position"] - example["start"] + 1
        assert own[:-1] == pytest.approx([0] * (len(own) - 1), abs=1e-5)  # the layer copies nothing
        assert own[-1] == pytest.approx(example["activation"] - float(sae.b_enc[example["feature"]]), rel=1e-4)


def test_output_scores_are_those_of_full_passes_with_a_feature_clamped(
    record: Path, contexts: list[list[int]], tmp_path: Path
) -> None:
    loaded, sae = load(record), random_sae(load(record))
    reader = Reader(loaded, sae, HookPoint(0), contexts, 10, 2, 1)
    level, other = torch.linspace(0, 3, 64), np.array([[(j + 1) % 64] for j in range(64)])
    _, most = raised(loaded, sae)
    scores = output_scores(reader, level, most, other, 7, 0)
    assert scores["output_score"][0] is scores["output_score_null"][0] is None
    rows = cut(reader, 7, 0)
    assert len(rows) == 7
    for j in (1, 20, 63):
        rises = []
        for row in rows:
            ids = torch.tensor([row.ids[: row.start]])

            def clamped(residual: torch.Tensor, j: int = j) -> torch.Tensor:
                missing = level[j] - sae.encode(residual[:, -1])[:, j]
                return torch.cat([residual[:, :-1], residual[:, -1:] + missing * sae.W_dec[j]], 1)

            base = loaded.model(ids).logits[0, -1].log_softmax(-1)
            with rewritten(loaded.model, 0, clamped):
                rises.append(loaded.model(ids).logits[0, -1].log_softmax(-1) - base)
        rise = torch.stack(rises).mean(0)
        assert scores["output_score"][j] == pytest.approx(float(rise[most[j]].mean()), abs=1e-4)
        assert scores["output_score_null"][j] == pytest.approx(float(rise[most[j + 1 if j < 63 else 0]].mean()), abs=1e-4)


def test_no_output_score_is_given_where_features_have_no_fixed_directions_or_none_is_asked_for(
    plain: Path, contexts: list[list[int]]
) -> None:
    loaded, sae = load(plain), planted(load(plain), 40)
    reader = Reader(loaded, sae, HookPoint(0), contexts, 10, 2, 1)
    _, most = raised(loaded, sae)
    level = torch.ones(D_SAE)
    assert output_scores(reader, level, most, others(D_SAE, 0), 0, 0)["output_score"].null_count() == D_SAE
    sae.cfg.normalize_activations = "layer_norm"
    assert output_scores(reader, level, most, others(D_SAE, 0), 5, 0)["output_score"].null_count() == D_SAE


def test_other_features_are_others() -> None:
    drawn = others(30, 0)
    assert drawn.shape == (30, 20)
    assert all(j not in row and len(set(row)) == 20 for j, row in enumerate(drawn.tolist()))
    assert others(1, 0).shape == (1, 0)


@pytest.mark.parametrize("what", ["model", "sae"])
def test_activations_that_are_no_numbers_are_refused_with_their_context(
    plain: Path, contexts: list[list[int]], what: str
) -> None:
    loaded, sae = load(plain), planted(load(plain), 40)
    if what == "sae":
        sae.W_enc[0, 0] = torch.nan
    else:
        loaded.model.get_input_embeddings().weight[contexts[4][2], 0] = torch.nan
    reader = Reader(load(plain), planted(load(plain), 40), HookPoint(0), contexts, 10, 2, 1)
    reader.loaded, reader.sae = loaded, sae
    with pytest.raises(
        ConfigError, match=r"^context \d+: the SAE's activations at blocks\.0\.hook_resid_post are NaN or infinite"
    ):
        list(reader.batches())


def test_tokens_of_far_greater_norm_are_left_out_and_counted(plain: Path, contexts: list[list[int]], tmp_path: Path) -> None:
    home = tmp_path / "model"
    home.mkdir()
    for file in plain.parent.iterdir():
        (home / file.name).write_bytes(file.read_bytes())
    weights = load_file(home / "model.safetensors")
    weights["model.embed_tokens.weight"][40] *= 100
    save_file(weights, home / "model.safetensors", {"format": "pt"})
    summary = made(home / "model.json", random_sae(load(plain)), contexts, tmp_path / "lab")["summary"]
    hits = sum(ids.count(40) for ids in contexts)
    assert summary["outliers"] == hits > 0
    assert summary["tokens"] == sum(len(ids) - 1 for ids in contexts) - hits


def test_entropy_by_chance_is_that_of_as_many_tokens_of_the_text() -> None:
    by_token = np.array([5.0, 5.0, 0.0])
    one, many = entropies_by_chance(by_token, np.array([1.0, 1e6]), 0)
    assert (one, many) == (0, pytest.approx(math.log(2), abs=1e-3))


def test_names_of_roles_are_known_by_the_special_token_in_front_and_the_end_of_their_line() -> None:
    """S is a special token, n the end of a line."""
    lines = {"SSuenYouSn": ".1111....1", "SmdlnabS": ".1111...", "Sabcdn": ".11111", "Sabcden": ".1.....", "SaSbnab": ".1.11.."}
    for line, expected in lines.items():
        special, newline = (torch.tensor([[each == sign for each in line]]) for sign in "Sn")
        assert "".join("1" if each else "." for each in roles(special, newline)[0].tolist()) == expected


@pytest.mark.parametrize("numbers", [False, True])
def test_junk_is_activation_on_what_is_no_word(
    plain: Path, contexts: list[list[int]], tmp_path: Path, loaded: LoadedModel, numbers: bool
) -> None:
    sae, settings = random_sae(load(plain)), SETTINGS.model_copy(update={"numbers_are_junk": numbers})
    table = made(plain, sae, contexts, tmp_path / "lab", settings)["features"]
    acts = acts_of(plain, sae, contexts)
    no_word = re.compile(r"(\s+|[^\w\s]+\s*|\s*[0-9]+\s*)" if numbers else r"(\s+|[^\w\s]+\s*)")
    junk, total = np.zeros(64), np.zeros(64)
    for (k, at), values in acts.items():
        texts = [loaded.tokenizer.decode([token]) for token in contexts[k]]
        end = next((place for place, text in enumerate(texts) if "\n" in text), 99)  # of the line behind the BOS
        total += values
        junk += values * bool(no_word.fullmatch(texts[at]) or at == 1 or at <= end <= 5)
    alive = total > 0
    assert table["junk"].to_numpy()[alive] == pytest.approx((junk / np.where(alive, total, 1))[alive], rel=1e-5)


def test_no_examples_are_kept_where_none_are_wanted(plain: Path, contexts: list[list[int]]) -> None:
    peaks = Peaks.none(D_SAE, 0, 4, torch.device("cpu"))
    read = Reader(load(plain), planted(load(plain), 40), HookPoint(0), contexts, 10, 2, 1).read([0, 1])
    peaks.add(read.acts, read)
    assert peaks.score.shape == (D_SAE, 0)


@pytest.mark.parametrize(
    ("contexts", "says"),
    [
        ([[2, 11, 12]] * 3, "6 tokens of text, expected 1,000 or more"),
        ([[2, *range(10, 60)]] * 40, "98% of the 40 contexts repeat another one, expected at most 50%"),
    ],
)
def test_text_that_says_too_little_is_refused(contexts: list[list[int]], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        write_contexts(tmp_path / "text.parquet", iter(contexts), {2}, 5_000, {})
    assert says in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_text_ends_where_there_is_enough(tmp_path: Path) -> None:
    endless = ([2, *range(k, k + 10)] for k in range(3, 10**9))
    assert "1,000 tokens of text in 100 contexts" in write_contexts(tmp_path / "text.parquet", endless, {2}, 1_000, {})
    assert read_contexts(tmp_path / "text.parquet")[1] == [2, *range(4, 14)]
