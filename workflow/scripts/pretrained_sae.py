from pathlib import Path

from undertone.job import logged, scratch, settings
from undertone.pretrained_sae import make_pretrained_sae

with logged(snakemake.log[0]):
    stamp, saved = snakemake.params.stamp, snakemake.output.saved
    make_pretrained_sae(Path(snakemake.input.record), Path(saved), settings(snakemake)["sae"], stamp, scratch(saved, stamp))
