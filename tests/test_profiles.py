"""The cluster profile knows every rule that asks for a GPU."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_every_rule_with_a_gpu_has_a_partition() -> None:
    asking = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for name, parent, body in re.findall(
            r"^ *(?:use )?rule (\w+)(?: as (\w+) with)?:(.*?)(?=^ *(?:use )?rule |^\S|\Z)", path.read_text(), re.M | re.S
        ):
            if re.search(r"^ +gpu=", body, re.M) or parent:
                asking.add(parent or name)
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    assert {"samples", "student_whole", "residual_bias"} <= asking
    assert set(profile["set-resources"]) == asking
