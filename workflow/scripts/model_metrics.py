from undertone.measure.model_metrics import measure_model
from undertone.study.job import run

run(measure_model, snakemake)
