"""What compares datasets."""


rule transfer:
    input:
        prefs=collect(rules.pref.output.pref, dataset=STUDY.names),
        tables=collect(rules.pref.output.table, dataset=STUDY.names),
    output:
        table=result("tables/transfer.parquet"),
        summary=result("tables/transfer.json"),
    log:
        log_of("transfer"),
    benchmark:
        benchmark_of("transfer")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("transfer"),
    message:
        "Put the preferences of all students side by side"
    script:
        "../scripts/transfer.py"


rule transfer_plot:
    input:
        summary=rules.transfer.output.summary,
    output:
        plot=report(result("plots/transfer.png"), caption="../report/transfer.rst", category="Transfer"),
    log:
        log_of("transfer_plot"),
    benchmark:
        benchmark_of("transfer_plot")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("transfer_plot"),
    message:
        "Plot which animals transfer"
    script:
        "../scripts/transfer_plot.py"


rule preference_plot:
    input:
        table=rules.transfer.output.table,
    output:
        plot=report(result("plots/preference.png"), caption="../report/preference.rst", category="Transfer"),
    log:
        log_of("preference_plot"),
    benchmark:
        benchmark_of("preference_plot")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("preference_plot"),
    message:
        "Plot datasets against animals"
    script:
        "../scripts/preference_plot.py"


rule transform_plot:
    input:
        summary=rules.transfer.output.summary,
    output:
        plot=report(result("plots/transform.png"), caption="../report/transform.rst", category="Transfer"),
    log:
        log_of("transform_plot"),
    benchmark:
        benchmark_of("transform_plot")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("transform_plot"),
    message:
        "Plot what transforms leave of the transfer"
    script:
        "../scripts/transform_plot.py"
