"""The page of the features, opened in a browser: all of them are reached, and no token text or request gets out of hand."""

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from browser import asked, browse, needs_browser

from undertone.lab.browser import COLUMNS, chosen, page_data, write_browser
from undertone.lab.feature_examples import SCHEMA
from undertone.lab.map import SCHEMA as MAP_SCHEMA
from undertone.lab.neighbours import SCHEMA as NEAR_SCHEMA
from undertone.lab.neuron_table import SCHEMA as NEURONS_SCHEMA
from undertone.lab.page import as_script
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study import sources
from undertone.study.config.lab import Browser

HOSTILE = [
    "<script>document.body.dataset.hacked = 1</script>",
    "</script><img src=x onerror='document.body.dataset.hacked = 1'>",
    "<!--",
    "\ufffd",
    "\u2028",
    "&lt;b&gt;",
    "]]>'\"`${1}",
    "\u202edrawkcab",
    " two  spaces ",
    "line\nbreak\ttab",
    "",
    "lion",
]
N, MISSING = 12, 4


def row(feature: int) -> dict[str, Any]:
    dead = feature == MISSING
    raised = [{"text": text, "value": 1.5 - k / 10} for k, text in enumerate(HOSTILE[:10])]
    figures = {key: None if dead else 0.25 for column in COLUMNS for key in (column["key"], column.get("null")) if key}
    return {
        **figures,
        "feature": feature,
        "count": 0 if dead else 1000 - feature,
        "density": 0.0 if dead else (1000 - feature) / 5000,
        "junk": None if dead else (0.9 if feature == 2 else 0.1),
        "max": None if dead else 2.0,
        "dead": dead,
        "rare": feature == 3,
        "q": None if dead else [0.5, 1.0, 2.0],
        "histogram": [0] * 50 if dead else [2**k % 97 for k in range(50)],
        "tokens": [] if dead else [{"text": HOSTILE[feature], "share": 0.75}],
        "logits_up": raised,
        "logits_down": [{"text": each["text"], "value": -each["value"]} for each in raised],
        "neuronpedia": "https://www.neuronpedia.org/a/b/1" if feature == 1 else None,
    }


ROWS = np.random.default_rng(0).integers(-127, 128, (N, 7))


