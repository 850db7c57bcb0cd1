"""The stages of the SAEs and their laboratory, one row each, as in `stages`."""

from undertone.study import dataset_settings as given
from undertone.study import reads, scope
from undertone.study.reads import questions
from undertone.study.scope import with_sae
from undertone.study.stage import Stage

LABORATORY = {
    "sae": Stage(
        ("sae", "model"),
        (reads.model_of_sae,),
        files=reads.corpus_of_sae,
        only=with_sae,
        made_by=scope.dictionary,
        shared=True,
        variants="saes",
    ),
    "pretrained_sae": Stage(("sae",), (reads.model_of_sae,), files=reads.sae_files, shared=True, variants="saes"),
    "text": Stage(after=("model", reads.sampled_text), files=reads.text_files, settings=(given.text,), shared=True),
    "text_sae": Stage(("sae",), (reads.model_of_sae, "text"), shared=True, variants="saes"),
    "sae_metrics": Stage(
        ("sae_metrics", "teacher", "pref"),
        ("sae", "prompts", reads.text_of_sae),
        files=questions,
        teacher_keys=given.wording,
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "chats": Stage(
        ("contexts", "model"), ("model",), files=reads.corpus, only=with_sae, made_by=scope.held_out_text, shared=True
    ),
    "contexts": Stage(
        ("contexts", "teacher", "pref"),
        ("model", reads.text_or_prompts),
        files=reads.texts,
        settings=(given.text,),
        teacher_keys=given.wording,
        shared=True,
    ),
    "retokenized": Stage(after=(reads.own_model, "model", "chats"), only=with_sae, shared=True, variants="models"),
    "features": Stage(
        ("features",), (reads.model_of_sae, "sae", reads.text_of_sae), only=with_sae, shared=True, variants="saes"
    ),
    "neighbours": Stage(
        ("neighbours",),
        (reads.model_of_sae, "sae", reads.text_of_sae),
        settings=(given.max_norm,),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "neighbours_plot": Stage(after=("neighbours",), only=with_sae, shared=True, variants="saes"),
    "map": Stage(("map",), ("sae", "neighbours"), only=with_sae, shared=True, variants="saes"),
    "map_plot": Stage(after=("map", "features"), only=with_sae, shared=True, variants="saes"),
    "neurons": Stage(
        ("neurons",),
        (reads.model_of_sae, "sae", reads.text_of_sae),
        settings=(given.max_norm,),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "neurons_plot": Stage(after=("neurons",), only=with_sae, shared=True, variants="saes"),
    "browser": Stage(
        ("browser",),
        ("features", "sae_metrics", "neighbours", "map", "neurons", "specificity"),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "specificity": Stage(
        ("specificity",),
        (reads.model_of_sae, "sae", reads.text_of_sae),
        files=reads.concepts,
        settings=(given.max_norm,),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "specificity_plot": Stage(after=("specificity",), only=with_sae, shared=True, variants="saes"),
    "completeness": Stage(
        ("completeness", "sae"),
        (reads.model_of_sae, "sae", reads.text_of_sae, reads.sae_text),
        files=reads.names,
        settings=(given.max_norm,),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "completeness_plot": Stage(after=("completeness",), only=with_sae, shared=True, variants="saes"),
    "splitting": Stage(
        ("splitting",),
        (reads.model_of_sae, "sae", reads.text_of_sae, reads.saes_as_wide),
        settings=(given.max_norm,),
        only=with_sae,
        shared=True,
        variants="saes",
    ),
    "splitting_plot": Stage(after=("splitting",), only=with_sae, shared=True, variants="saes"),
}
