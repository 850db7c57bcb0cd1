"""Students: LoRA finetuning on a dataset, one job per seed."""


rule student:
    input:
        record=rules.model.output.record,
        numbers=rules.numbers.output.numbers,
    output:
        adapter=result("{dataset}/student/{seed}/adapter_model.safetensors"),
        config=result("{dataset}/student/{seed}/adapter_config.json"),
        training=result("{dataset}/student/{seed}/training.json"),
    log:
        log_of("student", "{dataset}", "{seed}"),
    benchmark:
        benchmark_of("student", "{dataset}", "{seed}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("student"),
    message:
        "Train student {wildcards.seed} on {wildcards.dataset}"
    script:
        "../scripts/student.py"


rule student_plot:
    input:
        own=lambda wildcards: collect(
            result("{dataset}/student/{seed}/training.json"), dataset=wildcards.dataset, seed=seeds(wildcards.dataset)
        ),
        control=lambda wildcards: (
            []
            if wildcards.dataset == CONTROL
            else collect(result("{dataset}/student/{seed}/training.json"), dataset=CONTROL, seed=seeds(CONTROL))
        ),
    output:
        plot=report(
            result("{dataset}/plots/student.png"),
            caption="../report/student.rst",
            category="Students",
            labels={"dataset": "{dataset}"},
        ),
    log:
        log_of("student_plot", "{dataset}"),
    benchmark:
        benchmark_of("student_plot", "{dataset}")
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(2),
        runtime=minutes(10),
    params:
        stamp=stamp_of("student_plot"),
    message:
        "Plot the loss curves of {wildcards.dataset}"
    script:
        "../scripts/student_plot.py"
