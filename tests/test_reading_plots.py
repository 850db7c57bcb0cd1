import copy
import struct
import textwrap

import numpy as np
import polars as pl
import pytest

from undertone.plots import activation_plots, bias_plots, reading_plots, study_plots, style
from undertone.plots.bias_plots import lifts
from undertone.plots.panels import feature_labels, heat, p_text, shown, target_of
from undertone.plots.reading_plots import PLOTS, thinned
from undertone.plots.study_plots import counts, plot_bias_map, plot_entangled, shared_limit
from undertone.plots.style import balanced
from undertone.runtime.files import write_json, write_parquet
from undertone.stats.confusion import SCHEMA
from undertone.stats.ranks import rank_of

ANIMALS = ["lion", "owl", "cat"]


def estimate(mean, half=0.01):
    return {"mean": mean, "ci95": [mean - half, mean + half] if half else None}


def score(target):
    layers = [{"layer": k, "presence": {"f": 1.0 + 4 * k, "p": 10.0 ** -(3 * k)}, "tokens": ["a"]} for k in range(3)]
    top = [{"feature": 7 - k, "z": 5.0 - k, "p": 0.001, "q": 0.01 if k < 3 else 0.2} for k in range(5)]
    animals = {"lion": {"feature": 7, "z": 5.0, "rank": 1}, "owl": {"feature": 0, "z": -1.0, "rank": 8}}
    features = {"layer": 0, "n": 8, "different": 3, "top": top, "animals": animals}
    return {"rows": 9, "against": "control" if target else "halves", "layers": layers, "features": features}


def table():
    top = [{"feature": 7 - k, "difference": 1.0, "se": 0.1, "t": (-1) ** k * (6.0 - k), "p": 0.1, "q": 0.1} for k in range(4)]
    top = [{**row, "p_max": 0.01 if abs(row["t"]) > 4 else 0.5} for row in top]
    halves = {"features": 4, "same_sign": 0.5, "t_ratio": 0.9}
    return {"tested": 8, "significant": 2, "max_t": 6.0, "p": 0.01, "top": top, "split_half": halves}


def differences(target):
    row = {"rank": 3, "t": 4.0, "p": 0.1}
    pair = {
        "design": "independent",
        "classes": {"completion": {"tokens": [9, 9], "acts": table(), "acts_pre": table()}},
        "animals": {"lion": {"feature": 7, "completion": {"acts": row, "acts_pre": row}}},
        "cosine": {"completion": {"max": 0.6, "p": 0.2, "null": {"mean": 0.5, "q95": 0.7}, "top": []}},
        "direct": {"completion": [{"norm": 0.5, "top": [], "bottom": []}, {"norm": 0.9, "top": [], "bottom": []}]},
    }
    pairs = {name: copy.deepcopy(pair) for name in (("control", "persona", "halves") if target else ("halves",))}
    pairs["halves"]["classes"]["completion"]["acts"]["split_half"] = None
    return {"layer": 0, "pairs": pairs, "features": {"7": {"tokens": {"top": [["mane ", 1.0]], "bottom": []}}}}


def loss(gain):
    return {"train": {"gain": estimate(gain)}, "held_out": {"before": 3.5, "after": 3.5 - gain, "gain": estimate(gain)}}


def feature_bias(target):
    ranked = {
        "features": [{"feature": 7 - k, "bias": 0.5 - k / 10, "tokens": ["$x$ ", "\n", "b"]} for k in range(4)],
        "animals": {"lion": {"feature": 7, "bias": 0.5, "rank": 1}, "owl": {"feature": 1, "bias": 0.0, "rank": 8}},
    }
    mode = {"loss": [loss(0.1), loss(0.12)], "nonzero": [4, 4], "agreement": {}, **ranked}
    mode |= {"minus_control": copy.deepcopy(ranked)} if target else {}
    return {"layer": 0, "seeds": [0, 1], "positions": "all", "modes": {"project": mode, "replace": mode}}


def residual_bias(target):
    parts = {"tokens": {"up": ["lion", "mane"], "down": ["1"]}}
    parts |= {"decoder": [], "reconstruction": [{"n": n, "explained": n / 10, "features": []} for n in (1, 2, 4)]}
    rows = [
        {"point": "resid_post", "layer": k, "loss": [loss(0.02), loss(0.03)], **parts, "minus_control": parts} for k in range(3)
    ]
    multi = {"point": "resid_post", "layer": "multi", "loss": [loss(0.05), loss(0.06)]}
    return {"seeds": [0, 1], "positions": "all", "biases": [*rows, multi]}


