"""The stages of the SAEs and their laboratory, one row each, as in `stages`."""

from functools import partial

from undertone.study import dataset_settings as given
from undertone.study import page_reads, reads, scaling_reads, scope, store_reads
from undertone.study.reads import questions
from undertone.study.scope import with_sae
from undertone.study.stage import Stage

# A stage with a result for each SAE, in studies that have one.
of_each_sae = partial(Stage, only=with_sae, shared=True, variants="saes")
# The inputs of a stage that reads where features fire.
FIRING = (reads.model_of_sae, "sae", reads.text_of_sae)
LABORATORY = {
    "sae": of_each_sae(
        ("sae", "model"), (reads.model_of_sae, store_reads.of_sae), files=reads.corpus_of_sae, made_by=scope.dictionary
    ),
    "pretrained_sae": Stage(("sae",), (reads.model_of_sae,), files=reads.sae_files, shared=True, variants="saes"),
    "text": Stage(after=("model", reads.sampled_text), files=reads.text_files, settings=(given.text,), shared=True),
    "text_sae": Stage(("sae",), (reads.model_of_sae, "text", store_reads.of_sae), shared=True, variants="saes"),
    "store_chats": Stage(
        ("model",),
        ("model",),
        files=reads.corpus,
        settings=(store_reads.tokens,),
        only=with_sae,
        shared=True,
        variants="models",
    ),
    "store": Stage(
        ("store",),
        (store_reads.model, store_reads.text),
        settings=(store_reads.at,),
        only=with_sae,
        shared=True,
        variants="stores",
    ),
    "sae_metrics": of_each_sae(
        ("sae_metrics", "teacher", "pref"),
        ("sae", "prompts", reads.text_of_sae),
        files=questions,
        settings=(given.max_norm,),
        teacher_keys=given.wording,
    ),
    "sae_metrics_plot": of_each_sae(after=("sae_metrics",)),
    "chats": Stage(
        ("contexts", "model"), ("model",), files=reads.corpus, only=with_sae, made_by=scope.held_out_text, shared=True
    ),
    "contexts": Stage(
        ("contexts", "teacher", "pref"),
        ("model", reads.text_or_prompts),
        files=reads.texts,
        settings=(given.text,),
        teacher_keys=given.wording_of_asked,
        pref_keys=given.asked_text,
        shared=True,
    ),
    "retokenized": Stage(after=(reads.own_model, "model", "chats"), only=with_sae, shared=True, variants="models"),
    "features": of_each_sae(("features",), FIRING),
    "neighbours": of_each_sae(("neighbours",), FIRING, settings=(given.max_norm,)),
    "neighbours_plot": of_each_sae(after=("neighbours",)),
    "map": of_each_sae(("map",), ("sae", "neighbours")),
    "map_plot": of_each_sae(after=("map", "features")),
    "neurons": of_each_sae(("neurons",), FIRING, settings=(given.max_norm,)),
    "neurons_plot": of_each_sae(after=("neurons",)),
    "browser": of_each_sae(
        ("browser",),
        (
            *("features", "sae_metrics", "neighbours", "map", "neurons", "specificity"),
            page_reads.splits,
            page_reads.matches,
        ),
        settings=(page_reads.pairs, page_reads.influences),
    ),
    "specificity": of_each_sae(("specificity",), FIRING, files=reads.concepts, settings=(given.max_norm,)),
    "specificity_plot": of_each_sae(after=("specificity",)),
    "judge": of_each_sae(
        ("judge",),
        (reads.judging_model, reads.model_of_sae, reads.text_of_sae, "features", "specificity"),
        files=reads.concepts,
    ),
    "judge_plot": of_each_sae(after=("judge",)),
    "completeness": of_each_sae(
        ("completeness", "sae"), (*FIRING, reads.sae_text), files=reads.names, settings=(given.max_norm,)
    ),
    "completeness_plot": of_each_sae(after=("completeness",)),
    "splitting": of_each_sae(("splitting",), (*FIRING, reads.saes_as_wide), settings=(given.max_norm,)),
    "splitting_plot": of_each_sae(after=("splitting",)),
    "search": Stage(
        after=(reads.searched_model, reads.searched_sae, reads.searched_text),
        settings=(given.search, given.max_norm),
        shared=True,
        variants="searches",
    ),
    "search_plot": Stage(after=("search",), shared=True, variants="searches"),
    "scaling_runs": Stage(
        ("model",),
        (reads.own_model, "chats"),
        files=scaling_reads.corpus,
        settings=(scaling_reads.run,),
        only=with_sae,
        made_by=scaling_reads.made_by,
        shared=True,
        variants="runs",
    ),
    "text_scaling_runs": Stage(
        after=(reads.own_model, "text", "chats"),
        settings=(scaling_reads.run,),
        only=with_sae,
        shared=True,
        variants="runs",
    ),
    "scaling": Stage(after=(scaling_reads.runs,), settings=(scaling_reads.law,), only=with_sae, shared=True),
    "scaling_plot": Stage(after=("scaling",), only=with_sae, shared=True),
}
