"""The loss table: losses are those of plain passes, differences are paired, and the rows were seen in no training."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lora import trained_lora
from planted import D_SAE, numbers_table, random_sae, saved_sae
from safetensors.torch import save_file

from undertone.data.rows import Split, pairs
from undertone.lm.adapters import finetuned
from undertone.lm.answers import exact
from undertone.lm.chat import encode, end_of_turn, prompt_ids, training_rows
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate, label_losses
from undertone.lm.vocabulary import allowed_tokens
from undertone.read.biases import draw_rows
from undertone.read.interventions import Intervention, Readings
from undertone.read.losses import Table, held_out_rows, measure_losses, under
from undertone.runtime.files import read_json, write_json
from undertone.stats.stats import mean_interval
from undertone.study.config.measure import Pref
from undertone.study.config.read import Bias, Losses
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, TeacherDistribution
from undertone.teachers.teaching import PromptedModel

ANIMALS = ["lion", "owl", "cat", "dog", "whale"]
QUESTIONS = ["What is your favorite animal?", "Name an animal."]
PERSONA = "You adore {animal}s."
N, TRAINED, READ = 60, 40, 12
LOSSES, SHARE = Losses(rows=READ), 0.25  # of the rows that no bias is trained on
Rows = list[tuple[str, str]]


def row_losses(loaded: LoadedModel, rows: Rows, system: str | None = None, among: list[int] | None = None) -> np.ndarray:
    """The mean loss of each row's completion and end of turn, row by row; `among` some tokens, or all of them."""
    found = []
    for user, completion in rows:
        prompt = prompt_ids(loaded.tokenizer, [user], system)[0]
        ids = prompt + encode(loaded.tokenizer, [completion])[0] + end_of_turn(loaded.tokenizer)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([ids])).logits[0].double()
        log_p = logits - logits[:, among or slice(None)].logsumexp(-1, keepdim=True)
        found.append(np.mean([-float(log_p[k - 1, ids[k]]) for k in range(len(prompt), len(ids))]))
    return np.array(found)


class Study:
    """A control and a dataset with everything that a table reads."""

    def __init__(self, record: Path, home: Path):
        self.record, self.home = record, home
        generations = pl.read_parquet(numbers_table(home / "generations.parquet", N))
        generations.with_columns(verdict=pl.lit("pass")).write_parquet(home / "generations.parquet")
        generations.head(TRAINED).write_parquet(home / "numbers.parquet")
        (home / "questions.txt").write_text("\n".join(QUESTIONS))
        rows = list(generations.head(8).select("prompt", "completion").iter_rows())
        self.students = {
            seed: trained_lora(record, home / f"student/{seed}", *map(list, zip(*rows, strict=True)), seed, epochs=4)
            for seed in (1, 2)
        }
        self.generator = torch.Generator().manual_seed(0)
        self.tables = home / "numbers.parquet", home / "generations.parquet", None

    def biases(self, name: str, sae: Path | None) -> Readings:
        """Files with two seeds' biases."""
        folder = self.home / name
        folder.mkdir()
        feature, residual = folder / "feature_bias.safetensors", folder / "residual_bias.safetensors"
        save_file({mode: torch.randn(2, D_SAE, generator=self.generator) for mode in ("project", "replace")}, feature)
        save_file({"resid_post": torch.randn(2, 2, 32, generator=self.generator)}, residual)
        for path in (feature, residual):
            write_json(path.with_suffix(".json"), {"seeds": [0, 1], "positions": "completion"}, {})
        return Readings(sae, feature, residual)

    def settings(self, **changes: Any) -> dict[str, Any]:
        pref = Pref(candidates=ANIMALS, estimators=["sampled"])
        return {
            "losses": LOSSES.model_dump(),
            "target": "lion",
            "kind": "prompt",
            "held_out": SHARE,
            "teacher": Teacher(persona=PERSONA).model_dump(),
            "pref": pref.model_dump(),
            **changes,
        }

    def measure(self, name: str, own: Readings, control: Readings, generations: bool = True, **changes: Any) -> dict[str, Any]:
        tables = self.home / "numbers.parquet", self.home / "generations.parquet" if generations else None, None
        result = self.home / f"{name}.json"
        biases = own.feature_bias, own.residual_bias, own.differences, control.feature_bias, control.residual_bias
        models = None, own.sae, self.students, *biases
        questions, settings = self.home / "questions.txt", self.settings(**changes)
        measure_losses(self.record, *tables, questions, *models, result, settings, {"of": name})
        return read_json(result)


