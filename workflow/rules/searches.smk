"""Searches for features: those that fire on given texts, on which an answer depends, or that raise a word."""

SEARCHES = variants(STUDY.searches)


def sae_of_search(wildcards):
    """The name of the SAE whose features a job searches."""
    return STUDY.searches[variant_of(wildcards)].sae


def of_searched(file):
    """A file of that SAE."""
    return lambda wildcards: of_sae(sae_of_search(wildcards), file)


rule search:
    input:
        model=lambda wildcards: model_of(STUDY.model_of(sae_of_search(wildcards))),
        sae=of_searched("sae.json"),
        features=of_searched("features.parquet"),
        text=lambda wildcards: text_of(STUDY.model_of(sae_of_search(wildcards))),
    output:
        search=ensure(result("search{variant}/search.json"), non_empty=True),
    log:
        log_of("search", "study{variant}"),
    benchmark:
        benchmark_of("search", "study{variant}")
    wildcard_constraints:
        variant=SEARCHES,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(30),
    params:
        stamp=stamp_of("search"),
    message:
        "Search for features: {wildcards.variant}"
    script:
        "../scripts/search.py"


rule search_plot:
    input:
        search=rules.search.output.search,
    output:
        plot=report(
            result("search{variant}/plots/search.png"),
            caption="../report/search.rst",
            category="SAE laboratory",
            labels=figure("features of search{variant}"),
        ),
    log:
        log_of("search_plot", "study{variant}"),
    benchmark:
        benchmark_of("search_plot", "study{variant}")
    wildcard_constraints:
        variant=SEARCHES,
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("search_plot"),
    message:
        "Plot the features of {wildcards.variant}"
    script:
        "../scripts/search_plot.py"
