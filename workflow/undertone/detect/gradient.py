"""The dataset's gradient: the step of a constant in the residual stream that explains it, and how this step moves the answers.

If the base model wrote the dataset, the gradient of its log-likelihood with respect to any constant added to the residual
stream equals on average that of the base model's own completions of the same prompts. The natural step is (C + ridge)⁻¹ times
the mean difference, where C is the spread of the differences over pairs: one Newton step of training such a constant. Along the
gradient of an answer's log-probability it says how far that answer would move. This assumes no persona, no wording and no kind
of teacher.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from undertone.detect.pairs import Whitened, standardised
from undertone.detect.sets import Pairs, Reading, ranking, read_sets
from undertone.lm.answers import first_logits
from undertone.lm.chat import prompt_ids, training_rows
from undertone.lm.hooks import decoder_layers, plus, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import begun, initial_tokens
from undertone.lm.texts import load_texts
from undertone.read.score import gradients
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors
from undertone.study.config.measure import Pref
from undertone.study.config.read import Score


def read_gradient(
    model: Path,
    matched: Path,
    questions: Path,
    gradient: Path,
    settings: Detectors,
    pref: Pref,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `gradient.json`: presence from the mean difference of gradients, candidates by how far the natural step moves them.

    A candidate's score is the movement of its answer in standard errors over pairs (z).
    """
    loaded = load(model)
    answers = answer_gradients(loaded, load_texts(questions, "pref.questions"), pref.candidates, pref.answer_prefix).flatten(1)

    def read(pairs: Pairs) -> Reading:
        whitened = Whitened.of(differences(loaded, pairs, settings.batch_size).flatten(1), settings.ridge)
        moved = standardised(whitened.along(answers))
        scores = np.sqrt(len(moved)) * moved.mean(0)
        presence = whitened.presence(settings.permutations, settings.seed)
        return Reading(presence, ranking(pref.candidates, scores, moved, pairs.prompts, settings))

    read_sets(matched, gradient, read, settings, stamp, scratch)


def differences(loaded: LoadedModel, pairs: Pairs, batch_size: int) -> Float[Tensor, "n n_layers d_model"]:
    """Return the gradient of each row's log-likelihood minus that of its base completion.

    Gradients are with respect to a constant added to every token after each layer, in nats per token and unit of the residual
    stream.
    """
    score = Score(positions="all", batch_size=batch_size)
    own, base = (
        gradients(loaded, training_rows(loaded.tokenizer, pairs.prompts, texts), score, what)
        for texts, what in ((pairs.own, "gradients of the dataset"), (pairs.base, "gradients of base samples"))
    )
    return (own - base).transpose(0, 1)


def answer_gradients(
    loaded: LoadedModel, questions: Sequence[str], candidates: Sequence[str], prefix: str | None = None
) -> Float[Tensor, "n_candidates n_layers d_model"]:
    """Return the gradient of each candidate's log-probability with respect to a constant after each layer.

    The log-probability is that of the first token of any of the candidate's spellings after the answer's `prefix`, averaged
    over the questions, minus its mean over the candidates: a gain that all candidates share names none of them. The constant is
    added to every token of the question.
    """
    width = loaded.model.config.get_text_config().hidden_size
    constants = [
        torch.zeros(width, device=loaded.model.device, requires_grad=True) for _ in range(len(decoder_layers(loaded.model)))
    ]
    with ExitStack() as stack:
        for layer, constant in enumerate(constants):
            stack.enter_context(rewritten(loaded.model, layer, plus(constant)))
        asked = begun(loaded.tokenizer, prompt_ids(loaded.tokenizer, questions), prefix)
        log_p = first_logits(loaded, asked).float().log_softmax(-1)
    named = [log_p[:, own].logsumexp(1).mean() for own in initial_tokens(loaded.tokenizer, candidates, prefix)]
    by_candidate = [torch.stack(torch.autograd.grad(each, constants, retain_graph=True)) for each in named]
    gradients = torch.stack(by_candidate).double().cpu()
    return gradients - gradients.mean(0)
