"""Where a study's results are, for the Makefile: `python -m undertone.study.root [CONFIG …]`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from snakemake.utils import update_config

from undertone.study.study import Study

OWN = Path("config/config.yaml")


def root_of(configs: Sequence[str]) -> str:
    """Return the results root of the study that these configs describe; each config overrides the ones before it."""
    settings = {"results": Study.model_fields["results"].default}
    for path in (OWN, *map(Path, configs)):
        update_config(settings, yaml.safe_load(path.read_text()) or {})
    return os.path.normpath(settings["results"])


if __name__ == "__main__":
    print(root_of(sys.argv[1:]))
