"""The stages of steering vectors, one row each, as in `stages`."""

from undertone.study import reads
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
}
