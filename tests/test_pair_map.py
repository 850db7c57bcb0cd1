"""The page of a pair's maps, opened in a browser: every feature is reached, its match is marked, no text gets out of hand."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import asked, browse, needs_browser
from test_lab_browser import HOSTILE

from undertone.lab.map import SCHEMA as MAP_SCHEMA
from undertone.pairs.pair_map import page_data, write_pair_map
from undertone.runtime.files import write_json, write_parquet

N = len(HOSTILE)
# Of a feature 10 is on the map without a match, 11 has a match and no place.
UNMATCHED, UNPLACED = 10, 11
SIGNS = {" ": "·", "\n": "↵", "\t": "⇥", "\u2028": "␣", "\u202e": "∅"}


def partner(k: int) -> int:
    """The best of b for a feature of a: all even ones have the same."""
    return 0 if k % 2 == 0 else k


def lead(k: int) -> int:
    """The best of a for a feature of b."""
    return 9 if k == UNMATCHED else k


def match(a: int, b: int, way: str, r: float = 0.5, trivial: str | None = None) -> dict[str, Any]:
    said = {"a": a, "b": b, "way": way, "r": r, "p": 0.01, "r_token": r / 2, "r_token_null95": 0.03, "trivial": trivial}
    said |= {"count_a": 100 + a, "count_b": 200 + b, "p_a_given_b": 0.25, "p_b_given_a": None, "decoder_cosine": None}
    return said | {"tokens_a": [HOSTILE[a], "same"], "tokens_b": [HOSTILE[b]]}


def rows() -> list[dict[str, Any]]:
    of_a = [match(k, partner(k), "best_a", 0.9 - k / 20, "token" if k == 3 else None) for k in range(N) if k != UNMATCHED]
    of_b = [match(lead(k), k, "best_b", 0.9 - k / 20, "token" if k == 3 else None) for k in range(N)]
    one = [match(k, (k + 1) % N, "one", 0.3) for k in range(N) if k != UNMATCHED]
    mutual = [match(1, 1, "mutual", 0.85)]
    return [*of_a, *of_b, *one, *mutual]


def written(home: Path) -> Path:
    write_parquet(home / "matches.parquet", pl.DataFrame(rows(), infer_schema_length=None), {})
    meaningful = {"n": 9, "r": {"median": 0.61, "ci95": [0.5, 0.7]}}
    side = {"model": None, "layer": 1, "features": 512, "dead": 100}
    about = {"tokens": 5000, "warnings": ["SAE b: <i>most</i> are dead"], "a": side, "b": {**side, "model": "other/model"}}
    headline = {"one": {"meaningful": meaningful, "by_chance": {"frequent": {"median": 0.001, "q95": 0.009}}}}
    write_json(home / "matches.json", {**about, "headline": headline}, {})
    for side_name, turn in (("a", 1), ("b", -1)):
        at = [(k, float(turn * (k % 4)), float(k // 4), k % 3 - 1, [1, -2]) for k in range(N) if k != UNPLACED]
        write_parquet(home / f"map_{side_name}.parquet", pl.DataFrame(at, schema=MAP_SCHEMA, orient="row"), {})
        write_json(home / f"map_{side_name}.json", {"reason": None, "trust": 0.25, "trust_chance": 0.1}, {})
    return page_of(home)


def page_of(home: Path) -> Path:
    maps = [[home / f"map_{side}.{end}" for side in "ab"] for end in ("parquet", "json")]
    said = write_pair_map(
        home / "matches.parquet", home / "matches.json", *maps, home / "map.html", {"a": "", "b": "<b>other</b>"}
    )
    assert said.startswith(f"{N} and {N} features, ")
    return home / "map.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("map"))


WIDE = "--window-size=1400,900"


@needs_browser
def test_every_feature_of_either_side_is_reached_by_its_address_and_shows_its_match(page: Path) -> None:
    script = """
      const seen = {};
      for (const side of SIDES)
        for (const { id } of data.features[side]) {
          location.hash = `#${side}${id}`;
          await new Promise((done) => setTimeout(done, 20));
          seen[`${side}${id}`] = [...document.querySelectorAll("#pair h2")].map((each) => each.textContent);
        }
      location.hash = "#a99";
      await new Promise((done) => setTimeout(done, 20));
      say([seen, $("card").textContent]);
    """
    seen, none = asked(page, script, WIDE)
    for k in range(N):
        assert seen[f"a{k}"] == [f"a{k}", "b: no match" if k == UNMATCHED else f"b{partner(k)}"]
        assert seen[f"b{k}"] == [f"a{lead(k)}", f"b{k}"]
    assert none == "No such feature on this page."


@needs_browser
def test_token_text_is_shown_as_it_is_and_never_run(page: Path) -> None:
    script = """
      const texts = {};
      for (const { id } of data.features.b) {
        choose(features.b.get(id));
        texts[id] = document.querySelector('[data-side="b"] .chip').textContent;
      }
      const titles = [...document.querySelectorAll("#maps h2")].map((each) => each.textContent);
      const others = document.querySelectorAll("img, iframe, object, embed, link").length;
      say([texts, titles, $("about").textContent, others, document.scripts.length]);
    """
    texts, titles, about, others, scripts = asked(page, script, WIDE)
    for k in range(N):
        assert texts[str(k)] == ("".join(SIGNS.get(each, each) for each in HOSTILE[k]) or "∅")
    assert titles == ["a: the study's own SAE", "b: <b>other</b>"]
    assert about.startswith("SAE b: <i>most</i> are dead matched on 5,000 tokens")
    assert "9 matches one to one that are not trivial: 0.61" in about
    assert (others, scripts) == (0, 3)  # the page's two, and the one that asks


@needs_browser
def test_pointing_at_a_feature_marks_its_match_on_the_other_map_and_shows_tokens(page: Path) -> None:
    script = """
      const at = (side, id) => {
        const [x, y] = onMap(features[side].get(id));
        const box = canvas[side].getBoundingClientRect();
        return { clientX: box.left + x, clientY: box.top + y, bubbles: true };
      };
      const pixels = (on) => on.getContext("2d").getImageData(0, 0, on.width, on.height).data;
      const ink = (side) => pixels(canvas[side]).reduce((sum, each) => sum + each, 0);
      choose(features.a.get(UNMATCHED));
      const before = [ink("a"), ink("b")];
      canvas.a.dispatchEvent(new PointerEvent("pointermove", at("a", 5)));
      const said = { tip: $("tip").textContent, row: document.querySelector("#rows .pointed").dataset.id };
      said.changed = [ink("a") !== before[0], ink("b") !== before[1]];
      canvas.a.dispatchEvent(new PointerEvent("pointerleave"));
      said.same = [ink("a") === before[0], ink("b") === before[1], $("tip").hidden];
      canvas.b.dispatchEvent(new MouseEvent("click", at("b", 0)));
      said.chosen = [name(state.chosen), location.hash, document.querySelector('#rows [aria-selected="true"]').dataset.id];
      said.followers = [...document.querySelectorAll("#others a")].map((each) => each.textContent);
      document.querySelector("#rows tr").dispatchEvent(new PointerEvent("pointerenter"));
      said.pointed = name(pointed);
      say(said);
    """
    said = asked(page, script.replace("UNMATCHED", str(UNMATCHED)), WIDE)
    assert said["tip"].startswith("a5 &lt;b&gt;")
    assert "r +0.65 with b5 " in said["tip"]
    assert (said["row"], said["changed"], said["same"]) == ("a5", [True, True], [True, True, True])
    assert said["chosen"] == ["b0", "#b0", "a0"]
    assert said["followers"] == ["a2", "a4", "a6", "a8"]
    assert said["pointed"] == "a0"


@needs_browser
def test_the_list_holds_every_feature_is_searched_and_follows_the_way(page: Path) -> None:
    script = """
      const ids = () => [...document.querySelectorAll("#rows tr")].map((row) => row.dataset.id);
      const type = (text) => { $("search").value = text; $("search").dispatchEvent(new Event("input")); };
      const pick = (way) => document.querySelector(`[name=way][value=${way}]`).click();
      const both = ({ lead }) => [lead, matchOf(lead)].filter((each) => each).map(name);
      const covered = () => new Set(shown.flatMap(both)).size;
      const said = { best: ids(), covered: covered() };
      $("hide").click(); said.hidden = ids(); $("hide").click();
      type("LION"); said.lion = ids();
      type("b3"); said.b3 = ids();
      type("");
      pick("one");
      said.one = ids(); said.coveredOne = covered();
      choose(features.a.get(4));
      said.match = [...document.querySelectorAll("#pair h2")].map((each) => each.textContent);
      said.shown = $("shown").textContent;
      say(said);
    """
    said = asked(page, script, WIDE)
    assert said["best"][:2] == ["a0", "a1"]
    assert said["best"][-1] == f"a{UNMATCHED}"
    assert (said["covered"], said["coveredOne"]) == (2 * N, 2 * N)
    assert {"a3", f"a{UNMATCHED}"} == set(said["best"]) - set(said["hidden"])
    assert said["lion"] == ["a11"]
    assert said["b3"] == ["a3"]
    assert len(said["one"]) == N + 1  # without a partner are one feature of a, and the one of b that it would have had
    assert said["match"] == ["a4", "b5"]
    assert said["shown"] == f"{N + 1} of {N + 1}"


@needs_browser
def test_keys_step_through_the_list_and_to_the_match_and_the_address_follows(page: Path) -> None:
    script = """
      const press = (key, target = document.body) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const at = () => [name(state.chosen), location.hash];
      const said = [at()];
      press("ArrowRight"); said.push(at());
      press("x"); said.push(at());
      press("ArrowLeft"); said.push(at());
      press("/"); said.push(document.activeElement.id);
      press("ArrowRight", $("search")); said.push(at());
      say(said);
    """
    first, right, match_of, left, focused, still = asked(page, script, WIDE)
    assert (first, right, match_of, left) == (["a0", ""], ["a1", "#a1"], ["b1", "#b1"], ["a0", "#a0"])
    assert (focused, still) == ("search", ["a0", "#a0"])


@needs_browser
def test_nothing_is_requested_and_no_address_stands_in_the_page(page: Path) -> None:
    script = """
      for (const { id } of data.features.a) choose(features.a.get(id));
      say(performance.getEntriesByType("resource").map((each) => each.name));
    """
    assert asked(page, script, WIDE) == []
    text = page.read_text()
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^/\"\s]+", text)) == {"http://www.w3.org"}  # namespaces of HTML and SVG


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page: Path, width: int) -> None:
    ask = (
        "<script>addEventListener('load', () => { const wide = () => document.documentElement.scrollWidth;"
        "const said = [innerWidth, wide()]; choose(features.a.get(7)); said.push(wide(), canvas.a.clientWidth);"
        "parent.postMessage(JSON.stringify(said), '*'); });</script></body>"
    )
    narrow, frame = page.with_name("narrow.html"), page.with_name("frame.html")
    narrow.write_text(page.read_text().replace("</body>", ask))
    frame.write_text(
        f"<body><iframe src='narrow.html' style='width:{width}px;height:800px;border:0'></iframe>"
        "<script>addEventListener('message', (event) => { document.body.dataset.said = event.data; });</script></body>"
    )
    said = re.search(r'data-said="([^"]*)"', browse(frame, "--virtual-time-budget=4000", "--dump-dom"))
    assert said
    inner, before, after, of_map = json.loads(said[1].replace("&quot;", '"'))
    assert inner == width
    assert max(before, after) <= width
    assert of_map > 140


def test_the_page_holds_what_the_tables_hold(page: Path) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    assert not set(found[1]) & set("<>&\u2028\u202e")
    data = json.loads(found[1])
    table = pl.DataFrame(rows(), infer_schema_length=None)
    assert data == {
        **json.loads(json.dumps(page_data(table, [pl.read_parquet(page.with_name(f"map_{s}.parquet")) for s in "ab"]))),
        "about": data["about"],
    }
    assert {name: len(of) for name, of in data["features"].items()} == {"a": N, "b": N}
    of_a = {feature["id"]: feature for feature in data["features"]["a"]}
    assert "at" not in of_a[UNPLACED]
    assert (of_a[UNMATCHED]["count"], of_a[UNMATCHED]["tokens"]) == (None, [])
    chosen = table.filter(pl.col("way") != "mutual").select("a", "b").unique()
    assert {(each["a"], each["b"]) for each in data["pairs"]} == set(chosen.iter_rows())
    (both,) = [each for each in data["pairs"] if (each["a"], each["b"]) == (1, 1)]
    assert (sorted(both["ways"]), both["r"], both["r_token"], both["trivial"]) == (["best_a", "best_b"], 0.85, 0.425, None)


@needs_browser
def test_an_sae_without_a_map_is_named_with_the_reason(page: Path, tmp_path: Path) -> None:
    for file in page.parent.glob("ma*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_parquet(tmp_path / "map_b.parquet", pl.DataFrame(schema=MAP_SCHEMA), {})
    write_json(tmp_path / "map_b.json", {"reason": "3 features fire on the text, expected 10 or more"}, {})
    script = 'say([document.querySelectorAll("#maps p")[1].textContent, document.querySelectorAll("#rows tr").length]);'
    said, n = asked(page_of(tmp_path), script, WIDE)
    assert said.endswith("No map: 3 features fire on the text, expected 10 or more.")
    assert n == 17  # 16 pairs, and a feature without any
