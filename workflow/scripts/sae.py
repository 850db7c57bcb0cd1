from pathlib import Path

from undertone.job import logged, scratch, settings
from undertone.sae import make_sae

with logged(snakemake.log[0]):
    stamp, saved = snakemake.params.stamp, snakemake.output.saved
    make_sae(Path(snakemake.input.record), Path(saved), settings(snakemake), stamp, scratch(saved, stamp))
