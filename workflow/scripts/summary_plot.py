from pathlib import Path

from undertone.plots.summary import make_summary
from undertone.study.job import given, logged
from undertone.study.stages import SUMMARISED

with logged(snakemake.log[0]):
    own = {name: given(snakemake.input.get(name)) for name in SUMMARISED}
    control = {name: given(snakemake.input.get(f"control_{name}")) for name in SUMMARISED}
    make_summary(
        {name: path for name, path in own.items() if path},
        {name: path for name, path in control.items() if path},
        Path(snakemake.output.plot),
        snakemake.wildcards.dataset,
    )
