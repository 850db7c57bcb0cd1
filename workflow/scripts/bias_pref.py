from pathlib import Path

from undertone.read.bias_pref import measure_biases
from undertone.read.interventions import Readings
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    names = ("sae", "feature_bias", "residual_bias", "differences")
    measure_biases(
        Path(snakemake.input.record),
        Readings(**{name: given(snakemake.input.get(name)) for name in names}),
        given(snakemake.input.control),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
