from undertone.detect.verdict_page import write_page
from undertone.study.job import run

run(write_page, snakemake)
