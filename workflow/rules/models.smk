"""The base model, in `model/`: trained from scratch, or found by its name."""

MODEL_FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]

# The models that are made from the study's own model.
RERANDOMIZED = [name for name in STUDY.models if STUDY.base_model(name).rerandomized is not None]
PREPARED = variants(["", *(name for name in STUDY.models if name not in RERANDOMIZED)])

if STUDY.model.named:

    rule pretrained:
        input:
            lambda wildcards: ancient(checkpoint_files(STUDY, Node("pretrained", None, variant_of(wildcards)))),
        output:
            model=ensure(result("model{variant}/model.json"), non_empty=True),
            files=collect(result("model{{variant}}/{file}"), file=MODEL_FILES if STUDY.model.gguf else []),
        log:
            log_of("pretrained", "study{variant}"),
        benchmark:
            benchmark_of("pretrained", "study{variant}")
        wildcard_constraints:
            variant=PREPARED,
        # A cluster's nodes may have no network.
        localrule: True
        params:
            stamp=stamp_of("pretrained"),
        message:
            "Find and check the base model"
        script:
            "../scripts/pretrained.py"

else:

    rule model:
        input:
            corpus=lambda wildcards: ancient(STUDY.base_model(variant_of(wildcards)).embedded.corpus),
        output:
            model=result("model{variant}/model.json"),
            files=collect(result("model{{variant}}/{file}"), file=MODEL_FILES),
            held_out=result("model{variant}/held_out.parquet"),
        log:
            log_of("model", "study{variant}"),
        benchmark:
            benchmark_of("model", "study{variant}")
        wildcard_constraints:
            variant=PREPARED,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(8),
            runtime=minutes(60),
        params:
            stamp=stamp_of("model"),
        message:
            "Prepare the base model"
        script:
            "../scripts/model.py"


rule rerandomized:
    input:
        own=result("model/model.json"),
    output:
        model=result("model{variant}/model.json"),
        files=collect(result("model{{variant}}/{file}"), file=MODEL_FILES),
    log:
        log_of("rerandomized", "study{variant}"),
    benchmark:
        benchmark_of("rerandomized", "study{variant}")
    wildcard_constraints:
        variant=variants(RERANDOMIZED),
    threads: 1
    resources:
        mem_mb=gigabytes(32),
        runtime=minutes(30),
    params:
        stamp=stamp_of("rerandomized"),
    message:
        "Permute the weights of the base model"
    script:
        "../scripts/rerandomized.py"


rule model_metrics:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
        held_out=[] if STUDY.model.named else result("model/held_out.parquet"),
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


rule bridge:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
    output:
        bridge=ensure(result("model/bridge.json"), non_empty=True),
    log:
        log_of("bridge"),
    benchmark:
        benchmark_of("bridge")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("bridge"),
    message:
        "Compare the base model with a hooked one"
    script:
        "../scripts/bridge.py"
