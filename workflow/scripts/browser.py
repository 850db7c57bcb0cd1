from undertone.lab.browser import write_browser
from undertone.study.job import run

run(write_browser, snakemake)
