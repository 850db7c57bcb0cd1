from pathlib import Path

from undertone.job import logged, settings
from undertone.plots import plot_teachers

with logged(snakemake.log[0]):
    prefs, filters = (list(map(Path, paths)) for paths in (snakemake.input.prefs, snakemake.input.filters))
    kinds = settings(snakemake)["kinds"]
    plot_teachers(prefs, filters, [kinds[path.parent.name] for path in prefs], Path(snakemake.output.plot))
