"""The SAE laboratory: text that nothing was trained on, and descriptions of each feature on this text."""

if STUDY.has_sae and not STUDY.model.named:

    rule chats:
        input:
            model=result("model/model.json"),
            corpus=ancient(STUDY.model.embedded.corpus),
        output:
            text=result("text.parquet"),
        log:
            log_of("chats"),
        benchmark:
            benchmark_of("chats")
        threads: 1
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("chats"),
        message:
            "Draw chats to read features on"
        script:
            "../scripts/chats.py"

elif STUDY.has_sae:

    rule contexts:
        input:
            [ancient(file) for file in text_files(STUDY, Node("contexts"))],
            model=result("model/model.json"),
            trained_on=result("sae/text.parquet") if STUDY.sae.text else [],
            samples=[result(f"{node.dataset}/samples.parquet") for node in sampled_text(STUDY, Node("contexts"))],
            prompts=[] if STUDY.sae.text else result("prompts.parquet"),
            questions=ancient(STUDY.pref.questions),
            neutral=ancient(STUDY.differences.neutral),
        output:
            text=result("text.parquet"),
        log:
            log_of("contexts"),
        benchmark:
            benchmark_of("contexts")
        # A cluster's nodes may have no network.
        localrule: True
        params:
            stamp=stamp_of("contexts"),
        message:
            "Read text to read features on"
        script:
            "../scripts/contexts.py"


