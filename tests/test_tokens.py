"""What is read from a dataset's tokens: planted features are found, plain loops agree, the control shows none."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from sae_lens import StandardSAE, StandardSAEConfig

from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row, encode, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.read.frequencies import Compared, difference
from undertone.read.tokens import animal_logits, feature_logits, identity, of_features, read_tokens, readouts
from undertone.runtime.files import read_json, write_json
from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.saes.saved import load_sae
from undertone.study.config.measure import Pref
from undertone.study.config.read import Tokens
from undertone.study.config.saes import Sae

ANIMALS = ["lion", "owl", "cat"]
N_FEATURES, PLANTED = 12, 4
VALUES = [str(n) for n in range(100, 130)]


@pytest.fixture(scope="module")
def saved(record: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sae.json` of a random SAE."""
    home = tmp_path_factory.mktemp("sae")
    torch.manual_seed(0)
    StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=N_FEATURES)).save_model(home / "random")
    (home / "scratch").mkdir()
    told = Sae(folder=str(home / "random"), layer=0)
    make_pretrained_sae(record, home / "sae.json", [], told, {}, home / "scratch")
    return home / "sae.json"


@pytest.fixture(scope="module")
def tilt(loaded: LoadedModel, saved: Path) -> np.ndarray:
    """The planted feature's direct logits on `VALUES`, of standard deviation 1."""
    ids = [encode(loaded.tokenizer, [value])[0][0] for value in VALUES]
    logits = np.array([feature_logits(loaded, saved, ids)[token][PLANTED] for token in ids])
    return (logits - logits.mean()) / logits.std()


def table(seed: int, n: int, tilt: np.ndarray | float = 0.0, given: bool = False, first: int = 0) -> pl.DataFrame:
    """Rows of three numbers, whose first, or where `given` second, one is drawn with the logits `tilt` beside a common tilt.

    Where `given`, the first number has its say in the second one, whoever writes it.
    """
    rng, own = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(3, len(VALUES)))
    texts = []
    for k in range(n):
        start = VALUES[k % 3]
        p = np.exp(own[k % 3 if given else 0] + tilt)
        drawn = rng.choice(VALUES, p=p / p.sum())
        texts.append(f"{start}, {drawn}, 5" if given else f"{drawn}, 7, 5")
    prompts = [f"Continue with {first + k}." for k in range(n)]
    return pl.DataFrame({"row": range(first, first + n), "prompt": prompts, "completion": texts})


TOLD = Tokens()


def implied(loaded: LoadedModel, saved: Path, own: pl.DataFrame, control: pl.DataFrame, name: str) -> Any:
    compared = Compared(own, control, "here", Tokens())
    counted = {"first": compared.first_tokens(loaded.tokenizer), **compared.in_context(loaded.tokenizer, 20)}[name]
    logits = feature_logits(loaded, saved, sorted(set(counted.names)))
    return of_features(compared, counted, logits, {"lion": PLANTED, "owl": 0, "cat": 1}, TOLD)


def test_a_features_logits_are_its_direct_logit_attribution(loaded: LoadedModel, saved: Path) -> None:
    sae, _ = load_sae(saved, loaded)
    found = feature_logits(loaded, saved, [300, 7, 1200])
    for k in range(N_FEATURES):
        expected = direct_logits(loaded.model, sae.W_dec[k])[[300, 7, 1200]]
        assert [found[token][k] for token in (300, 7, 1200)] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["first", "pairs"])
@pytest.mark.parametrize("apart", [0, 5_000])
def test_the_planted_feature_is_found_in_the_implied_logits(
    loaded: LoadedModel, saved: Path, tilt: np.ndarray, name: str, apart: int
) -> None:
    given = name == "pairs"
    found = implied(loaded, saved, table(1, 1500, tilt, given), table(2, 1000, given=given, first=apart), name)
    assert found["contexts"] == (3 if given else 1)
    assert found["max"]["feature"] == PLANTED
    assert found["max"]["correlation"] > 0.8
    assert found["max"]["p"] < 0.01
    assert found["animals"]["lion"]["rank"] == 1
    assert found["animals"]["lion"]["p"] < 0.01
    assert found["top"][0] == {"feature": PLANTED, "correlation": found["animals"]["lion"]["correlation"]}
    assert len(found["top"]) == TOLD.top


