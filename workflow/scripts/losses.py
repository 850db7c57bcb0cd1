from undertone.read.losses import measure_losses
from undertone.study.job import run

run(measure_losses, snakemake)
