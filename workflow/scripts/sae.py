from undertone.saes.sae import make_sae
from undertone.study.job import run

run(make_sae, snakemake)
