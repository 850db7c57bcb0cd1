from undertone.models.pretrained import make_pretrained
from undertone.study.job import run

run(make_pretrained, snakemake)
