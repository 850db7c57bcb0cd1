"""Sparse autoencoders: the study's own, of its hook point, and others; trained here, or found by their names."""

SAES = variants(["", *STUDY.saes])


def folder_files(wildcards):
    """The files of an SAE that is a folder."""
    return [ancient(file) for file in sae_files(STUDY, Node("pretrained_sae", None, variant_of(wildcards)))]


if STUDY.sae.named:

    rule pretrained_sae:
        input:
            folder_files,
            model=model_of_sae,
        output:
            sae=result("sae{variant}/sae.json"),
            files=[] if STUDY.sae.folder else collect(result("sae{{variant}}/{file}"), file=SAE_FILES),
        log:
            log_of("pretrained_sae", "study{variant}"),
        benchmark:
            benchmark_of("pretrained_sae", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        # A cluster's nodes may have no network.
        localrule: True
        params:
            stamp=stamp_of("pretrained_sae"),
        message:
            "Find and check the SAE"
        script:
            "../scripts/pretrained_sae.py"

elif not STUDY.model.named:

    rule sae:
        input:
            model=model_of_sae,
            corpus=lambda wildcards: ancient(STUDY.base_model(STUDY.model_of(variant_of(wildcards))).embedded.corpus),
        output:
            sae=result("sae{variant}/sae.json"),
            files=collect(result("sae{{variant}}/{file}"), file=SAE_FILES),
        log:
            log_of("sae", "study{variant}"),
        benchmark:
            benchmark_of("sae", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("sae"),
        message:
            "Prepare the SAE"
        script:
            "../scripts/sae.py"

elif STUDY.has_sae:

    rule text:
        input:
            [ancient(file) for file in text_files(STUDY, Node("text"))],
            model=result("model/model.json"),
            samples=[result(f"{node.dataset}/samples.parquet") for node in sampled_text(STUDY, Node("text"))],
        output:
            text=ensure(result("sae/text.parquet"), non_empty=True),
        log:
            log_of("text"),
        benchmark:
            benchmark_of("text")
        # A cluster's nodes may have no network.
        localrule: True
        params:
            stamp=stamp_of("text"),
        message:
            "Read the text that the SAE is trained on"
        script:
            "../scripts/text.py"

    rule text_sae:
        input:
            model=model_of_sae,
            text=rules.text.output.text,
        output:
            sae=result("sae{variant}/sae.json"),
            files=collect(result("sae{{variant}}/{file}"), file=SAE_FILES),
        log:
            log_of("text_sae", "study{variant}"),
        benchmark:
            benchmark_of("text_sae", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(240),
        params:
            stamp=stamp_of("text_sae"),
        message:
            "Train the SAE on text"
        script:
            "../scripts/text_sae.py"


if STUDY.has_sae:

    rule sae_metrics:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            prompts=result("prompts.parquet"),
            questions=ancient(STUDY.pref.questions),
            text=text_of_sae,
        output:
            metrics=ensure(result("sae{variant}/metrics.json"), non_empty=True),
        log:
            log_of("sae_metrics", "study{variant}"),
        benchmark:
            benchmark_of("sae_metrics", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(30),
        params:
            stamp=stamp_of("sae_metrics"),
        message:
            "Measure how well the SAE describes the base model"
        script:
            "../scripts/sae_metrics.py"
