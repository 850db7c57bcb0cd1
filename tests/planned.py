"""Snakemake's plan as JSON: of every job its rule, its wildcards and the jobs that it waits for; nothing is run.

`python tests/planned.py TARGET … --configfile FILE` takes what `snakemake --d3dag` takes, whose nodes have no wildcards.
"""

import json
import sys
from typing import Any

from snakemake.cli import main
from snakemake.dag import DAG


def told(job: Any) -> dict[str, Any]:
    return {"rule": job.rule.name, "wildcards": dict(job.wildcards_dict)}


def as_json(dag: DAG) -> None:
    print(json.dumps([{**told(job), "after": [told(other) for other in dag.dependencies[job]]} for job in dag.jobs]))


if __name__ == "__main__":
    DAG.d3dag = as_json  # type: ignore[method-assign]
    main(["--d3dag", *sys.argv[1:]])