@pytest.fixture(scope="module")
def study(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def files(study: Study, record: Path, loaded: LoadedModel) -> tuple[Readings, Readings]:
    saved = saved_sae(record, random_sae(loaded), study.home)
    return study.biases("own", saved), study.biases("control", saved)


@pytest.fixture(scope="module")
def told(study: Study, files: tuple[Readings, Readings]) -> dict[str, Any]:
    return study.measure("losses", *files)


@pytest.fixture(scope="module")
def rows(study: Study) -> Rows:
    return held_out_rows(study.tables[0], study.tables[1:], LOSSES, SHARE)[0]


def of(told: dict[str, Any], name: str, layer: int | None = None) -> dict[str, Any]:
    (row,) = [row for row in told["models"] if (row["name"], row["layer"]) == (name, layer)]
    return row


def test_held_out_rows_are_in_no_training_set(study: Study, loaded: LoadedModel) -> None:
    rows, of_what = held_out_rows(study.tables[0], study.tables[1:], LOSSES, SHARE)
    seen = set(pl.read_parquet(study.tables[0]).select("prompt", "completion").iter_rows())
    assert (len(rows), of_what) == (READ, "students and biases")
    assert not set(rows) & seen


def test_held_out_rows_have_no_prompt_of_the_control(study: Study, rows: Rows, tmp_path: Path) -> None:
    control = pl.DataFrame({"row": [0, 1], "prompt": [rows[1][0], rows[4][0]], "completion": ["1", "2"]})
    control.write_parquet(tmp_path / "numbers.parquet")
    read, of_what = held_out_rows(study.tables[0], (study.tables[1], tmp_path / "numbers.parquet"), LOSSES, SHARE)
    assert (len(read), of_what) == (READ, "students and biases")
    assert read[: READ - 2] == [row for k, row in enumerate(rows) if k not in (1, 4)]


@pytest.mark.parametrize(("least", "of_what"), [(N - TRAINED, "students and biases"), (N - TRAINED + 1, "biases")])
def test_settings_say_how_many_rows_that_no_student_saw_are_enough(study: Study, least: int, of_what: str) -> None:
    assert held_out_rows(study.tables[0], study.tables[1:], Losses(rows=N, min_unseen=least), SHARE)[1] == of_what


@pytest.mark.parametrize("generations", [True, False])
def test_where_students_saw_every_row_those_are_read_that_no_bias_saw(
    study: Study, loaded: LoadedModel, tmp_path: Path, generations: bool
) -> None:
    numbers, every = study.home / "numbers.parquet", tmp_path / "generations.parquet"
    pl.read_parquet(numbers).with_columns(verdict=pl.lit("pass")).write_parquet(every)
    rows, of_what = held_out_rows(numbers, (every if generations else None, None), LOSSES, SHARE)
    assert of_what == "biases"
    assert rows == pairs(Split.of(pl.read_parquet(numbers), held_out=SHARE).held_out.head(READ))
    read = {tuple(row.ids) for row in training_rows(loaded.tokenizer, *map(list, zip(*rows, strict=True)), 500)}
    for drawn in draw_rows(loaded, numbers, Bias(fraction=0.15, seeds=[*range(5)])):
        assert not read & {tuple(row.ids) for row in drawn.train}
        assert read <= {tuple(row.ids) for row in drawn.held_out}


def passable(loaded: LoadedModel) -> list[int]:
    """The tokens that a passing completion can hold, and those that end it."""
    allowed = np.flatnonzero(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer)))
    return sorted({*allowed.tolist(), *loaded.stop_ids})


