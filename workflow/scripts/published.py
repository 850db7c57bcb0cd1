from undertone.data.published import fetch_rows
from undertone.study.job import run

run(fetch_rows, snakemake)
