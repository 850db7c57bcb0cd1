"""The config of a run, kept for its jobs: on a cluster they start later, and the user may have edited the config by then."""

import hashlib
import json
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from undertone.runtime.files import replacing

# Names the file with the run's config, in the environment of its jobs.
VARIABLE = "UNDERTONE_CONFIG"


def planned(
    config: dict[str, Any], folder: Path, main: bool, environment: MutableMapping[str, str] = os.environ
) -> dict[str, Any]:
    """Return the config with which the run was planned.

    In the main process that is `config`, which is written to `folder`. In a job it is what the job's main process wrote there,
    if that file is still there.
    """
    if main:
        text = json.dumps(config)
        path = folder.absolute() / f"config-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.write_text(text)
        environment[VARIABLE] = str(path)
        return config
    path = Path(environment.get(VARIABLE, ""))
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else config
    return kept
