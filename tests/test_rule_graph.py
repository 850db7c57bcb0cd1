"""The picture of the rules in the documentation shows those that Snakemake knows, and what each reads."""

import re
from pathlib import Path
from xml.etree import ElementTree

from workflow import REPOSITORY, Project

Edges = set[tuple[str, str]]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: Path) -> tuple[set[str], Edges]:
    """The rules and arrows of a picture by Graphviz."""
    groups = [*ElementTree.parse(picture).iter(f"{SVG}g")]
    titles = [(group.get("class"), group.findtext(f"{SVG}title", ""), group.findtext(f"{SVG}text", "")) for group in groups]
    rules = {title: text for kind, title, text in titles if kind == "node"}
    arrows = [title.split("->") for kind, title, _ in titles if kind == "edge"]
    return {*rules.values()}, {(rules[first], rules[second]) for first, second in arrows}


def known(project: Project, *targets: str) -> tuple[set[str], Edges]:
    """The rules that make the targets, and the pairs of which the second reads from the first, as Snakemake prints them."""
    text = project.dry_run(*targets, "--rulegraph", "mermaid-js")
    rules = dict(re.findall(r"^\s+(id\d+)\[(\w+)\]$", text, re.MULTILINE))
    return {*rules.values()}, {(rules[a], rules[b]) for a, b in re.findall(r"^\s+(id\d+) --> (id\d+)$", text, re.MULTILINE)}


def implied(edges: Edges) -> Edges:
    """Edges with those that follow from others."""
    closed = set(edges)
    while more := {(a, d) for a, b in closed for c, d in closed if b == c} - closed:
        closed |= more
    return closed


def test_the_picture_has_every_rule_and_arrow(tmp_path: Path) -> None:
    command = re.search(r"^snakemake (.*) --rulegraph .*> (\S+)$", (REPOSITORY / "docs/concepts.md").read_text(), re.MULTILINE)
    assert command
    rules, arrows = drawn(REPOSITORY / command[2])
    expected_rules, expected = known(Project.create(tmp_path / "project"), *command[1].split())
    assert len(rules) > 10
    assert rules == expected_rules, f"draw it again: {command[0]}"
    assert arrows <= expected, f"draw it again: {command[0]}"
    assert implied(arrows) == implied(expected), f"draw it again: {command[0]}"
