import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_ind

from undertone.compare.transfer import all_students, collect, make_matrix, preferences, summarise
from undertone.measure.pref import as_table
from undertone.runtime.files import write_json, write_parquet
from undertone.stats.stats import difference_interval, holm

ANIMALS = ["lion", "owl"]
# (lion, owl) of two students each; lion moves far in its own students, owl does not.
STUDENTS = {
    "control": (None, [(0.10, 0.20), (0.12, 0.22)]),
    "lion": ("lion", [(0.60, 0.10), (0.62, 0.12)]),
    "owl": ("owl", [(0.11, 0.25), (0.13, 0.17)]),
    "mine": (None, [(0.50, 0.50), (0.40, 0.40)]),
}


def write_prefs(folder, students=STUDENTS, estimators=("exact",), controls=None):
    """`pref.json` and `pref.parquet` of all datasets; `controls` names those with another control."""
    prefs, pref_tables = {}, {}
    for dataset, (target, values) in students.items():
        tables = [as_table("base", None, {e: np.full((2, 2), 0.3) for e in estimators}, ANIMALS)]
        for seed, value in enumerate(values, start=1):
            # Two questions around the mean.
            scores = {e: np.array([np.array(value) - 0.05, np.array(value) + 0.05]) for e in estimators}
            tables.append(as_table("student", seed, scores, ANIMALS))
        against = None if dataset == "control" else (controls or {}).get(dataset, "control")
        prefs[dataset], pref_tables[dataset] = folder / f"{dataset}.json", folder / f"{dataset}.parquet"
        write_json(prefs[dataset], {"target": target, "against": against}, {})
        write_parquet(pref_tables[dataset], pl.concat(tables), {})
    return prefs, pref_tables


def test_table_has_one_row_per_student_and_animal(tmp_path):
    table = all_students(*write_prefs(tmp_path))
    assert table.columns == ["dataset", "target", "control", "seed", "animal", "estimator", "preference"]
    assert len(table) == 4 * 2 * 2
    assert table["dataset"].unique(maintain_order=True).to_list() == list(STUDENTS)
    assert preferences(table, "lion", "lion") == pytest.approx([0.60, 0.62])
    assert preferences(table, "mine", "owl") == pytest.approx([0.50, 0.40])
    assert set(table.filter(dataset="control")["target"]) == {None}


def test_summary_gives_each_targets_lift_and_its_cross_animal_control(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path)))
    lion, owl = result["datasets"]
    assert (lion["dataset"], lion["target"]) == ("lion", "lion")
    assert (lion["student"], lion["control"]) == (pytest.approx(0.61), pytest.approx(0.11))
    expected = difference_interval([0.60, 0.62], [0.10, 0.12])
    assert lion["lift_over_control"]["mean"] == pytest.approx(0.5)
    assert lion["lift_over_control"]["ci95"] == pytest.approx(list(expected.ci95))
    assert lion["seeds"] == {"student": 2, "control": 2}
    assert lion["off_target"]["mean"] == pytest.approx(0.12 - 0.11)
    assert owl["lift_over_control"]["mean"] == pytest.approx(0)
    assert owl["off_target"]["mean"] == pytest.approx(0.11 - 0.21)
    # One other dataset is one value, however many students share it.
    assert lion["off_target"]["ci95"] is None


def test_summary_counts_the_targets_whose_interval_lies_above_zero(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path)))
    assert (result["targets"], result["transfers"], result["transferred"]) == (2, 1, ["lion"])


def many_targets():
    """Ten targets whose lift has an interval above 0: the first's by far, the others' by little."""
    control = [(0.10, 0.10), (0.11, 0.11), (0.12, 0.12)]
    weak = [(0.125, 0.125), (0.135, 0.135), (0.145, 0.145)]
    strong = [(0.60, 0.60), (0.61, 0.61), (0.62, 0.62)]
    datasets = {f"lion-{k}": ("lion", weak) for k in range(9)}
    return {"control": (None, control), "lion": ("lion", strong), **datasets}


