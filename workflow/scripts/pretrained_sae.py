from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.study.job import run

run(make_pretrained_sae, snakemake)
