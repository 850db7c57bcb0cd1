"""Sparse autoencoders: the study's own SAE at its hook point, and others; trained here, or found by their names."""

SAES = variants(["", *STUDY.saes])


def folder_files(wildcards):
    """The files of an SAE that is a folder."""
    return [ancient(file) for file in sae_files(STUDY, Node("pretrained_sae", None, variant_of(wildcards)))]


# The numbers of the files of a store of activations.
SHARDS = [f"{k:0{len(str(STUDY.store.shards - 1))}}" for k in range(STUDY.store.shards)]


def store_of_sae(wildcards):
    """The shards that an SAE is trained from, if its `cached` is set."""
    variant = variant_of(wildcards)
    cached = STUDY.dictionary(variant).cached
    return collect(result(f"store/{STUDY.store_of(variant)}/{{shard}}.safetensors"), shard=SHARDS) if cached else []


def text_of_store(wildcards):
    """The text whose activations are stored."""
    model = parts(wildcards.key)[2]
    return result("sae/text.parquet" if STUDY.model.named else f"store/text{'-' if model else ''}{model}.parquet")


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
            store=store_of_sae,
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
            store=store_of_sae,
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


if STUDY.stores:

    rule store:
        input:
            model=lambda wildcards: model_of(parts(wildcards.key)[2]),
            text=text_of_store,
        output:
            shards=collect(result("store/{{key}}/{shard}.safetensors"), shard=SHARDS),
            store=ensure(result("store/{key}/store.json"), non_empty=True),
        log:
            log_of("store", "{key}"),
        benchmark:
            benchmark_of("store", "{key}")
        wildcard_constraints:
            key=one_of(STUDY.stores),
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(240),
        params:
            stamp=stamp_of("store"),
        message:
            "Store the activations at {wildcards.key}"
        script:
            "../scripts/store.py"


if STUDY.stores and not STUDY.model.named:

    rule store_chats:
        input:
            model=result("model{variant}/model.json"),
            corpus=lambda wildcards: ancient(STUDY.base_model(variant_of(wildcards)).embedded.corpus),
        output:
            text=result("store/text{variant}.parquet"),
        log:
            log_of("store_chats", "study{variant}"),
        benchmark:
            benchmark_of("store_chats", "study{variant}")
        wildcard_constraints:
            variant=variants(sorted({parts(name)[2] for name in STUDY.stores})),
        threads: 1
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("store_chats"),
        message:
            "Draw the chats whose activations are stored"
        script:
            "../scripts/store_chats.py"


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

    rule sae_metrics_plot:
        input:
            metrics=rules.sae_metrics.output.metrics,
        output:
            plot=report(
                result("sae{variant}/plots/metrics.png"),
                caption="../report/sae_metrics.rst",
                category="SAE laboratory",
                labels=figure("how much the SAE explains"),
            ),
        log:
            log_of("sae_metrics_plot", "study{variant}"),
        benchmark:
            benchmark_of("sae_metrics_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("sae_metrics_plot"),
        message:
            "Plot how much the SAE explains"
        script:
            "../scripts/sae_metrics_plot.py"
