from undertone.study.job import run
from undertone.vectors.dose import measure_dose

run(measure_dose, snakemake)
