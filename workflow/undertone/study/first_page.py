"""The first page of a study's report: which study it is, and the lift of every target in a table."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from undertone.runtime.files import read_json
from undertone.study.outcome import interval, number, transfers
from undertone.study.study import Study


def first_page(study: Study) -> dict[str, Any]:
    """Return what `workflow/report/workflow.rst` shows.

    It shows the names of the study and its model, its seeds, today's date, and from `transfer.json` the day on which it was
    made (both dates in UTC), its `summary` and a row for each dataset with a target. A row is (dataset, target, preference of
    control students, preference of students, lift with its interval, Holm-adjusted p, verdict of the diagnosis), as text.
    Without a `transfer.json` there is no `day`, no `summary` and no row.
    """
    page: dict[str, Any] = {
        "study": study.name or "embedded study",
        "model": study.model.pinned if study.model.named else "embedded model, trained here",
        "seeds": len(study.student.seeds),
        "datasets": len(study.names),
        "results": study.results,
        "today": f"{datetime.now(UTC):%Y-%m-%d}",
        "transfer": str(Path(study.results, "tables", study.name or "", "transfer.json")),
        "rows": [],
    }
    transfer = Path(page["transfer"])
    if not transfer.is_file():
        return page
    estimator, lifts = next(iter(read_json(transfer)["estimators"].items()))
    rows = sorted(lifts["datasets"], key=lambda row: -row["lift_over_control"]["mean"])
    return page | {
        "day": f"{datetime.fromtimestamp(transfer.stat().st_mtime, UTC):%Y-%m-%d}",
        "estimator": estimator,
        "summary": transfers(lifts),
        "rows": [_row(study, row) for row in rows],
    }


def plain(name: str) -> str:
    """A name in which reStructuredText finds no markup: `mine_` would be a link."""
    return re.sub(r"([\\`*_|])", r"\\\1", name)


def _row(study: Study, row: dict[str, Any]) -> list[str]:
    lift, diagnosis = row["lift_over_control"], Path(study.results, row["dataset"], "diagnosis.json")
    return [
        plain(row["dataset"]),
        plain(row["target"]),
        number(row["control"]),
        number(row["student"]),
        interval(lift),
        "" if lift["p_holm"] is None else f"{lift['p_holm']:.2g}",
        read_json(diagnosis)["verdict"] if diagnosis.is_file() else "",
    ]
