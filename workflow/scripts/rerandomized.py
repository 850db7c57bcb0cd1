from undertone.models.rerandomized import make_rerandomized
from undertone.study.job import run

run(make_rerandomized, snakemake)
