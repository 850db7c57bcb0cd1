"""Measurements of what models prefer."""


rule pref:
    input:
        model=base_of,
        questions=ancient(STUDY.pref.questions),
        students=lambda wildcards: students_of(wildcards.dataset, variant_of(wildcards)),
        control_pref_table=of_control("pref{variant}.parquet"),
        teacher=teacher_of,
        sae=clamped_sae_of,
    output:
        pref=report(
            ensure(result("{dataset}/pref{variant}.json"), non_empty=True),
            caption="../report/data.rst",
            category="Preference",
            labels=data("preference", "{dataset}{variant}"),
        ),
        pref_table=result("{dataset}/pref{variant}.parquet"),
    log:
        log_of("pref", "{dataset}{variant}"),
    benchmark:
        benchmark_of("pref", "{dataset}{variant}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("pref"),
    message:
        "Measure the preference of {wildcards.dataset}{wildcards.variant}"
    script:
        "../scripts/pref.py"


rule pref_plot:
    input:
        pref=result("{dataset}/pref.json"),
    output:
        plot=report(
            result("{dataset}/plots/pref.png"),
            caption="../report/pref.rst",
            category="Preference",
            labels=figure("preference", "{dataset}"),
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


rule indirect:
    input:
        model=result("model/model.json"),
        questions=ancient(STUDY.pref.questions),
        forms=ancient(STUDY.indirect.forms),
        facts=ancient(STUDY.indirect.facts),
        students=lambda wildcards: students_of(wildcards.dataset),
        control_students=lambda wildcards: beside(students_of, wildcards.dataset),
        teacher=teacher_of,
        sae=clamped_sae_of,
    output:
        indirect=ensure(result("{dataset}/indirect.json"), non_empty=True),
    log:
        log_of("indirect", "{dataset}"),
    benchmark:
        benchmark_of("indirect", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("indirect"),
    message:
        "Ask models of {wildcards.dataset} indirectly"
    script:
        "../scripts/indirect.py"


rule diagnosis:
    input:
        model=result("model/model.json"),
        generations=rules.numbers.output.generations,
        numbers=rules.numbers.output.numbers,
        control_numbers=of_control("numbers.parquet"),
        filter=rules.numbers.output.filter,
        pref=result("{dataset}/pref.json"),
        indirect=rules.indirect.output.indirect,
        students=lambda wildcards: students_of(wildcards.dataset),
        control_students=lambda wildcards: beside(students_of, wildcards.dataset),
        teacher=teacher_of,
        sae=clamped_sae_of,
    output:
        diagnosis=report(
            ensure(result("{dataset}/diagnosis.json"), non_empty=True),
            caption="../report/data.rst",
            category="Preference",
            labels=data("diagnosis", "{dataset}"),
        ),
    log:
        log_of("diagnosis", "{dataset}"),
    benchmark:
        benchmark_of("diagnosis", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.of_kind("prompt", "steer", "finetune")),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("diagnosis"),
    message:
        "Diagnose the transfer of {wildcards.dataset}"
    script:
        "../scripts/diagnosis.py"


rule indirect_plot:
    input:
        indirect=rules.indirect.output.indirect,
    output:
        plot=report(
            result("{dataset}/plots/indirect.png"),
            caption="../report/indirect.rst",
            category="Preference",
            labels=figure("indirect questions", "{dataset}"),
        ),
    log:
        log_of("indirect_plot", "{dataset}"),
    benchmark:
        benchmark_of("indirect_plot", "{dataset}")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("indirect_plot"),
    message:
        "Plot the indirect evaluation of {wildcards.dataset}"
    script:
        "../scripts/indirect_plot.py"
