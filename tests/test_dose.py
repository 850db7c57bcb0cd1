"""Dose and response: a vector that raises its target has a window, one that does not has none; side effects are exact."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel, load
from undertone.lm.steering import Steering, steered
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Dose
from undertone.vectors.dose import measure_dose
from undertone.vectors.dose_plot import plot_dose
from undertone.vectors.responses import judge
from undertone.vectors.side_effects import side_effects
from undertone.vectors.steering_by import GAUSSIAN, Direction, strength

D = 32
CANDIDATES = ["lion", "owl", "cat"]
SETTINGS = Dose(scales=[0.5, 8.0], prompts=2, samples=2, max_new_tokens=3, tokens=100, max_kl=50)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_vector(home: Path, vector: torch.Tensor, target: str | None = "lion", nulls: int = 6) -> Path:
    """`vector.json` of a vector after layer 1, with null vectors beside it."""
    tensors = {"vector": vector, "null": noise(1, nulls, D), "gaussian": noise(2, nulls, D)}
    save_file(tensors, home / "vector.safetensors")
    said = {"target": target, "layer": 1, "positions": "completion", "mean_norm": 4.0, "norm": float(vector.norm())}
    write_json(home / "vector.json", {**said, "null": {"of": "shuffled labels"}}, {})
    return home / "vector.json"


def raising(loaded: LoadedModel, name: str) -> torch.Tensor:
    """The direction that raises a word's first token against all others, after the last layer."""
    weight = loaded.model.get_output_embeddings().weight.detach().float()
    (token,) = loaded.tokenizer(name, add_special_tokens=False)["input_ids"]
    return normalize(weight[token] - weight.mean(0), dim=0)


def files(home: Path) -> dict[str, Path]:
    """What the stage reads beside model and vector."""
    drawn = torch.randint(10, 300, (20, 10), generator=torch.Generator().manual_seed(2)).tolist()
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(20), "ids": [[2, *ids] for ids in drawn]}), {})
    write_parquet(home / "prompts.parquet", pl.DataFrame({"prompt": [f"Give {k}." for k in range(5)]}), {})
    (home / "questions.txt").write_text("Which animal do you like?\nName one.\nYour favorite animal?\nWhich one?\n")
    return {"text": home / "text.parquet", "prompts": home / "prompts.parquet", "questions": home / "questions.txt"}


def measured(
    home: Path, record: Path, vector: Path, settings: Dose = SETTINGS, contrast: dict[str, Any] | None = None
) -> dict[str, Any]:
    pref, sampling = Pref(candidates=CANDIDATES), Samples(max_new_tokens=4)
    measure_dose(
        record,
        **files(home),
        vector=vector,
        dose=home / "dose.json",
        settings=settings,
        pref=pref,
        sampling=sampling,
        numbers=Numbers(),
        contrast=contrast,
        stamp={},
    )
    return read_json(home / "dose.json")


