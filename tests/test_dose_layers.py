"""A contrast at every layer: at its own what the dose says of it, and side effects where lifts are equal, by hand."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_dose import files, measured

from undertone.study.config.vectors import Dose, MakeVector, Vector
from undertone.study.node import Node
from undertone.study.study import load as load_study
from undertone.study.vector_reads import repeated
from undertone.vectors.dose_layers import at_equal_lift
from undertone.vectors.dose_plot import plot_dose
from undertone.vectors.vector import make_vector

SETTINGS = Dose(scales=[0.5, 8.0], prompts=2, samples=0, max_new_tokens=3, tokens=100, max_kl=50)
POSITIVE, NEGATIVE = ["I love you.", "I adore it.", "We like this."], ["I hate you.", "I loathe it.", "We mind this."]


def settings_of(layer: int, positions: str = "completion") -> dict[str, Any]:
    entry = Vector.model_validate(
        {
            "kind": "contrast",
            "target": "lion",
            "layer": layer,
            "positions": positions,
            "positive": POSITIVE,
            "negative": NEGATIVE,
        }
    )
    return {"entry": entry.stamped(), "target": "lion", "vector": MakeVector(nulls=5, tokens=100).stamped()}


@pytest.mark.parametrize(("layer", "positions"), [(0, "completion"), (1, "last")])
def test_at_its_own_layer_a_contrast_does_what_its_dose_says(tmp_path: Path, record: Path, layer: int, positions: str) -> None:
    settings = settings_of(layer, positions)
    given = files(tmp_path)
    place = tmp_path / "vector.json"
    make_vector(record, given["text"], None, None, None, None, None, [], place, place.with_suffix(".safetensors"), settings, {})
    dose = measured(tmp_path, record, place, SETTINGS, settings)
    each = dose["by_layer"]["layers"]
    assert [row["layer"] for row in each] == [0, 1]
    for key in ("mean_norm", "vector_scale", "window", "p_greatest"):
        assert each[layer][key] == (pytest.approx(dose[key]) if dose[key] is not None else None)
    for own, other in zip(dose["scales"], each[layer]["scales"], strict=True):
        for key in ("scale", "kl", "loss", "p"):
            assert other[key] == pytest.approx(own[key], rel=1e-4)
        assert other["lift"]["mean"] == pytest.approx(own["lift"]["mean"], abs=1e-6)
        for kind, null in own["nulls"].items():
            assert other["nulls"][kind] == pytest.approx(null, abs=1e-6)
    assert each[0]["scales"][-1]["kl"] != pytest.approx(each[1]["scales"][-1]["kl"], rel=1e-3)
    plot_dose(tmp_path / "dose.json", tmp_path / "vector-lion/plots/dose.png")
    said = Image.open(tmp_path / "vector-lion/plots/dose.png").text["Description"]  # type: ignore[attr-defined]
    assert "layer after which its own contrast is added" in said


def of_layer(layer: int, window: list[float] | None, **rows: tuple[float, float]) -> dict[str, Any]:
    """A layer with (lift, KL) by scale."""
    scales = [{"scale": float(scale), "lift": {"mean": lift}, "kl": kl} for scale, (lift, kl) in rows.items()]
    return {"layer": layer, "window": window, "scales": scales}


def test_side_effects_are_compared_at_a_lift_that_every_window_reaches() -> None:
    first = of_layer(0, [1.0, 2.0], **{"-1": (0.9, 0.1), "1": (0.2, 0.1), "2": (0.6, 0.5)})
    second = of_layer(1, [-1.0], **{"-1": (0.4, 0.2), "1": (-0.3, 0.1), "2": (0.5, 9.0)})
    third = of_layer(2, None, **{"1": (0.9, 0.1)})
    of = at_equal_lift([first, second, third], 1.0)
    assert of["equal_lift"] == 0.4
    # Half way from .2 to .6, and all of the second's only scale towards its window.
    assert [layer["kl"] for layer in of["layers"]] == [pytest.approx(0.3), pytest.approx(0.2), None]
    none = at_equal_lift([third], 1.0)
    assert (none["equal_lift"], none["layers"][0]["kl"]) == (None, None)


def test_only_contrasts_are_repeated_and_only_where_that_is_asked() -> None:
    vectors = {"lion": {"kind": "contrast", "target": "lion"}, "mine": {"kind": "feature", "feature": 3}}
    for layers, expected in (("own", []), ("all", ["lion"])):
        study = load_study({"vectors": vectors, "dose": {"layers": layers}, "pref": {"candidates": ["lion", "owl"]}})
        made = {name: repeated(study, Node("dose", None, name))["contrast"] for name in vectors}
        assert [name for name, contrast in made.items() if contrast] == expected
    assert made["lion"]["vector"] == study.vector.stamped()
    assert made["lion"]["target"] == "lion"
