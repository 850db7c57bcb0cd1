from undertone.saes.text_sae import make_text_sae
from undertone.study.job import run

run(make_text_sae, snakemake)
