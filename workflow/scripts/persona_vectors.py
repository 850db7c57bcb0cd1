from undertone.detect.persona_vectors import make_persona_vectors
from undertone.study.job import run

run(make_persona_vectors, snakemake)