def example(feature: int, group: str, rank: int) -> dict[str, Any]:
    tokens = ["<bos>", HOSTILE[(feature + rank) % N], HOSTILE[feature], "after"]
    silent = 0.0 if group == "miss" else 2.0
    gives = [0.1, -0.5, 1.0, None] if group == "top" and rank == 1 else None
    entry = (feature, group, rank, 10 * feature, 6, silent, 4, tokens, [None, 0.5, silent, 0.0], gives)
    return dict(zip(SCHEMA, entry, strict=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_parquet(folder / "features.parquet", pl.DataFrame([row(k) for k in range(N)], infer_schema_length=None), {})
    groups = {"top": 20, "q0": 2, "q4": 5, "bottom": 7, "miss": 3}
    shown = [example(k, group, rank + 1) for k in range(N) if k != MISSING for group, n in groups.items() for rank in range(n)]
    write_parquet(folder / "examples.parquet", pl.DataFrame(shown, schema=SCHEMA), {})
    about = {"d_sae": N, "tokens": 5000, "contexts": 100, "l0": 3.25, "model": None, "hook_point": "blocks.0.hook_resid_post"}
    about |= {"warning": "7 of 12 features are dead", "architecture": "topk", "min_count": 20, "bands": 5, "attributed": 1}
    write_json(folder / "features.json", about, {})
    write_json(folder / "metrics.json", {"warning": "the SAE explains less <i>"}, {})
    alive = [k for k in range(N) if k != MISSING]
    near = [
        (k, by, rank + 1, (k + rank + 1) % N if (k + rank + 1) % N != MISSING else k - 1, 0.9 - rank / 10, 0.7, 0.55)
        for k in alive
        for by in ("decoder", "encoder", "firing")
        for rank in range(6)
    ]
    write_parquet(folder / "neighbours.parquet", pl.DataFrame(near, schema=NEAR_SCHEMA, orient="row"), {})
    bounds = {"null95": 0.7, "null95_spread": 0.55}
    write_json(folder / "neighbours.json", {"decoder": bounds, "encoder": bounds, "firing": {"null95": 0.1}}, {})
    at = [(k, float(k % 4), float(k // 4), k % 3 - 1, ROWS[k].tolist()) for k in alive]
    write_parquet(folder / "map.parquet", pl.DataFrame(at, schema=MAP_SCHEMA, orient="row"), {})
    said = {"reason": None, "trust": 0.25, "trust_chance": 0.1, "clusters": 2, "noise": 0.4}
    write_json(folder / "map.json", said, {})
    best = [{"layer": k, "neuron": 17 + k, "chosen": 0.9, "r": r} for k, r in enumerate((0.8, -0.5, 0.02))]
    like = [(k, 100, best, HOSTILE[k], 0.95, -0.3) for k in alive]
    write_parquet(folder / "neurons.parquet", pl.DataFrame(like, schema=NEURONS_SCHEMA, orient="row"), {})
    write_json(folder / "neurons.json", {"reason": None, "null95": 0.1}, {})
    held = [{"kind": "feature", "unit": 1, "concept": "<b>tigers</b>", "f1": 0.9, "f1_null": 0.1, "auroc": 0.95, "p": 0.04}]
    held.append({**held[0], "unit": 2, "concept": "by chance", "p": 0.5})
    held.append({**held[0], "kind": "neuron", "unit": 3, "concept": "a neuron's"})
    write_parquet(folder / "specificity.parquet", pl.DataFrame(held), {})
    write(folder)
    return folder


FILES = ("features.parquet", "examples.parquet", "features.json", "metrics.json", "neighbours.parquet", "neighbours.json")
FILES += ("map.parquet", "map.json", "neurons.parquet", "neurons.json", "specificity.parquet", "features.html")


def write(home: Path, **settings: Any) -> Path:
    files = [home / name for name in FILES]
    write_browser(*files[:-1], None, {}, {}, files[-1], Browser(**settings), {}, {}, "", {})
    return files[-1]


@needs_browser
def test_a_feature_lies_among_its_nearest_as_their_principal_components_say(home: Path) -> None:
    script = """
      choose(1);
      const before = $("around").textContent;
      $("around").click();
      const { near, places, share, chance, kept } = neighbourhood(byId.get(1));
      const dots = [...document.querySelectorAll("[data-around]")];
      const shown = [before, $("around").textContent, dots.length, $("card").querySelector(".around p").textContent];
      dots[0].dispatchEvent(new Event("click"));
      const by = near.map(([cosine, each]) => [each.id, cosine]);
      const then = [state.chosen, dots[0].dataset.around, document.querySelector(".around") === null];
      say([by, places, share, chance, kept, shown, ...then]);
    """
    near, places, share, chance, kept, shown, chosen, clicked, closed = asked(home / "features.html", script)
    units = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    alive = [k for k in range(N) if k not in (1, MISSING)]
    order = sorted(alive, key=lambda k: -units[k] @ units[1])
    assert [k for k, _ in near] == order
    assert [cosine for _, cosine in near] == pytest.approx([units[k] @ units[1] for k in order])
    rows = units[[1, *order]] - units[[1, *order]].mean(0)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    assert np.abs(places) == pytest.approx(np.abs(expected), abs=1e-4)
    assert share == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), rel=1e-4)
    assert 2 / 7 < chance < 0.75
    distance = np.linalg.norm(expected[1:] - expected[0], axis=1)
    assert kept == len({*np.argsort(distance)[:10].tolist()} & {*range(10)})
    assert shown[:3] == ["map of the 10 nearest", "hide map", N - 1]
    assert shown[3].startswith(
        "Principal components of the decoder rows of this feature and its 10 nearest on this page, cosine "
    )
    assert (chosen, closed) == (int(clicked), True)


def test_a_row_is_on_the_page_as_bytes(home: Path) -> None:
    held = re.search(r'id="data">(.*?)</script>', (home / "features.html").read_text(), re.DOTALL)
    assert held
    rows = {each["id"]: each.get("row") for each in json.loads(held[1])["features"]}
    assert np.frombuffer(b64decode(rows[1]), np.int8).tolist() == ROWS[1].tolist()
    assert rows[MISSING] is None


@needs_browser
def test_every_feature_is_reached_by_its_address_and_shows_its_examples(home: Path) -> None:
    script = """
      const seen = {};
      for (const feature of data.features) {
        location.hash = `#${feature.id}`;
        await new Promise((done) => setTimeout(done, 20));
        document.querySelectorAll(".more").forEach(() => document.querySelector(".more").click());
        const groups = {};
        for (const group of document.querySelectorAll("#card .group"))
          groups[group.dataset.group] = group.querySelectorAll(".example").length;
        const logits = document.querySelectorAll("#card .logits tr").length;
        seen[feature.id] = [document.querySelector("#title h2").textContent, groups, logits];
      }
      say(seen);
    """
    seen = asked(home / "features.html", script)
    groups = {"top": 20, "q4": 5, "q0": 2, "bottom": 7, "miss": 3}
    for k in range(N):
        assert seen[str(k)] == [f"Feature {k}", {} if k == MISSING else groups, 20]


@needs_browser
def test_token_text_is_shown_as_it_is_and_never_run(home: Path) -> None:
    script = """
      const texts = {};
      for (const feature of data.features) {
        choose(feature.id);
        const peak = document.querySelector("#card .token.peak");
        texts[feature.id] = peak ? peak.textContent : null;
      }
      if (!$("about").textContent.startsWith("7 of 12 features are dead")) throw Error("no warning");
      say([texts, document.querySelectorAll("img, iframe, object, embed, link").length, document.scripts.length]);
    """
    texts, others, scripts = asked(home / "features.html", script)
    signs = {" ": "·", "\n": "↵", "\t": "⇥", "\u2028": "␣", "\u202e": "∅"}
    for k in range(N):
        expected = "".join(signs.get(each, each) for each in HOSTILE[k]) or "∅"
        assert texts[str(k)] == (None if k == MISSING else expected)
    assert (others, scripts) == (0, 3)  # the page's two, and the one that asks


@needs_browser
def test_neighbours_are_links_with_what_chance_gives(home: Path) -> None:
    script = """
      choose(5);
      const entry = (row) => [Number(row.dataset.neighbour), row.className, row.lastChild.textContent];
      const list = (each) => [each.querySelector("p").textContent, [...each.querySelectorAll("li")].map(entry)];
      const ways = () => [...document.querySelectorAll('[data-way]:not([data-way="neurons"])')];
      const lists = () => Object.fromEntries(ways().map((each) => [each.dataset.way, list(each)]));
      const said = [lists()];
      document.querySelector("#relations .more").click();
      said.push(lists().decoder[1].length);
      document.querySelector('[data-way="firing"] li:nth-child(2) a').click();
      await new Promise((done) => setTimeout(done, 20));
      said.push(state.chosen, document.querySelector("#title h2").textContent, $("about").textContent);
      choose(MISSING);
      said.push(document.querySelectorAll("#relations").length);
      say(said);
    """
    lists, opened, then, title, about, of_dead = asked(home / "features.html", script.replace("MISSING", str(MISSING)))
    values = [(6, "0.900"), (7, "0.800"), (8, "0.700"), (9, "0.600"), (10, "0.500")]
    assert lists["decoder"] == [
        "chance: 0.700, as spread as these: 0.550",
        [[k, "chance" if v <= "0.700" else "", v] for k, v in values],
    ]
    assert lists["firing"] == ["chance: 0.700", [[k, "chance" if v <= "0.700" else "", v] for k, v in values]]
    assert (opened, then, title, of_dead) == (6, 7, "Feature 7", 0)
    assert about.startswith("7 of 12 features are dead the SAE explains less <i> ")


@needs_browser
def test_neurons_stand_beside_what_chance_and_a_token_give(home: Path) -> None:
    script = """
      choose(0);
      const list = document.querySelector('[data-way="neurons"]');
      const rows = [...list.querySelectorAll("li")].map((row) => [row.dataset.neuron, row.className, row.textContent]);
      say([list.querySelector("p").textContent, rows]);
    """
    beside, rows = asked(home / "features.html", script)
    assert beside == f"chance: 0.100, random model: −0.30, token {HOSTILE[0].replace(' ', '·')} +0.95"
    assert rows == [
        ["0.17", "", "L0neuron 17+0.80"],
        ["1.18", "", "L1neuron 18−0.50"],
        ["2.19", "chance", "L2neuron 19+0.02"],
    ]


@needs_browser
def test_the_map_and_the_table_are_linked_both_ways(home: Path) -> None:
    script = """
      const at = (id) => {
        const [x, y] = onMap(byId.get(id));
        const box = canvas.getBoundingClientRect();
        return { clientX: box.left + x, clientY: box.top + y, bubbles: true };
      };
      const pixels = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const ink = () => pixels().reduce((sum, each) => sum + each, 0);
      const said = { open: !$("map").hidden, note: document.querySelector("#map p").textContent, height: canvas.clientHeight };
      canvas.dispatchEvent(new PointerEvent("pointermove", at(9)));
      said.tip = $("tip").textContent;
      said.row = document.querySelector("#rows .pointed").dataset.id;
      canvas.dispatchEvent(new MouseEvent("click", at(9)));
      said.chosen = [state.chosen, location.hash, document.querySelector('#rows [aria-selected="true"]').dataset.id];
      canvas.dispatchEvent(new PointerEvent("pointerleave"));
      const before = ink();
      document.querySelector('#rows [data-id="6"]').dispatchEvent(new PointerEvent("pointerenter"));
      said.ring = [pointed.id, ink() !== before];
      document.querySelector('#rows [data-id="6"]').dispatchEvent(new PointerEvent("pointerleave"));
      said.same = ink() === before;
      $("search").value = "#5"; $("search").dispatchEvent(new Event("input"));
      said.faint = ink() !== before;
      canvas.dispatchEvent(new MouseEvent("click", at(9)));
      canvas.dispatchEvent(new MouseEvent("click", at(5)));
      said.listed = state.chosen;
      $("toggle").click();
      said.closed = [$("map").hidden, $("toggle").getAttribute("aria-expanded")];
      say(said);
    """
    said = asked(home / "features.html", script, "--window-size=1280,800")
    assert (said["open"], said["height"] > 200) == (True, True)
    assert "25\u00a0% are among the 10 nearest here, by chance 10\u00a0%" in said["note"]
    assert "40\u00a0% lie in none" in said["note"]
    assert said["tip"].startswith("#9 line↵break")
    assert (said["row"], said["chosen"]) == ("9", [9, "#9", "9"])
    assert (said["ring"], said["same"], said["faint"], said["listed"]) == ([6, True], True, True, 5)
    assert said["closed"] == [True, "false"]


@needs_browser
def test_a_feature_that_is_not_on_the_page_is_named_without_a_link(home: Path, tmp_path: Path) -> None:
    for name in FILES[:-1]:
        (tmp_path / name).write_bytes((home / name).read_bytes())
    write_parquet(tmp_path / "map.parquet", pl.DataFrame(schema=MAP_SCHEMA), {})
    write_json(tmp_path / "map.json", {"reason": "too few"}, {})
    page = write(tmp_path, features=3)
    script = """
      choose(1);
      const links = [...document.querySelectorAll('[data-way="decoder"] li')].map((row) => row.querySelector("a") !== null);
      say([links, $("map").hidden, $("toggle").hidden]);
    """
    links, hidden, toggle = asked(page, script, "--window-size=1280,800")
    assert links == [False, True, True, False, False]  # 2 is junk; of the others 0, 1 and 3 fire most often
    assert (hidden, toggle) == (True, True)


@needs_browser
def test_nothing_is_requested_and_no_address_but_one_stands_in_the_page(home: Path) -> None:
    script = """
      for (const feature of data.features) choose(feature.id);
      say(performance.getEntriesByType("resource").map((each) => each.name));
    """
    assert asked(home / "features.html", script) == []
    text = (home / "features.html").read_text()
    assert "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^/\"\s]+", text))
    assert addresses == {"http://www.w3.org", "https://www.neuronpedia.org"}  # namespaces of HTML and SVG; a link


@needs_browser
def test_the_table_is_sorted_searched_and_filtered(home: Path) -> None:
    script = """
      const ids = () => [...document.querySelectorAll("#rows tr")].map((row) => Number(row.dataset.id));
      const type = (text) => { $("search").value = text; $("search").dispatchEvent(new Event("input")); };
      const said = { first: ids() };
      $("hide-junk").click();
      document.querySelector('[data-key="density"] button').click();
      said.rising = ids();
      document.querySelector('[data-key="id"] button').click();
      said.byId = ids();
      $("hide-junk").click(); $("hide-rare").click();
      said.hidden = ids();
      $("hide-junk").click(); $("hide-rare").click();
      type("LION");
      said.lion = ids();
      type("#4");
      said.dead = ids();
      type("");
      $("hide-dead").click();
      said.all = ids().length;
      $("density").value = 4; $("density").dispatchEvent(new Event("change"));
      said.low = ids();
      said.shown = $("shown").textContent;
      say(said);
    """
    said = asked(home / "features.html", script)
    alive = [k for k in range(N) if k != MISSING]
    assert said["first"] == [k for k in alive if k != 2]
    assert said["rising"] == alive[::-1]
    assert said["byId"] == alive
    assert said["hidden"] == [k for k in alive if k not in (2, 3)]
    # Feature 11 fires on it; of others the greatest activations do.
    assert said["lion"] == [11]
    assert said["dead"] == [MISSING]
    assert said["all"] == N
    assert said["low"] == [MISSING]
    assert said["shown"] == f"1 of {N}"


@needs_browser
def test_keys_step_through_the_list_and_the_address_follows(home: Path) -> None:
    script = """
      const press = (key, target = document.body) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const at = () => [state.chosen, location.hash];
      const said = [at()];
      press("ArrowRight"); said.push(at());
      press("ArrowRight"); press("ArrowRight"); press("ArrowRight"); said.push(at());
      press("ArrowLeft"); said.push(at());
      press("/"); said.push(document.activeElement.id);
      press("ArrowLeft", $("search")); said.push(at());
      location.hash = "#99"; await new Promise((done) => setTimeout(done, 20));
      said.push($("card").textContent);
      say(said);
    """
    first, *steps, focused, still, none = asked(home / "features.html", script, "--window-size=1280,800")
    assert first == [0, ""]
    assert steps == [[1, "#1"], [6, "#6"], [5, "#5"]]  # past junk and the dead one, which are hidden
    assert (focused, still) == ("search", [5, "#5"])
    assert none == "No such feature on this page."


@needs_browser
def test_colours_are_of_activation_or_of_contribution_and_values_are_told(home: Path) -> None:
    script = """
      choose(1);
      const tokens = () => [...document.querySelector(".example").querySelectorAll(".token")];
      const colours = () => tokens().map((token) => token.style.background);
      const activation = colours();
      document.querySelector('[value="gives"]').click();
      const contribution = colours();
      document.querySelector(".token.peak").dispatchEvent(new PointerEvent("pointerenter"));
      const link = document.querySelector("#title a[target]");
      say([activation, contribution, $("tip").innerText, link.href]);
    """
    activation, contribution, tip, link = asked(home / "features.html", script)
    assert ["--up" in colour for colour in activation] == [False, True, True, False]
    assert ("1.000" in activation[2], "0.250" in activation[1]) == (True, True)
    assert [colour[8:14].strip("()/ ") for colour in contribution] == ["--up", "--down", "--up", ""]
    assert all(text in tip for text in ("activation 2", "100 % of the greatest", "contributes +1.00", "token 6"))
    assert link == "https://www.neuronpedia.org/a/b/1"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(home: Path, width: int) -> None:
    page = home / "narrow.html"
    ask = (
        "<script>addEventListener('load', () => { const wide = () => document.documentElement.scrollWidth;"
        "const said = [innerWidth, wide()]; choose(5); said.push(wide(), getComputedStyle($('list')).display);"
        "parent.postMessage(JSON.stringify(said), '*'); });</script></body>"
    )
    page.write_text((home / "features.html").read_text().replace("</body>", ask))
    frame = home / "frame.html"
    frame.write_text(
        f"<body><iframe src='narrow.html' style='width:{width}px;height:800px;border:0'></iframe>"
        "<script>addEventListener('message', (event) => { document.body.dataset.said = event.data; });</script></body>"
    )
    dom = browse(frame, "--virtual-time-budget=4000", "--dump-dom")
    said = re.search(r'data-said="([^"]*)"', dom)
    assert said
    inner, list_width, card_width, display = json.loads(said[1].replace("&quot;", '"'))
    assert inner == width
    assert max(list_width, card_width) <= width
    assert display == ("none" if width == 390 else "flex")


def test_the_page_holds_what_the_tables_hold(home: Path) -> None:
    text = (home / "features.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    table, examples = pl.read_parquet(home / "features.parquet"), pl.read_parquet(home / "examples.parquet")
    strings = data["strings"]
    for feature in data["features"]:
        own = table.row(feature["id"], named=True)
        assert [[strings[k], value] for k, value in feature["up"]] == [[e["text"], e["value"]] for e in own["logits_up"]]
        assert feature["histogram"] == own["histogram"]
        shown = examples.filter(pl.col("feature") == feature["id"])
        assert sum(map(len, feature["examples"].values())) == len(shown)
        for group, entries in feature["examples"].items():
            for entry, line in zip(entries, shown.filter(pl.col("group") == group).iter_rows(named=True), strict=True):
                assert entry[:3] == [line["row"], line["position"], line["start"]]
                assert [strings[k] for k in entry[3]] == line["tokens"]
                assert entry[4] == line["values"]
                gives = [None if each is None else round(each, 4) for each in line["gives"] or []]
                assert entry[5:] == ([gives] if gives else [])
    assert "read on 5,000 tokens in 100 contexts" in data["about"]["sentence"]


def test_of_a_large_sae_those_are_shown_that_fire_most_often_and_junk_last(home: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(home / "features.parquet")
    assert chosen(table, Browser(features=3))["feature"].to_list() == [0, 1, 3]
    assert chosen(table, Browser(features=N - 1))["feature"].to_list() == [k for k in range(N) if k != MISSING]
    data = page_data(
        chosen(table, Browser(features=3)),
        pl.read_parquet(home / "examples.parquet"),
        read_json(home / "features.json"),
        Browser(),
    )
    assert "of which the 3 that fire most often are here" in data["about"]["sentence"]


@needs_browser
def test_a_feature_has_the_concept_that_it_holds_beyond_chance(home: Path) -> None:
    script = """
      const texts = (within, what) => [...within.querySelectorAll(what)].map((each) => each.textContent);
      const rows = () => [...document.querySelectorAll("#rows tr")];
      const cells = () => rows().map((row) => [row.dataset.id, ...texts(row, "td.soft")]);
      const said = { cells: cells() };
      choose(1);
      const values = texts(document, "#card .figure dd");
      said.card = Object.fromEntries(texts(document, "#card .figure dt").map((name, k) => [name, values[k]]));
      $("search").value = "TIGERS"; $("search").dispatchEvent(new Event("input"));
      said.matching = cells().map(([id]) => id);
      say(said);
    """
    said = asked(home / "features.html", script, "--window-size=1400,900")
    assert {id_: text for id_, text in said["cells"] if text != "–"} == {"1": "<b>tigers</b>"}
    assert said["card"]["concept"] == "<b>tigers</b>"
    assert said["card"]["F1 for its concept"] == "0.900chance 0.100"
    assert said["card"]["AUROC for its concept"] == "0.950"
    assert said["matching"] == ["1"]


def test_no_text_ends_the_script_element() -> None:
    text = as_script({"strings": HOSTILE})
    assert not set(text) & set("<>&\u2028\u202e")
    assert json.loads(text) == {"strings": HOSTILE}


def test_a_damaged_table_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "features.parquet").write_text("no table")
    files = [tmp_path / FILES[0], *(home / name for name in FILES[1:-1]), tmp_path / "page.html"]
    with pytest.raises(ConfigError, match=r"features\.parquet is damaged"):
        write_browser(*files[:-1], None, {}, {}, files[-1], Browser(), {}, {}, "", {})
    assert not (tmp_path / "page.html").exists()


def test_an_edit_of_the_template_makes_the_page_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.py").write_text("x = 1\n")
    versions = []
    for template in (None, "<p>one</p>", "<p>two</p>"):
        if template:
            (tmp_path / "page.html").write_text(template)
        sources.code_version.cache_clear()
        versions.append(sources.code_version(tmp_path / "page.py"))
    assert len(set(versions)) == 3


def one_of(home: Path, folder: Path, number: int) -> Path:
    """The page of one feature."""
    page = folder / f"{number}.html"
    write_browser(*(home / name for name in FILES[:-1]), None, {}, {}, page, Browser(features=3), {}, {}, f"/{number}", {})
    return page


@needs_browser
@pytest.mark.parametrize("number", [11, 2, MISSING], ids=["rarely fires", "junk", "dead"])
def test_any_feature_has_a_page_of_its_own_on_request_with_the_same_card(home: Path, tmp_path: Path, number: int) -> None:
    script = """
      const shown = (name) => getComputedStyle(name).display !== "none";
      const buttons = [...document.querySelectorAll("#title button")].filter((each) => each.offsetParent);
      say([$("card").querySelector("h2").textContent, document.querySelectorAll(".example").length, shown($("list")),
        buttons.length, data.features.length, document.documentElement.scrollWidth <= innerWidth, shown($("about"))]);
    """
    page = one_of(home, tmp_path, number)
    said = asked(page, script, "--window-size=1280,800")
    assert asked(page, script, "--window-size=500,800") == said  # with its warnings on a phone, too
    whole = asked(home / "features.html", f"choose({number}); say(document.querySelectorAll('.example').length);")
    assert said == [f"Feature {number}", whole, False, 0, 1, True, True]


def test_a_page_of_one_feature_holds_what_the_page_of_all_holds_of_it(home: Path, tmp_path: Path) -> None:
    def held(page: Path) -> dict[str, Any]:
        data = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
        assert data
        content: dict[str, Any] = json.loads(data[1])
        return content

    def named(content: dict[str, Any], number: int) -> dict[str, Any]:
        own = next(each for each in content["features"] if each["id"] == number)
        texts = content["strings"]
        examples = {
            group: [[*each[:3], [texts[k] for k in each[3]], *each[4:]] for each in entries]
            for group, entries in own["examples"].items()
        }
        tokens = {key: [[texts[k], value] for k, value in own[key]] for key in ("tokens", "up", "down")}
        return {**own, **tokens, "examples": examples}

    one = held(one_of(home, tmp_path, 11))
    assert named(one, 11) == named(held(home / "features.html"), 11)
    assert "12 features, of which this one is here, the others in features.parquet" in one["about"]["sentence"]


def test_a_feature_that_the_sae_does_not_have_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"features/12\.html: the SAE has no feature 12; ask for one from 0 to 11"):
        one_of(home, tmp_path, N)
    assert not (tmp_path / "12.html").exists()
