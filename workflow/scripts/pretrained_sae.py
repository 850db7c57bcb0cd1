from pathlib import Path

from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.study.job import logged, scratch, settings

with logged(snakemake.log[0]):
    stamp, saved = snakemake.params.stamp, snakemake.output.saved
    make_pretrained_sae(Path(snakemake.input.record), Path(saved), settings(snakemake)["sae"], stamp, scratch(saved, stamp))
