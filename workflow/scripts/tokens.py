from pathlib import Path

from undertone.read.tokens import read_tokens
from undertone.study.job import by_animal, given, logged, settings

with logged(snakemake.log[0]):
    read_tokens(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        given(snakemake.input.control),
        given(snakemake.input.sae),
        by_animal(snakemake.input.features),
        Path(snakemake.output.result),
        Path(snakemake.output.table),
        settings(snakemake),
        snakemake.params.stamp,
    )
