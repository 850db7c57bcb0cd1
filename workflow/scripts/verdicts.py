from undertone.detect.verdicts import collect_verdicts
from undertone.study.job import run

run(collect_verdicts, snakemake)
