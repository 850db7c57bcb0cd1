from undertone.pairs.across import compare_across
from undertone.study.job import run

run(compare_across, snakemake)
