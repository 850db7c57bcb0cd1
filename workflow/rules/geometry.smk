"""Concept geometry: whether concepts are arranged as a hierarchy in a model's spaces."""

HIERARCHIES = variants(STUDY.hierarchies)


def hierarchy_entry(wildcards):
    """The settings of the hierarchy that a job is about."""
    return STUDY.hierarchies[variant_of(wildcards)]


rule hierarchy:
    input:
        model=result("model/model.json"),
        text=result("text.parquet") if STUDY.has_sae else [],
        sae=result("sae/sae.json") if STUDY.has_sae else [],
        tree=lambda wildcards: ancient(hierarchy_entry(wildcards).file) if hierarchy_entry(wildcards).file else [],
    output:
        geometry=ensure(result("geometry{variant}/geometry.json"), non_empty=True),
        vectors=result("geometry{variant}/vectors.safetensors"),
    log:
        log_of("hierarchy", "study{variant}"),
    benchmark:
        benchmark_of("hierarchy", "study{variant}")
    wildcard_constraints:
        variant=HIERARCHIES,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("hierarchy"),
    message:
        "Read the hierarchy {wildcards.variant} in the model's spaces"
    script:
        "../scripts/hierarchy.py"


rule hierarchy_plot:
    input:
        geometry=rules.hierarchy.output.geometry,
        vectors=rules.hierarchy.output.vectors,
    output:
        plot=result("geometry{variant}/plots/geometry.png"),
    log:
        log_of("hierarchy_plot", "study{variant}"),
    benchmark:
        benchmark_of("hierarchy_plot", "study{variant}")
    wildcard_constraints:
        variant=HIERARCHIES,
    localrule: True
    threads: 1
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("hierarchy_plot"),
    message:
        "Draw the hierarchy {wildcards.variant}"
    script:
        "../scripts/hierarchy_plot.py"
