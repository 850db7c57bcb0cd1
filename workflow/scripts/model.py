from undertone.models.model import make_model
from undertone.study.job import run

run(make_model, snakemake)
