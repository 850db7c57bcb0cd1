from undertone.read.residuals import read_residuals
from undertone.study.job import run

run(read_residuals, snakemake)
