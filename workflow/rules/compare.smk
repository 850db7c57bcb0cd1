"""Comparisons of datasets."""


rule transfer:
    input:
        prefs=collect(result("{dataset}/pref.json"), dataset=STUDY.names),
        pref_tables=collect(result("{dataset}/pref.parquet"), dataset=STUDY.names),
    output:
        transfer_table=of_study("tables/transfer.parquet"),
        transfer=report(
            of_study("tables/transfer.json"), caption="../report/data.rst", category="Transfer", labels=data("every target")
        ),
    log:
        log_of("transfer", *NAMED),
    benchmark:
        benchmark_of("transfer", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("transfer"),
    message:
        "Collect the students' preferences"
    script:
        "../scripts/transfer.py"


rule transfer_plot:
    input:
        transfer=rules.transfer.output.transfer,
    output:
        plot=report(
            of_study("plots/transfer.png"),
            caption="../report/transfer.rst",
            category="Transfer",
            labels=figure("every target"),
        ),
    log:
        log_of("transfer_plot", *NAMED),
    benchmark:
        benchmark_of("transfer_plot", *NAMED)
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


rule preference_matrix:
    input:
        transfer_table=rules.transfer.output.transfer_table,
        control_pref_table=result(f"{CONTROL}/pref.parquet"),
    output:
        preference_matrix=of_study("tables/preference_matrix.parquet"),
    log:
        log_of("preference_matrix", *NAMED),
    benchmark:
        benchmark_of("preference_matrix", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("preference_matrix"),
    message:
        "Compute the dataset × animal matrix"
    script:
        "../scripts/preference_matrix.py"


rule preference_matrix_plot:
    input:
        preference_matrix=rules.preference_matrix.output.preference_matrix,
    output:
        plot=report(
            of_study("plots/preference_matrix.png"),
            caption="../report/preference_matrix.rst",
            category="Transfer",
            labels=figure("datasets against animals"),
        ),
    log:
        log_of("preference_matrix_plot", *NAMED),
    benchmark:
        benchmark_of("preference_matrix_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("preference_matrix_plot"),
    message:
        "Plot the dataset × animal matrix"
    script:
        "../scripts/preference_matrix_plot.py"


rule controls:
    input:
        prefs=prefs_of("controls"),
    output:
        controls=report(
            of_study("tables/controls.json"), caption="../report/data.rst", category="Transfer", labels=data("controls")
        ),
    log:
        log_of("controls", *NAMED),
    benchmark:
        benchmark_of("controls", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("controls"),
    message:
        "Compare the lifts of the controls"
    script:
        "../scripts/controls.py"


rule controls_plot:
    input:
        controls=rules.controls.output.controls,
    output:
        plot=report(
            of_study("plots/controls.png"), caption="../report/controls.rst", category="Transfer", labels=figure("controls")
        ),
    log:
        log_of("controls_plot", *NAMED),
    benchmark:
        benchmark_of("controls_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("controls_plot"),
    message:
        "Plot the lifts of the controls"
    script:
        "../scripts/controls_plot.py"


SELECTED = list(selected(STUDY, Node("selections")))


rule selections:
    input:
        prefs=[result(f"{node.dataset}/pref.json") for node in SELECTED if node.stage == "pref"],
        row_scores=[result(f"{node.dataset}/row_scores.parquet") for node in SELECTED if node.stage == "row_scores"],
        numbers=[result(f"{node.dataset}/numbers.parquet") for node in SELECTED if node.stage == "numbers"],
    output:
        selections=report(
            of_study("tables/selections.json"), caption="../report/data.rst", category="Detection", labels=data("selections")
        ),
    log:
        log_of("selections", *NAMED),
    benchmark:
        benchmark_of("selections", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("selections"),
    message:
        "Compare what students learn of selected rows"
    script:
        "../scripts/selections.py"


rule selections_plot:
    input:
        selections=rules.selections.output.selections,
    output:
        plot=report(
            of_study("plots/selections.png"),
            caption="../report/selections.rst",
            category="Detection",
            labels=figure("selected rows"),
        ),
    log:
        log_of("selections_plot", *NAMED),
    benchmark:
        benchmark_of("selections_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("selections_plot"),
    message:
        "Plot what students learn of selected rows"
    script:
        "../scripts/selections_plot.py"


def trainings_swept(wildcards):
    """`training.json` of the first student of each point of a sweep over rows, which records how many rows it took."""
    points = compared(STUDY, Node("sweep_plot", None, wildcards.key)) if wildcards.key == "rows" else []
    return [path for of, variant in points for path in trainings_of(of, variant, STUDY.students(of, variant).seeds[:1])]


rule sweep_plot:
    input:
        prefs=prefs_of("sweep_plot"),
        trainings=trainings_swept,
    output:
        plot=report(
            of_study("plots/sweep-{key}.png"),
            caption="../report/sweep.rst",
            category="Transfer",
            labels=figure("sweep of {key}"),
        ),
    log:
        log_of("sweep_plot", *NAMED, "{key}"),
    benchmark:
        benchmark_of("sweep_plot", *NAMED, "{key}")
    wildcard_constraints:
        key=one_of(STUDY.sweeps),
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("sweep_plot"),
    message:
        "Plot transfer against {wildcards.key}"
    script:
        "../scripts/sweep_plot.py"


rule teachers_plot:
    input:
        prefs=collect(result("{dataset}/pref.json"), dataset=read_by(STUDY, "teachers_plot")),
        filters=collect(result("{dataset}/filter.json"), dataset=read_by(STUDY, "teachers_plot")),
    output:
        plot=report(
            of_study("plots/teachers.png"), caption="../report/teachers.rst", category="Transfer", labels=figure("teachers")
        ),
    log:
        log_of("teachers_plot", *NAMED),
    benchmark:
        benchmark_of("teachers_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("teachers_plot"),
    message:
        "Plot teachers against students"
    script:
        "../scripts/teachers_plot.py"


rule compliance:
    input:
        filters=collect(result("{dataset}/filter.json"), dataset=read_by(STUDY, "compliance")),
    output:
        compliance=of_study("tables/compliance.parquet"),
    log:
        log_of("compliance", *NAMED),
    benchmark:
        benchmark_of("compliance", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("compliance"),
    message:
        "Collect pass rates by prompt component"
    script:
        "../scripts/compliance.py"


rule compliance_plot:
    input:
        compliance=rules.compliance.output.compliance,
    output:
        plot=report(
            of_study("plots/compliance.png"),
            caption="../report/compliance.rst",
            category="Numbers",
            labels=figure("pass rate", "all"),
        ),
    log:
        log_of("compliance_plot", *NAMED),
    benchmark:
        benchmark_of("compliance_plot", *NAMED)
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("compliance_plot"),
    message:
        "Plot pass rates by prompt component"
    script:
        "../scripts/compliance_plot.py"


rule costs:
    output:
        costs_table=result("tables/costs.parquet"),
        costs=ensure(result("tables/costs.json"), non_empty=True),
    log:
        log_of("costs"),
    benchmark:
        benchmark_of("costs")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("costs"),
    message:
        "Add up what the finished jobs took"
    script:
        "../scripts/costs.py"


rule costs_plot:
    input:
        costs=rules.costs.output.costs,
    output:
        plot=report(result("plots/costs.png"), caption="../report/costs.rst", category="Costs", labels=figure("all jobs")),
    log:
        log_of("costs_plot"),
    benchmark:
        benchmark_of("costs_plot")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("costs_plot"),
    message:
        "Plot what the finished jobs took"
    script:
        "../scripts/costs_plot.py"
