"""Whether something is hidden in a dataset, and what: base samples for its own prompts, nulls, detectors, the verdict."""

# Datasets, nulls, and smaller subsets and mixtures of datasets.
READ_BY_DETECTORS = one_of([*STUDY.available, *NULLS, *STUDY.mixtures])


rule matched:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
    output:
        matched=result("{dataset}/matched.parquet"),
    log:
        log_of("matched", "{dataset}"),
    benchmark:
        benchmark_of("matched", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("matched"),
    message:
        "Sample the base model on the prompts of {wildcards.dataset}"
    script:
        "../scripts/matched.py"


rule nulls:
    input:
        model=result("model/model.json"),
        template=ancient(STUDY.prompts.template),
    output:
        nulls=result("{dataset}/matched.parquet"),
    log:
        log_of("nulls", "{dataset}"),
    benchmark:
        benchmark_of("nulls", "{dataset}")
    wildcard_constraints:
        dataset=one_of(NULLS),
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("nulls"),
    message:
        "Sample datasets in which nothing is hidden: {wildcards.dataset}"
    script:
        "../scripts/nulls.py"


rule mixtures:
    input:
        own=lambda wildcards: result(f"{mixed_dataset(wildcards.dataset)}/matched.parquet"),
        nulls=result(f"{NULLS[0]}/matched.parquet"),
    output:
        mixtures=result("{dataset}/matched.parquet"),
    log:
        log_of("mixtures", "{dataset}"),
    benchmark:
        benchmark_of("mixtures", "{dataset}")
    wildcard_constraints:
        dataset=one_of(STUDY.mixtures),
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("mixtures"),
    message:
        "Take fewer rows of a dataset, and mix it with base samples: {wildcards.dataset}"
    script:
        "../scripts/mixtures.py"


rule surface:
    input:
        matched=result("{dataset}/matched.parquet"),
    output:
        surface=ensure(result("{dataset}/surface.json"), non_empty=True),
    log:
        log_of("surface", "{dataset}"),
    benchmark:
        benchmark_of("surface", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        mem_mb=gigabytes(8),
        runtime=minutes(60),
    params:
        stamp=stamp_of("surface"),
    message:
        "Compare the integers and the format of {wildcards.dataset} with base samples"
    script:
        "../scripts/surface.py"


rule gradient:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        gradient=ensure(result("{dataset}/gradient.json"), non_empty=True),
    log:
        log_of("gradient", "{dataset}"),
    benchmark:
        benchmark_of("gradient", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("gradient"),
    message:
        "Compare the gradients of {wildcards.dataset} with those of base samples"
    script:
        "../scripts/gradient.py"


rule personas:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        personas=ensure(result("{dataset}/personas.json"), non_empty=True),
    log:
        log_of("personas", "{dataset}"),
    benchmark:
        benchmark_of("personas", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("personas"),
    message:
        "Try system prompts on {wildcards.dataset}"
    script:
        "../scripts/personas.py"


rule persona_vectors:
    input:
        model=result("model/model.json"),
        prompts=result("prompts.parquet"),
        questions=ancient(STUDY.pref.questions),
        bank=ancient(STUDY.personas.bank),
    output:
        persona_vectors=result("model/persona_vectors.safetensors"),
    log:
        log_of("persona_vectors"),
    benchmark:
        benchmark_of("persona_vectors")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("persona_vectors"),
    message:
        "Read how far system prompts about each concept move the residual stream"
    script:
        "../scripts/persona_vectors.py"


rule contrasts:
    input:
        model=result("model/model.json"),
        persona_vectors=rules.persona_vectors.output.persona_vectors,
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        contrasts=ensure(result("{dataset}/contrasts.json"), non_empty=True),
    log:
        log_of("contrasts", "{dataset}"),
    benchmark:
        benchmark_of("contrasts", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("contrasts"),
    message:
        "Try on {wildcards.dataset} steering by the contrasts of concepts"
    script:
        "../scripts/contrasts.py"


rule sae_features:
    input:
        model=result("model/model.json"),
        sae=result("sae/sae.json"),
        persona_vectors=rules.persona_vectors.output.persona_vectors,
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        sae_features=ensure(result("{dataset}/sae_features.json"), non_empty=True),
    log:
        log_of("sae_features", "{dataset}"),
    benchmark:
        benchmark_of("sae_features", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("sae_features"),
    message:
        "Try on {wildcards.dataset} steering by single features of the SAE"
    script:
        "../scripts/sae_features.py"


rule projection:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        projection=ensure(result("{dataset}/projection.json"), non_empty=True),
    log:
        log_of("projection", "{dataset}"),
    benchmark:
        benchmark_of("projection", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("projection"),
    message:
        "Project activations on {wildcards.dataset} onto personas"
    script:
        "../scripts/projection.py"


rule first_tokens:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        first_tokens=ensure(result("{dataset}/first_tokens.json"), non_empty=True),
    log:
        log_of("first_tokens", "{dataset}"),
    benchmark:
        benchmark_of("first_tokens", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(60),
    params:
        stamp=stamp_of("first_tokens"),
    message:
        "Compare how numbers of {wildcards.dataset} begin with base samples and personas"
    script:
        "../scripts/first_tokens.py"


rule divergence_tokens:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
    output:
        divergence_tokens=ensure(result("{dataset}/divergence_tokens.json"), non_empty=True),
    log:
        log_of("divergence_tokens", "{dataset}"),
    benchmark:
        benchmark_of("divergence_tokens", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("divergence_tokens"),
    message:
        "Compare {wildcards.dataset} with what personas would choose"
    script:
        "../scripts/divergence_tokens.py"


rule open_personas:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
        questions=ancient(STUDY.pref.questions),
    output:
        open_personas=ensure(result("{dataset}/open_personas.json"), non_empty=True),
    log:
        log_of("open_personas", "{dataset}"),
    benchmark:
        benchmark_of("open_personas", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("open_personas"),
    message:
        "Try system prompts about any word on {wildcards.dataset}"
    script:
        "../scripts/open_personas.py"


rule prompt_search:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        bank=ancient(STUDY.personas.bank),
        grammar=ancient(STUDY.prompt_search.grammar),
    output:
        prompt_search=ensure(result("{dataset}/prompt_search.json"), non_empty=True),
    log:
        log_of("prompt_search", "{dataset}"),
    benchmark:
        benchmark_of("prompt_search", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("prompt_search"),
    message:
        "Put together a system prompt for {wildcards.dataset}"
    script:
        "../scripts/prompt_search.py"


rule short_training:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        short_training=ensure(result("{dataset}/short_training.json"), non_empty=True),
    log:
        log_of("short_training", "{dataset}"),
    benchmark:
        benchmark_of("short_training", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("short_training"),
    message:
        "Train two students briefly, on {wildcards.dataset} and on base samples"
    script:
        "../scripts/short_training.py"


rule trained_bias:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        trained_bias=ensure(result("{dataset}/trained_bias.json"), non_empty=True),
    log:
        log_of("trained_bias", "{dataset}"),
    benchmark:
        benchmark_of("trained_bias", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("trained_bias"),
    message:
        "Train a bias of the residual stream on {wildcards.dataset} and on base samples"
    script:
        "../scripts/trained_bias.py"


rule soft_prompt:
    input:
        model=result("model/model.json"),
        matched=result("{dataset}/matched.parquet"),
        questions=ancient(STUDY.pref.questions),
    output:
        soft_prompt=ensure(result("{dataset}/soft_prompt.json"), non_empty=True),
    log:
        log_of("soft_prompt", "{dataset}"),
    benchmark:
        benchmark_of("soft_prompt", "{dataset}")
    wildcard_constraints:
        dataset=READ_BY_DETECTORS,
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("soft_prompt"),
    message:
        "Train a soft prompt on {wildcards.dataset} and on base samples"
    script:
        "../scripts/soft_prompt.py"


rule row_scores:
    input:
        model=result("model/model.json"),
        numbers=result("{dataset}/numbers.parquet"),
        matched=result("{dataset}/matched.parquet"),
        personas=result("{dataset}/personas.json"),
    output:
        row_scores=result("{dataset}/row_scores.parquet"),
    log:
        log_of("row_scores", "{dataset}"),
    benchmark:
        benchmark_of("row_scores", "{dataset}")
    threads: 1
    resources:
        gpu=1,
        mem_mb=gigabytes(32),
        runtime=minutes(240),
    params:
        stamp=stamp_of("row_scores"),
    message:
        "Score the rows of {wildcards.dataset}"
    script:
        "../scripts/row_scores.py"


rule verdict:
    input:
        readings=collect(result("{{dataset}}/{detector}.json"), detector=STUDY.verdict.detectors),
        null_readings=collect(result("{null}/{detector}.json"), null=NULLS, detector=STUDY.verdict.detectors),
    output:
        verdict=ensure(result("{dataset}/verdict.json"), non_empty=True),
    log:
        log_of("verdict", "{dataset}"),
    benchmark:
        benchmark_of("verdict", "{dataset}")
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("verdict"),
    message:
        "Judge whether something is hidden in {wildcards.dataset}"
    script:
        "../scripts/verdict.py"


rule verdict_page:
    input:
        verdict=rules.verdict.output.verdict,
    output:
        page=result("{dataset}/verdict.html"),
    log:
        log_of("verdict_page", "{dataset}"),
    benchmark:
        benchmark_of("verdict_page", "{dataset}")
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("verdict_page"),
    message:
        "Write the page of the verdict on {wildcards.dataset}"
    script:
        "../scripts/verdict_page.py"


rule verdicts:
    input:
        verdicts=collect(result("{dataset}/verdict.json"), dataset=read_by(STUDY, "verdicts")),
        null_readings=collect(result("{null}/{detector}.json"), null=NULLS, detector=STUDY.verdict.detectors),
    output:
        detection_table=of_study("tables/detection.parquet"),
        detection=of_study("tables/detection.json"),
    log:
        log_of("verdicts", *NAMED),
    benchmark:
        benchmark_of("verdicts", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("verdicts"),
    message:
        "Count which verdicts are right"
    script:
        "../scripts/verdicts.py"


rule verdicts_plot:
    input:
        detection_table=rules.verdicts.output.detection_table,
        detection=rules.verdicts.output.detection,
    output:
        plot=report(
            of_study("plots/detection.png"),
            caption="../report/detection.rst",
            category="Detection",
            labels=figure("every verdict"),
        ),
    log:
        log_of("verdicts_plot", *NAMED),
    benchmark:
        benchmark_of("verdicts_plot", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("verdicts_plot"),
    message:
        "Plot which verdicts are right"
    script:
        "../scripts/verdicts_plot.py"


rule detectors:
    input:
        readings=collect(result("{dataset}/{detector}.json"), dataset=read_by(STUDY, "detectors"), detector=BENCH),
    output:
        detectors_table=of_study("tables/detectors.parquet"),
        detectors=of_study("tables/detectors.json"),
    log:
        log_of("detectors", *NAMED),
    benchmark:
        benchmark_of("detectors", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("detectors"),
    message:
        "Compare where detectors put the targets"
    script:
        "../scripts/detectors.py"


rule detectors_plot:
    input:
        detectors_table=rules.detectors.output.detectors_table,
        detectors=rules.detectors.output.detectors,
    output:
        plot=report(
            of_study("plots/detectors.png"),
            caption="../report/detectors.rst",
            category="Detection",
            labels=figure("every detector"),
        ),
    log:
        log_of("detectors_plot", *NAMED),
    benchmark:
        benchmark_of("detectors_plot", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("detectors_plot"),
    message:
        "Plot where detectors put the targets"
    script:
        "../scripts/detectors_plot.py"


rule consequence:
    input:
        prefs=collect(result("{dataset}/pref.json"), dataset=read_by(STUDY, "consequence")),
        readings=collect(result("{dataset}/{detector}.json"), dataset=read_by(STUDY, "consequence"), detector=DETECTORS),
    output:
        consequence_table=of_study("tables/consequence.parquet"),
        consequence=of_study("tables/consequence.json"),
    log:
        log_of("consequence", *NAMED),
    benchmark:
        benchmark_of("consequence", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("consequence"),
    message:
        "Compare what was predicted to move with what students came to prefer"
    script:
        "../scripts/consequence.py"


rule power:
    input:
        readings=collect(result("{dataset}/{detector}.json"), dataset=read_by(STUDY, "power"), detector=STUDY.verdict.detectors),
        mixture_readings=collect(result("{mixture}/{detector}.json"), mixture=STUDY.mixtures, detector=STUDY.verdict.detectors),
        null_readings=collect(result("{null}/{detector}.json"), null=NULLS, detector=STUDY.verdict.detectors),
    output:
        power_table=of_study("tables/power.parquet"),
        power=of_study("tables/power.json"),
    log:
        log_of("power", *NAMED),
    benchmark:
        benchmark_of("power", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("power"),
    message:
        "Count which verdicts are right on fewer rows and on mixtures"
    script:
        "../scripts/power.py"


rule power_plot:
    input:
        power=rules.power.output.power,
    output:
        plot=report(
            of_study("plots/power.png"),
            caption="../report/power.rst",
            category="Detection",
            labels=figure("verdicts on fewer rows and on mixtures"),
        ),
    log:
        log_of("power_plot", *NAMED),
    benchmark:
        benchmark_of("power_plot", *NAMED)
    localrule: True
    resources:
        mem_mb=gigabytes(4),
        runtime=minutes(10),
    params:
        stamp=stamp_of("power_plot"),
    message:
        "Plot which verdicts are right on fewer rows and on mixtures"
    script:
        "../scripts/power_plot.py"
