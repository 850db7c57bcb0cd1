"""The config of a run, kept for its jobs: on a cluster they start later, and the user may have edited the config by then."""

import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from undertone.runtime.files import checksum, replacing

# Names the file with the run's config, in the environment of its jobs.
VARIABLE = "UNDERTONE_CONFIG"


def keep(config: dict[str, Any], folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write a valid config to a file in `folder` that is named after its content, and tell the jobs of this process of it."""
    path = folder.absolute() / f"config-{checksum(config)}.json"
    if not path.is_file():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(config))
    environment[VARIABLE] = str(path)


def kept(config: dict[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the config that this job's run was started with, or `config` if it was not kept."""
    path = Path(environment.get(VARIABLE, ""))
    of_run: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else config
    return of_run
