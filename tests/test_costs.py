"""What finished jobs took: their records added up, and what makes the sum stale."""

import json
from pathlib import Path

import polars as pl
import pytest
from test_plots import assert_png

from undertone.compare.costs import add_up
from undertone.plots import cost_plots, style
from undertone.plots.cost_plots import plot_costs
from undertone.runtime.files import read_json
from workflow import Project

H200 = {"name": "NVIDIA H200", "peak_mb": 30_000.0}


def finish(folder, rule, job, seconds, dataset=None, gpu=None, asked=1, ram=500.0, used=True, extended=True):
    """Write the records of a finished job."""
    (folder / rule).mkdir(parents=True, exist_ok=True)
    told = {"s": seconds, "cpu_time": 1.0, "max_rss": 1.0}
    if extended:
        wildcards = {"dataset": dataset} if dataset else {}
        told |= {"rule_name": rule, "wildcards": wildcards, "resources": {"gpu": asked} if asked else {}}
    (folder / rule / f"{job}.jsonl").write_text(json.dumps(told) + "\n")
    if used:
        record = {"cpu_s": seconds / 2, "ram_mb": ram, "gpu": gpu}
        (folder / rule / f"{job}.used.json").write_text(json.dumps(record) + "\n")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Jobs on a GPU, on a machine without one, and without the need of one."""
    folder = tmp_path / "benchmarks"
    finish(folder, "student", "lion-1", 1800.0, "lion", H200, asked=2)
    finish(folder, "student", "lion-2", 900.0, "lion", {"name": "NVIDIA A100", "peak_mb": 10_000.0}, ram=900.0)
    finish(folder, "student", "owl-1", 600.0, "owl")
    finish(folder, "numbers", "lion", 4.0, "lion", asked=0)
    finish(folder, "model", "study", 60.0)
    return folder


def added(records: Path) -> tuple[pl.DataFrame, dict]:
    home = records.parent / "tables"
    add_up(records, home / "costs.parquet", home / "costs.json", {})
    return pl.read_parquet(home / "costs.parquet"), read_json(home / "costs.json")


def test_jobs_are_added_up_by_rule_and_dataset(records):
    table, _ = added(records)
    assert table.columns == ["rule", "dataset", "jobs", "wall_s", "cpu_s", "gpu_hours", "ram_mb", "gpu_mb"]
    assert table.rows() == [
        ("model", None, 1, 60.0, 30.0, 0.0, 500.0, None),
        ("numbers", "lion", 1, 4.0, 2.0, 0.0, 500.0, None),
        ("student", "lion", 2, 2700.0, 1350.0, 2 * 0.5 + 0.25, 900.0, 30_000.0),
        ("student", "owl", 1, 600.0, 300.0, 0.0, 500.0, None),
    ]


def test_a_gpu_that_a_rule_asked_for_and_no_job_found_costs_nothing(records):
    finish(records, "pref", "owl", 7200.0, "owl", gpu=None, asked=1)
    table, summary = added(records)
    assert table.filter(rule="pref")["gpu_hours"].to_list() == [0.0]
    assert summary["gpus"] == ["NVIDIA A100", "NVIDIA H200"]


def test_the_summary_has_the_dearest_rule_first_and_the_total(records):
    _, summary = added(records)
    assert [rule["rule"] for rule in summary["rules"]] == ["student", "model", "numbers"]
    student = summary["rules"][0]
    assert (student["fastest_s"], student["median_s"], student["slowest_s"]) == (600.0, 900.0, 1800.0)
    total = {"jobs": 5, "wall_s": 3364.0, "cpu_s": 1682.0, "gpu_hours": 1.25, "ram_mb": 900.0, "gpu_mb": 30_000.0}
    assert summary["total"] == total
    assert summary["left_out"] == 0


def test_records_that_say_too_little_are_left_out_and_counted(records):
    finish(records, "samples", "lion", 1e6, "lion", used=False)
    finish(records, "samples", "owl", 1e6, "owl", extended=False)
    table, summary = added(records)
    assert "samples" not in table["rule"]
    assert summary["left_out"] == 2


def test_what_adding_up_itself_took_and_other_studies_are_not_counted(records):
    before, _ = added(records)
    finish(records, "costs", "study", 9.0)
    finish(records, "costs_plot", "study", 9.0)
    finish(records / "gemma-2b-it", "student", "lion-1", 9.0, "lion")
    after, _ = added(records)
    assert before.equals(after)


def test_without_a_record_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"found 0 benchmark records in .*run a part of the study first"):
        add_up(tmp_path, tmp_path / "costs.parquet", tmp_path / "costs.json", {})


def test_a_broken_record_is_named(records):
    (records / "student/owl-1.jsonl").write_text('{"s": 12')
    with pytest.raises(ValueError, match=r"student/owl-1.jsonl .* delete both"):
        added(records)


@pytest.mark.parametrize("many", [False, True], ids=["one rule on a CPU", "thirty rules on a GPU"])
def test_the_figure_is_drawn_for_few_and_many_rules(tmp_path, monkeypatch, many):
    figures = []
    monkeypatch.setattr(cost_plots, "save", lambda figure, path: (figures.append(figure), style.save(figure, path)))
    for k in range(30 if many else 1):
        for job in range(3):
            finish(tmp_path / "b", f"a_rule_{k}", str(job), 10.0 * 1.2**k + job, "lion", H200 if many else None)
    add_up(tmp_path / "b", tmp_path / "costs.parquet", tmp_path / "costs.json", {})
    plot_costs(tmp_path / "costs.json", tmp_path / "costs.png")
    assert_png(tmp_path / "costs.png")
    told, (hours, seconds, memory) = read_json(tmp_path / "costs.json"), figures[0].axes
    rules = told["rules"]
    assert [text.get_text() for text in hours.get_yticklabels()] == [f"{rule['rule']} (3)" for rule in rules]
    widths = [bar.get_width() for bar in hours.patches]
    gpu = [rule["gpu_hours"] for rule in rules] if many else []
    assert widths == pytest.approx([rule["wall_s"] / 3600 for rule in rules] + gpu)
    # Dearest on top.
    assert widths[: len(rules)] == sorted(widths[: len(rules)], reverse=True)
    assert hours.get_ylim()[0] > hours.get_ylim()[1]
    (line,) = [container.lines[0] for container in seconds.containers]
    assert line.get_xdata().tolist() == [rule["median_s"] for rule in rules]
    held = [rule["gpu_mb"] / 1000 for rule in rules] if many else []
    assert [bar.get_width() for bar in memory.patches] == pytest.approx([rule["ram_mb"] / 1000 for rule in rules] + held)
    assert ("GPU-hours on NVIDIA H200" if many else "no GPU") in figures[0].get_suptitle()


def test_costs_are_of_real_jobs_and_read_again_when_another_has_finished(tmp_path):
    project = Project.create(tmp_path / "project")
    project.configure(results="results/small")
    both = {"Add up what the finished jobs took", "Plot what the finished jobs took"}
    target = "results/small/plots/costs.png"
    project.snakemake("results/small/prompts.parquet")
    assert project.planned(target) == both  # no job of the study is run for its record
    project.snakemake(target)
    summary = read_json(project.root / "results/small/tables/costs.json")
    assert [rule["rule"] for rule in summary["rules"]] == ["prompts"]
    assert 0 < summary["total"]["cpu_s"] < 60
    assert summary["total"]["ram_mb"] > 20
    assert project.planned(target) == set()
    finish(project.root / "benchmarks/small", "student", "lion-1", 2.0, "lion")
    assert project.planned(target) == both
