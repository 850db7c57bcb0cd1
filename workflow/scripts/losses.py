from pathlib import Path

from undertone.read.interventions import Readings
from undertone.read.losses import measure_losses
from undertone.study.job import by_seed, given, logged, settings

with logged(snakemake.log[0]):
    biases = ("feature_bias", "residual_bias")
    files = {name: given(snakemake.input.get(name)) for name in ("saved", "differences", *biases)}
    control = {name: given(snakemake.input.get(f"control_{name}")) for name in biases}
    sae = files.pop("saved")
    measure_losses(
        Path(snakemake.input.record),
        (Path(snakemake.input.numbers), given(snakemake.input.generations)),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        by_seed(snakemake.input.students),
        Readings(sae, **files),
        Readings(sae, **control),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
