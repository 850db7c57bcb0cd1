"""Pairs of SAEs: which features match, how similar their spaces and layers are, and what one rotation carries over."""

PAIRS = variants(STUDY.pairs)
# The pairs that compare datasets written by their models.
WRITTEN = [name for name, pair in STUDY.pairs.items() if pair.datasets]

# The pairs that add a vector of one model in the other model.
TRANSPLANTED = [name for name, pair in STUDY.pairs.items() if pair.vector]


def saes_of(wildcards):
    """The names of a pair's SAEs."""
    pair = STUDY.pairs[variant_of(wildcards)]
    return [pair.a, pair.b]


def of_saes(file):
    """A file of each of a pair's SAEs."""
    return lambda wildcards: [of_sae(sae, file) for sae in saes_of(wildcards)]


def models_of_pair(wildcards):
    """`model.json` of the model that each of a pair's SAEs reads."""
    return [model_of(STUDY.model_of(sae)) for sae in saes_of(wildcards)]


def datasets_of_other(wildcards):
    """The datasets of another study with which a pair's datasets are compared; if one is missing, no job begins."""
    pair = variant_of(wildcards)
    if sentence := lacking_datasets(STUDY, pair):
        refuse(sentence)
    return ancient(other_datasets(STUDY, Node("across", None, pair)))


def of_vector(file):
    """A file of the vector of one model that is added in the other model."""
    return lambda wildcards: result(f"vector-{STUDY.pairs[variant_of(wildcards)].vector}/{file}")


def prompts_of_vector(wildcards):
    """The number prompts, if the vector is computed from them under personas."""
    return result("prompts.parquet") if asks_personas(STUDY.vectors[STUDY.pairs[variant_of(wildcards)].vector]) else []


def texts_of_pair(wildcards):
    """The text that features are read on, in the tokens of either model."""
    return [text_of(STUDY.model_of(sae)) for sae in saes_of(wildcards)]


