from undertone.study.job import run
from undertone.vectors.influence import measure_influence

run(measure_influence, snakemake)
