from undertone.lab.neuron_table import compare_neurons
from undertone.study.job import run

run(compare_neurons, snakemake)