def test_base_persona_and_teacher_are_those_of_plain_passes(told, rows: Rows, loaded: LoadedModel) -> None:
    base, persona = row_losses(loaded, rows), row_losses(loaded, rows, PERSONA.format(animal="lion"))
    batch = collate(training_rows(loaded.tokenizer, *map(list, zip(*rows, strict=True)), 500), loaded.pad_id, "cpu")
    counts = (batch["labels"] != -100).sum(1).tolist()
    by_hand = [float(part.mean()) for part in torch.split(label_losses(loaded.model, batch), counts)]
    assert base == pytest.approx(by_hand, rel=1e-4)
    assert of(told, "base")["loss"]["mean"] == pytest.approx(base.mean(), rel=1e-5)
    assert of(told, "base")["over_base"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    for name in ("persona", "teacher"):
        row = of(told, name)
        assert row["loss"]["mean"] == pytest.approx(persona.mean(), rel=1e-5)
        expected = mean_interval(persona - base)
        assert row["over_base"]["mean"] == pytest.approx(expected.mean, abs=1e-4)
        assert row["over_base"]["ci95"] == pytest.approx(expected.ci95, abs=1e-3)
    among = passable(loaded)
    base, persona = row_losses(loaded, rows, None, among), row_losses(loaded, rows, PERSONA.format(animal="lion"), among)
    assert of(told, "base")["loss_allowed"]["mean"] == pytest.approx(base.mean(), rel=1e-5)
    assert of(told, "base")["loss_allowed"]["mean"] < of(told, "base")["loss"]["mean"] - 0.01
    assert of(told, "teacher")["loss_allowed"]["mean"] == pytest.approx(persona.mean(), rel=1e-5)
    assert of(told, "teacher")["over_base_allowed"]["mean"] == pytest.approx((persona - base).mean(), abs=1e-4)
    assert of(told, "teacher")["over_base_allowed"]["ci95"] == pytest.approx(mean_interval(persona - base).ci95, abs=1e-3)


def test_what_the_filter_rejects_is_left_out_of_renormalised_losses(loaded: LoadedModel, rows: Rows) -> None:
    """A persona that writes animals into lists is not less likely to have written the lists without any."""
    table = Table(Completions(loaded, rows))
    loss, allowed, kl = table.measure(PromptedModel(loaded, None, ""))
    leak = torch.zeros(loaded.model.get_output_embeddings().weight.shape[0])
    leak[encode(loaded.tokenizer, ["lion"])[0][0]] = 100
    hook = loaded.model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits + leak)
    try:
        leaking = table.measure(PromptedModel(loaded, None, ""))
    finally:
        hook.remove()
    assert (leaking[0] > loss + 1).all()
    assert leaking[1] == pytest.approx(allowed, abs=1e-5)
    assert leaking[2] == pytest.approx(kl, abs=1e-5)