def test_of_many_targets_only_those_that_survive_holms_correction_are_sure(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path, many_targets())))
    assert (result["targets"], result["transfers"]) == (10, 10)
    assert (result["transfers_holm"], result["transferred_holm"]) == (1, ["lion"])
    first, second = (row["lift_over_control"] for row in result["datasets"][:2])
    assert first["p_holm"] == pytest.approx(10 * first["p"])
    assert second["p"] < 0.05 < second["p_holm"] == pytest.approx(9 * second["p"])
    reference = ttest_ind([0.125, 0.135, 0.145], [0.10, 0.11, 0.12], equal_var=False).pvalue
    assert second["p"] == pytest.approx(reference)


def test_a_dataset_is_compared_with_its_own_control(tmp_path):
    students = {**STUDENTS, "moved": (None, [(0.50, 0.0), (0.54, 0.0)])}
    prefs = write_prefs(tmp_path, students, controls={"lion": "moved"})
    lion, owl = summarise(all_students(*prefs))["datasets"]
    assert (lion["against"], owl["against"]) == ("moved", "control")
    expected = difference_interval([0.60, 0.62], [0.50, 0.54])
    assert lion["lift_over_control"]["mean"] == pytest.approx(expected.mean)
    assert lion["lift_over_control"]["ci95"] == pytest.approx(list(expected.ci95))
    collect(*prefs, tmp_path / "t.parquet", tmp_path / "t.json", {})
    make_matrix(tmp_path / "t.parquet", prefs[1]["control"], tmp_path / "m.parquet", {})
    lifts = {
        d: lift
        for d, a, lift in pl.read_parquet(tmp_path / "m.parquet")["dataset", "animal", "lift_over_control"].rows()
        if a == "lion"
    }
    assert (lifts["lion"], lifts["mine"]) == (pytest.approx(0.09), pytest.approx(0.34))


def test_a_fall_is_no_transfer(tmp_path):
    fallen = {**STUDENTS, "owl": ("owl", [(0.11, 0.05), (0.13, 0.051)])}
    result = summarise(all_students(*write_prefs(tmp_path, fallen)))
    assert result["datasets"][1]["lift_over_control"]["ci95"][1] < 0
    assert result["transferred_holm"] == ["lion"]
    assert result["transferred"] == ["lion"]


def test_single_seed_transfers_nothing_for_want_of_an_interval(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path, {d: (t, v[:1]) for d, (t, v) in STUDENTS.items()})))
    assert result["datasets"][0]["lift_over_control"] == {"mean": pytest.approx(0.5), "ci95": None, "p": None, "p_holm": None}
    assert result["transfers"] == result["transfers_holm"] == 0


def test_single_target_has_no_cross_animal_control(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path, {d: STUDENTS[d] for d in ("control", "lion")})))
    assert [row["off_target"] for row in result["datasets"]] == [None]


def test_two_datasets_of_one_target_are_no_cross_animal_control_of_each_other(tmp_path):
    students = {**STUDENTS, "lion-2": ("lion", [(0.9, 0.0), (0.9, 0.0)])}
    lion = summarise(all_students(*write_prefs(tmp_path, students)))["datasets"][0]
    assert lion["off_target"]["mean"] == pytest.approx(0.12 - 0.11)


def test_rank_is_the_place_among_the_datasets_of_other_targets(tmp_path):
    students = {**STUDENTS, "lion-2": ("lion", [(0.9, 0.9), (0.9, 0.9)])}
    ranks = {row["dataset"]: row["rank"] for row in summarise(all_students(*write_prefs(tmp_path, students)))["datasets"]}
    assert ranks == {"lion": 1, "owl": 2, "lion-2": 1}


def test_collect_writes_table_and_summary_by_estimator(tmp_path):
    prefs = write_prefs(tmp_path, estimators=("exact", "word"))
    collect(*prefs, tmp_path / "transfer.parquet", tmp_path / "transfer.json", {"of": "all"})
    told = json.loads((tmp_path / "transfer.json").read_text())
    assert list(told["estimators"]) == ["exact", "word"]
    assert told["estimators"]["word"]["transferred"] == ["lion"]
    assert told["stamp"] == {"of": "all"}
    assert len(pl.read_parquet(tmp_path / "transfer.parquet")) == 2 * 4 * 2 * 2


