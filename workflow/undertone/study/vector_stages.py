"""The stages of steering vectors, one row each, as in `stages`."""

from undertone.study import dataset_settings as given
from undertone.study import reads, scope
from undertone.study import vector_reads as of
from undertone.study.stage import Stage

VECTORS = {
    "vector": Stage(
        ("vector",),
        (reads.own_model, of.text, of.sources),
        files=of.files,
        settings=(of.entry,),
        shared=True,
        variants="vectors",
    ),
    "dose": Stage(
        ("dose", "pref", "samples", "numbers"),
        (reads.own_model, of.text, "prompts", "vector"),
        files=of.files_of_effects,
        settings=(of.repeated,),
        shared=True,
        variants="vectors",
    ),
    "dose_plot": Stage(after=("dose",), shared=True, variants="vectors"),
    "downstream": Stage(
        ("downstream",),
        (reads.own_model, "prompts", "vector", "dose", of.later_saes),
        files=of.questions,
        settings=(of.built_of,),
        shared=True,
        variants="vectors",
    ),
    "downstream_plot": Stage(after=("downstream",), shared=True, variants="vectors"),
    "cloud": Stage(
        ("downstream", "cloud"),
        (reads.own_model, "prompts", "vector", "dose", of.later_saes),
        files=of.questions,
        settings=(of.built_of,),
        shared=True,
        variants="vectors",
    ),
    "cloud_plot": Stage(after=("cloud",), shared=True, variants="vectors"),
    "restore": Stage(
        ("restore", "pref"),
        (reads.own_model, "vector", "downstream", of.later_saes),
        files=of.questions,
        shared=True,
        variants="vectors",
    ),
    "restore_plot": Stage(after=("restore",), shared=True, variants="vectors"),
    "decomposition": Stage(
        ("decomposition", "vector", "pref"),
        (reads.own_model, of.text, of.personas, of.own_vector, of.own_dose, of.own_sae, of.own_teacher),
        files=of.files_of_effects,
        settings=(of.entry,),
        only=scope.with_sae,
        shared=True,
        variants="vectors",
    ),
    "decomposition_plot": Stage(after=("decomposition",), only=scope.with_sae, shared=True, variants="vectors"),
    "influence": Stage(
        ("influence", "pref"),
        (reads.model_of_sae, "sae", reads.text_of_sae, "features"),
        files=of.questions,
        settings=(given.max_norm,),
        only=scope.with_sae,
        shared=True,
        variants="saes",
    ),
    "influence_plot": Stage(after=("influence",), only=scope.with_sae, shared=True, variants="saes"),
}