if STUDY.has_sae:

    rule retokenized:
        input:
            own=result("model/model.json"),
            model=result("model{variant}/model.json"),
            text=result("text.parquet"),
        output:
            retokenized=result("text{variant}.parquet"),
        log:
            log_of("retokenized", "study{variant}"),
        benchmark:
            benchmark_of("retokenized", "study{variant}")
        wildcard_constraints:
            variant=variants(STUDY.models),
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("retokenized"),
        message:
            "Write the text in the tokens of model{wildcards.variant}"
        script:
            "../scripts/retokenized.py"

    rule features:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
        output:
            features=result("sae{variant}/features.parquet"),
            examples=result("sae{variant}/examples.parquet"),
            summary=ensure(result("sae{variant}/features.json"), non_empty=True),
        log:
            log_of("features", "study{variant}"),
        benchmark:
            benchmark_of("features", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("features"),
        message:
            "Read what each feature of the SAE is"
        script:
            "../scripts/features.py"

    rule neighbours:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
        output:
            neighbours=result("sae{variant}/neighbours.parquet"),
            summary=ensure(result("sae{variant}/neighbours.json"), non_empty=True),
        log:
            log_of("neighbours", "study{variant}"),
        benchmark:
            benchmark_of("neighbours", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("neighbours"),
        message:
            "Find the features nearest to each"
        script:
            "../scripts/neighbours.py"

    rule neighbours_plot:
        input:
            neighbours=rules.neighbours.output.neighbours,
            summary=rules.neighbours.output.summary,
        output:
            plot=report(
                result("sae{variant}/plots/neighbours.png"),
                caption="../report/neighbours.rst",
                category="SAE laboratory",
                labels=figure("how near each feature's nearest is"),
            ),
        log:
            log_of("neighbours_plot", "study{variant}"),
        benchmark:
            benchmark_of("neighbours_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("neighbours_plot"),
        message:
            "Plot how near the nearest features are"
        script:
            "../scripts/neighbours_plot.py"

    rule map:
        input:
            sae=result("sae{variant}/sae.json"),
            neighbours=rules.neighbours.output.neighbours,
            summary=rules.neighbours.output.summary,
        output:
            map_table=result("sae{variant}/map.parquet"),
            map_summary=ensure(result("sae{variant}/map.json"), non_empty=True),
        log:
            log_of("map", "study{variant}"),
        benchmark:
            benchmark_of("map", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            mem_mb=gigabytes(8),
            runtime=minutes(30),
        params:
            stamp=stamp_of("map"),
        message:
            "Lay out the SAE's features in two dimensions"
        script:
            "../scripts/map.py"

    rule map_plot:
        input:
            map_table=rules.map.output.map_table,
            map_summary=rules.map.output.map_summary,
            features=rules.features.output.features,
        output:
            plot=report(
                result("sae{variant}/plots/map.png"),
                caption="../report/map.rst",
                category="SAE laboratory",
                labels=figure("map of the features"),
            ),
        log:
            log_of("map_plot", "study{variant}"),
        benchmark:
            benchmark_of("map_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("map_plot"),
        message:
            "Plot the map of the features"
        script:
            "../scripts/map_plot.py"

    rule neurons:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
        output:
            neurons=result("sae{variant}/neurons.parquet"),
            summary=ensure(result("sae{variant}/neurons.json"), non_empty=True),
        log:
            log_of("neurons", "study{variant}"),
        benchmark:
            benchmark_of("neurons", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("neurons"),
        message:
            "Compare features with neurons of the MLPs"
        script:
            "../scripts/neurons.py"

    rule neurons_plot:
        input:
            neurons=rules.neurons.output.neurons,
            summary=rules.neurons.output.summary,
        output:
            plot=report(
                result("sae{variant}/plots/neurons.png"),
                caption="../report/neurons.rst",
                category="SAE laboratory",
                labels=figure("features and neurons"),
            ),
        log:
            log_of("neurons_plot", "study{variant}"),
        benchmark:
            benchmark_of("neurons_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("neurons_plot"),
        message:
            "Plot how far features are neurons"
        script:
            "../scripts/neurons_plot.py"

    rule browser:
        input:
            features=rules.features.output.features,
            examples=rules.features.output.examples,
            summary=rules.features.output.summary,
            metrics=rules.sae_metrics.output.metrics,
            neighbours=rules.neighbours.output.neighbours,
            neighbours_summary=rules.neighbours.output.summary,
            map_table=rules.map.output.map_table,
            map_summary=rules.map.output.map_summary,
            neurons=rules.neurons.output.neurons,
            neurons_summary=rules.neurons.output.summary,
            units=result("sae{variant}/specificity.parquet"),
            splitting=splitting_of_sae,
            wider=features_of_wider,
            matches=matches_of_sae,
        output:
            page=result("sae{variant}/features{feature}.html"),
        log:
            log_of("browser", "study{variant}{feature}"),
        benchmark:
            benchmark_of("browser", "study{variant}{feature}")
        wildcard_constraints:
            variant=SAES,
            feature="(?:/(?:0|[1-9][0-9]{0,12}))?",  # empty for all features, or /NUMBER for one feature on its own page
        localrule: True
        resources:
            mem_mb=gigabytes(8),
            runtime=minutes(10),
        params:
            stamp=stamp_of("browser"),
        message:
            "Write the page of the SAE's features{wildcards.feature}"
        script:
            "../scripts/browser.py"

    rule specificity:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
            concepts=ancient(STUDY.specificity.concepts),
        output:
            units=result("sae{variant}/specificity.parquet"),
            specificity=ensure(result("sae{variant}/specificity.json"), non_empty=True),
        log:
            log_of("specificity", "study{variant}"),
        benchmark:
            benchmark_of("specificity", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("specificity"),
        message:
            "Compare the SAE's features with concepts"
        script:
            "../scripts/specificity.py"

    rule specificity_plot:
        input:
            specificity=rules.specificity.output.specificity,
        output:
            plot=report(
                result("sae{variant}/plots/specificity.png"),
                caption="../report/specificity.rst",
                category="SAE laboratory",
                labels=figure("features and neurons against concepts"),
            ),
        log:
            log_of("specificity_plot", "study{variant}"),
        benchmark:
            benchmark_of("specificity_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("specificity_plot"),
        message:
            "Plot features and neurons against concepts"
        script:
            "../scripts/specificity_plot.py"

    rule judge:
        input:
            judge=model_of(STUDY.judge.model),
            model=model_of_sae,
            text=text_of_sae,
            concepts=ancient(STUDY.specificity.concepts),
            examples=rules.features.output.examples,
            units=rules.specificity.output.units,
        output:
            table=result("sae{variant}/judge.parquet"),
            judged=ensure(result("sae{variant}/judge.json"), non_empty=True),
        log:
            log_of("judge", "study{variant}"),
        benchmark:
            benchmark_of("judge", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("judge"),
        message:
            "Let a language model grade the features' examples"
        script:
            "../scripts/judge.py"

    rule judge_plot:
        input:
            judged=rules.judge.output.judged,
        output:
            plot=report(
                result("sae{variant}/plots/judge.png"),
                caption="../report/judge.rst",
                category="SAE laboratory",
                labels=figure("a language model's grades of the features' examples"),
            ),
        log:
            log_of("judge_plot", "study{variant}"),
        benchmark:
            benchmark_of("judge_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("judge_plot"),
        message:
            "Plot the grades of the features' examples"
        script:
            "../scripts/judge_plot.py"

    rule completeness:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
            names=ancient(STUDY.completeness.names),
            trained_on=result("sae/text.parquet") if STUDY.sae.text else [],
        output:
            table=result("sae{variant}/completeness.parquet"),
            completeness=ensure(result("sae{variant}/completeness.json"), non_empty=True),
        log:
            log_of("completeness", "study{variant}"),
        benchmark:
            benchmark_of("completeness", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("completeness"),
        message:
            "Find the names that have a feature of their own"
        script:
            "../scripts/completeness.py"

    rule completeness_plot:
        input:
            table=rules.completeness.output.table,
            completeness=rules.completeness.output.completeness,
        output:
            plot=report(
                result("sae{variant}/plots/completeness.png"),
                caption="../report/completeness.rst",
                category="SAE laboratory",
                labels=figure("names that have a feature, by how often they occur"),
            ),
        log:
            log_of("completeness_plot", "study{variant}"),
        benchmark:
            benchmark_of("completeness_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("completeness_plot"),
        message:
            "Plot the names that have a feature of their own"
        script:
            "../scripts/completeness_plot.py"

    rule splitting:
        input:
            model=model_of_sae,
            sae=result("sae{variant}/sae.json"),
            text=text_of_sae,
            others=as_wide_as,
        output:
            splitting=ensure(result("sae{variant}/splitting.json"), non_empty=True),
        log:
            log_of("splitting", "study{variant}"),
        benchmark:
            benchmark_of("splitting", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("splitting"),
        message:
            "Look for the SAE's features in wider ones"
        script:
            "../scripts/splitting.py"

    rule splitting_plot:
        input:
            splitting=rules.splitting.output.splitting,
        output:
            plot=report(
                result("sae{variant}/plots/splitting.png"),
                caption="../report/splitting.rst",
                category="SAE laboratory",
                labels=figure("the SAE's features in wider ones"),
            ),
        log:
            log_of("splitting_plot", "study{variant}"),
        benchmark:
            benchmark_of("splitting_plot", "study{variant}")
        wildcard_constraints:
            variant=SAES,
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("splitting_plot"),
        message:
            "Plot the SAE's features in wider ones"
        script:
            "../scripts/splitting_plot.py"


if STUDY.has_sae and not STUDY.sae.named and not STUDY.model.named:

    rule scaling_runs:
        input:
            model=result("model/model.json"),
            corpus=ancient(STUDY.model.embedded.corpus),
            text=result("text.parquet"),
        output:
            runs=result("scaling/runs{variant}.parquet"),
        log:
            log_of("scaling_runs", "study{variant}"),
        benchmark:
            benchmark_of("scaling_runs", "study{variant}")
        wildcard_constraints:
            variant=variants(STUDY.runs),
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(60),
        params:
            stamp=stamp_of("scaling_runs"),
        message:
            "Train SAEs of every width on the same tokens"
        script:
            "../scripts/scaling_runs.py"

elif STUDY.has_sae and not STUDY.sae.named:

    rule text_scaling_runs:
        input:
            model=result("model/model.json"),
            trained_on=rules.text.output.text,
            text=result("text.parquet"),
        output:
            runs=result("scaling/runs{variant}.parquet"),
        log:
            log_of("text_scaling_runs", "study{variant}"),
        benchmark:
            benchmark_of("text_scaling_runs", "study{variant}")
        wildcard_constraints:
            variant=variants(STUDY.runs),
        threads: 1
        resources:
            gpu=1,
            mem_mb=gigabytes(32),
            runtime=minutes(240),
        params:
            stamp=stamp_of("text_scaling_runs"),
        message:
            "Train SAEs of every width on the same tokens of text"
        script:
            "../scripts/text_scaling_runs.py"


if STUDY.has_sae and not STUDY.sae.named:

    rule scaling:
        input:
            runs=collect(result("scaling/runs-{run}.parquet"), run=STUDY.runs),
        output:
            table=of_study("tables/scaling.parquet"),
            scaling=ensure(of_study("tables/scaling.json"), non_empty=True),
        log:
            log_of("scaling", *NAMED),
        benchmark:
            benchmark_of("scaling", *NAMED)
        threads: 1
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("scaling"),
        message:
            "Fit what more features and more tokens are worth"
        script:
            "../scripts/scaling.py"

    rule scaling_plot:
        input:
            table=rules.scaling.output.table,
            scaling=rules.scaling.output.scaling,
        output:
            plot=report(
                of_study("plots/scaling.png"),
                caption="../report/scaling.rst",
                category="SAE laboratory",
                labels=figure("what more features and more tokens are worth"),
            ),
        log:
            log_of("scaling_plot", *NAMED),
        benchmark:
            benchmark_of("scaling_plot", *NAMED)
        localrule: True
        resources:
            mem_mb=gigabytes(4),
            runtime=minutes(10),
        params:
            stamp=stamp_of("scaling_plot"),
        message:
            "Plot what more features and more tokens are worth"
        script:
            "../scripts/scaling_plot.py"
