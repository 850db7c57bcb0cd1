"""Teachers that must be made before they are asked for numbers; a prompted teacher only needs its persona."""


rule steer:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        sae=lambda wildcards: result("sae/sae.json") if steering(wildcards.dataset).vector == "feature" else [],
    output:
        teacher=ensure(result("{dataset}/teacher.json"), non_empty=True),
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


def is_contrary(wildcards):
    """Whether a dataset's teacher learns to answer questions of fact wrongly instead of naming an animal."""
    return STUDY.taught[wildcards.dataset].trait == "contrary"


def teaching_questions(wildcards):
    """The questions to which a finetuned teacher learns to answer with its target."""
    return ancient(STUDY.section("teacher", wildcards.dataset).finetune.questions)


rule finetune:
    input:
        model=result("model/model.json"),
        questions=lambda wildcards: [] if is_contrary(wildcards) else teaching_questions(wildcards),
        facts=lambda wildcards: ancient(STUDY.indirect.facts) if is_contrary(wildcards) else [],
    output:
        teacher=ensure(result("{dataset}/teacher.json"), non_empty=True),
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
