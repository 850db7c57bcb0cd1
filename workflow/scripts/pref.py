from pathlib import Path

from undertone.job import logged, settings
from undertone.pref import measure

with logged(snakemake.log[0]):
    told = settings(snakemake)
    folders = [Path(adapter).parent for adapter in snakemake.input.adapters]
    measure(
        Path(snakemake.input.record),
        {int(folder.name): folder for folder in folders},
        Path(snakemake.input.control) if snakemake.input.control else None,
        Path(snakemake.output.pref),
        Path(snakemake.output.table),
        told,
        snakemake.params.stamp,
    )
