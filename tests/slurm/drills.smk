"""Jobs that wait for a file, hold a GPU, outgrow their memory or fail; their resources grow like those of the study's rules."""

import time
from pathlib import Path

from undertone.study.job import logged


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


rule wait:
    output:
        "drill/{name}.waited",
    log:
        "logs/wait/{name}.log",
    threads: 1
    resources:
        mem_mb=gigabytes(1),
        runtime=minutes(2),
    # At most a minute, so that no job runs on for long if the test is killed.
    shell:
        "touch begun-{wildcards.name}; for i in $(seq 300); do test -e go-{wildcards.name} && break; sleep 0.2; done; echo waited > {output}"


rule hold:
    output:
        "drill/{name}.held",
    log:
        "logs/hold/{name}.log",
    threads: 2
    resources:
        gpu=1,
        slurm_partition="gpu",
        mem_mb=gigabytes(1),
        runtime=minutes(2),
    shell:
        "sleep 3; echo $CUDA_VISIBLE_DEVICES > {output}"


rule outgrow:
    # It needs 1.2 GB, which only the second attempt has.
    output:
        "drill/outgrown",
    log:
        "logs/outgrow.log",
    threads: 1
    resources:
        mem_mb=gigabytes(1),
        runtime=minutes(2),
    run:
        with logged(log[0]):
            held = b"x" * 1_200_000_000
            time.sleep(3)
        Path(output[0]).touch()


rule fail:
    output:
        "drill/mended",
    log:
        "logs/fail.log",
    threads: 1
    resources:
        mem_mb=gigabytes(1),
        runtime=minutes(2),
    shell:
        "echo an owl sits on the disk > {log}; test -e mend && touch {output}"
