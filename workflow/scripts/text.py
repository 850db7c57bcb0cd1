from undertone.saes.text import make_text
from undertone.study.job import run

run(make_text, snakemake)