def bias(name, layer, target, level):
    animals = {a: {**estimate(level if a == "lion" else 0.1), "by_seed": [level]} for a in ANIMALS}
    told = {"name": name, "layer": layer, "animals": animals, "mass": level + 0.2}
    if target and name != "function vector":
        told["lift_over_control"] = {a: estimate(level - 0.1 if a == "lion" else 0.0, 0.02) for a in ANIMALS}
        told["log_odds_lift_over_control"] = {a: 10 * level - 1 if a == "lion" else 0.1 for a in ANIMALS}
        told["rank"], told["unranked"] = rank_of(told["log_odds_lift_over_control"], target), []
    return told


def bias_pref(target):
    rows = [bias("SAE spliced in", 0, None, 0.1), bias("feature bias, project", 0, target, 0.2)]
    rows += [bias("residual bias", k, target, 0.15 + k / 10) for k in range(2)]
    rows += [bias("residual bias, all layers", None, target, 0.105)]
    rows += [bias("function vector", k, target, 0.3) for k in range(2 if target else 0)]
    return {"target": target, "base": dict.fromkeys(ANIMALS, 0.1), "log_odds_floor": 1e-6, "biases": rows}


def losses(target):
    names = [("teacher", None), ("student", None), ("base", None), ("residual bias", 0), ("control's residual bias", 0)]
    models = [
        {"name": n, "layer": k, "seeds": 1, "kl": estimate(i / 9)}
        | {"loss": estimate(3.5 + i / 9), "over_base": estimate(0.5 + i / 9)}
        | {"loss_allowed": estimate(3 + i / 9), "over_base_allowed": estimate(i / 9)}
        for i, (n, k) in enumerate(names)
    ]
    personas = {
        "over_base": {a: estimate(-k / 10) for k, a in enumerate(ANIMALS)},
        "over_base_allowed": {a: estimate(k / 10) for k, a in enumerate(ANIMALS)},
        "ranked_by": "over_base_allowed",
        "rank": 1 if target else None,
    }
    return {"target": target, "rows": 9, "held_out": "biases", "models": models, "personas": personas, "patching": []}


def tokens(target):
    row = {"text": "7", "id": None, "own": 2, "control": 1, "log_ratio": 0.5, "z": 2.0}
    frequencies = {kind: {"items": 9, "more": [row], "less": [{**row, "z": -2.0, "log_ratio": -0.5}]} for kind in ("number",)}
    animals = {"lion": {"feature": 7, "correlation": 0.4, "rank": 1, "p": 0.01}}
    implied = {"contexts": 1, "max": {"correlation": 0.4, "null95": 0.3, "p": 0.02}, "top": [], "animals": animals}
    logit = {"own": 1.0, "control": 0.5, "difference": 0.5, "se": 0.1, "specific": 0.4, "specific_se": 0.1}
    return {
        "target": target,
        "reference": "control",
        "rows": {"own": 9, "control": 9},
        "presence": {"number": {"mean_z2": 1.4, "null": 1.0, "p": 0.01}, "token": None},
        "identity": {"logit": {"rank": 1.0, "of": 3}, "implied pairs": None} if target else None,
        "frequencies": frequencies,
        "implied": {"first": implied, "pairs": None},
        "animals": {a: {"logit": logit, "log_prob": logit} for a in ANIMALS},
    }


def sequences(target):
    found = {
        "all": estimate(0.1),
        "kind": {"number": estimate(0.2), "separator": estimate(0.0)},
        "position": [{"position": k, "rows": 9 - k, **estimate(0.1)} for k in range(8)],
    }
    kinds = {"teacher": "prompt", "other": "steer" if target else None}
    agreement = {"correlation": estimate(0.5), "given_base": estimate(0.3)} if target else None
    gain = {"teacher": found, "other": found} if target else {"teacher": found}
    return {"target": target, "kinds": kinds, "rows": 9, "gain": gain, "agreement": agreement, "largest": []}


def lens(target):
    view = {"norm": 0.1, "rank": 1, "animals": {a: {"logit": 0.0, "rank": k} for k, a in enumerate(ANIMALS)}}
    found = {"layers": [{"mean": view, "positions": [view] * 5}] * 3, "sae": None}
    names = ("student", "control", "student_minus_control", "teacher") if target else ("student",)
    ranks = {"student": {"1": [1, 2, None]}, "control": {"1": [2, 3, 1]}} if target else {"student": {"1": None}, "control": {}}
    return {"target": target, "texts": 60, "layer": 0, "lenses": dict.fromkeys(names, found), "ranks": ranks}