@pytest.mark.parametrize("name", ["first", "pairs"])
def test_the_greatest_correlation_is_at_its_level_where_nothing_is_planted(loaded: LoadedModel, saved: Path, name: str) -> None:
    given = name == "pairs"
    found = [
        implied(loaded, saved, table(10 + k, 240, given=given), table(50 + k, 600, given=given, first=120 * (k % 3)), name)
        for k in range(24)
    ]
    p = np.array([one["max"]["p"] for one in found])
    assert p.mean() == pytest.approx(0.5, abs=0.18)
    assert (p <= 0.05).sum() <= 4
    assert all(one["max"]["correlation"] < one["max"]["null95"] for one, q in zip(found, p, strict=True) if q > 0.1)


def test_too_few_tokens_imply_nothing(loaded: LoadedModel, saved: Path) -> None:
    own = table(1, 30)
    assert implied(loaded, saved, own, own, "pairs") is None


def plain_readout(loaded: LoadedModel, prompt: str, answer: str, animal: str) -> list[float]:
    """Mean centred logit and mean log-prob of an animal's first tokens, from one plain forward pass."""
    ids, answers = prompt_ids(loaded.tokenizer, [prompt])[0], encode(loaded.tokenizer, [answer])[0]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids + answers])).logits[0, len(ids) - 1 : -1].double()
    forms = [lead + form for word in (animal, animal + "s") for form in (word, word.capitalize()) for lead in ("", " ")]
    tokens = sorted({encode(loaded.tokenizer, [form + end])[0][0] for form in forms for end in ("", " ")})
    centred = logits[:, tokens].mean(-1) - logits.mean(-1)
    return [float(centred.mean()), float(logits.softmax(-1)[:, tokens].sum(-1).log().mean())]


TEXTS = [("Continue 1, 2.", "101, 202, 303"), ("More numbers after 7.", "9"), ("And one.", "5; 6; 7; 8"), ("Go on.", "[12]")]


def test_readouts_are_those_of_plain_forward_passes(loaded: LoadedModel) -> None:
    ids = [(prompt_ids(loaded.tokenizer, [p])[0], encode(loaded.tokenizer, [a])[0]) for p, a in TEXTS]
    found = readouts(loaded, [Row(prompt + answer, len(prompt)) for prompt, answer in ids], ANIMALS)
    for k, (prompt, answer) in enumerate(TEXTS):
        for a, animal in enumerate(ANIMALS):
            assert found[k, :, a] == pytest.approx(plain_readout(loaded, prompt, answer, animal), rel=1e-3, abs=1e-4)


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path) -> None:
    ids = [(prompt_ids(loaded.tokenizer, [p])[0], encode(loaded.tokenizer, [a])[0]) for p, a in TEXTS]
    rows, small = [Row(prompt + answer, len(prompt)) for prompt, answer in ids], load(record)
    with crowded(small.model, 2) as sizes:
        found = readouts(small, rows, ANIMALS)
    assert sizes == [4, 2, 2]
    assert found == pytest.approx(readouts(loaded, rows, ANIMALS), rel=1e-4, abs=1e-5)


def test_animal_logits_are_differences_of_rows(loaded: LoadedModel) -> None:
    own, control = (pl.DataFrame(TEXTS[k : k + 3], schema=["prompt", "completion"], orient="row") for k in (0, 1))
    compared = Compared(own, control, "here", Tokens())
    found = animal_logits(loaded, compared, ANIMALS, 1000)
    for m, name in enumerate(("logit", "log_prob")):
        values = np.array([[plain_readout(loaded, p, a, animal)[m] for animal in ANIMALS] for p, a in TEXTS[:3] + TEXTS[1:]])
        mean, se = difference(values, compared.own, compared.prompt)
        for k, animal in enumerate(ANIMALS):
            one = found[animal][name]
            assert one["difference"] == pytest.approx(one["own"] - one["control"], abs=1e-9)
            assert one["difference"] == pytest.approx(mean[k], abs=1e-4)
            assert one["se"] == pytest.approx(se[k], rel=1e-2)
            assert one["specific"] == pytest.approx(mean[k] - (mean.sum() - mean[k]) / 2, abs=1e-4)


def test_the_model_reads_as_many_rows_of_each_dataset_as_the_settings_say(loaded: LoadedModel) -> None:
    sides = [pl.DataFrame(TEXTS[k : k + 3], schema=["prompt", "completion"], orient="row") for k in (0, 1)]
    few = Compared(*(side.head(2) for side in sides), "here", Tokens())
    found = animal_logits(loaded, Compared(*sides, "here", Tokens()), ANIMALS, 2)
    assert found == animal_logits(loaded, few, ANIMALS, 1000) != animal_logits(loaded, few, ANIMALS, 1)


