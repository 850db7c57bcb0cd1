from undertone.lab.chats import make_chats
from undertone.study.job import run

run(make_chats, snakemake)
