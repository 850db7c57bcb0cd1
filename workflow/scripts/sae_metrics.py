from undertone.saes.sae_metrics import measure_sae
from undertone.study.job import run

run(measure_sae, snakemake)
