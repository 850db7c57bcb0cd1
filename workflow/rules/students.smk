"""Students: finetuning on a dataset, one job per seed."""

WHOLE = [name for name in ["", *STUDY.student_variants] if STUDY.students(None, name).full]
LORA = [name for name in ["", *STUDY.student_variants] if name not in WHOLE]


rule student:
    input:
        model=base_of,
        numbers=rules.numbers.output.numbers,
    output:
        weights=result("{dataset}/student{variant}/{seed}/adapter_model.safetensors"),
        config=result("{dataset}/student{variant}/{seed}/adapter_config.json"),
        training=result("{dataset}/student{variant}/{seed}/training.json"),
    log:
        log_of("student", "{dataset}{variant}", "{seed}"),
    benchmark:
        benchmark_of("student", "{dataset}{variant}", "{seed}")
    wildcard_constraints:
        variant=variants(LORA),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("student"),
    message:
        "Train student{wildcards.variant} {wildcards.seed} on {wildcards.dataset}"
    script:
        "../scripts/student.py"


use rule student as student_whole with:
    output:
        weights=result("{dataset}/student{variant}/{seed}/model.safetensors"),
        config=result("{dataset}/student{variant}/{seed}/config.json"),
        training=result("{dataset}/student{variant}/{seed}/training.json"),
    wildcard_constraints:
        variant=variants(WHOLE),


def trainings_of(dataset, variant="", seeds=None):
    """`training.json` of a dataset's students of a variant: all of them, or those of some seeds."""
    return [os.path.join(os.path.dirname(weights), "training.json") for weights in students_of(dataset, variant, seeds)]


rule student_plot:
    input:
        trainings=lambda wildcards: trainings_of(wildcards.dataset),
        control_trainings=lambda wildcards: beside(trainings_of, wildcards.dataset),
    output:
        plot=report(
            result("{dataset}/plots/student.png"),
            caption="../report/student.rst",
            category="Students",
            labels=figure("loss", "{dataset}"),
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
