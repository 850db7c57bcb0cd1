from pathlib import Path

from undertone.saes.sae_metrics import measure_sae
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    measure_sae(
        Path(snakemake.input.record),
        Path(snakemake.input.saved),
        Path(snakemake.input.prompts),
        Path(snakemake.output.metrics),
        settings(snakemake),
        snakemake.params.stamp,
    )
