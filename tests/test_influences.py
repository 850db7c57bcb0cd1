"""What features cause, on the page of features: shown where it has been measured of this SAE, and never asked for."""

from pathlib import Path
from typing import Any

import pytest
from browser import asked, needs_browser
from example import study
from test_lab_browser import FILES, HOSTILE, home
from test_other_saes import data_of

from undertone.lab.browser import write_browser
from undertone.runtime.files import write_json
from undertone.study.config.lab import Browser
from undertone.study.node import Node
from undertone.study.stamp import own_settings, stamp

__all__ = ["home"]  # the fixture
STAMP = {"settings": {"sae": {"k": 4}, "browser": {}}, "code": {"a.py": "1"}, "files": {}}


def dose(mode: str, multiple: float, nulls: bool = True) -> dict[str, Any]:
    band = {
        "like": {"rise": {"quantile_05": -0.5, "quantile_95": 0.5}},
        "drawn": {"rise": {"quantile_05": -1, "quantile_95": 0.25}},
    }
    tokens = [[HOSTILE[0], 2.0], ["same", 1.0]]
    said = {"rise": 1.5 * multiple, "nulls": band if nulls else {}, "kl": 0.25, "tokens": tokens, "greedy": HOSTILE[1]}
    return {"mode": mode, "multiple": multiple, **said}


def written(folder: Path, feature: int, stamp: dict[str, Any] = STAMP, nulls: bool = True) -> None:
    doses = [dose(mode, multiple, nulls) for mode in ("add", "clamp") for multiple in (-1.0, 0.0, 2.0)]
    body = {"verdict": f"feature {feature} raises <b>its</b> tokens", "raises": {"mode": "clamp"}, "doses": doses}
    (folder / "influence").mkdir(exist_ok=True)
    write_json(folder / f"influence/{feature}.json", body, stamp)


def page_of(home: Path, folder: Path, numbers: list[int], feature: str = "") -> Path:
    """The page, with its tables beside the files of these features."""
    for name in FILES[:-1]:
        (folder / name).write_bytes((home / name).read_bytes())
    page = folder / f"features{feature}.html"
    page.parent.mkdir(exist_ok=True)
    influences = dict.fromkeys(map(str, numbers), "version")
    write_browser(*(folder / name for name in FILES[:-1]), None, {}, {}, page, Browser(), {}, influences, feature, STAMP)
    return page


def test_the_page_holds_what_has_been_measured_of_the_mode_that_raises_most(home: Path, tmp_path: Path) -> None:
    written(tmp_path, 1)
    written(tmp_path, 2, nulls=False)
    features = {each["id"]: each for each in data_of(page_of(home, tmp_path, [1, 2]))["features"]}
    assert {k for k, each in features.items() if "influence" in each} == {1, 2}
    own = features[1]["influence"]
    assert own["mode"] == "clamp"
    assert own["rows"][2] == [2, 3, [-1, 0.5], 0.25, [HOSTILE[0], "same"], HOSTILE[1]]
    assert [row[0] for row in own["rows"]] == [-1, 0, 2]
    assert features[2]["influence"]["rows"][0][2] is None


@pytest.mark.parametrize(
    ("part", "kept"),
    [({"settings": {"sae": {"k": 5}}}, False), ({"code": {"a.py": "2"}}, False), ({"code": {"b.py": "2"}}, True)],
    ids=["another SAE", "other code", "code of its own"],
)
def test_what_was_measured_of_another_sae_is_not_shown(
    home: Path,
    tmp_path: Path,
    part: dict[str, Any],
    kept: bool,
) -> None:
    written(tmp_path, 1, {**STAMP, **part})
    features = {each["id"]: each for each in data_of(page_of(home, tmp_path, [1]))["features"]}
    assert ("influence" in features[1]) == kept


@needs_browser
@pytest.mark.parametrize("feature", ["", "/1"], ids=["all", "one"])
def test_the_card_shows_it_and_harms_nothing(home: Path, tmp_path: Path, feature: str) -> None:
    written(tmp_path, 1)
    script = """
      location.hash = "#1";
      await new Promise((done) => setTimeout(done, 20));
      const own = $("influence");
      const link = own.querySelector("a").getAttribute("href");
      say([own.querySelector("p").firstChild.textContent, own.querySelectorAll("tbody tr").length, link,
        [...own.querySelectorAll("tbody tr:last-child td")].slice(0, 3).map((each) => each.textContent),
        own.querySelector("tbody tr:last-child td.text").title, own.querySelector("b") === null,
        document.documentElement.scrollWidth <= innerWidth]);
    """
    page = page_of(home, tmp_path, [1], feature)
    said = asked(page, script, "--window-size=1280,800")
    root = "../" if feature else ""
    figures = ["2", "+3.00 [−1.00, +0.50]", "0.250"]
    verdict = "Feature 1 raises <b>its</b> tokens. "
    assert said == [verdict, 3, f"{root}influence/plots/1.png", figures, HOSTILE[1], True, True]
    assert asked(page, script, "--window-size=500,800")[-1] is True
    if not feature:
        script = 'location.hash = "#2"; await new Promise((done) => setTimeout(done, 20)); say($("influence") === null);'
        assert asked(page, script) is True


def test_a_page_is_stale_when_something_is_measured_and_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page, other = Node("browser", None, "wide"), Node("browser")
    before, of_other = stamp(study(), page), stamp(study(), other)
    assert own_settings(before, page)["influences"] == {}
    (tmp_path / "results/sae-wide").mkdir(parents=True)
    written(tmp_path / "results/sae-wide", 17)
    (tmp_path / "results/sae-wide/influence/.18.json.1-a.partial").touch()
    after = stamp(study(), page)
    assert list(own_settings(after, page)["influences"]) == ["17"]
    assert stamp(study(), other) == of_other
    assert "influence" not in {key.partition("-")[0] for key in after["settings"]}
