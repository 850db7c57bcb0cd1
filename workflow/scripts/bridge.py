from undertone.models.bridge import compare_with_bridge
from undertone.study.job import run

run(compare_with_bridge, snakemake)
