"""What models prefer."""


rule pref:
    input:
        record=rules.model.output.record,
        questions=ancient(STUDY.pref.questions),
        adapters=lambda wildcards: collect(
            rules.student.output.adapter, dataset=wildcards.dataset, seed=seeds(wildcards.dataset)
        ),
        control=of_control("pref.parquet"),
    output:
        pref=ensure(result("{dataset}/pref.json"), non_empty=True),
        table=result("{dataset}/pref.parquet"),
    log:
        log_of("pref", "{dataset}"),
    benchmark:
        benchmark_of("pref", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("pref"),
    message:
        "Measure the preference of {wildcards.dataset}"
    script:
        "../scripts/pref.py"


rule pref_plot:
    input:
        pref=rules.pref.output.pref,
    output:
        plot=report(
            result("{dataset}/plots/pref.png"),
            caption="../report/pref.rst",
            category="Preference",
            labels={"dataset": "{dataset}"},
        ),
    log:
        log_of("pref_plot", "{dataset}"),
    benchmark:
        benchmark_of("pref_plot", "{dataset}")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("pref_plot"),
    message:
        "Plot the preference of {wildcards.dataset}"
    script:
        "../scripts/pref_plot.py"
