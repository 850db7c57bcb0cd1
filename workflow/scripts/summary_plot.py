from pathlib import Path

from undertone.job import given, logged
from undertone.stages import SUMMARISED
from undertone.summary import make_summary

with logged(snakemake.log[0]):
    own = {name: given(snakemake.input.get(name)) for name in SUMMARISED}
    control = {name: given(snakemake.input.get(f"control_{name}")) for name in SUMMARISED}
    make_summary(
        {name: path for name, path in own.items() if path},
        {name: path for name, path in control.items() if path},
        Path(snakemake.output.plot),
        snakemake.wildcards.dataset,
    )
