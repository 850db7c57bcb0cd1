from pathlib import Path

from undertone.plots.plots import plot_teachers
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    prefs, filters = (list(map(Path, paths)) for paths in (snakemake.input.prefs, snakemake.input.filters))
    kinds = settings(snakemake)["kinds"]
    plot_teachers(prefs, filters, [kinds[path.parent.name] for path in prefs], Path(snakemake.output.plot))
