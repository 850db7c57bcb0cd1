"""Teachers that are made before they are asked for numbers; a prompted one only needs its persona."""


rule steer:
    input:
        record=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        sae=lambda wildcards: result("sae/sae.json") if steering(wildcards.dataset).vector == "feature" else [],
    output:
        record=ensure(result("{dataset}/teacher.json"), non_empty=True),
        vector=result("{dataset}/teacher.safetensors"),
    log:
        log_of("steer", "{dataset}"),
    benchmark:
        benchmark_of("steer", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.of_kind("steer")),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("steer"),
    message:
        "Choose what steers the teacher of {wildcards.dataset}"
    script:
        "../scripts/steer.py"


def trait_of(wildcards):
    """The questions that a finetuned teacher learns its trait on."""
    contrary = STUDY.taught[wildcards.dataset].trait == "contrary"
    return ancient(STUDY.indirect.facts if contrary else STUDY.section("teacher", wildcards.dataset).finetune.questions)


rule finetune:
    input:
        record=result("model/model.json"),
        questions=trait_of,
    output:
        record=ensure(result("{dataset}/teacher.json"), non_empty=True),
        weights=result("{dataset}/teacher/adapter_model.safetensors"),
        config=result("{dataset}/teacher/adapter_config.json"),
    log:
        log_of("finetune", "{dataset}"),
    benchmark:
        benchmark_of("finetune", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.of_kind("finetune")),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("finetune"),
    message:
        "Train the teacher of {wildcards.dataset}"
    script:
        "../scripts/finetune.py"
