"""Scripts are three lines, and every rule's names are those that its script's function takes. Nothing here is imported."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from example import nodes, study

from undertone.study.arguments import SECTIONS
from undertone.study.sources import SCRIPTS, imports, modules
from undertone.study.stages import STAGES
from undertone.study.stamp import settings_of

RULES = SCRIPTS.parent / "rules"
# What a job has beside its rule's files and wildcards (`job.run`).
OFFERED = {"settings", "stamp", "scratch", "benchmarks"}
FILES = {"Path", "Path | None", "Sequence[Path]", "dict[int, Path]", "dict[str, Path]"}
CLASSES = {section.__name__: name for section, name in SECTIONS.items()}
# The only inputs without a name: what a model or an SAE that is a folder consists of, and files of text.
FOLDERS = {"pretrained", "pretrained_sae", "text", "contexts"}


@dataclass
class Rule:
    """A rule's names of inputs and outputs; `others` are inputs and outputs without one, `open` says that more are unpacked."""

    name: str
    script: str
    names: list[str] = field(default_factory=list)
    others: int = 0
    open: bool = False
    wildcards: set[str] = field(default_factory=set)


def rules() -> Iterator[Rule]:
    """The rules that have a script, read off the rule files, which snakefmt has laid out."""
    bases: dict[str, dict[str, str]] = {}
    for path in sorted(RULES.glob("*.smk")):
        text = path.read_text()
        for head in re.finditer(r"^( *)(?:use rule (\w+) as (\w+) with|rule (\w+)):\n", text, re.MULTILINE):
            indent, base, variant, plain = head.groups()
            body = re.split(rf"^ {{0,{len(indent)}}}\S", text[head.end() :], maxsplit=1, flags=re.MULTILINE)[0]
            own = dict(re.findall(rf"^{indent}    (\w+):(.*(?:\n(?:{indent}     .*)?)*)", body, re.MULTILINE))
            own = bases.get(base or "", {}) | own
            bases[variant or plain] = own
            if "script" in own:
                yield read(variant or plain, own)


def read(name: str, directives: dict[str, str]) -> Rule:
    """A rule from the texts of its directives."""
    rule = Rule(name, Path(ast.literal_eval(directives["script"].strip())).stem)
    for part in ("input", "output"):
        call = ast.parse(f"f({directives.get(part, '')})", mode="eval").body
        assert isinstance(call, ast.Call)
        rule.names += [str(keyword.arg) for keyword in call.keywords]
        unpacked = [each for each in call.args if isinstance(each, ast.Call) and getattr(each.func, "id", "") == "unpack"]
        rule.open = rule.open or bool(unpacked)
        rule.others += len(call.args) - len(unpacked)
    patterns = " ".join(directives[part] for part in ("output", "log") if part in directives)
    rule.wildcards = set(re.findall(r"\{(\w+)\}", patterns))
    return rule


def function_of(script: Path) -> ast.FunctionDef:
    """The function that a script runs, where it is defined."""
    assert len(ast.parse(script.read_text()).body) == 3
    of_stage, run = sorted(ast.parse(script.read_text()).body[:2], key=lambda line: getattr(line, "module", "") == JOB)
    call = ast.parse(script.read_text()).body[2]
    assert isinstance(of_stage, ast.ImportFrom) and isinstance(run, ast.ImportFrom)
    assert (run.module, [alias.name for alias in run.names]) == (JOB, ["run"])
    (function,) = (alias.name for alias in of_stage.names)
    assert ast.unparse(call) == f"run({function}, snakemake)"
    module = modules()[str(of_stage.module).rpartition(".")[2]]
    assert module in imports(script), "the stamp would not see the stage's code"
    body = ast.parse(module.read_text()).body
    return next(each for each in body if isinstance(each, ast.FunctionDef) and each.name == function)


JOB = "undertone.study.job"
ALL = list(rules())


def test_every_rule_and_every_script_is_read() -> None:
    assert {rule.script for rule in ALL} == {path.stem for path in SCRIPTS.glob("*.py")} == set(STAGES)
    assert len(ALL) == len(STAGES) + 1  # `student_whole` has the script of `student`


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_a_rule_names_what_its_function_takes(rule: Rule) -> None:
    function = function_of(SCRIPTS / f"{rule.script}.py")
    parameters = {each.arg: ast.unparse(each.annotation or ast.Constant(None)) for each in function.args.args}
    parameters |= {each.arg: ast.unparse(each.annotation or ast.Constant(None)) for each in function.args.kwonlyargs}
    assert not function.args.defaults, "a parameter with a default would hide a name that is missing"
    assert len(set(rule.names)) == len(rule.names)
    assert rule.open <= bool(function.args.kwarg)
    if not function.args.kwarg:
        assert set(rule.names) <= set(parameters)
    assert rule.others == 0 or rule.name in FOLDERS
    told = [settings_of(study(), node) for node in nodes(study()) if node.stage == rule.script]
    for name, kind in parameters.items():
        if name in rule.names:
            assert kind in FILES, f"{name}: {kind}"
        elif (section := kind.rpartition(".")[2]) in CLASSES:
            assert all(CLASSES[section] in settings for settings in told), f"{name}: {kind}"
        else:
            assert name in OFFERED | rule.wildcards or all(name in settings for settings in told), name
    wanted = {function.args.kwarg.annotation} if function.args.kwarg else set()
    assert {ast.unparse(kind) for kind in wanted if kind} <= FILES
