from undertone.plots.summary import make_summary
from undertone.study.job import run

run(make_summary, snakemake)
