"""What the page of features says of other SAEs: the parts of a feature in wider ones, and its match in each of a pair."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import asked, needs_browser
from test_lab_browser import FILES, HOSTILE, MISSING, N, home, write

from undertone.lab.browser import write_browser
from undertone.lab.other_saes import partners, parts
from undertone.runtime.files import write_json, write_parquet
from undertone.study.config.lab import Browser

__all__ = ["home"]  # the fixture
PAIRS = {"seeds": {"side": "a", "other": "seed1"}, "mine": {"side": "b", "other": ""}}
# Feature 1 is split in the wider SAE alone, 2 by another training, too; 3 only by that.
SPLIT, BOTH, BY_CHANCE = 1, 2, 3
UNMATCHED = 5


def tree(parent: int, children: list[int]) -> dict[str, Any]:
    own = [{"feature": k, "cosine": 0.95 - k / 100, "contained": 0.5, "place": [0.0, 1.0]} for k in children]
    return {"parent": parent, "coverage": 0.5, "hierarchy": False, "children": own}


def written(folder: Path, baseline: bool = True) -> tuple[Path, dict[str, Path]]:
    """`splitting.json`, and the features of the wider SAE."""
    share = {"split": 0.2, "same": 0.2, "near": 0.2, "novel": 0.4}
    about = {"alive": 9, "null95": 0.4, "shares": share, "hierarchies": 0.0}
    excess = {"children": 0.0, "parents": 0.05, "hierarchies": 0.0} if baseline else None
    wide = {
        **about,
        "d_sae": 24,
        "split_parents": 0.25,
        "excess": excess,
        "trees": [tree(SPLIT, [0, 7, 23]), tree(BOTH, [3, 4])],
    }
    seed = {**about, "d_sae": N, "split_parents": 0.2, "excess": None, "trees": [tree(BOTH, [8, 9]), tree(BY_CHANCE, [1, 2])]}
    others = {"wide": wide, **({"seed1": seed} if baseline else {})}
    result = {"d_sae": N, "alive": 9, "same": 0.9, "split": 0.7, "baselines": ["seed1"] if baseline else [], "others": others}
    write_json(folder / "splitting.json", result, {})
    tokens = [[{"text": HOSTILE[k % N], "share": 0.5}, {"text": f"<i>{k}", "share": 0.1}] for k in range(24)]
    (folder / "sae-wide").mkdir(exist_ok=True)
    write_parquet(folder / "sae-wide/features.parquet", pl.DataFrame({"feature": range(24), "tokens": tokens}), {})
    return folder / "splitting.json", {"sae-wide": folder / "sae-wide/features.parquet"}


def matched(folder: Path) -> dict[str, Path]:
    """The matches of a pair whose first SAE this is, and of one whose second it is."""
    found = {}
    for name, turn in (("seeds", 1), ("mine", -1)):
        rows = []
        for k in range(N):
            side = {"a": k, "b": (k + 1) % N, "tokens_a": [HOSTILE[k]], "tokens_b": [HOSTILE[(k + 1) % N], "same", "x", "y"]}
            if turn < 0:
                side = {"a": side["b"], "b": side["a"], "tokens_a": side["tokens_b"], "tokens_b": side["tokens_a"]}
            why = "token" if k == 2 else None
            row = {**side, "r": 0.9 - k / 20, "p": 0.001 * k, "r_token": None if k == 2 else 0.3, "r_token_null95": 0.0312345}
            rows.append({**row, "way": "best_a", "trivial": None, "r": 0.99})
            if k not in (MISSING, UNMATCHED):
                rows.append({**row, "way": "one", "trivial": why})
        found[f"pair-{name}"] = folder / f"{name}.parquet"
        write_parquet(found[f"pair-{name}"], pl.DataFrame(rows, infer_schema_length=None), {})
    return found


def beside_others(home: Path, folder: Path, baseline: bool = True, feature: str = "") -> Path:
    splitting, wider = written(folder, baseline)
    page = folder / f"features{feature}.html"
    page.parent.mkdir(exist_ok=True)
    write_browser(
        *(home / name for name in FILES[:-1]), splitting, wider, matched(folder), page, Browser(), PAIRS, {}, feature, {}
    )
    return page


def data_of(page: Path) -> dict[str, Any]:
    held = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert held
    content: dict[str, Any] = json.loads(held[1])
    return content


@pytest.fixture(scope="module")
def page(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beside_others(home, tmp_path_factory.mktemp("others"))


def test_the_page_holds_what_the_tables_of_other_saes_hold(page: Path) -> None:
    data = data_of(page)
    wide = {"folder": "sae-wide", "title": "wide", "d_sae": 24, "split": 0.7, "null95": 0.4, "parents": 0.25}
    assert data["about"]["parts"] == {"wide": {**wide, "parents_null": 0.2}}
    assert data["about"]["partners"] == {
        "seeds": {"side": "a", "folder": "sae-seed1", "title": "seed1"},
        "mine": {"side": "b", "folder": "sae", "title": "the study's own SAE"},
    }
    features = {each["id"]: each for each in data["features"]}
    children = [[k, round(0.95 - k / 100, 4), [HOSTILE[k % N], f"<i>{k}"]] for k in (0, 7, 23)]
    assert features[SPLIT]["parts"] == {"wide": {"children": children, "equal": {"seed1": 0}, "beyond": True}}
    assert features[BOTH]["parts"]["wide"]["equal"] == {"seed1": 2}
    assert not features[BOTH]["parts"]["wide"]["beyond"]
    assert {k for k, each in features.items() if "parts" in each} == {SPLIT, BOTH}
    assert {k for k, each in features.items() if "partners" not in each} == {MISSING, UNMATCHED}
    for name in ("seeds", "mine"):
        for k in set(features) - {MISSING, UNMATCHED}:
            given = None if k == 2 else 0.3
            figures = [round(0.9 - k / 20, 4), round(0.001 * k, 6), given, 0.03123]
            why, tokens = "token" if k == 2 else None, [HOSTILE[(k + 1) % N], "same", "x", "y"]
            assert features[k]["partners"][name] == [(k + 1) % N, *figures, why, tokens]


def test_without_an_sae_of_equal_width_nothing_is_beyond_chance(home: Path, tmp_path: Path) -> None:
    data = data_of(beside_others(home, tmp_path, baseline=False))
    assert data["about"]["parts"]["wide"]["parents_null"] is None
    own = data["features"][SPLIT]["parts"]["wide"]
    assert (own["equal"], own["beyond"], len(own["children"])) == ({}, None, 3)


def test_a_page_without_other_saes_says_nothing_of_them(home: Path) -> None:
    assert (parts(None, {}), partners({}, {})) == ({}, {})
    data = data_of(write(home))
    assert not {"parts", "partners"} & {*data["about"], *data["features"][SPLIT]}


@needs_browser
def test_the_card_shows_parts_with_what_another_training_gives(page: Path) -> None:
    script = """
      const said = {};
      for (const id of [1, 2, 3]) {
        choose(id);
        const own = document.querySelector('[data-parts="wide"]');
        const rows = [...own.querySelectorAll("li")];
        const shown = (row) => [row.className, row.querySelector("a").getAttribute("href"),
          [...row.querySelectorAll(".chip")].map((each) => each.textContent), row.lastChild.textContent];
        said[id] = [own.querySelector("p").textContent, rows.map(shown)];
      }
      choose(4);
      said.dead = document.querySelectorAll("#others").length;
      say(said);
    """
    said = asked(page, script)
    share = "Of all features 25\u00a0% are split, in SAEs of equal width 20\u00a0%."
    sentence, rows = said[str(SPLIT)]
    assert sentence == f"split into 3, beyond SAEs of equal width (seed1: none). {share}"
    assert rows[0] == ["", "../sae-wide/features.html#0", [HOSTILE[0].replace(" ", "·"), "<i>0"], "+0.95"]
    assert [row[1] for row in rows] == [f"../sae-wide/features.html#{k}" for k in (0, 7, 23)]
    sentence, rows = said[str(BOTH)]
    assert sentence == f"split into 2, not beyond SAEs of equal width (seed1: 2). {share}"
    assert [row[0] for row in rows] == ["chance", "chance"]
    assert said[str(BY_CHANCE)] == [f"not split. {share}", []]
    assert said["dead"] == 0


@needs_browser
def test_the_card_shows_matches_with_their_chance_and_where_they_lie(page: Path) -> None:
    script = """
      const of = (name) => document.querySelector(`[data-pair="${name}"]`);
      const links = (name) => [...of(name).querySelectorAll("a")].map((each) => each.getAttribute("href"));
      choose(1);
      const title = of("mine").querySelector("h4").textContent;
      const said = { own: [of("seeds").textContent, links("seeds"), links("mine"), title] };
      choose(2);
      const mark = of("seeds").querySelector(".mark");
      said.trivial = [mark.textContent, mark.title, of("seeds").querySelector("li").className];
      choose(5);
      said.none = [of("seeds").textContent, links("seeds")];
      for (const feature of data.features) choose(feature.id);
      said.requests = performance.getEntriesByType("resource").length;
      said.foreign = document.querySelectorAll("img, iframe, object, embed, link").length + document.scripts.length;
      say(said);
    """
    said = asked(page, script)
    text, links, of_other, title = said["own"]
    assert "r +0.85, p 0.00100; given the token +0.30, chance 0.0312" in text
    assert "samex" in text and "y" not in text.split("samex")[1].split("+")[0]  # the first three tokens
    assert links == ["../pair-seeds/map.html#a1", "../sae-seed1/features.html#2"]
    assert of_other == ["../pair-mine/map.html#b1", "../sae/features.html#2"]
    assert title == "Match in the study's own SAE"
    assert said["trivial"] == ["trivial: token", "given the token, no better than chance", "chance"]
    assert said["none"][0].endswith("no match: it fires on too few of the tokens, or all are matched to others · maps")
    assert said["none"][1] == [f"../pair-seeds/map.html#a{UNMATCHED}"]
    assert (said["requests"], said["foreign"]) == (0, 3)  # the page's two scripts, and the one that asks


@needs_browser
def test_hostile_tokens_of_other_saes_are_text(page: Path) -> None:
    script = """
      const texts = {};
      for (const feature of data.features) {
        choose(feature.id);
        texts[feature.id] = document.querySelector('[data-pair="seeds"] .chip')?.textContent ?? null;
      }
      say(texts);
    """
    signs = {" ": "·", "\n": "↵", "\t": "⇥", "\u2028": "␣", "\u202e": "∅"}
    texts = asked(page, script)
    for k in set(range(N)) - {MISSING, UNMATCHED}:
        assert texts[str(k)] == ("".join(signs.get(each, each) for each in HOSTILE[(k + 1) % N]) or "∅")


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_card_is_no_wider_than_the_window(page: Path, width: int) -> None:
    script = """
      choose(1);
      const right = (each) => each.getBoundingClientRect().right;
      const wide = [...document.querySelectorAll("#others *")].filter((each) => right(each) > innerWidth + 1);
      say([innerWidth, document.querySelectorAll("#others > .relations > div").length, wide.length]);
    """
    inner, lists, wide = asked(page, script, f"--window-size={width},900")
    assert (lists, wide) == (3, 0)
    assert inner >= min(width, 500)  # Chromium's own least


def test_links_of_a_page_of_one_feature_lead_out_of_its_folder(home: Path, tmp_path: Path) -> None:
    data = data_of(beside_others(home, tmp_path, feature=f"/{SPLIT}"))
    assert data["about"]["root"] == "../.."
    assert set(data["features"][0]) >= {"parts", "partners"}
