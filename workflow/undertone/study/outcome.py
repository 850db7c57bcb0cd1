"""The outcome of a run: a line of results for each requested target, read from the finished files."""

from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json

# The rules that make many results, each with the result that says most about them.
ALL = {"all": "tables/transfer.json", "read": "plots/bias_map.png", "lab": "sae/features.html"}


def outcome(targets: Iterable[str], results: str, name: str | None = None) -> list[str]:
    """A line for each target (a path, `all`, `read` or `lab`) that has a number or a figure.

    `results` is the study's results root, `name` the study's own folder in `tables` and `plots`, where it has one.
    """
    paths = dict.fromkeys(_path(target, results, name) for target in targets)
    return list(dict.fromkeys(line for path in paths if path.is_file() and (line := _line(path, PurePath(results)))))


def number(value: float) -> str:
    """`.014`, `-.002`."""
    return f"{value:.3f}".replace("0.", ".", 1)


def interval(estimate: dict[str, Any]) -> str:
    """`.014 [.003, .024]`; for a single seed, the mean and a note that it has no interval."""
    ends = estimate["ci95"]
    return f"{number(estimate['mean'])} " + (f"[{number(ends[0])}, {number(ends[1])}]" if ends else "(one seed: no interval)")


def transfers(lifts: dict[str, Any]) -> str:
    """`15 of 16 datasets …`, of one estimator's lifts in `transfer.json`."""
    return (
        f"{lifts['transfers']} of {lifts['targets']} datasets lie above the control students, "
        f"{lifts['transfers_holm']} after Holm's correction"
    )


def _path(target: str, results: str, name: str | None) -> Path:
    """The file that a target stands for."""
    if target not in ALL:
        return Path(target)
    folder, file = ALL[target].split("/")
    return Path(results, folder, (name or "") if folder in ("tables", "plots") else "", file)


def _line(path: Path, root: PurePath) -> str | None:
    """What a target's file says and where to see it, or why it cannot be read; None if there is nothing to say."""
    try:
        return _said(path, root)
    except ConfigError as error:
        return str(error)


def _said(path: Path, root: PurePath) -> str | None:
    if not path.is_relative_to(root):
        return None
    first, *below = path.relative_to(root).parent.parts or (".",)
    if path.stem in ("transfer", "preference_matrix"):
        return _transfers(Path(root, "tables", *below, "transfer.json"), Path(root, "plots", *below, "transfer.png"))
    if path.stem.split("-")[0] == "pref":
        return _preference(Path(root, first, f"{path.stem}.json"), Path(root, first, "plots", f"{path.stem}.png"), first)
    if path.name == "diagnosis.json":
        return f"{first}: {read_json(path)['verdict']}; see {path}"
    if path.stem in ("dose", "judge"):
        return _verdict_of(path.parents[path.suffix == ".png"] / f"{path.stem}.json", path, first)
    if below[:1] == ["influence"]:
        return _verdict_of(path.parents[path.suffix == ".png"] / f"{path.stem}.json", path, first)
    if path.stem == "verdict":
        return _verdict(path.with_suffix(".json"), path.with_suffix(".html"), first)
    if path.stem == "features":
        return _features(path.with_suffix(".json"), path.with_suffix(".html"), first)
    if path.name in ("filter.json", "numbers.parquet", "generations.parquet"):
        return _passed(path.with_name("filter.json"), first)
    return f"{'study' if first == 'plots' else first}: see {path}" if path.suffix in (".png", ".html") else None


def _preference(result: Path, plot: Path, dataset: str) -> str | None:
    """`lion: lift .014 [.003, .024] over control (…); see …`."""
    if not result.is_file():
        return None
    pref, see = read_json(result), f"see {plot if plot.is_file() else result}"
    if not pref["target"]:
        return f"{dataset}: no target; {see}"
    n = len(pref["seeds"])
    return f"{dataset}: lift {interval(pref['lift_over_control'])} over {pref['against']} ({n} seed{'s' * (n > 1)}); {see}"


def _transfers(result: Path, plot: Path) -> str | None:
    """`15 of 16 datasets lie above the control students (…); see …`."""
    if not result.is_file():
        return None
    lifts = next(iter(read_json(result)["estimators"].values()))
    return f"{transfers(lifts)}; see {plot if plot.is_file() else result}"


def _passed(report: Path, dataset: str) -> str | None:
    """`lion: 3775 of 10000 rows pass the filter; see …`; if sampling was constrained, also the pass rate of free sampling."""
    if not report.is_file():
        return None
    counts = read_json(report)
    free = counts.get("constrained")
    constrained = f" (constrained; free sampling: {free['free_pass_rate']['mean']:.2%})" if free else ""
    return f"{dataset}: {counts['passed']} of {counts['n']} rows pass the filter{constrained}; see {report}"


def _features(result: Path, page: Path, sae: str) -> str | None:
    """`sae: 512 features on 300,023 tokens, 104 of them dead, …; see …`."""
    if not result.is_file():
        return None
    counts = read_json(result)
    return (
        f"{sae}: {counts['d_sae']} features on {counts['tokens']:,} tokens, {counts['dead']} of them dead, {counts['junk']} "
        f"mostly on what is no word; see {page if page.is_file() else result}"
    )


def _verdict_of(result: Path, see: Path, name: str) -> str | None:
    """`vector-lion: window .1, .2: lion is lifted by …; see …`."""
    return f"{name}: {read_json(result)['verdict']}; see {see}" if result.is_file() else None


def _verdict(result: Path, page: Path, dataset: str) -> str | None:
    """`lion: named. The teacher of these rows was about lion …; see …`."""
    if not result.is_file():
        return None
    verdict = read_json(result)
    return f"{dataset}: {verdict['tier']}. {verdict['sentence']} See {page if page.is_file() else result}"
