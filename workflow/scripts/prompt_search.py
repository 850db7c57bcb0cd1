from undertone.detect.prompt_search import search_prompt
from undertone.study.job import run

run(search_prompt, snakemake)
