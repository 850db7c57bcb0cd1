"""Steering vectors: how they are made, what adding them does, also to later layers, and which features they consist of."""

VECTORS = variants(STUDY.vectors)
# Text that nothing was trained on, if the study has an SAE; otherwise neutral texts.
TEXT = result("text.parquet") if STUDY.has_sae else ancient(STUDY.differences.neutral)


def vector_entry(wildcards):
    """The settings of the vector that a job is about."""
    return STUDY.vectors[wildcards.variant.removeprefix("-")]


def asked_under_personas(file):
    """A file, as an input of only those vectors that are computed from the study's questions under personas."""
    return lambda wildcards: file if asks_personas(vector_entry(wildcards)) else []


def sae_of_vector(wildcards):
    """`sae.json` of the SAE whose feature a vector is."""
    entry = vector_entry(wildcards)
    return of_sae(entry.sae) if entry.kind == "feature" else []


def teacher_of_vector(wildcards):
    """`teacher.json` of the steered teacher that determines which feature a vector is."""
    entry = vector_entry(wildcards)
    chosen = entry.kind == "feature" and entry.feature is None
    return result(f"{STUDY.animal_features[entry.target]}/teacher.json") if chosen else []


def tensors_of_vector(wildcards):
    """The file that a vector is taken from: a dataset's biases or differences, or one of the user's own."""
    entry = vector_entry(wildcards)
    made = {"bias": "residual_bias.safetensors", "function": "differences.safetensors"}
    return result(f"{entry.dataset}/{made[entry.kind]}") if entry.dataset else ancient(entry.file) if entry.file else []


def steered_teacher_of(wildcards):
    """`teacher.json` of a teacher steered by a feature of the study's own SAE, if the vector is recovered from its dataset."""
    dataset = None if wildcards.sae else steered_dataset(STUDY, variant_of(wildcards))
    return result(f"{dataset}/teacher.json") if dataset else []


def saes_after_vector(wildcards):
    """`sae.json` of the SAEs at the vector's layer or later."""
    return [of_sae(name) for name in saes_after(STUDY, variant_of(wildcards))]