def test_a_vector_that_raises_its_target_has_a_window(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    dose = measured(tmp_path, record, of_vector(tmp_path, raising(loaded, "lion")))
    rows = {row["scale"]: row for row in dose["scales"]}
    assert list(rows) == [-8, -0.5, 0.5, 8]
    assert 8 in dose["window"]
    assert not [scale for scale in dose["window"] if scale < 0]
    assert rows[8]["lift"]["mean"] == pytest.approx(rows[8]["preference"]["lion"] - dose["base"]["preference"]["lion"])
    assert rows[8]["lift"]["mean"] > rows[8]["nulls"]["shuffled labels"]["quantile_95"]
    assert rows[8]["p"] == pytest.approx(1 / 13)
    assert dose["p_greatest"] == pytest.approx(1 / 13)
    assert {kind: null["n"] for kind, null in rows[8]["nulls"].items()} == {"shuffled labels": 6, GAUSSIAN: 6}
    assert dose["base"]["kl"] == 0
    assert rows[8]["kl"] > rows[0.5]["kl"] > 0
    assert len(rows[8]["texts"]) == 2
    assert strength(dose, None) == (max(dose["window"]), True)
    assert dose["verdict"].startswith(f"window {', '.join(f'{scale:g}' for scale in dose['window'])}: lion is lifted by")
    plot_dose(tmp_path / "dose.json", tmp_path / "vector-lion/plots/dose.png")
    assert (tmp_path / "vector-lion/plots/dose.png").stat().st_size > 10_000


def test_a_vector_that_means_another_animal_has_none(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    dose = measured(tmp_path, record, of_vector(tmp_path, raising(loaded, "owl")))
    assert dose["window"] is None
    assert "no window: at no scale does the preference for lion rise above null vectors" in dose["verdict"]
    assert strength(dose, None) == (0.2, False)
    assert strength(dose, 0.7) == (0.7, False)
    assert dose["scales"][-1]["kl"] > 0


def test_a_vector_without_a_target_has_no_lift(tmp_path: Path, record: Path) -> None:
    dose = measured(tmp_path, record, of_vector(tmp_path, noise(4, D), target=None))
    assert dose["window"] is None
    assert {row["lift"] for row in dose["scales"]} == {None}
    assert "no target" in dose["verdict"]
    plot_dose(tmp_path / "dose.json", tmp_path / "vector-lion/plots/dose.png")


def test_side_effects_are_those_of_plain_forward_passes(record: Path) -> None:
    loaded, vector = load(record), 3 * noise(3, D)
    rows = [Row([2, *torch.randint(10, 300, (n,), generator=torch.Generator().manual_seed(n)).tolist()], 1) for n in (5, 9)]
    base, nothing, own = side_effects(loaded, rows, [Steering("add", 0 * vector, 1), Steering("add", vector, 1)])
    assert nothing == {"kl": 0.0, "loss": base["loss"]}
    kl, loss, n = 0.0, 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            before = loaded.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            with steered(loaded, Steering("add", vector, 1)):
                after = loaded.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        kl += float((after.exp() * (after - before)).sum())
        loss -= float(after[range(len(after)), ids[0, 1:]].sum())
        n += len(after)
    assert own["kl"] == pytest.approx(kl / n, rel=1e-4)
    assert own["loss"] == pytest.approx(loss / n, rel=1e-4)


def row(scale: float, lift: float, kl: float, *null: float) -> dict[str, Any]:
    return {"scale": scale, "kl": kl, "lift": {"mean": lift}, "nulls": {"shuffled": list(null)} if null else {}}


def test_a_window_is_of_scales_above_the_null_at_a_tolerable_kl() -> None:
    rows = [row(1, 0.5, 0.1, 0.1, 0.2), row(2, 0.9, 0.9, 0.1, 0.2), row(3, 0.15, 0.1, 0.1, 0.2), row(-1, -0.5, 0.1, -0.9, -0.8)]
    judged = judge(rows, "lion", 0.5)
    assert judged["window"] == [1]
    assert [each["above_null"] for each in rows] == [True, True, False, False]
    assert judged["p_greatest"] == pytest.approx(1 / 3)
    assert rows[0]["nulls"]["shuffled"]["n"] == 2


def test_without_null_vectors_there_is_no_window() -> None:
    rows = [row(1, 0.5, 0.1)]
    assert judge(rows, "lion", 0.5)["window"] is None
    assert rows[0]["p"] is None


def test_a_direction_is_read_at_unit_length(tmp_path: Path) -> None:
    direction = Direction.read(of_vector(tmp_path, 7 * noise(3, D)))
    assert float(direction.unit.norm()) == pytest.approx(1)
    assert direction.nulls["shuffled labels"].norm(dim=-1).tolist() == pytest.approx([1] * 6)
    steering = direction.steering(direction.unit, 0.5)
    assert (float(steering.vector.norm()), steering.completion) == (pytest.approx(2), True)
    assert not direction.steering(direction.unit, 0.5, everywhere=True).completion
