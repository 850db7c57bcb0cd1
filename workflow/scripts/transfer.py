from pathlib import Path

from undertone.compare.transfer import collect
from undertone.study.job import logged

with logged(snakemake.log[0]):
    prefs = zip(snakemake.input.prefs, snakemake.input.tables, strict=True)
    collect(
        {Path(pref).parent.name: (Path(pref), Path(table)) for pref, table in prefs},
        Path(snakemake.output.table),
        Path(snakemake.output.summary),
        snakemake.params.stamp,
    )