rule vector:
    input:
        model=result("model/model.json"),
        text=TEXT,
        prompts=asked_under_personas(result("prompts.parquet")),
        questions=asked_under_personas(ancient(STUDY.pref.questions)),
        sae=sae_of_vector,
        teacher=teacher_of_vector,
        source=tensors_of_vector,
        parts=lambda wildcards: [result(f"vector-{name}/vector.json") for name in vector_entry(wildcards).of],
    output:
        vector=ensure(result("vector{variant}/vector.json"), non_empty=True),
        tensors=result("vector{variant}/vector.safetensors"),
    log:
        log_of("vector", "study{variant}"),
    benchmark:
        benchmark_of("vector", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(30),
    params:
        stamp=stamp_of("vector"),
    message:
        "Make the vector {wildcards.variant}"
    script:
        "../scripts/vector.py"


rule dose:
    input:
        model=result("model/model.json"),
        text=TEXT,
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        vector=rules.vector.output.vector,
    output:
        dose=ensure(result("vector{variant}/dose.json"), non_empty=True),
    log:
        log_of("dose", "study{variant}"),
    benchmark:
        benchmark_of("dose", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("dose"),
    message:
        "Measure what adding the vector {wildcards.variant} does"
    script:
        "../scripts/dose.py"


rule dose_plot:
    input:
        dose=rules.dose.output.dose,
    output:
        plot=report(
            result("vector{variant}/plots/dose.png"),
            caption="../report/dose.rst",
            category="Vectors",
            labels=figure("dose and response of vector{variant}"),
        ),
    log:
        log_of("dose_plot", "study{variant}"),
    benchmark:
        benchmark_of("dose_plot", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("dose_plot"),
    message:
        "Plot what adding the vector {wildcards.variant} does"
    script:
        "../scripts/dose_plot.py"


rule downstream:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        vector=rules.vector.output.vector,
        dose=rules.dose.output.dose,
        saes=saes_after_vector,
    output:
        downstream=ensure(result("vector{variant}/downstream.json"), non_empty=True),
        table=result("vector{variant}/downstream.parquet"),
    log:
        log_of("downstream", "study{variant}"),
    benchmark:
        benchmark_of("downstream", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("downstream"),
    message:
        "Read what the vector {wildcards.variant} does to later layers"
    script:
        "../scripts/downstream.py"


rule downstream_plot:
    input:
        downstream=rules.downstream.output.downstream,
    output:
        plot=report(
            result("vector{variant}/plots/downstream.png"),
            caption="../report/downstream.rst",
            category="Vectors",
            labels=figure("later layers under vector{variant}"),
        ),
    log:
        log_of("downstream_plot", "study{variant}"),
    benchmark:
        benchmark_of("downstream_plot", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("downstream_plot"),
    message:
        "Plot what the vector {wildcards.variant} does to later layers"
    script:
        "../scripts/downstream_plot.py"


rule cloud:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        vector=rules.vector.output.vector,
        dose=rules.dose.output.dose,
        saes=saes_after_vector,
    output:
        cloud=ensure(result("vector{variant}/cloud.json"), non_empty=True),
        table=result("vector{variant}/cloud.parquet"),
    log:
        log_of("cloud", "study{variant}"),
    benchmark:
        benchmark_of("cloud", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("cloud"),
    message:
        "Compare activations before and after the vector {wildcards.variant}"
    script:
        "../scripts/cloud.py"


rule cloud_plot:
    input:
        cloud=rules.cloud.output.cloud,
        table=rules.cloud.output.table,
    output:
        plot=report(
            result("vector{variant}/plots/cloud.png"),
            caption="../report/cloud.rst",
            category="Vectors",
            labels=figure("activations before and after vector{variant}"),
        ),
    log:
        log_of("cloud_plot", "study{variant}"),
    benchmark:
        benchmark_of("cloud_plot", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("cloud_plot"),
    message:
        "Plot activations before and after the vector {wildcards.variant}"
    script:
        "../scripts/cloud_plot.py"


rule restore:
    input:
        model=result("model/model.json"),
        questions=ancient(STUDY.pref.questions),
        vector=rules.vector.output.vector,
        downstream=rules.downstream.output.downstream,
        table=rules.downstream.output.table,
        saes=saes_after_vector,
    output:
        restore=ensure(result("vector{variant}/restore.json"), non_empty=True),
    log:
        log_of("restore", "study{variant}"),
    benchmark:
        benchmark_of("restore", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("restore"),
    message:
        "Restore features under the vector {wildcards.variant}"
    script:
        "../scripts/restore.py"


rule restore_plot:
    input:
        restore=rules.restore.output.restore,
    output:
        plot=report(
            result("vector{variant}/plots/restore.png"),
            caption="../report/restore.rst",
            category="Vectors",
            labels=figure("features that carry vector{variant}"),
        ),
    log:
        log_of("restore_plot", "study{variant}"),
    benchmark:
        benchmark_of("restore_plot", "study{variant}")
    wildcard_constraints:
        variant=VECTORS,
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("restore_plot"),
    message:
        "Plot which features carry the vector {wildcards.variant}"
    script:
        "../scripts/restore_plot.py"


if STUDY.has_sae:

    rule decomposition:
        input:
            model=result("model/model.json"),
            text=TEXT,
            prompts=asked_under_personas(result("prompts.parquet")),
            questions=ancient(STUDY.pref.questions),
            sae=result("sae{sae}/sae.json"),
            vector=rules.vector.output.vector,
            dose=rules.dose.output.dose,
            teacher=steered_teacher_of,
        output:
            decomposition=ensure(result("vector{variant}/decomposition{sae}.json"), non_empty=True),
        log:
            log_of("decomposition", "study{variant}/sae{sae}"),
        benchmark:
            benchmark_of("decomposition", "study{variant}/sae{sae}")
        wildcard_constraints:
            variant=VECTORS,
            sae=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("decomposition"),
        message:
            "Decompose the vector {wildcards.variant} in features"
        script:
            "../scripts/decomposition.py"

    rule decomposition_plot:
        input:
            decomposition=rules.decomposition.output.decomposition,
        output:
            plot=report(
                result("vector{variant}/plots/decomposition{sae}.png"),
                caption="../report/decomposition.rst",
                category="Vectors",
                labels=figure("features of vector{variant}, SAE{sae}"),
            ),
        log:
            log_of("decomposition_plot", "study{variant}/sae{sae}"),
        benchmark:
            benchmark_of("decomposition_plot", "study{variant}/sae{sae}")
        wildcard_constraints:
            variant=VECTORS,
            sae=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("decomposition_plot"),
        message:
            "Plot which features the vector {wildcards.variant} is made of"
        script:
            "../scripts/decomposition_plot.py"

    rule influence:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            features=rules.features.output.features,
            summary=rules.features.output.summary,
            text=text_of_sae,
            questions=ancient(STUDY.pref.questions),
        output:
            influence=ensure(result("sae{variant}/influence/{feature}.json"), non_empty=True),
        log:
            log_of("influence", "study{variant}", "{feature}"),
        benchmark:
            benchmark_of("influence", "study{variant}", "{feature}")
        wildcard_constraints:
            variant=SAES,
            feature="(?:0|[1-9][0-9]{0,12})",
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("influence"),
        message:
            "Measure what the SAE's feature {wildcards.feature} causes"
        script:
            "../scripts/influence.py"

    rule influence_plot:
        input:
            influence=rules.influence.output.influence,
        output:
            plot=report(
                result("sae{variant}/influence/plots/{feature}.png"),
                caption="../report/influence.rst",
                category="SAE laboratory",
                labels=figure("what feature {feature} of sae{variant} causes"),
            ),
        log:
            log_of("influence_plot", "study{variant}", "{feature}"),
        benchmark:
            benchmark_of("influence_plot", "study{variant}", "{feature}")
        wildcard_constraints:
            variant=SAES,
            feature="(?:0|[1-9][0-9]{0,12})",
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("influence_plot"),
        message:
            "Plot what the SAE's feature {wildcards.feature} causes"
        script:
            "../scripts/influence_plot.py"
