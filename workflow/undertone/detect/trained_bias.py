"""A bias on the residual stream: train one vector after each layer on the rows, and read what the model answers with them.

The detector `gradient` reads the first training step of this constant; here it is trained to the end.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from undertone.detect.trained import Trainable, adam, read_trained
from undertone.lm.chat import prompt_ids, training_rows
from undertone.lm.hooks import decoder_layers, plus, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors, TrainedBias
from undertone.study.config.measure import Pref

NAME = "trained_bias"


def read_trained_bias(
    model: Path,
    matched: Path,
    questions: Path,
    trained_bias: Path,
    settings: TrainedBias,
    detectors: Detectors,
    pref: Pref,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `trained_bias.json`: candidates by how far the answers move under the bias, `words`, and presence."""
    loaded = load(model)
    trainable = Trainable(
        name=NAME,
        loaded=loaded,
        recipe=adam(settings),
        fresh=partial(biased, loaded),
        rows=partial(training_rows, loaded.tokenizer),
        asked=prompt_ids(loaded.tokenizer, load_texts(questions, "pref.questions")),
        n_words=settings.words,
        tested=True,
    )
    read_trained(matched, trained_bias, trainable, pref, detectors, stamp, scratch)


def moved(
    bias: Float[Tensor, "n_layers d_model"], layer: int, residual: Float[Tensor, "n_rows n_tokens d_model"]
) -> Float[Tensor, "n_rows n_tokens d_model"]:
    """Add a layer's vector to the residual stream; it is sliced in each pass, because each pass has its own gradient."""
    return plus(bias[layer])(residual)


@contextmanager
def biased(loaded: LoadedModel) -> Iterator[nn.Module]:
    """Give the base model a parameter `[n_layers, d_model]`, zero at first, added to every token after each layer."""
    model = loaded.model
    n_layers, width = len(decoder_layers(model)), model.config.get_text_config().hidden_size
    bias = nn.Parameter(torch.zeros(n_layers, width, device=model.device))
    model.register_parameter(NAME, bias)
    try:
        with ExitStack() as stack:
            for layer in range(n_layers):
                stack.enter_context(rewritten(model, layer, partial(moved, bias, layer)))
            yield model
    finally:
        delattr(model, NAME)
