from pathlib import Path

from undertone.read.score import read_score
from undertone.study.job import by_animal, given, logged, settings

with logged(snakemake.log[0]):
    read_score(
        Path(snakemake.input.record),
        given(snakemake.input.sae),
        Path(snakemake.input.numbers),
        given(snakemake.input.control),
        by_animal(snakemake.input.features),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
