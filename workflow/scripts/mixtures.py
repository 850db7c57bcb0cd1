from undertone.detect.mixtures import mix_dataset
from undertone.study.job import run

run(mix_dataset, snakemake)
