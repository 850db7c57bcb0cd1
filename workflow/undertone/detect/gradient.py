"""The dataset's gradient: which step of a constant in the residual stream would explain it, and where that moves the answers.

If the base model wrote the dataset, the gradient of its log-likelihood by any constant added to the residual stream is the same
on average as that of the base model's own completions of the same prompts. The natural step, (C + ridge)⁻¹ times the mean
difference with C its spread over pairs, is what one Newton step of training such a constant would be. Along the gradient of an
answer's log-probability it says how far that answer would move: no persona, no wording and no kind of teacher is assumed.
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
from undertone.lm.spellings import Spellings, begun
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
    """Write `gradient.json`: presence by the mean difference of gradients, candidates by how far the natural step moves them.

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
    """Each row's gradient of its log-likelihood by a constant, less the base completion's.

    By a constant added to every token after each layer; in nats per token and unit of the residual stream.
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
    """The gradient of each candidate's log-probability by a constant after each layer.

    The log-probability is that of the first token of any of the candidate's spellings behind the answer's `prefix`, mean over
    the questions, less its mean over the candidates: what all of them gain together names nobody. The constant is added to
    every token of the question.
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
    spellings = Spellings.of(loaded.tokenizer, candidates, loaded.pad_id, prefix)
    named = [
        log_p[:, sorted(set(spellings.ids[spellings.candidate == k, 0].tolist()))].logsumexp(1).mean()
        for k in range(len(candidates))
    ]
    by_candidate = [torch.stack(torch.autograd.grad(each, constants, retain_graph=True)) for each in named]
    gradients = torch.stack(by_candidate).double().cpu()
    return gradients - gradients.mean(0)
