"""The stages of pairs of SAEs, one row each, as in `stages`."""

from undertone.study import pair_reads as of
from undertone.study import reads
from undertone.study.scope import with_sae
from undertone.study.stage import Stage

PAIRS = {
    "matches": Stage(("matches",), (of.sides,), settings=(of.entry,), only=with_sae, shared=True, variants="pairs"),
    "similarity": Stage(
        ("similarity",),
        (of.saes, "matches", of.concepts_of_a),
        files=reads.concepts,
        only=with_sae,
        shared=True,
        variants="pairs",
    ),
    "pair_map": Stage(after=(of.maps, "matches"), settings=(of.entry,), only=with_sae, shared=True, variants="pairs"),
    "rotation": Stage(
        ("matches", "rotation"),
        (of.sides, "matches"),
        settings=(of.entry,),
        only=with_sae,
        shared=True,
        variants="pairs",
    ),
    "rotation_plot": Stage(after=("rotation",), only=with_sae, shared=True, variants="pairs"),
    "transplant": Stage(
        after=(of.sides, of.own_vector),
        files=of.questions,
        settings=(of.entry, of.transplanted),
        only=with_sae,
        shared=True,
        variants="pairs",
    ),
    "transplant_plot": Stage(after=("transplant",), only=with_sae, shared=True, variants="pairs"),
    "layers": Stage(("layers",), (of.models,), settings=(of.entry,), only=with_sae, shared=True, variants="pairs"),
    "layers_plot": Stage(after=("layers",), only=with_sae, shared=True, variants="pairs"),
    "across": Stage(
        ("matches", "rotation", "across"),
        (of.sides, of.own_datasets),
        files=of.other_datasets,
        settings=(of.entry,),
        only=with_sae,
        shared=True,
        variants="pairs",
    ),
    "across_plot": Stage(after=("across",), only=with_sae, shared=True, variants="pairs"),
    "similarity_plot": Stage(after=("similarity", "matches"), only=with_sae, shared=True, variants="pairs"),
    "synthetic": Stage(("synthetic",), settings=(of.recipe,), shared=True),
    "synthetic_plot": Stage(after=("synthetic",), shared=True),
}
