from undertone.lab.splitting import make_splitting
from undertone.study.job import run

run(make_splitting, snakemake)
