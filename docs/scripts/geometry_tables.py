"""Tables of docs/geometry.md: the trees of config/geometry.yaml and of config/smollm2-geometry.yaml, test by test."""

from collections.abc import Callable
from typing import Any

from cells import Read, Rows, number, p_value, table

TESTS = ("existence", "distance", "orthogonality", "grandparents")
# The spaces that are shown of the tree of numbers and of that of English words.
NUMBERS = ("unembedding", "layer.0.causal", *(f"layer.3.{view}" for view in ("causal", "euclidean", "whitened", "mean")))
THINGS = ("unembedding", *(f"layer.{layer}.euclidean" for layer in (0, 10, 20, 29)), "layer.20.mean")
# The trees of the embedded study, and the spaces of the words that have a feature of their own.
TREES = ("numbers", "animals")
DECODERS = ("decoder", "decoder.unembedding")
# The keys of a null that are shown.
NULL = ("low", "high", "z", "p")


def tests_of(path: str, spaces: tuple[str, ...]) -> Callable[[Read], Rows]:
    """How to read the tests of some spaces of a hierarchy, beside exchanged words and exchanged siblings."""

    def rows(read: Read) -> Rows:
        made = read(path)["spaces"]
        return [{"space": name} | tested(made[name]) | {"naive": made[name]["naive_orthogonality"]} for name in spaces]

    return rows


def tested(space: dict[str, Any]) -> dict[str, Any]:
    """Each test's value and its nulls of words and of siblings; None where the tree has no concepts for a test."""

    def kept(test: dict[str, Any]) -> dict[str, Any]:
        nulls = {name: {key: test["nulls"][name][key] for key in NULL} for name in ("words", "siblings")}
        return {"value": test["value"], **nulls}

    return {name: kept(space["tests"][name]) for name in TESTS}


def tests_table(rows: Rows) -> str:
    """One line per space."""

    def cell(test: dict[str, Any]) -> str:
        return f"{number(test['value'], 2)} ({extent(test['words'], 2)}; z {number(test['siblings']['z'], 1)})"

    return table(
        ["space", *TESTS, "naive"],
        ([f"`{row['space']}`", *(cell(row[name]) for name in TESTS), number(row["naive"], 2)] for row in rows),
    )


def extent(null: dict[str, float], digits: int) -> str:
    """The 95 % range of a null."""
    return f"{number(null['low'], digits)} to {number(null['high'], digits)}"


def decoders(read: Read) -> Rows:
    """The tests on decoder rows of words that have a feature of their own, and on the same words' unembeddings."""
    rows = []
    for tree in TREES:
        made = read(f"geometry-{tree}/geometry.json")
        size = {"words": made["decoder"]["words"]["read"], "concepts": len(made["decoder"]["sets"])}
        rows += [{"tree": tree, "space": name} | size | tested(made["spaces"][name]) for name in DECODERS]
    return rows


def decoders_table(rows: Rows) -> str:
    """One line per tree and space."""

    def cell(test: dict[str, Any]) -> str:
        if test["value"] is None:
            return "–"
        return f"{number(test['value'], 2)} ({extent(test['words'], 2)}; p {p_value(test['words']['p'])})"

    def cells(row: dict[str, Any]) -> list[str]:
        return [row["tree"], f"`{row['space']}`", f"{row['words']}, {row['concepts']}", *(cell(row[name]) for name in TESTS)]

    return table(["tree", "space", "words, concepts", *TESTS], map(cells, rows))


def added(paths: dict[str, str]) -> Callable[[Read], Rows]:
    """How to read what adding differences of siblings does after each layer, by hierarchies' files."""

    def rows(read: Read) -> Rows:
        return [
            {"tree": tree, "pairs": made["pairs"], "layer": int(layer)} | {key: effect(of[key]) for key in ("moved", "around")}
            for tree, path in paths.items()
            for made in [read(path)["interventions"]]
            for layer, of in made["layers"].items()
        ]

    def effect(of: dict[str, Any]) -> dict[str, float]:
        return {"value": of["value"], **{key: of["null"][key] for key in NULL}}

    return rows


def added_table(digits: int) -> Callable[[Rows], str]:
    """How to write it, one line per tree and layer, with so many digits of nats."""

    def cells(row: dict[str, Any]) -> list[str]:
        moved, around = row["moved"], row["around"]
        of_moved = [effect(moved), number(moved["z"], 1), p_value(moved["p"])]
        return [f"{row['tree']}, {row['pairs']}", str(row["layer"]), *of_moved, effect(around), p_value(around["p"])]

    def effect(of: dict[str, float]) -> str:
        return f"{number(of['value'], digits)} ({extent(of, digits)})"

    header = ["tree, pairs", "layer", "moved, nats (null)", "z", "p", "around, nats (null)", "p"]
    return lambda rows: table(header, map(cells, rows))


WORDS = "smollm2-135m/geometry-things/geometry.json"
EXTRACTS = {
    "geometry_numbers": tests_of("geometry-numbers/geometry.json", NUMBERS),
    "geometry_things": tests_of(WORDS, THINGS),
    "geometry_decoders": decoders,
    "geometry_added": added({tree: f"geometry-{tree}/geometry.json" for tree in TREES}),
    "geometry_things_added": added({"English words": WORDS}),
}
TABLES = {
    "geometry_numbers": tests_table,
    "geometry_things": tests_table,
    "geometry_decoders": decoders_table,
    "geometry_added": added_table(3),
    "geometry_things_added": added_table(2),
}
