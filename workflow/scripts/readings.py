from pathlib import Path

from undertone.job import by_animal, by_dataset, logged, settings
from undertone.readings import READERS, compare_readings

with logged(snakemake.log[0]):
    compare_readings(
        {reading: by_dataset(snakemake.input.get(reading, [])) for reading in READERS},
        by_animal(snakemake.input.features),
        Path(snakemake.output.table),
        Path(snakemake.output.summary),
        settings(snakemake),
        snakemake.params.stamp,
    )
