"""The tokens on which the features of one side of a pair fire."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from undertone.lab.feature_sums import roles
from undertone.lab.feature_table import junk_tokens
from undertone.lm.loading import LoadedModel
from undertone.pairs.aligned import Aligned
from undertone.saes.features import text_of

# Tokens that are listed for each feature.
TOKENS = 5


class FiredOn(NamedTuple):
    """For each feature, the share of its activation on junk tokens, and the tokens with most of its activation."""

    junk: Float[np.ndarray, " d_sae"]
    tokens: list[list[str]]


def fired_on(loaded: LoadedModel, aligned: Aligned, side: int, acts: csr_array) -> FiredOn:
    """Return what each feature of a side fires on; a feature that never fires has no junk and no tokens.

    Junk is punctuation, white space, the token right after a special one, and names of roles, as in `features.parquet`.
    """
    ids, behind = tokens_of(loaded, aligned, side)
    junk, _ = junk_tokens(loaded, False)
    is_junk = junk.cpu().numpy()[ids] | behind
    total = np.asarray(acts.sum(0))
    share = np.divide(is_junk @ acts, total, out=np.zeros(len(total)), where=total > 0)
    known, number = np.unique(ids, return_inverse=True)
    words = csr_array((np.ones(len(ids)), (number, np.arange(len(ids)))))
    by_token = (words @ acts).toarray()
    order = np.argsort(-by_token, axis=0, kind="stable")[:TOKENS].T
    texts = [text_of(loaded, int(token)) for token in known]
    named = [[texts[k] for k in most if by_token[k, feature] > 0] for feature, most in enumerate(order)]
    return FiredOn(share, named)


def tokens_of(loaded: LoadedModel, aligned: Aligned, side: int) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return the id of each aligned token, and whether a chat template writes it after a special one."""
    _, newline = junk_tokens(loaded, False)
    ids, behind = [], []
    first = np.searchsorted(aligned.row, np.arange(len(aligned.contexts[side]) + 1))
    for row, context in enumerate(aligned.contexts[side]):
        at = aligned.at[side][first[row] : first[row + 1]]
        whole = torch.tensor(context).unsqueeze(0)
        role = roles(~loaded.is_text(whole), newline.cpu()[whole])[0].numpy()
        ids.append(np.asarray(context)[at])
        behind.append(role[at])
    return np.concatenate(ids), np.concatenate(behind)
