import pytest
from test_reading_plots import MADE, assert_png, labels, words

from undertone.plots import style, summary
from undertone.plots.reading_panels import with_target
from undertone.plots.summary import PANELS, make_summary, short
from undertone.runtime.files import write_json


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Draws a page of readings by name, and returns its figure."""

    def make(own, control=(), dataset="lion"):
        figures = []
        monkeypatch.setitem(style.STYLE, "savefig.dpi", 80)
        monkeypatch.setitem(style.STYLE, "figure.constrained_layout.use", False)  # slow, and nothing here asks where panels lie
        monkeypatch.setattr(summary, "save", lambda figure, path: (figures.append(figure), style.save(figure, path)))
        paths = {}
        for which, names, target in (("own", own, "lion" if dataset == "lion" else None), ("control", control, None)):
            paths[which] = {name: tmp_path / which / f"{name}.json" for name in names}
            for name, path in paths[which].items():
                write_json(path, MADE[name](target), {})
        readings = paths["own"] | {f"control_{name}": path for name, path in paths["control"].items()}
        make_summary(tmp_path / "summary.png", dataset, **readings)
        assert_png(tmp_path / "summary.png")
        return figures[0]

    return make


ALL = ["score", "feature_bias", "residual_bias", "bias_pref", "losses", "tokens"]


def test_a_page_of_everything(page):
    figure = page(ALL, ALL)
    text = words(figure.axes).replace("\n", " ")
    assert len(figure.axes) == len(PANELS) == 6
    assert figure.get_suptitle() == "lion: target lion"
    assert "What the numbers alone say" in words(figure.axes[-1:]).replace("\n", " ")
    assert any("control: half against half" in label for label in labels(figure.axes[-1]))
    assert "lion is 1 of 3" in text
    assert "control: half against half" in labels(figure.axes[0])
    told = figure.get_supxlabel().replace("\n", " ")
    assert "own: -0.0250 at layer 0, the best of 3, -0.0550 at all layers" in told
    assert "mean z² 1.40 (1.00 by permutation, p .01)" in told
    assert "logit 1 of 3" in told


@pytest.mark.parametrize("missing", ALL)
def test_what_is_missing_is_said(page, missing):
    figure = page([name for name in ALL if name != missing])
    assert (f"no {missing}" in words(figure.axes)) == (missing != "residual_bias")


def test_the_page_of_the_control_and_of_nothing(page):
    figure = page(ALL, dataset="control")
    assert figure.get_suptitle() == "control: no target is known"
    assert "no target; how much of the answers the candidates have" in words(figure.axes).replace("\n", " ")
    text = words(page([]).axes)
    assert all(f"no {name} of" in text for name in ("score", "feature_bias", "bias_pref", "losses", "tokens"))


def test_a_reading_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a summary has no place for lens; expected some of score, feature_bias"):
        make_summary(tmp_path / "plot.png", "lion", lens=tmp_path / "lens.json")


def test_the_short_table_has_the_best_layer_of_each_name():
    rows = [("base", None, 3.0), ("residual bias", 0, 2.9), ("residual bias", 1, 2.5), ("SAE spliced in", 0, 4.0)]
    models = [{"name": name, "layer": layer, "loss_allowed": {"mean": mean}} for name, layer, mean in rows]
    assert [(row["name"], row["layer"]) for row in short(models)] == [("residual bias", 1), ("base", None)]


def test_the_target_is_shown_wherever_it_stands():
    ranked = [(name, {}) for name in ("tiger", "fox", "lion", "owl")]
    assert [name for name, _ in with_target(ranked, "owl", 3)] == ["tiger", "fox", "owl"]
    assert [name for name, _ in with_target(ranked, "fox", 3)] == ["tiger", "fox", "lion"]
    assert [name for name, _ in with_target(ranked, None, 4)] == ["tiger", "fox", "lion", "owl"]
