from pathlib import Path

from undertone.read.readings import READERS, compare_readings
from undertone.study.job import by_animal, by_dataset, logged, settings

with logged(snakemake.log[0]):
    compare_readings(
        {reading: by_dataset(snakemake.input.get(reading, [])) for reading in READERS},
        by_animal(snakemake.input.features),
        Path(snakemake.output.table),
        Path(snakemake.output.summary),
        settings(snakemake),
        snakemake.params.stamp,
    )
