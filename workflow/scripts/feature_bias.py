from pathlib import Path

from undertone.read.feature_bias import train_feature_biases
from undertone.study.job import by_animal, given, logged, settings

with logged(snakemake.log[0]):
    train_feature_biases(
        Path(snakemake.input.record),
        Path(snakemake.input.sae),
        Path(snakemake.input.numbers),
        given(snakemake.input.control),
        by_animal(snakemake.input.features),
        Path(snakemake.output.biases),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
