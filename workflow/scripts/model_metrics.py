from pathlib import Path

from undertone.job import logged, settings
from undertone.model_metrics import measure_model

with logged(snakemake.log[0]):
    measure_model(
        Path(snakemake.input.record),
        Path(snakemake.input.prompts),
        Path(snakemake.output.metrics),
        settings(snakemake),
        snakemake.params.stamp,
    )
