from undertone.saes.store_chats import make_store_chats
from undertone.study.job import run

run(make_store_chats, snakemake)
