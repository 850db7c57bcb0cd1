"""Where a transfer failed: at the teacher, in the student's training, or in the evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from undertone.data.rows import Split, pairs
from undertone.lm.adapters import finetuned
from undertone.lm.loading import load
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.stats.stats import difference_interval, mean_interval
from undertone.study.config.entries import CONTROL
from undertone.study.config.measure import Diagnosis
from undertone.teachers.divergence import Constraint, TeacherDistribution
from undertone.teachers.teaching import teaching

LEVEL = 0.05
KL_ROUNDING = 1e-6  # nats per token; what is below is rounding error
NO_SIGNAL = "no signal taught"
NOT_LEARNED = "signal not learned"
NOT_SHOWN = "learned but not shown"
TRANSFERRED = "transferred"
NO_STATEMENT = "no statement: a lift needs two training seeds or more"


def diagnose(
    model: Path,
    generations: Path,
    numbers: Path,
    control_numbers: Path,
    filter: Path,
    pref: Path,
    indirect: Path,
    students: dict[int, Path],
    control_students: dict[int, Path],
    teacher: Path | None,
    sae: Path | None,
    diagnosis: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `diagnosis.json` of a dataset with a teacher: what was taught, learned and shown, and a verdict.

    Distributions are those of the next token among the tokens that a passing completion can hold, on rows that pass the filter:
    held-out rows, or training rows if none are left. `kl` is KL(teacher ‖ base), in nats per completion token; `closed` is 1 −
    KL(teacher ‖ student) / KL(teacher ‖ base), for each student and each control student.
    """
    cfg, constraint = Diagnosis.model_validate(settings["diagnosis"]), Constraint.of(settings.get("constraint"))
    loaded = load(model)
    split = Split.of(*(read_parquet(path) for path in (numbers, generations, control_numbers)))
    unseen = split.unseen(cfg.rows, cfg.min_unseen)
    rows = pairs(split.passed.head(cfg.rows) if unseen is None else unseen)
    with teaching(loaded, settings, teacher, sae) as prompted:
        distribution = TeacherDistribution(prompted.loaded, rows, prompted.system, prompted.separator, constraint)
    base = distribution.divergence(loaded)
    folders = [(name, of[seed]) for name, of in (("student", students), (CONTROL, control_students)) for seed in sorted(of)]
    closed: dict[str, list[float]] = {"student": [], CONTROL: []}
    with progress(len(folders), f"diagnosis {diagnosis.parent.name}", "model") as bar:
        for name, folder in folders:
            with finetuned(loaded, folder) as own:
                closed[name].append(share_closed(base, distribution.divergence(own)))
            bar.update()
    directly = read_json(pref)
    evidence = {
        "pass_rate": read_json(filter)["pass_rate"],
        "preference": preferences(directly),
        "kl": mean_interval(base).as_dict(),
        "closed": {name: {**mean_interval(values).as_dict(), "by_seed": values} for name, values in closed.items()},
        "closed_over_control": difference_interval(closed["student"], closed[CONTROL]).as_dict(),
        **shown_by(directly, read_json(indirect)),
    }
    judged = {"verdict": verdict(evidence, cfg), "reasons": reasons(evidence, cfg)}
    body = {"target": directly["target"], "seeds": sorted(students), "rows": len(rows), "held_out": unseen is not None}
    thresholds = cfg.model_dump(exclude={"rows", "min_unseen"})
    write_json(diagnosis, {**judged, **body, "thresholds": thresholds, **evidence}, stamp)


def shown_by(directly: dict[str, Any], indirectly: dict[str, Any]) -> dict[str, Any]:
    """What answers show: the `direct` lift, that of each `indirect` form, and the `distance` between answers."""
    return {
        "direct": directly.get("lift_over_control") or indirectly["contrary"]["lift_over_control"],
        "indirect": {form: report["lift_over_control"] for form, report in indirectly["forms"].items()},
        "distance": indirectly["distance"],
    }


def share_closed(base: Float[np.ndarray, " n_rows"], student: Float[np.ndarray, " n_rows"]) -> float:
    """Return 1 − KL(teacher ‖ student) / KL(teacher ‖ base), from the rows' values; 0 if there was nothing to close."""
    return 1 - float(student.mean() / base.mean()) if base.mean() > KL_ROUNDING else 0.0


def preferences(pref: dict[str, Any]) -> dict[str, float | None]:
    """Return the target's preference in base, teacher, control and students."""
    target = pref["target"]
    models = ("base", "teacher", CONTROL, "student")
    return {name: pref[name][target]["mean"] if target and pref[name] else None for name in models}


def verdict(evidence: dict[str, Any], settings: Diagnosis) -> str:
    """Say where the transfer failed, if it did; a lift above 0 is a transfer whatever the other figures say.

    A lift without an interval, as of a single seed, is none to conclude from, unless there was nothing to transfer.
    """
    if above_zero(evidence["direct"]):
        return TRANSFERRED
    if evidence["kl"]["mean"] < settings.min_kl:
        return NO_SIGNAL
    if evidence["direct"]["ci95"] is None:
        return NO_STATEMENT
    return NOT_LEARNED if evidence["closed_over_control"]["mean"] < settings.min_closed else NOT_SHOWN


def above_zero(estimate: dict[str, Any]) -> bool:
    """Whether an estimate's interval lies above 0."""
    return estimate["ci95"] is not None and estimate["ci95"][0] > 0


def reasons(evidence: dict[str, Any], settings: Diagnosis) -> list[str]:
    """The figures behind the verdict, in words."""
    shown = [form for form, lift in evidence["indirect"].items() if above_zero(lift) and lift["p_holm"] < LEVEL]
    return [
        f"taught: KL(teacher ‖ base) {evidence['kl']['mean']:.3f} nats per completion token (threshold {settings.min_kl})",
        f"learned: students closed {written(evidence['closed_over_control'])} more of it than control students "
        f"(threshold {settings.min_closed})",
        f"shown directly: lift over control {written(evidence['direct'])}",
        f"shown indirectly: {', '.join(shown) or 'in no form'}",
    ]


def written(estimate: dict[str, Any]) -> str:
    """Write an estimate with its interval."""
    ci95 = estimate["ci95"]
    return f"{estimate['mean']:.3f}" + (f" [{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else "")