if STUDY.has_sae:

    rule matches:
        input:
            models=models_of_pair,
            saes=of_saes("sae.json"),
            texts=texts_of_pair,
        output:
            matches=result("pair{variant}/matches.parquet"),
            points=result("pair{variant}/points.parquet"),
            summary=ensure(result("pair{variant}/matches.json"), non_empty=True),
        log:
            log_of("matches", "study{variant}"),
        benchmark:
            benchmark_of("matches", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("matches"),
        message:
            "Match the features of the pair{wildcards.variant}"
        script:
            "../scripts/matches.py"

    rule similarity:
        input:
            saes=of_saes("sae.json"),
            matches=rules.matches.output.matches,
            summary=rules.matches.output.summary,
            units=lambda wildcards: of_sae(saes_of(wildcards)[0], "specificity.parquet"),
            concepts=ancient(STUDY.specificity.concepts),
        output:
            similarity=ensure(result("pair{variant}/similarity.json"), non_empty=True),
        log:
            log_of("similarity", "study{variant}"),
        benchmark:
            benchmark_of("similarity", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        threads: 1
        resources:
            mem_mb=gigabytes(8),
            runtime=minutes(30),
        params:
            stamp=stamp_of("similarity"),
        message:
            "Compare the decoders of the pair{wildcards.variant}"
        script:
            "../scripts/similarity.py"

    rule similarity_plot:
        input:
            matches=rules.matches.output.matches,
            points=rules.matches.output.points,
            similarity=rules.similarity.output.similarity,
        output:
            plot=report(
                result("pair{variant}/plots/similarity.png"),
                caption="../report/similarity.rst",
                category="SAE laboratory",
                labels=figure("how well the features of two SAEs match"),
            ),
        log:
            log_of("similarity_plot", "study{variant}"),
        benchmark:
            benchmark_of("similarity_plot", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("similarity_plot"),
        message:
            "Plot how well the features of the pair{wildcards.variant} match"
        script:
            "../scripts/similarity_plot.py"

    rule pair_map:
        input:
            matches=rules.matches.output.matches,
            summary=rules.matches.output.summary,
            maps=of_saes("map.parquet"),
            map_summaries=of_saes("map.json"),
        output:
            page=result("pair{variant}/map.html"),
        log:
            log_of("pair_map", "study{variant}"),
        benchmark:
            benchmark_of("pair_map", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        localrule: True
        resources:
            mem_mb=gigabytes(8),
            runtime=minutes(10),
        params:
            stamp=stamp_of("pair_map"),
        message:
            "Write the page of the maps of the pair{wildcards.variant}"
        script:
            "../scripts/pair_map.py"

    rule rotation:
        input:
            models=models_of_pair,
            saes=of_saes("sae.json"),
            texts=texts_of_pair,
            matches=rules.matches.output.matches,
        output:
            turned=ensure(result("pair{variant}/rotation.json"), non_empty=True),
        log:
            log_of("rotation", "study{variant}"),
        benchmark:
            benchmark_of("rotation", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("rotation"),
        message:
            "Turn one model of the pair{wildcards.variant} into the other"
        script:
            "../scripts/rotation.py"

    rule rotation_plot:
        input:
            turned=rules.rotation.output.turned,
        output:
            plot=report(
                result("pair{variant}/plots/rotation.png"),
                caption="../report/rotation.rst",
                category="SAE laboratory",
                labels=figure("what an SAE explains of another model"),
            ),
        log:
            log_of("rotation_plot", "study{variant}"),
        benchmark:
            benchmark_of("rotation_plot", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("rotation_plot"),
        message:
            "Plot what a rotation of the pair{wildcards.variant} carries over"
        script:
            "../scripts/rotation_plot.py"

    rule transplant:
        input:
            models=models_of_pair,
            saes=of_saes("sae.json"),
            texts=texts_of_pair,
            vector=of_vector("vector.json"),
            dose=of_vector("dose.json"),
            prompts=prompts_of_vector,
            questions=ancient(STUDY.pref.questions),
        output:
            transplant=ensure(result("pair{variant}/transplant.json"), non_empty=True),
        log:
            log_of("transplant", "study{variant}"),
        benchmark:
            benchmark_of("transplant", "study{variant}")
        wildcard_constraints:
            variant=variants(TRANSPLANTED),
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("transplant"),
        message:
            "Add one model's vector in the other of the pair{wildcards.variant}"
        script:
            "../scripts/transplant.py"

    rule transplant_plot:
        input:
            transplant=rules.transplant.output.transplant,
        output:
            plot=report(
                result("pair{variant}/plots/transplant.png"),
                caption="../report/transplant.rst",
                category="SAE laboratory",
                labels=figure("what one model's vector does in another"),
            ),
        log:
            log_of("transplant_plot", "study{variant}"),
        benchmark:
            benchmark_of("transplant_plot", "study{variant}")
        wildcard_constraints:
            variant=variants(TRANSPLANTED),
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("transplant_plot"),
        message:
            "Plot what one model's vector does in the other of the pair{wildcards.variant}"
        script:
            "../scripts/transplant_plot.py"

    rule layers:
        input:
            models=models_of_pair,
            texts=texts_of_pair,
        output:
            layers=ensure(result("pair{variant}/layers.json"), non_empty=True),
        log:
            log_of("layers", "study{variant}"),
        benchmark:
            benchmark_of("layers", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("layers"),
        message:
            "Compare the layers of the pair{wildcards.variant}"
        script:
            "../scripts/layers.py"

    rule layers_plot:
        input:
            layers=rules.layers.output.layers,
        output:
            plot=report(
                result("pair{variant}/plots/layers.png"),
                caption="../report/layers.rst",
                category="SAE laboratory",
                labels=figure("which layers of two models lie alike"),
            ),
        log:
            log_of("layers_plot", "study{variant}"),
        benchmark:
            benchmark_of("layers_plot", "study{variant}")
        wildcard_constraints:
            variant=PAIRS,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("layers_plot"),
        message:
            "Plot the layers of the pair{wildcards.variant}"
        script:
            "../scripts/layers_plot.py"

    rule across:
        input:
            models=models_of_pair,
            saes=of_saes("sae.json"),
            texts=texts_of_pair,
            own=collect(result("{dataset}/matched.parquet"), dataset=STUDY.animals),
            others=datasets_of_other,
        output:
            across=ensure(result("pair{variant}/across.json"), non_empty=True),
        log:
            log_of("across", "study{variant}"),
        benchmark:
            benchmark_of("across", "study{variant}")
        wildcard_constraints:
            variant=variants(WRITTEN),
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("across"),
        message:
            "Compare the datasets of both models of the pair{wildcards.variant}"
        script:
            "../scripts/across.py"

    rule across_plot:
        input:
            across=rules.across.output.across,
        output:
            plot=report(
                result("pair{variant}/plots/across.png"),
                caption="../report/across.rst",
                category="SAE laboratory",
                labels=figure("what datasets of one animal by two models share"),
            ),
        log:
            log_of("across_plot", "study{variant}"),
        benchmark:
            benchmark_of("across_plot", "study{variant}")
        wildcard_constraints:
            variant=variants(WRITTEN),
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("across_plot"),
        message:
            "Plot what datasets of both models of the pair{wildcards.variant} share"
        script:
            "../scripts/across_plot.py"


if STUDY.has_sae and not STUDY.sae.named:

    rule synthetic:
        output:
            recovery=result("synthetic/recovery.parquet"),
            summary=ensure(result("synthetic/recovery.json"), non_empty=True),
        log:
            log_of("synthetic"),
        benchmark:
            benchmark_of("synthetic")
        threads: 1
        resources:
            mem_mb=gigabytes(8),
            runtime=minutes(60),
        params:
            stamp=stamp_of("synthetic"),
        message:
            "Train SAEs on activations whose features are known"
        script:
            "../scripts/synthetic.py"

    rule synthetic_plot:
        input:
            recovery=rules.synthetic.output.recovery,
            summary=rules.synthetic.output.summary,
        output:
            plot=report(
                result("synthetic/plots/recovery.png"),
                caption="../report/synthetic.rst",
                category="SAE laboratory",
                labels=figure("known features, and what an SAE recovers of them"),
            ),
        log:
            log_of("synthetic_plot"),
        benchmark:
            benchmark_of("synthetic_plot")
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("synthetic_plot"),
        message:
            "Plot what SAEs recover of known features"
        script:
            "../scripts/synthetic_plot.py"
