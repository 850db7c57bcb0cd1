"""`snakemake pairs` on the micro study: a pair of an SAE with itself, of two trainings, and of two models with other tokens."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from test_other_saes import data_of

from undertone.pairs.neuron_matches import SAME
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.study import load
from workflow import Project

MATCHES = {"tokens": 2_500, "min_count": 10, "shifts": 2, "shuffles": 19, "bootstraps": 20}


@pytest.fixture(scope="module")
def finished(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = base.copy(tmp_path_factory.mktemp("pairs") / "project")
    animals = ["lion", "owl", "cat", "dog"]
    project.configure(
        animals=animals,
        pref={"candidates": animals},
        models={"other": {"embedded": {"seed": 3}}},
        saes={"seed1": {"seed": 1}, "other": {"model": "other", "tokens": 4_000}},
        pairs={
            "same": {"b": "", "vector": "lion"},
            "seeds": {"b": "seed1"},
            "models": {"b": "other", "datasets": "elsewhere", "vector": "lion"},
        },
        vectors={"lion": {"kind": "contrast", "target": "lion", "layer": 0}},
        matches=MATCHES,
        similarity={"permutations": 19},
        rotation={"shifts": 2, "bootstraps": 20},
        layers={"read": 2_500, "tokens": 500, "shifts": 2},
        across={"min_rows": 8, "permutations": 99},
    )
    # What another study of the other model would have written; here its own datasets stand for them.
    written = [f"{animal}/matched.parquet" for animal in animals]
    project.forked(*(f"results/{file}" for file in written))
    for file in written:
        (project.root / "elsewhere" / file).parent.mkdir(parents=True)
        shutil.copy(project.root / "results" / file, project.root / "elsewhere" / file)
    project.forked("pairs", LAYOUTS="1")
    return project


def of(project: Project, name: str) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    home = project.root / f"results/pair-{name}"
    return pl.read_parquet(home / "matches.parquet"), read_json(home / "matches.json"), read_json(home / "similarity.json")


def test_an_sae_matches_itself(finished: Project) -> None:
    table, summary, similarity = of(finished, "same")
    assert summary["identity"]
    assert summary["aligned"] == 1
    one = table.filter(way="one").drop_nulls("r")
    assert (one["a"] == one["b"]).all()
    assert one["r"].min() == pytest.approx(1)  # type: ignore[arg-type]
    assert one["shared"].all()
    assert one["decoder_cosine"].min() == pytest.approx(1)  # type: ignore[arg-type]
    assert summary["headline"]["one"]["meaningful"]["r"]["median"] == pytest.approx(1)
    measures = {name: measure["value"] for name, measure in similarity["spaces"]["one"]["measures"].items()}
    assert {name: measures[name] for name in ("cka", "rsa", "knn", "procrustes")} == pytest.approx(
        dict.fromkeys(("cka", "rsa", "knn", "procrustes"), 1)
    )
    assert measures["svcca"] in (None, pytest.approx(1))
    assert set(similarity["concepts"]) <= {"animals", "numbers", "signs", "words", "subjects"}
    assert 0 < sum(of["pairs"] for of in similarity["concepts"].values()) <= similarity["spaces"]["one"]["pairs"]


def test_two_trainings_match_better_than_shifted_text(finished: Project) -> None:
    table, summary, _ = of(finished, "seeds")
    one = summary["headline"]["one"]
    assert 2_500 <= summary["tokens"] + summary["outliers"] < 3_000
    assert one["all"]["r"]["median"] > one["by_chance"]["all"]["median"] + 0.1
    assert summary["neurons"] == {"reason": SAME, "headline": None}
    assert summary["counts"]["one"]["pairs"] == one["all"]["n"] == len(table.filter(way="one"))
    assert set(table["trivial"].drop_nulls()) <= {"rare", "dense", "junk", "token"}
    assert table.filter(pl.col("count_a") < 10)["trivial"].is_in(["rare"]).all()
    assert table.select((pl.col("tokens_a").list.len() > 0).all()).item()


def test_two_models_are_compared_where_their_tokens_end_together(finished: Project) -> None:
    table, summary, similarity = of(finished, "models")
    assert 0.5 < summary["aligned"] <= 1
    assert not summary["same_model"]
    assert table["decoder_cosine"].null_count() == len(table)
    assert summary["headline"]["one"]["all"]["shared"] is None
    assert similarity["headline"] == summary["headline"]
    assert similarity["neurons"] == summary["neurons"]
    assert summary["neurons"]["reason"] is None
    assert 0 < summary["neurons"]["headline"]["one"]["r"]["median"] < 1


def test_of_one_model_the_rotation_is_none_and_each_layer_is_most_like_itself(finished: Project) -> None:
    turned, layers = (read_json(finished.root / f"results/pair-same/{name}.json") for name in ("rotation", "layers"))
    own = turned["a_of_a"]["explained_variance"]
    for name in ("identity", "procrustes"):
        assert turned["a_of_b"][name]["explained_variance"] == pytest.approx(own, abs=1e-3)
    assert turned["b_of_b"] == turned["a_of_a"]
    for variant in ("plain", "given_token"):
        for measure in ("knn", "cka"):
            assert [of["layer"] for of in layers[variant][measure]["best_of_a"]] == [0, 1]
            assert layers[variant][measure]["values"][0][0] == pytest.approx(1)


def test_both_models_of_a_pair_read_the_datasets_of_both(finished: Project) -> None:
    said = read_json(finished.root / "results/pair-models/across.json")
    assert said["animals"] == ["lion", "owl", "cat", "dog"]
    assert said["left_out"] == []
    assert said["rows"]["a"] == said["rows"]["b"]
    for of in said["of"].values():
        # The same datasets in the place of the other model's: one model reads one thing in both, whole.
        assert of["one_reader_a"]["centred"]["same"] == pytest.approx(1)
        assert of["one_reader_b"]["centred"]["first"]["k"] == 4
        assert set(of["across"]) == {"identity", "procrustes", "shifted"}
    assert not (finished.root / "results/pair-same/across.json").exists()
    with Image.open(finished.root / "results/pair-models/plots/across.png") as figure:
        assert "cosine of one animal" in figure.info["Description"]


def test_every_pair_has_its_figures(finished: Project) -> None:
    texts = {"similarity": "r on the scoring half", "rotation": "explained variance", "layers": "layer of b"}
    for name in ("same", "seeds", "models"):
        for plot, text in texts.items():
            with Image.open(finished.root / f"results/pair-{name}/plots/{plot}.png") as figure:
                assert text in figure.info["Description"]
    assert finished.planned("pairs") == set()


def test_a_pair_is_stale_by_its_own_settings(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(pairs={"same": {"b": "", "vector": "lion"}, "seeds": {"a": "seed1", "b": ""}, "models": {"b": "other"}})
    assert project.planned("pairs") == {
        # Of the SAE that is side a now.
        "Compare the SAE's features with concepts",
        "Match the features of the pair-seeds",
        "Compare the decoders of the pair-seeds",
        "Plot how well the features of the pair-seeds match",
        "Write the page of the maps of the pair-seeds",
        "Turn one model of the pair-seeds into the other",
        "Plot what a rotation of the pair-seeds carries over",
        "Compare the layers of the pair-seeds",
        "Plot the layers of the pair-seeds",
    }


def test_the_page_of_features_shows_matches_and_parts_and_is_stale_with_them(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(saes={"seed1": {"seed": 1}, "other": {"model": "other", "tokens": 4_000}, "wide": {"d_sae": 96}})
    page = "results/sae/features.html"
    project.forked(page)
    content = data_of(project.root / page)
    one = of(project, "seeds")[0].filter(way="one")
    shown = {each["id"]: each["partners"]["seeds"] for each in content["features"] if "seeds" in each.get("partners", {})}
    assert {number: match[0] for number, match in shown.items()} == dict(one.select("a", "b").iter_rows())
    assert [shown[a][-1] for a in one["a"]] == one["tokens_b"].to_list()
    assert set(content["about"]["partners"]) == {"seeds", "models"}  # not the pair of the SAE with itself
    wide = read_json(project.root / "results/sae/splitting.json")["others"]["wide"]
    parts = {each["id"]: len(each["parts"]["wide"]["children"]) for each in content["features"] if "parts" in each}
    assert parts == {tree["parent"]: len(tree["children"]) for tree in wide["trees"]}
    assert content["about"]["parts"]["wide"]["parents"] == pytest.approx(wide["split_parents"], rel=1e-3)
    assert project.planned(page) == set()
    project.configure(matches={**MATCHES, "shifts": 3})
    assert project.planned(page) == {
        "Match the features of the pair-seeds",
        "Match the features of the pair-models",
        "Write the page of the SAE's features",
    }


def of_vector(vector: str, a: str = "", **changes: Any) -> dict[str, Any]:
    """A study with a pair of models and a vector of its own, of layer 1."""
    return {
        "pref": {"candidates": ["lion"]},
        "models": {"o": {"embedded": {"seed": 3}}},
        "saes": {"o": {"model": "o"}},
        "vectors": {"lion": {"kind": "contrast", "target": "lion", "layer": 1}},
        "pairs": {"x": {"a": a, "b": "o", "vector": vector}},
        **changes,
    }


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"pairs": {"x": {"b": "wdie"}}, "saes": {"wide": {}}}, "pairs.x.b: no such SAE of saes 'wdie'; nearest: wide"),
        ({"pairs": {"x": {"a": ""}}}, "pairs.x.b: missing"),
        ({"pairs": {"x": {"a": "wdie", "b": "", "datasets": "r"}}}, "pairs.x.a: no such SAE of saes 'wdie'"),
        (
            {
                "models": {"o": {"embedded": {"seed": 3}}},
                "saes": {"o": {"model": "o"}},
                "pairs": {"x": {"a": "o", "b": "", "datasets": "r"}},
            },
            "pairs.x.datasets: side a has this study's own datasets, and SAE o reads the model o; exchange a and b",
        ),
        (of_vector("loin"), "pairs.x.vector: no such vector of vectors 'loin'; nearest: lion"),
        (
            of_vector("lion", pairs={"x": {"a": "o", "b": "", "vector": "lion"}}),
            "pairs.x.vector: vectors are of this study's own model, and SAE o reads the model o; exchange a and b",
        ),
        (
            of_vector("lion", vectors={"lion": {"kind": "file", "file": "README.md", "layer": 1}}),
            "pairs.x.vector: the vector lion has no target, whose preference could rise; set vectors.lion.target",
        ),
        (
            of_vector("lion", vectors={"lion": {"kind": "contrast", "target": "lion", "layer": 0}}),
            "pairs.x.vector: the vector lion is of layer 0, and SAE a, where the models are turned, of layer 1; expected",
        ),
        (
            of_vector("lion", saes={"o": {"model": "o", "point": "mlp_out"}, "m": {"point": "mlp_out"}}, a="m"),
            "pairs.x.vector: a vector is added at resid_post, and SAE m reads mlp_out, where the models would be turned",
        ),
        ({"pairs": {"a/b": {"b": ""}}}, "'a/b' cannot name a model, SAE, vector or the like"),
        (
            {"pairs": {"x": {"b": ""}}, "datasets": {"pair-x": {"teacher": "none"}}},
            "'pair-x' cannot name a dataset: one of the study's models, SAEs, vectors or pairs has a folder of that name",
        ),
        ({"pairs": {"x": {"b": ""}}, "model": {"name": "gpt2", "revision": "0" * 40}}, "pairs: the study has no SAE for gpt2"),
    ],
)
def test_what_no_pair_can_be_is_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(config)


def test_the_page_of_maps_holds_both_saes_features(finished: Project) -> None:
    page = (finished.root / "results/pair-models/map.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    table = pl.read_parquet(finished.root / "results/pair-models/matches.parquet")
    for side, folder in (("a", "sae"), ("b", "sae-other")):
        places = pl.read_parquet(finished.root / f"results/{folder}/map.parquet")
        shown = {feature["id"] for feature in data["features"][side]}
        assert shown == {*table[side].to_list(), *places["feature"].to_list()}
    assert data["about"]["sides"]["b"]["title"] == "b: other"


def test_a_vector_is_added_in_the_other_model_and_beside_itself_does_the_same(finished: Project) -> None:
    same, other = (read_json(finished.root / f"results/pair-{name}/transplant.json") for name in ("same", "models"))
    lifts = {name: [row["lift"]["mean"] for row in of["scales"]] for name, of in same["in_b"].items()}
    assert lifts["turned"] == pytest.approx(lifts["identity"], abs=1e-4)
    assert lifts["turned"] == pytest.approx(sorted_lifts(same["in_a"]), abs=1e-4)
    assert same["cosine_with_own"]["value"] == pytest.approx(1, abs=1e-3)
    assert set(other["in_b"]) == {"turned", "own", "identity", "ridge"}
    assert other["in_b"]["turned"]["scales"][0]["nulls"]["rotations of shifted text"]["n"] == 2
    assert not (finished.root / "results/pair-seeds/transplant.json").exists()
    with Image.open(finished.root / "results/pair-models/plots/transplant.png") as figure:
        assert figure.width > 500


def sorted_lifts(of: dict[str, Any]) -> list[float]:
    return [row["lift"]["mean"] for row in sorted(of["scales"], key=lambda row: row["scale"])]
