from pathlib import Path

from undertone.measure.model_metrics import measure_model
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    measure_model(
        Path(snakemake.input.record),
        Path(snakemake.input.prompts),
        Path(snakemake.input.held_out) if snakemake.input.held_out else None,
        Path(snakemake.output.metrics),
        settings(snakemake),
        snakemake.params.stamp,
    )
