from undertone.compare.selections import compare_selections
from undertone.study.job import run

run(compare_selections, snakemake)
