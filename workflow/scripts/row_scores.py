from undertone.detect.row_scores import score_rows
from undertone.study.job import run

run(score_rows, snakemake)
