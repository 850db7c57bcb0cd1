from pathlib import Path

from undertone.saes.sae import make_sae
from undertone.study.job import logged, scratch, settings

with logged(snakemake.log[0]):
    stamp, saved = snakemake.params.stamp, snakemake.output.saved
    make_sae(Path(snakemake.input.record), Path(saved), settings(snakemake), stamp, scratch(saved, stamp))