def test_identity_is_the_targets_rank_among_the_candidates() -> None:
    animals = {a: {"logit": {"difference": x}, "log_prob": {"difference": -x}} for a, x in zip(ANIMALS, [1, 3, 2], strict=True)}
    assert identity("owl", animals) == {"logit": {"rank": 1, "of": 3}, "log_prob": {"rank": 3, "of": 3}}
    assert identity(None, animals) is None
    assert identity("dragon", animals) == {"logit": None, "log_prob": None}


class Study:
    """A lion's dataset and the control, and how they are read."""

    def __init__(self, record: Path, saved: Path, folder: Path, tilt: np.ndarray):
        self.record, self.saved, self.folder = record, saved, folder
        table(1, 300, tilt).write_parquet(folder / "lion.parquet")
        table(2, 300).write_parquet(folder / "control.parquet")
        write_json(folder / "teacher.json", {"vector": "feature", "feature": PLANTED}, {})
        write_json(folder / "contrast.json", {"vector": "contrast"}, {})

    def read(self, name: str, with_sae: bool = True) -> tuple[dict[str, Any], pl.DataFrame]:
        paths = self.folder / f"{name}-{with_sae}.json", self.folder / f"{name}-{with_sae}-table.parquet"
        target = None if name == "control" else "lion"
        read_tokens(
            self.record,
            self.folder / f"{name}.parquet",
            None if name == "control" else self.folder / "control.parquet",
            self.saved if with_sae else None,
            {"lion": self.folder / "teacher.json", "owl": self.folder / "contrast.json"} if with_sae else {},
            *paths,
            target,
            Tokens(top=3),
            Pref(candidates=ANIMALS),
            {"of": name},
        )
        return read_json(paths[0]), pl.read_parquet(paths[1])


@pytest.fixture(scope="module")
def study(record: Path, saved: Path, tilt: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, saved, tmp_path_factory.mktemp("study"), tilt)


def test_a_dataset_beside_the_control(study: Study, loaded: LoadedModel) -> None:
    told, found = study.read("lion")
    keys = {"target", "reference", "rows", "intervals", "presence", "identity", "frequencies", "implied", "animals"}
    assert set(told) == {*keys, "stamp", "versions"}
    assert (told["target"], told["reference"], told["rows"]) == ("lion", "control", {"own": 300, "control": 300})
    assert {kind: one["p"] < 0.05 for kind, one in told["presence"].items()} == {"number": True, "token": True, "first": True}
    assert set(told["implied"]) == {"first", "pairs", "pooled"}
    assert set(told["implied"]["first"]["animals"]) == {"lion"}
    assert told["implied"]["first"]["max"]["feature"] == PLANTED
    assert set(told["animals"]) == set(ANIMALS)
    texts = {name: pl.read_parquet(study.folder / f"{name}.parquet")["completion"].to_list() for name in ("lion", "control")}
    for side, name in (("own", "lion"), ("control", "control")):
        numbers = dict(found.filter(kind="number").select("text", side).iter_rows())
        words = [word for text in texts[name] for word in text.split(", ")]
        assert {text: n for text, n in numbers.items() if n} == {word: words.count(word) for word in words}
        firsts = dict(found.filter(kind="first").select("id", side).iter_rows())
        begins = [ids[0] for ids in encode(loaded.tokenizer, texts[name])]
        assert {token: n for token, n in firsts.items() if n} == {token: begins.count(token) for token in begins}
    more = told["frequencies"]["first"]["more"]
    assert [row["z"] for row in more] == found.filter(kind="first")["z"].sort(descending=True, nulls_last=True)[:3].to_list()
    assert told["frequencies"]["first"]["less"][0]["z"] == found.filter(kind="first")["z"].min()


def test_the_control_beside_itself(study: Study) -> None:
    told, found = study.read("control")
    assert (told["target"], told["identity"]) == (None, None)
    assert told["reference"] == "the other half of its own prompts"
    assert sum(told["rows"].values()) == 300
    assert min(one["p"] for one in told["presence"].values()) > 0.05
    assert told["implied"]["first"]["max"]["p"] > 0.05
    assert found.filter(kind="first")["own"].sum() + found.filter(kind="first")["control"].sum() == 300


def test_without_an_sae_features_are_left_out(study: Study) -> None:
    told, found = study.read("lion", with_sae=False)
    assert told["implied"] is None
    assert set(told["identity"]) == {"logit", "log_prob"}
    assert found.equals(study.read("lion")[1])
