"""The base model: from nothing, or from a name and a revision, to `model/`."""

MODEL_FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


rule model:
    input:
        corpus=lambda wildcards: ([] if STUDY.model.name else ancient(STUDY.base_model(variant_of(wildcards)).embedded.corpus)),
    output:
        record=result("model{variant}/model.json"),
        files=[] if STUDY.model.name else collect(result("model{{variant}}/{file}"), file=MODEL_FILES),
    log:
        log_of("model", "study{variant}"),
    benchmark:
        benchmark_of("model", "study{variant}")
    wildcard_constraints:
        variant=variants(["", *STUDY.models]),
    threads: 1
    resources:
        gpu=0 if STUDY.model.name else 1,
        mem_mb=gigabytes(8),
        runtime=minutes(60),
    params:
        stamp=stamp_of("model"),
    message:
        "Prepare the base model"
    script:
        "../scripts/model.py"


rule model_metrics:
    input:
        record=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        metrics=ensure(result("model/metrics.json"), non_empty=True),
    log:
        log_of("model_metrics"),
    benchmark:
        benchmark_of("model_metrics")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("model_metrics"),
    message:
        "Measure what the base model can do"
    script:
        "../scripts/model_metrics.py"