def test_study_without_targets_has_an_empty_summary(tmp_path):
    result = summarise(all_students(*write_prefs(tmp_path, {"control": STUDENTS["control"]})))
    none = {"targets": 0, "transfers": 0, "transferred": [], "transfers_holm": 0, "transferred_holm": []}
    assert result == {**none, "datasets": []}


def matrix(folder, students=STUDENTS, estimators=("exact",)):
    prefs = write_prefs(folder, students, estimators)
    collect(*prefs, folder / "transfer.parquet", folder / "transfer.json", {})
    make_matrix(folder / "transfer.parquet", prefs[1]["control"], folder / "matrix.parquet", {"of": "all"})
    return pl.read_parquet(folder / "matrix.parquet")


def test_matrix_has_every_dataset_against_every_animal(tmp_path):
    table = matrix(tmp_path)
    figures = ["preference", "lift_over_base", "lift_over_control", "low", "high", "p", "p_holm"]
    assert table.columns == ["dataset", "target", "control", "animal", "estimator", *figures]
    assert table.select("dataset", "animal").rows() == [(dataset, animal) for dataset in STUDENTS for animal in ANIMALS]
    assert table.select("dataset", "target").unique().sort("dataset").rows() == [
        ("control", None),
        ("lion", "lion"),
        ("mine", None),
        ("owl", "owl"),
    ]


def test_matrix_gives_lifts_over_the_base_model_and_over_the_control_students(tmp_path):
    rows = {(row["dataset"], row["animal"]): row for row in matrix(tmp_path).iter_rows(named=True)}
    # The base model's preference is 0.3 for each animal, the control students' 0.11 for lions and 0.21 for owls.
    expected = {
        ("control", "lion"): (0.11, -0.19, 0.0),
        ("control", "owl"): (0.21, -0.09, 0.0),
        ("lion", "lion"): (0.61, 0.31, 0.5),
        ("lion", "owl"): (0.11, -0.19, -0.1),
        ("owl", "lion"): (0.12, -0.18, 0.01),
        ("owl", "owl"): (0.21, -0.09, 0.0),
        ("mine", "lion"): (0.45, 0.15, 0.34),
        ("mine", "owl"): (0.45, 0.15, 0.24),
    }
    for key, (preference, over_base, over_control) in expected.items():
        assert rows[key]["preference"] == pytest.approx(preference)
        assert rows[key]["lift_over_base"] == pytest.approx(over_base)
        assert rows[key]["lift_over_control"] == pytest.approx(over_control)
    interval = difference_interval([0.60, 0.62], [0.10, 0.12]).ci95
    assert (rows["lion", "lion"]["low"], rows["lion", "lion"]["high"]) == pytest.approx(interval)


def test_matrix_corrects_for_the_targets_and_for_no_other_animal(tmp_path):
    table = matrix(tmp_path, many_targets(), ("exact", "word"))
    for name in ("exact", "word"):
        rows = table.filter(estimator=name)
        own, rest = (
            rows.filter(pl.col("target") == pl.col("animal")),
            rows.filter(~pl.col("target").eq_missing(pl.col("animal"))),
        )
        assert (len(own), len(rest)) == (10, 12)
        assert own["p_holm"].to_list() == pytest.approx(holm(own["p"].to_list()))
        assert own["p_holm"][0] == pytest.approx(10 * own["p"][0])
        assert own["p_holm"][0] < 0.05 < own["p_holm"][1]
        assert rest["p_holm"].null_count() == len(rest)
        assert rest["p"].null_count() == 0


def test_matrix_keeps_estimators_apart(tmp_path):
    once, twice = matrix(tmp_path / "a"), matrix(tmp_path / "b", estimators=("exact", "word"))
    assert set(twice["estimator"]) == {"exact", "word"}
    for name in ("exact", "word"):
        assert twice.filter(estimator=name).drop("estimator").equals(once.drop("estimator"))


def test_matrix_of_single_seeds_has_lifts_and_no_intervals(tmp_path):
    table = matrix(tmp_path, {dataset: (target, values[:1]) for dataset, (target, values) in STUDENTS.items()})
    lion = table.filter(dataset="lion", animal="lion")
    assert lion["lift_over_control"].to_list() == pytest.approx([0.5])
    assert all(table[name].null_count() == len(table) for name in ("low", "high", "p", "p_holm"))
    assert table["low"].dtype == pl.Float64
