from undertone.detect.detectors import compare_detectors
from undertone.study.job import run

run(compare_detectors, snakemake)