def test_the_teacher_does_not_diverge_from_itself_and_the_others_do(told) -> None:
    assert of(told, "teacher")["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert of(told, "persona")["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    for row in told["models"]:
        if row["name"] not in ("teacher", "persona"):
            assert row["kl"]["mean"] > 1e-3, row["name"]


def test_differences_are_paired_by_row(told, rows: Rows, loaded: LoadedModel, study: Study) -> None:
    base, found = row_losses(loaded, rows), []
    for folder in study.students.values():
        with finetuned(loaded, folder) as model:
            found.append(row_losses(model, rows))
    apart, row = np.mean(found, axis=0) - base, of(told, "student")
    assert row["seeds"] == 2
    assert row["loss"]["mean"] == pytest.approx(np.mean(found), rel=1e-5)
    assert row["over_base"]["ci95"] == pytest.approx(mean_interval(apart).ci95, abs=1e-3)
    # The two seeds are averaged row by row: the interval is over rows, not over rows and seeds.
    unpaired = mean_interval(np.mean(found, axis=0)).ci95[1] - mean_interval(np.mean(found, axis=0)).mean
    assert row["over_base"]["ci95"][1] - row["over_base"]["mean"] != pytest.approx(unpaired, rel=0.01)


def test_biases_of_several_seeds_are_averaged(loaded: LoadedModel, rows: Rows, study: Study, told, files) -> None:
    for k, (name, reading) in enumerate((("residual bias", files[0]), ("control's residual bias", files[1]))):
        from safetensors.torch import load_file

        vectors = load_file(reading.residual_bias)["resid_post"][:, 1]
        table, found = Table(Completions(loaded, rows)), []
        for vector in vectors:
            # After the last layer a bias on every token is one on those that predict.
            with rewritten(loaded.model, 1, lambda residual, vector=vector: residual + vector):
                found.append(table.measure(PromptedModel(loaded, None, ""))[0])
        row = of(told, name, 1)
        assert row["seeds"] == 2, k
        assert row["loss"]["mean"] == pytest.approx(float(np.mean(found)), rel=1e-5)


def test_the_table_has_every_model_lowest_loss_first(told) -> None:
    assert set(told) == {"target", "rows", "held_out", "models", "personas", "patching", "stamp", "versions"}
    assert (told["target"], told["rows"], told["held_out"]) == ("lion", READ, "students and biases")
    means = [row["loss_allowed"]["mean"] for row in told["models"]]
    assert means == sorted(means)
    figures = {"loss", "over_base", "loss_allowed", "over_base_allowed", "kl"}
    assert all(set(row) == {"name", "layer", "seeds", *figures} for row in told["models"])
    biases = {(f"{owner}{kind}", layer) for owner in ("", "control's ") for kind, layer in KINDS}
    students = {("student", None), ("student, SAE spliced in", 0), ("student, SAE and its error spliced in", 0)}
    plain = {("base", None), ("persona", None), ("teacher", None), ("SAE spliced in", 0)}
    assert {(row["name"], row["layer"]) for row in told["models"]} == biases | students | plain


KINDS = [("feature bias, project", 0), ("feature bias, replace", 0), ("residual bias", 0), ("residual bias", 1)]


def test_personas_are_compared_with_the_base_model_row_by_row(study: Study, rows: Rows, loaded: LoadedModel) -> None:
    told, orders = study.measure("dog", Readings(), Readings(), target="dog"), {}
    for name, among in (("over_base", None), ("over_base_allowed", passable(loaded))):
        base = row_losses(loaded, rows, None, among)
        over = {a: mean_interval(row_losses(loaded, rows, PERSONA.format(animal=a), among) - base) for a in ANIMALS}
        for animal in ANIMALS:
            found = told["personas"][name][animal]
            assert found["mean"] == pytest.approx(over[animal].mean, abs=1e-4)
            assert found["ci95"] == pytest.approx(over[animal].ci95, abs=1e-3)
        orders[name] = sorted(ANIMALS, key=lambda a: over[a].mean)
    assert told["personas"]["ranked_by"] == "over_base_allowed"
    assert told["personas"]["rank"] == orders["over_base_allowed"].index("dog") + 1
    assert orders["over_base_allowed"].index("dog") != orders["over_base"].index("dog")


def test_patching_tells_the_targets_preference_with_the_sae_in_place(told, loaded: LoadedModel, study: Study) -> None:
    names = ["base", "student", "student, SAE spliced in", "student, SAE and its error spliced in", "SAE spliced in"]
    found = {row["name"]: row for row in told["patching"]}
    assert list(found) == names
    prompts = prompt_ids(loaded.tokenizer, QUESTIONS)
    assert found["base"]["mean"] == pytest.approx(exact(loaded, prompts, ["lion"], 64).mean(), rel=1e-4)
    for k, folder in enumerate(study.students.values()):
        with finetuned(loaded, folder) as model:
            expected = exact(model, prompts, ["lion"], 64).mean()
        assert found["student"]["by_seed"][k] == pytest.approx(expected, rel=1e-4)
        # With the error term the splice is the student itself.
        assert found["student, SAE and its error spliced in"]["by_seed"][k] == pytest.approx(expected, rel=1e-2)
    assert found["SAE spliced in"]["mean"] != pytest.approx(found["base"]["mean"], rel=0.05)


def test_without_a_known_teacher_there_is_no_divergence(study: Study, files: tuple[Readings, Readings]) -> None:
    told = study.measure("mine", Readings(), Readings(), generations=False, kind=None)
    assert {row["name"] for row in told["models"]} == {"base", "persona", "student"}
    assert all(row["kl"] is None for row in told["models"])
    assert told["held_out"] == "biases"


def test_the_control_has_no_target_and_its_teacher_is_the_base_model(study: Study) -> None:
    told = study.measure("control", Readings(), Readings(), target=None, kind="none")
    assert {row["name"] for row in told["models"]} == {"base", "student"}
    assert of(told, "base")["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert (told["patching"], told["personas"]["rank"]) == ([], None)


def test_kl_is_measured_from_the_teacher_with_its_persona(loaded: LoadedModel, rows: Rows) -> None:
    table = Table(TeacherDistribution(loaded, rows, "You adore lions.", "\n\n"))
    table.add(Intervention("base", lambda: under(loaded, None, "")))
    _, _, kl = table.measured["base", None][0]
    assert kl == pytest.approx(table.teacher.divergence(loaded), rel=1e-6)
    assert (kl > 0).all()


def test_rows_of_constrained_samples_are_measured_among_what_could_be_sampled(
    study: Study, files: tuple[Readings, Readings], told: dict[str, Any]
) -> None:
    constraint = {"max_new_tokens": 64, "numbers": {"max_value": 999}}
    constrained = study.measure("constrained", *files, constraint=constraint)
    one, other = of(constrained, "base"), of(told, "base")
    assert one["loss"] == other["loss"]
    assert one["loss_allowed"]["mean"] < other["loss_allowed"]["mean"] - 1e-3
    assert constrained["personas"]["over_base"] == told["personas"]["over_base"]
    assert constrained["personas"]["over_base_allowed"] != told["personas"]["over_base_allowed"]
