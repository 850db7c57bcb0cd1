from undertone.study.job import run
from undertone.vectors.cloud import compare_clouds

run(compare_clouds, snakemake)