MADE = {f.__name__: f for f in (differences, score, feature_bias, residual_bias, bias_pref, losses, tokens, sequences, lens)}


def assert_png(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(200 <= pixels <= 3000 for pixels in struct.unpack(">II", data[16:24]))
    assert 8_000 < len(data) < 700_000
    assert sorted(p.name for p in path.parent.glob(".*")) == []


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, whole."""
    figures = []

    def save(figure, path):
        figures.append(figure)
        style.save(figure, path)

    monkeypatch.setitem(style.STYLE, "savefig.dpi", 80)
    monkeypatch.setitem(style.STYLE, "figure.constrained_layout.use", False)  # slow, and nothing here asks where panels lie
    for module in (activation_plots, bias_plots, reading_plots, study_plots):
        monkeypatch.setattr(module, "save", save)
    return figures


@pytest.fixture
def draw(tmp_path, drawn):
    """Draws a reading, and returns the figure's panels."""

    def make(key, own, control=None, dataset="lion"):
        paths = {"own": tmp_path / "own.json"} | ({"control": tmp_path / "control.json"} if control else {})
        for name, told in (("own", own), ("control", control)):
            if told:
                write_json(tmp_path / f"{name}.json", told, {"settings": {"lion/samples": {"target": "lion"}}})
        PLOTS[key](paths, tmp_path / "plot.png", dataset)
        assert_png(tmp_path / "plot.png")
        return drawn[-1].axes

    return make


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def ticks(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def words(panels):
    return " ".join(text.get_text() for axes in panels for text in [axes.title, axes._left_title, *axes.texts])


def test_every_reading_has_a_figure():
    assert set(PLOTS) == set(MADE)


# Of each reading: the panels that say something of a dataset beside the control, and what the control by itself lacks.
SAID = {
    "differences": (["acts", "acts_pre"], "no other pair"),
    "score": (["Presence", "highest z", "lion ranks 1"], "no target among them"),
    "feature_bias": (["lion's feature 7: rank 1", "steered teachers", "one point a seed"], "no feature stands for a target"),
    "residual_bias": (["one point a seed", "How sparse", "bias − control's bias"], "by layer, bias"),
    "bias_pref": (["what the base model prefers", "boxed: lion"], "no target"),
    "losses": (["9 rows held out", "Divergence from the teacher", "lion is 1 of 3"], "no target"),
    "tokens": (["highest and lowest z", "Presence", "Implied logits", "Animal tokens' logits"], "Presence"),
    "sequences": (["gain by position", "correlation of the two"], "no other teacher to compare"),
    "lens": (["first 5 tokens", "The target among the candidates", "control student"], "no target to rank"),
}


@pytest.mark.parametrize("key", MADE)
def test_a_dataset_beside_the_control(draw, key):
    text = words(draw(key, MADE[key]("lion"), MADE[key](None))).replace("\n", " ")
    assert [said for said in SAID[key][0] if said not in text] == []


@pytest.mark.parametrize("key", ["score", "feature_bias", "residual_bias", "bias_pref", "tokens"])
def test_a_dataset_alone(draw, key):
    beside, alone = draw(key, MADE[key]("lion"), MADE[key](None)), draw(key, MADE[key]("lion"))
    assert any("control" in label for axes in beside if axes.get_legend() for label in labels(axes))
    drawn_alone, drawn_beside = (sum(len(axes.lines) + len(axes.containers) for axes in panels) for panels in (alone, beside))
    assert drawn_alone < drawn_beside
    assert not any(
        "control" in label.split("(")[0] for axes in alone if axes.get_legend() for label in labels(axes) if "lion" not in label
    )


@pytest.mark.parametrize("key", MADE)
def test_the_control_by_itself(draw, key):
    text = words(draw(key, MADE[key](None), dataset="control")).replace("\n", " ")
    assert SAID[key][1] in text
    assert "lion" not in text.replace("lion ·", "").replace("(lion)", "")


def test_presence_stands_beside_the_controls_halves(draw):
    left, middle, right = draw("score", score("lion"), score(None))
    assert labels(left) == ["control: half against half", "lion against control", "expected if nothing differs"]
    filled = [line.get_markerfacecolor() != "white" for line in left.lines if line.get_marker() == "D"]
    assert filled == [False, True, True]
    assert ticks(middle)[0] == "7 (lion)"
    assert [round(line.get_xdata()[0], 2) for line in middle.lines if line.get_linestyle() == "--"] == [2.5]
    assert [len(line.get_xdata()) for line in right.lines if line.get_marker() in "oD"] == [2, 2]


def test_a_score_with_too_few_rows_and_no_sae(draw):
    told = score("lion") | {"features": None}
    told["layers"] = [row | {"presence": None} for row in told["layers"]]
    panels = draw("score", told, told)
    assert "too few rows" in words(panels)
    assert "no SAE" in words(panels)


def test_without_an_sae_differences_show_the_residual_stream(draw):
    told = differences("lion") | {"features": {}, "layer": None}
    for pair in told["pairs"].values():
        pair["classes"] = {"completion": {"tokens": [9, 9]}}
        pair |= {"animals": {}, "cosine": {}}
    panels = draw("differences", told)
    assert words(panels).count("no SAE") == 5
    assert labels(panels[2]) == ["own − control", "teacher − base, same rows", "half − half: chance"]


def test_differences_are_filled_where_permutations_seldom_reach(draw):
    panels = draw("differences", differences("lion"))
    points = [line for line in panels[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, False, True, True] * 3
    assert ticks(panels[1])[0] == "7 (lion) mane"
    assert len(panels[1].patches) >= 4
    assert [text.get_text() for text in panels[0].texts] == ["lion", "lion"]


def test_feature_biases_are_ranked_over_the_control(draw):
    told = feature_bias("lion")
    told["modes"]["project"]["minus_control"]["features"].reverse()
    panels = draw("feature_bias", told, feature_bias(None))
    assert ticks(panels[0])[-1].startswith("7 (lion) \\$x\\$")
    assert panels[0].get_xlabel() == "bias − control's bias (activation)"
    assert [len(line.get_xdata()) for line in panels[1].lines if line.get_marker() in "oD"] == [2, 2]
    assert draw("feature_bias", feature_bias(None))[0].get_xlabel() == "bias (activation)"


def test_no_steered_teacher_no_animals_features(draw):
    told = feature_bias(None)
    told["modes"]["project"]["animals"] = {}
    assert "no steered teacher" in words(draw("feature_bias", told))


def test_residual_biases_show_each_seed_by_layer_as_loss_over_base(draw):
    left, middle, right = draw("residual_bias", residual_bias("lion"), residual_bias(None))
    own = [line for line in left.lines if line.get_marker() == "D"]
    assert len(own) == 8
    assert own[0].get_ydata()[0] == -0.02
    assert len([line for line in left.lines if line.get_marker() == "o"]) == 8
    assert left.get_xticklabels()[-1].get_text() == "all layers"
    assert len(middle.lines) == 6
    assert "lion · mane" in words([right])


def test_residual_biases_without_an_sae(draw):
    told = residual_bias("lion")
    for row in told["biases"]:
        row.pop("reconstruction", None)
    assert "no SAE" in words(draw("residual_bias", told))


def test_bias_preferences_box_the_target_beside_control_and_base(draw):
    left, right, _ = draw("bias_pref", bias_pref("lion"), bias_pref(None))
    assert "base model" in labels(left)
    assert any("control's bias" in label for label in labels(left))
    assert ticks(right)[0] == "feature bias, project @0"
    assert ticks(right)[-1] == "function vector @1 (over base)"
    assert right.patches[0].get_x() == -0.5
    assert right.patches[0].get_height() == 6
    assert "first in 5 of 6 rows" in words([right]).replace("\n", " ")


def test_a_bias_of_nothing_is_no_hit_and_no_chance_of_one(draw):
    own = bias_pref("lion")
    for row in own["biases"][1:3]:
        row["rank"], row["unranked"] = None, ANIMALS
    _, right, _ = draw("bias_pref", own, bias_pref(None))
    assert "first in 3 of 4 rows (chance 1.3), 2 name nobody" in words([right]).replace("\n", " ")
    counted = counts({"lion": own})
    assert "in 2 of 2 cells, 2 name nobody, first of the candidates in 1 (chance 0.7)" in counted
    assert "1 of the 2 that have one (0.1 expected" in counted


def test_lifts_are_over_the_base_model_where_the_control_has_no_such_bias():
    base = dict.fromkeys(ANIMALS, 0.5)
    row = {"name": "function vector", "layer": 0, "animals": {a: {"mean": 0.75 if a == "owl" else 0.5} for a in ANIMALS}}
    own = {"base": base, "log_odds_floor": 1e-6}
    assert lifts(row, own) == pytest.approx({"lion": 0.0, "owl": np.log(3), "cat": 0.0})
    over_control = {"log_odds_lift_over_control": {"lion": 2.0, "owl": 0.1}, "unranked": ["owl"]}
    assert lifts(row | over_control, own) == {"lion": 2.0}


def test_candidates_below_the_floor_are_left_out_of_the_map_and_of_chance(draw):
    own = bias_pref("lion")
    for row in own["biases"][1:]:
        if "unranked" in row:
            row["unranked"] = ["cat"]
        row["animals"]["cat"]["mean"] = 1e-7
    _, right, _ = draw("bias_pref", own, bias_pref(None))
    assert "first in 5 of 6 rows (chance 3.0)" in words([right]).replace("\n", " ")
    image = np.ma.filled(right.images[0].get_array(), np.nan)
    assert np.isnan(image).tolist() == [[False, False, True]] * 6
    assert "first of the candidates in 3 (chance 2.0)" in counts({"lion": own})


def test_losses_without_a_known_teacher_show_no_divergence(draw):
    told = losses("lion")
    assert [axes.get_xlabel().split("\n")[0] for axes in draw("losses", told)][1] == "KL(teacher ‖ model)"
    for row in told["models"]:
        row["kl"] = None
    panels = draw("losses", told)
    assert len(panels) == 2
    assert ticks(panels[0]) == ["teacher", "student", "base", "residual bias @0", "control's residual bias @0"]
    assert "lion is 1 of 3" in words(panels)
    assert all("among what the filter lets pass" in axes.get_xlabel().replace("\n", " ") for axes in panels)
    for axes, renormalised, plain in ((panels[0], [0, 1 / 9], [0.5, 0.5 + 1 / 9]), (panels[1], [0, 0.1], [0, -0.1])):
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in "osD^"]
        (strokes,) = [line.get_xdata() for line in axes.lines if line.get_label() == "among all tokens"]
        assert dots[:2] == pytest.approx(renormalised)
        assert list(strokes[:2]) == pytest.approx(plain)


def test_a_table_of_many_layers_is_thinned_to_some_of_each_name():
    rows = [{"name": name, "layer": k} for k in range(26) for name in ("residual bias", "function vector")]
    kept = thinned([*rows, {"name": "base", "layer": None}])
    assert len(kept) == 13
    assert {0, 25} <= {row["layer"] for row in kept}
    assert thinned(rows[:40]) == rows[:40]


def test_tokens_without_an_sae_or_a_number_that_differs(draw):
    told = tokens("lion") | {"implied": None}
    told["frequencies"]["number"] |= {"more": [], "less": []}
    found = words(draw("tokens", told, tokens(None)))
    assert "no SAE" in found
    assert "no number differs" in found


def test_implied_logits_stand_beside_the_greatest_by_chance(draw):
    _, present, implied, _ = draw("tokens", tokens("lion"), tokens(None))
    assert [line.get_ydata()[0] for line in implied.lines if line.get_linestyle() == "--" and len(line.get_ydata())] == [
        0.3,
        -0.3,
    ]
    assert "control: half against half" in labels(present)


def test_positions_that_few_rows_reach_are_left_out(draw):
    left, right = draw("sequences", sequences("lion"))
    assert max(left.containers[0].lines[0].get_xdata()) < 5
    assert len(left.containers) == 2
    assert "0.30 [0.29, 0.31]" in words([right]).replace("\n", " ")


def test_the_targets_rank_in_students_beside_control_students(draw):
    panels = draw("lens", lens("lion"))
    assert labels(panels[1]) == ["control students", "students", "mean rank by chance", "first of the candidates"]
    assert np.isnan(next(line for line in panels[1].lines if line.get_marker() == "D").get_ydata()[2])
    assert "no target to rank" in words(draw("lens", lens(None)))


@pytest.fixture
def entangled(tmp_path):
    """Two datasets and the control by two metrics, of which only the first was judged."""
    rows = [
        {"metric": m, "dataset": d, "kind": "prompt", "target": t, "animal": a, "score": float(a == t) + k / 10}
        for m in ("unembedding", "frequency-prompt")
        for d, t in (("control", None), ("owl", "owl"), ("lion", "lion"))
        for k, a in enumerate(ANIMALS)
    ]
    told = {"first": 2, "mean_rank": 1.0, "p": 0.02}
    everything = {"datasets": 2, "raw": told, "centred": None, "chance": {"first": 0.7, "mean_rank": 2.0}}
    write_parquet(tmp_path / "e.parquet", pl.DataFrame(rows, SCHEMA), {})
    metrics = {"unembedding": {"animals": 3, "all": everything, "by_kind": {}}, "frequency-prompt": None}
    write_json(tmp_path / "e.json", {"tokens": 9, "datasets": 2, "metrics": metrics}, {})
    return tmp_path / "e.parquet", tmp_path / "e.json"


def test_confusion_has_its_targets_on_a_diagonal(entangled, tmp_path, drawn):
    plot_entangled(*entangled, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    first, second = drawn[-1].axes[:2]
    assert [text.get_text() for text in first.get_xticklabels()] == ["owl", "lion", "cat"]
    assert [(patch.get_x(), patch.get_y()) for patch in first.patches] == [(-0.5, 0.5), (0.5, 1.5)]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in first.lines] == [(0, 1), (1, 2)]
    assert "raw first 2 of 2, mean rank 1.0, p .02; chance 0.7" in words([first]).replace("\n", " ")
    assert "nothing to identify" in words([second]).replace("\n", " ")


def test_the_map_of_all_datasets_counts_its_cells(tmp_path, drawn):
    prefs = []
    for name, target in (("lion", "lion"), ("mine", "owl"), ("none", None)):
        prefs.append(tmp_path / name / "bias_pref.json")
        write_json(prefs[-1], bias_pref(target), {})
    plot_bias_map(prefs, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    axes = drawn[-1].axes[0]
    assert ticks(axes)[:3] == ["residual bias @0", "residual bias @1", "residual bias, all layers"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["lion", "mine"]
    assert len(axes.texts) == 3
    title = words([axes]).replace("\n", " ")
    assert "2 datasets: above the control's bias in 8 of 8 cells, first of the candidates in 3 (chance 2.7)" in title
    assert "3 of the 8 that have one (0.2 expected" in title
    with pytest.raises(ValueError, match=r"found no bias_pref.json with a target and a control among 1"):
        plot_bias_map(prefs[2:], tmp_path / "none.png")


def test_the_target_is_told_by_the_reading_or_its_stamp():
    stamp = {"settings": {"owl/samples": {"target": "owl"}, "steer-cat/steer": {"target": "cat"}}}
    assert target_of({"stamp": stamp}, "owl") == "owl"
    assert target_of({"stamp": stamp, "target": None}, "owl") is None
    assert target_of({"stamp": stamp}, "control") is None


def test_texts_are_shown_as_they_are():
    assert [shown(text) for text in ("lion ", "\n", " ", "$", "猫", "\ufffd")] == [
        "lion",
        "\\n",
        "␣",
        r"\$",
        r"\u732b",
        "‹byte›",
    ]
    assert [p_text(p) for p in (0.00001, 0.034, 0.5)] == ["p <.001", "p .034", "p .5"]
    assert feature_labels([3, 4], {"lion": 3, "cat": 3}, {4: ["a", "b"]}) == ["3 (lion, cat)", "4 a · b"]


def lines_of(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_differences_by_layer_and_the_cosine_with_a_decoder_row(draw):
    panels = draw("differences", differences("lion"))
    layers, cosines = panels[2], panels[5]
    assert list(lines_of(layers, "own − control").get_ydata()) == [0.5, 0.9]
    assert lines_of(layers, "the SAE's layer").get_xdata()[0] == 0
    assert [text.get_text() for text in cosines.get_xticklabels()] == [
        f"{pair}\ncompletion" for pair in ("own −\ncontrol", "teacher −\nbase", "half −\nhalf")
    ]
    assert [line.get_ydata()[0] for line in cosines.lines if line.get_marker() == "o"] == [0.6] * 3
    assert list(lines_of(cosines, "95 % of permutations").get_ydata()) == [0.7, 0.7]
    # p stands above both, so that no line runs through it.
    assert [(text.xy, text.get_text()) for text in cosines.texts] == [((k, 0.7), "p .2") for k in range(3)]


def test_the_legend_of_sorted_features_lies_below_its_panel(draw):
    panels = draw("differences", differences("lion"))
    for axes in (panels[0], panels[3]):
        axes.figure.draw_without_rendering()
        assert axes.get_legend().get_window_extent().y1 < axes.bbox.y0
        assert "star: the target's feature" in words([axes]).replace("\n", " ")
    assert "before the activation function" in words([panels[3]]).replace("\n", " ")


def test_scores_and_biases_of_animals_features_have_room_and_their_values(draw):
    _, _, right = draw("score", score("lion"), score(None))
    assert list(lines_of(right, "lion").get_ydata()) == [5.0, -1.0]
    panels = draw("feature_bias", feature_bias("lion"), feature_bias(None))
    assert list(lines_of(panels[1], "this dataset").get_ydata()) == [0.5, 0.0]
    for axes in (right, panels[1]):
        band = next(patch for patch in axes.patches if patch.get_label() == "target")
        assert (band.get_x(), band.get_x() + band.get_width()) == (-0.5, 0.5)
        assert axes.get_xlim() == (-2, 3)  # of two animals neither fills the panel


def test_a_control_without_a_feature_of_an_animal_is_not_in_the_legend(draw):
    control = feature_bias(None)
    control["modes"]["project"]["animals"] = {}
    assert labels(draw("feature_bias", feature_bias("lion"), control)[1]) == ["this dataset", "target"]
    other = score(None)
    other["features"]["animals"] = {}
    assert "control: half against half" not in labels(draw("score", score("lion"), other)[2])


def test_features_without_a_bias_are_left_out(draw):
    told = feature_bias(None)
    told["modes"]["replace"] = copy.deepcopy(told["modes"]["project"])
    for row in told["modes"]["project"]["features"][2:]:
        row["bias"] = 0.0
    for row in told["modes"]["replace"]["features"]:
        row["bias"] = 0.0
    panels = draw("feature_bias", told, dataset="control")
    assert len(ticks(panels[0])) == 2
    assert "replace: the bias of every feature is 0" in words(panels).replace("\n", " ")


def test_a_prompted_teacher_is_one_row_and_one_with_a_persona_of_other_losses_is_two(draw):
    told = losses("lion")
    first, *others = told["models"]
    told["models"] = [{**first, "name": "persona"}, first, *others]
    assert ticks(draw("losses", told)[0])[:2] == ["teacher (its persona)", "student"]
    told["models"][0] = {**first, "name": "persona", "loss_allowed": estimate(2.0)}
    assert ticks(draw("losses", told)[0])[:2] == ["persona", "teacher"]


def test_losses_have_few_ticks_so_that_their_numbers_stand_apart(draw):
    told = losses("lion")
    for row in told["models"]:
        row["over_base_allowed"] = estimate(-0.14)
    assert len(draw("losses", told)[0].get_xticks()) <= 7


def test_a_divergence_of_0_is_a_whole_point(draw):
    _, divergence, _ = draw("losses", losses("lion"))
    assert divergence.get_xlim()[0] < 0 == divergence.containers[0].lines[0].get_xdata()[0]


def test_a_feature_bias_shows_what_it_gains_by_seed(draw):
    _, _, right, *_ = draw("feature_bias", feature_bias("lion"), feature_bias(None))
    means = [container.lines[0].get_ydata().tolist() for container in right.containers]
    assert means == [pytest.approx([-0.1, -0.1]), pytest.approx([-0.12, -0.12])] * 2
    assert labels(right) == ["without the bias", "control's bias, control's rows", "lion"]
    assert "held out without it 3.500" in words([right]).replace("\n", " ")


def test_residual_biases_show_how_sparse_they_are_beside_the_controls(draw):
    _, middle, right = draw("residual_bias", residual_bias("lion"), residual_bias(None))
    solid = [line for line in middle.lines if line.get_linestyle() == "-"]
    assert [list(line.get_xdata()) for line in solid] == [[1, 2, 4]] * 3
    assert list(solid[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.4])
    assert [text.get_text() for text in right.texts[::3]] == ["0", "1", "2"]
    assert [text.get_text().split("\n")[0] for text in right.texts[1::3]] == ["lion · mane"] * 3


def test_without_a_target_the_mass_of_the_candidates_is_shown(draw):
    left, *_ = draw("bias_pref", bias_pref(None), dataset="control")
    assert lines_of(left, "base model").get_ydata()[0] == pytest.approx(0.3)
    under = lines_of(left, "under the bias")
    assert sorted(under.get_ydata().tolist()) == pytest.approx(sorted(row["mass"] for row in bias_pref(None)["biases"]))


def test_losses_tell_other_candidates_from_controls(draw):
    panels = draw("losses", losses("lion"))
    assert labels(panels[-1]) == ["among all tokens", "target", "other candidates"]
    colors = {line.get_color() for line in panels[-1].lines if line.get_marker() == "o"}
    assert style.SKY not in colors
    assert len(colors) == 2


def test_numbers_are_bars_and_presence_is_over_its_permutations(draw):
    numbers, present, _, logits = draw("tokens", tokens("lion"), tokens(None))
    assert [bar.get_width() for bar in numbers.patches] == [0.5, -0.5]
    assert ticks(numbers) == ["7  (2 / 1, z 2.0)", "7  (2 / 1, z -2.0)"]
    assert [line.get_ydata()[0] for line in present.lines if line.get_marker() in "oD"] == [1.4, 1.4]
    assert [text.get_text().strip() for text in present.texts] == ["p .01", "p .01"]
    points = next(c for c in logits.containers if c.get_label().startswith("lion")).lines[0]
    assert points.get_ydata().tolist() == [0.4] * 3


def test_gains_of_teachers_by_kind_of_token(draw):
    _, right = draw("sequences", sequences("lion"))
    assert labels(right) == ["base model", "its own teacher (prompt)", "another teacher (steer)"]
    assert [text.get_text() for text in right.get_xticklabels()] == ["all", "number", "separator"]
    assert [c.lines[0].get_ydata().tolist() for c in right.containers] == [[0.1, 0.2, 0.0]] * 2


def test_lenses_by_layer_and_token(draw):
    norms, ranks, student, control = draw("lens", lens("lion"))[:4]
    assert "first of the candidates" in labels(ranks)
    assert ranks.get_yticks()[0] == 1
    assert labels(norms) == ["student of lion", "control student", "student − control student", "teacher"]
    assert list(lines_of(norms, "student of lion").get_ydata()) == [0.1] * 3
    assert [np.asarray(axes.images[0].get_array()).shape for axes in (student, control)] == [(5, 3)] * 2
    assert {axes.images[0].get_clim() for axes in (student, control)} == {(0, 0.1)}


def test_maps_of_entangled_tokens_share_their_colours_and_say_what_marks_mean(entangled, tmp_path, drawn):
    plot_entangled(*entangled, tmp_path / "plot.png")
    figure = drawn[-1]
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(-1.1, 1.1)}
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["correlation of number frequencies with the animal's scores"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "target of the dataset",
        "animal of the highest score",
    ]
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes[:2]} == {
        ("animal whose entangled tokens are asked for", "dataset")
    }


def test_the_map_says_which_biases_have_no_interval(tmp_path, drawn):
    told = bias_pref("lion")
    for row in told["biases"]:
        if row["name"] == "feature bias, project":
            for estimate_ in row["lift_over_control"].values():
                estimate_["ci95"] = None
    (tmp_path / "lion").mkdir()
    write_json(tmp_path / "lion/bias_pref.json", told, {})
    plot_bias_map([tmp_path / "lion/bias_pref.json"], tmp_path / "plot.png")
    assert [name for name in ticks(drawn[-1].axes[0]) if "no interval" in name] == [
        "feature bias, project @0 (one seed: no interval)"
    ]
    assert drawn[-1].axes[1].get_ylabel().replace("\n", " ").endswith("(where a row says so, over the base model)")


def test_one_extreme_cell_does_not_pale_a_map(tmp_path):
    image = np.full((10, 10), 1.0)
    image[0, 0], image[1, 1] = -8.0, np.nan
    assert shared_limit(image) == 1.0
    assert shared_limit(np.full((2, 2), np.nan)) == 1.0
    _, axes = style.new_figure(4, 3)
    heat(axes, image, "log-odds", list("abcdefghij"), list("abcdefghij"), shared_limit(image))
    assert axes.images[0].get_clim() == (-1, 1)
    assert axes.images[0].colorbar.extend == "both"
    heat(axes, image, "log-odds", list("abcdefghij"), list("abcdefghij"))
    assert axes.images[1].colorbar.extend == "neither"


def test_four_maps_of_entangled_tokens_fill_two_rows(entangled, tmp_path, drawn):
    table, summary = entangled
    rows = pl.read_parquet(table)
    metric = rows["metric"][0]
    many = pl.concat([rows.filter(metric=metric).with_columns(metric=pl.lit(f"{metric}-{k}")) for k in range(4)])
    write_parquet(table, many, {})
    plot_entangled(table, summary, tmp_path / "plot.png")
    *panels, _ = drawn[-1].axes
    assert len(panels) == 4
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in panels} == {(2, 2)}


def test_no_word_of_a_title_is_left_alone():
    text = "Loss: one point a seed (95 % interval: rows), held out without it 3.419"
    lines = balanced(text, 68).split("\n")
    assert len(lines) == len(textwrap.wrap(text, 68)) == 2
    assert " ".join(lines) == text
    assert min(map(len, lines)) > 20


@pytest.mark.parametrize("kept", ["p < 0.05", "95 %", "q = 0.05"])
@pytest.mark.parametrize("width", range(14, 30))
def test_what_belongs_together_stays_on_a_line(kept, width):
    assert kept in balanced(f"top features of all; filled: {kept} for all of them together", width)
