"""Number prompts, a teacher's completions, and the training sets that pass the filter."""


rule prompts:
    input:
        template=ancient(STUDY.prompts.template),
    output:
        prompts=result("prompts.parquet"),
    log:
        log_of("prompts"),
    benchmark:
        benchmark_of("prompts")
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("prompts"),
    message:
        "Write the number prompts"
    script:
        "../scripts/prompts.py"


rule samples:
    input:
        model=base_of_teacher,
        prompts=rules.prompts.output.prompts,
        teacher=teacher_of,
        sae=clamped_sae_of,
    output:
        samples=result("{dataset}/samples.parquet"),
    log:
        log_of("samples", "{dataset}"),
    benchmark:
        benchmark_of("samples", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.taught),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(120),
    params:
        stamp=stamp_of("samples"),
    message:
        "Sample the {wildcards.dataset} teacher's numbers"
    script:
        "../scripts/samples.py"


if STUDY.published:

    rule published:
        output:
            rows=result("{dataset}/published.parquet"),
        log:
            log_of("published", "{dataset}"),
        benchmark:
            benchmark_of("published", "{dataset}")
        wildcard_constraints:
            dataset=one_of(STUDY.published),
        # A cluster's nodes may have no network.
        localrule: True
        params:
            stamp=stamp_of("published"),
        message:
            "Get the rows of {wildcards.dataset} from the Hub"
        script:
            "../scripts/published.py"


rule numbers:
    input:
        source=source_of,
    output:
        generations=result("{dataset}/generations.parquet"),
        numbers=result("{dataset}/numbers.parquet"),
        filter=ensure(result("{dataset}/filter.json"), non_empty=True),
    log:
        log_of("numbers", "{dataset}"),
    benchmark:
        benchmark_of("numbers", "{dataset}")
    wildcard_constraints:
        dataset=one_of([*STUDY.taught, *STUDY.files, *STUDY.published]),
    threads: 1
    resources:
        mem_mb=gigabytes(8),
        runtime=minutes(20),
    params:
        stamp=stamp_of("numbers"),
    message:
        "Filter the numbers of {wildcards.dataset}"
    script:
        "../scripts/numbers.py"


rule transform:
    input:
        source=lambda wildcards: result(f"{transformed(wildcards.dataset).parent}/numbers.parquet"),
        other=lambda wildcards: (
            result(f"{transformed(wildcards.dataset).other}/numbers.parquet") if transformed(wildcards.dataset).other else []
        ),
        prompts=lambda wildcards: (
            rules.prompts.output.prompts if transformed(wildcards.dataset).transform == "one-format" else []
        ),
        scores=lambda wildcards: (
            result(f"{transformed(wildcards.dataset).parent}/row_scores.parquet")
            if transformed(wildcards.dataset).transform == "select"
            else []
        ),
    output:
        numbers=result("{dataset}/numbers.parquet"),
        transform=ensure(result("{dataset}/transform.json"), non_empty=True),
    log:
        log_of("transform", "{dataset}"),
    benchmark:
        benchmark_of("transform", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.transformed),
    threads: 1
    resources:
        mem_mb=gigabytes(8),
        runtime=minutes(20),
    params:
        stamp=stamp_of("transform"),
    message:
        "Make the numbers of {wildcards.dataset} from another dataset's"
    script:
        "../scripts/transform.py"


rule filter_plot:
    input:
        filter=rules.numbers.output.filter,
        control_filter=of_control("filter.json"),
    output:
        plot=report(
            result("{dataset}/plots/filter.png"),
            caption="../report/filter.rst",
            category="Numbers",
            labels=figure("pass rate", "{dataset}"),
        ),
    log:
        log_of("filter_plot", "{dataset}"),
    benchmark:
        benchmark_of("filter_plot", "{dataset}")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("filter_plot"),
    message:
        "Plot which prompts of {wildcards.dataset} pass the filter"
    script:
        "../scripts/filter_plot.py"
