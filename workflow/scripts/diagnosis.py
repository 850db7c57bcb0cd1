from undertone.measure.diagnosis import diagnose
from undertone.study.job import run

run(diagnose, snakemake)
