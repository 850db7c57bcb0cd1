"""Readings of a dataset: its activations, the biases that explain it, its likelihood, its tokens."""


rule activations:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=sae_of_study(),
    output:
        activations=result("{dataset}/activations.safetensors"),
    log:
        log_of("activations", "{dataset}"),
    benchmark:
        benchmark_of("activations", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("activations"),
    message:
        "Read the activations of {wildcards.dataset}"
    script:
        "../scripts/activations.py"


rule teacher_activations:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=sae_of_study(),
        teacher=teacher_of,
    output:
        teacher_activations=result("{dataset}/teacher_activations.safetensors"),
    log:
        log_of("teacher_activations", "{dataset}"),
    benchmark:
        benchmark_of("teacher_activations", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.of_kind(*KINDS)),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("teacher_activations"),
    message:
        "Read the activations of {wildcards.dataset} under its teacher"
    script:
        "../scripts/teacher_activations.py"


rule student_activations:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=sae_of_study(),
        student=lambda wildcards: first_student_of(wildcards.dataset)[0],
    output:
        student_activations=result("{dataset}/student_activations.safetensors"),
    log:
        log_of("student_activations", "{dataset}"),
    benchmark:
        benchmark_of("student_activations", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("student_activations"),
    message:
        "Read the activations of {wildcards.dataset} in its student"
    script:
        "../scripts/student_activations.py"


rule residuals:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=result("sae/sae.json"),
    output:
        residuals=result("{dataset}/residuals.safetensors"),
    log:
        log_of("residuals", "{dataset}"),
    benchmark:
        benchmark_of("residuals", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("residuals"),
    message:
        "Write the residuals of {wildcards.dataset}, token by token"
    script:
        "../scripts/residuals.py"


rule differences:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=sae_of_study(),
        activations=rules.activations.output.activations,
        control_activations=of_control("activations.safetensors"),
        teacher_activations=of_taught("teacher_activations.safetensors"),
        steered=lambda wildcards: steered_of(wildcards.dataset),
    output:
        differences=ensure(result("{dataset}/differences.json"), non_empty=True),
        differences_tensors=result("{dataset}/differences.safetensors"),
    log:
        log_of("differences", "{dataset}"),
    benchmark:
        benchmark_of("differences", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("differences"),
    message:
        "Compare the activations of {wildcards.dataset}"
    script:
        "../scripts/differences.py"


rule lens:
    input:
        model=result("model/model.json"),
        sae=sae_of_study(),
        neutral=ancient(STUDY.differences.neutral),
        students=lambda wildcards: first_student_of(wildcards.dataset),
        control_students=lambda wildcards: beside(first_student_of, wildcards.dataset),
        teacher=teacher_of,
    output:
        lens=ensure(result("{dataset}/lens.json"), non_empty=True),
    log:
        log_of("lens", "{dataset}"),
    benchmark:
        benchmark_of("lens", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("lens"),
    message:
        "Apply the activation difference lens to {wildcards.dataset}"
    script:
        "../scripts/lens.py"


rule score:
    input:
        model=result("model/model.json"),
        sae=sae_of_study(),
        numbers=result("{dataset}/numbers.parquet"),
        control_numbers=of_control("numbers.parquet"),
        steered=lambda wildcards: steered_of(wildcards.dataset),
    output:
        score=ensure(result("{dataset}/score.json"), non_empty=True),
        score_tensors=result("{dataset}/score.safetensors"),
    log:
        log_of("score", "{dataset}"),
    benchmark:
        benchmark_of("score", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("score"),
    message:
        "Read the score of {wildcards.dataset}"
    script:
        "../scripts/score.py"


rule feature_bias:
    input:
        model=result("model/model.json"),
        sae=result("sae/sae.json"),
        numbers=result("{dataset}/numbers.parquet"),
        control_feature_bias_tensors=of_control("feature_bias.safetensors"),
        steered=lambda wildcards: steered_of(wildcards.dataset),
    output:
        feature_bias_tensors=result("{dataset}/feature_bias.safetensors"),
        feature_bias=ensure(result("{dataset}/feature_bias.json"), non_empty=True),
    log:
        log_of("feature_bias", "{dataset}"),
    benchmark:
        benchmark_of("feature_bias", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("feature_bias"),
    message:
        "Train feature biases on {wildcards.dataset}"
    script:
        "../scripts/feature_bias.py"


rule residual_bias:
    input:
        model=result("model/model.json"),
        sae=sae_of_study(),
        numbers=result("{dataset}/numbers.parquet"),
        control_residual_bias_tensors=of_control("residual_bias.safetensors"),
    output:
        residual_bias_tensors=result("{dataset}/residual_bias.safetensors"),
        residual_bias=ensure(result("{dataset}/residual_bias.json"), non_empty=True),
    log:
        log_of("residual_bias", "{dataset}"),
    benchmark:
        benchmark_of("residual_bias", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(120),
    params:
        stamp=stamp_of("residual_bias"),
    message:
        "Train residual biases on {wildcards.dataset}"
    script:
        "../scripts/residual_bias.py"


rule bias_pref:
    input:
        model=result("model/model.json"),
        sae=sae_of_study(),
        questions=ancient(STUDY.pref.questions),
        feature_bias_tensors=rules.feature_bias.output.feature_bias_tensors if STUDY.has_sae else [],
        residual_bias_tensors=rules.residual_bias.output.residual_bias_tensors,
        differences_tensors=rules.differences.output.differences_tensors,
        control_bias_pref=of_control("bias_pref.json"),
    output:
        bias_pref=ensure(result("{dataset}/bias_pref.json"), non_empty=True),
    log:
        log_of("bias_pref", "{dataset}"),
    benchmark:
        benchmark_of("bias_pref", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("bias_pref"),
    message:
        "Ask what the base model prefers under the biases of {wildcards.dataset}"
    script:
        "../scripts/bias_pref.py"


rule losses:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        generations=generations_of,
        control_numbers=of_control("numbers.parquet"),
        questions=ancient(STUDY.pref.questions),
        teacher=teacher_of,
        sae=sae_of_study(),
        students=lambda wildcards: students_of(wildcards.dataset, seeds=STUDY.losses.students),
        feature_bias_tensors=rules.feature_bias.output.feature_bias_tensors if STUDY.has_sae else [],
        residual_bias_tensors=rules.residual_bias.output.residual_bias_tensors,
        differences_tensors=rules.differences.output.differences_tensors,
        control_feature_bias_tensors=of_control("feature_bias.safetensors") if STUDY.has_sae else [],
        control_residual_bias_tensors=of_control("residual_bias.safetensors"),
    output:
        losses=ensure(result("{dataset}/losses.json"), non_empty=True),
    log:
        log_of("losses", "{dataset}"),
    benchmark:
        benchmark_of("losses", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("losses"),
    message:
        "Measure the loss of {wildcards.dataset} under every intervened model"
    script:
        "../scripts/losses.py"


rule tokens:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=sae_of_study(),
        control_numbers=of_control("numbers.parquet"),
        steered=lambda wildcards: steered_of(wildcards.dataset),
    output:
        tokens=ensure(result("{dataset}/tokens.json"), non_empty=True),
        tokens_table=result("{dataset}/tokens.parquet"),
    log:
        log_of("tokens", "{dataset}"),
    benchmark:
        benchmark_of("tokens", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("tokens"),
    message:
        "Read the tokens of {wildcards.dataset}"
    script:
        "../scripts/tokens.py"


rule sequences:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        sae=clamped_sae_of_either,
        teacher=teacher_of,
        counterpart=teacher_of_counterpart,
    output:
        sequences_table=result("{dataset}/sequences.parquet"),
        sequences=ensure(result("{dataset}/sequences.json"), non_empty=True),
    log:
        log_of("sequences", "{dataset}"),
    benchmark:
        benchmark_of("sequences", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.of_kind(*KINDS)),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("sequences"),
    message:
        "Compare teacher and base log-probs per token of {wildcards.dataset}"
    script:
        "../scripts/sequences.py"


rule entangled:
    input:
        model=result("model/model.json"),
        numbers=collect(
            result("{dataset}/numbers.parquet"), dataset=[name for name in read_by(STUDY, "entangled") if name != CONTROL]
        ),
        control_numbers=result(f"{CONTROL}/numbers.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        entangled_table=of_study("tables/entangled.parquet"),
        entangled=ensure(of_study("tables/entangled.json"), non_empty=True),
    log:
        log_of("entangled", *NAMED),
    benchmark:
        benchmark_of("entangled", *NAMED)
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("entangled"),
    message:
        "Find each animal's entangled tokens in every dataset"
    script:
        "../scripts/entangled.py"


rule readings:
    input:
        steered=steered_of(),
        score=collect(result("{dataset}/score.json"), dataset=read_by(STUDY, "readings")),
        feature_bias=collect(result("{dataset}/feature_bias.json"), dataset=read_by(STUDY, "readings")) if STUDY.has_sae else [],
        score_tensors=collect(result("{dataset}/score.safetensors"), dataset=read_by(STUDY, "readings")),
        feature_bias_tensors=(
            collect(result("{dataset}/feature_bias.safetensors"), dataset=read_by(STUDY, "readings")) if STUDY.has_sae else []
        ),
        bias_pref=collect(result("{dataset}/bias_pref.json"), dataset=read_by(STUDY, "readings")),
        losses=collect(result("{dataset}/losses.json"), dataset=read_by(STUDY, "readings")),
        tokens=collect(result("{dataset}/tokens.json"), dataset=read_by(STUDY, "readings")),
    output:
        readings_table=of_study("tables/readings.parquet"),
        readings=report(
            ensure(of_study("tables/readings.json"), non_empty=True),
            caption="../report/data.rst",
            category="Readings",
            subcategory="all datasets",
            labels=data("what each reading says", "all"),
        ),
    log:
        log_of("readings", *NAMED),
    benchmark:
        benchmark_of("readings", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("readings"),
    message:
        "Collect the results of all analyses"
    script:
        "../scripts/readings.py"


rule reading_plot:
    input:
        reading=lambda wildcards: reading(wildcards.key, wildcards.dataset),
        control_reading=lambda wildcards: beside(lambda control: reading(wildcards.key, control), wildcards.dataset),
    output:
        plot=report(
            result("{dataset}/plots/{key}.png"),
            caption="../report/reading.rst",
            category="Readings",
            subcategory="{key}",
            labels=figure("{key}", "{dataset}"),
        ),
    log:
        log_of("reading_plot", "{dataset}", "{key}"),
    benchmark:
        benchmark_of("reading_plot", "{dataset}", "{key}")
    wildcard_constraints:
        key=one_of(READINGS),
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("reading_plot"),
    message:
        "Plot {wildcards.key} of {wildcards.dataset}"
    script:
        "../scripts/reading_plot.py"


rule summary_plot:
    input:
        unpack(summarised),
    output:
        plot=report(
            result("{dataset}/summary.png"),
            caption="../report/summary.rst",
            category="Summary",
            labels=figure("all readings", "{dataset}"),
        ),
    log:
        log_of("summary_plot", "{dataset}"),
    benchmark:
        benchmark_of("summary_plot", "{dataset}")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("summary_plot"),
    message:
        "Summarise {wildcards.dataset} on one page"
    script:
        "../scripts/summary_plot.py"


rule entangled_plot:
    input:
        entangled_table=rules.entangled.output.entangled_table,
        entangled=rules.entangled.output.entangled,
    output:
        plot=report(
            of_study("plots/entangled.png"),
            caption="../report/entangled.rst",
            category="Readings",
            subcategory="all datasets",
            labels=figure("entangled tokens", "all"),
        ),
    log:
        log_of("entangled_plot", *NAMED),
    benchmark:
        benchmark_of("entangled_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("entangled_plot"),
    message:
        "Plot which datasets hold which animal's entangled tokens"
    script:
        "../scripts/entangled_plot.py"


rule bias_map_plot:
    input:
        bias_prefs=collect(
            result("{dataset}/bias_pref.json"), dataset=[d for d in read_by(STUDY, "bias_map_plot") if d != CONTROL]
        ),
    output:
        plot=report(
            of_study("plots/bias_map.png"),
            caption="../report/bias_map.rst",
            category="Readings",
            subcategory="all datasets",
            labels=figure("biases", "all"),
        ),
    log:
        log_of("bias_map_plot", *NAMED),
    benchmark:
        benchmark_of("bias_map_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("bias_map_plot"),
    message:
        "Map by layer which biases carry their animal"
    script:
        "../scripts/bias_map_plot.py"
