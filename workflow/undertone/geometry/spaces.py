"""Vectors of words in a model: rows of its unembedding, and residual streams at the word in a text."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from undertone.geometry.directions import linear_discriminant, mean_vector
from undertone.geometry.tree_tests import Space, spectrum, whitened
from undertone.lm.chat import Row, prompt_ids, special_ids, token_texts
from undertone.lm.hooks import final_norm, streams
from undertone.lm.loading import LoadedModel
from undertone.runtime.progress import progress

WORD = "{word}"
# The ridge of the map to the last layer, as a share of the mean variance of a coordinate.
RIDGE = 0.01
# How a layer's residual streams are transformed.
VIEWS = {
    "whitened": "whitened by their covariance over all words",
    "causal": "mapped to the last layer by ridge regression, then by the root of the unembedding's covariance",
    "euclidean": "as they are, less their mean",
    "mean": "as they are, less their mean; a concept is the mean of its words",
}

# Views that estimate no matrix with as many rows as there are dimensions.
FREE = ("euclidean", "mean")


@dataclass(frozen=True)
class Located:
    """Words that are one token, and where that token is.

    `kept` are the words' indices among all words, `rows[context]` the token ids of the texts, `tokens[context]` each word's
    token id there; a token may include white space next to the word. `dropped` says why the other words are left out.
    """

    kept: list[int]
    rows: list[list[list[int]]]
    tokens: Int[np.ndarray, "n_contexts n_words"]
    dropped: dict[str, str]

    @property
    def commonest(self) -> list[int]:
        """Each word's most common token over contexts; among equals the first."""
        return [Counter(own).most_common(1)[0][0] for own in self.tokens.T.tolist()]


def located(loaded: LoadedModel, words: Sequence[str], contexts: Sequence[str]) -> Located:
    """Find the words that are one token in every context (`{word}` stands for the word)."""
    texts = [text.strip().lower() for text in token_texts(loaded.tokenizer, len(loaded.tokenizer))]
    special = special_ids(loaded.tokenizer)
    rows = [prompt_ids(loaded.tokenizer, [context.replace(WORD, word) for word in words]) for context in contexts]
    tokens = [[_last_as(word, ids, texts, special) for word, ids in zip(words, each, strict=True)] for each in rows]
    kept = [k for k in range(len(words)) if all(each[k] is not None for each in tokens)]
    return Located(
        kept,
        [[each[k] for k in kept] for each in rows],
        np.array([[each[k] for k in kept] for each in tokens], dtype=int),
        {word: "is not one token in every context" for k, word in enumerate(words) if k not in set(kept)},
    )


def _last_as(word: str, ids: Sequence[int], texts: Sequence[str], special: set[int]) -> int | None:
    """Return the last token whose text is the word, apart from white space and capitals."""
    wanted = word.strip().lower()
    return next((token for token in reversed(ids) if token not in special and texts[token] == wanted), None)


@torch.no_grad()
def residuals(
    loaded: LoadedModel, words: Located, layers: Sequence[int], batch_size: int
) -> tuple[Float[np.ndarray, "n_layers n_words d"], Float[np.ndarray, "n_words d"]]:
    """Return the mean residual stream over contexts at each word's token, after `layers`, and what the unembedding reads."""
    norm = final_norm(loaded.model)

    def at_word(batch: Mapping[str, Tensor], tokens: Int[Tensor, " n_rows"]) -> Float[Tensor, "n_streams n_rows d"]:
        is_word = batch["input_ids"] == tokens[:, None]
        places = is_word.shape[1] - 1 - is_word.flip(1).int().argmax(1)
        rows = torch.arange(len(places), device=places.device)
        every = [stream[rows, places] for _, stream in streams(loaded.model, dict(batch))]
        return torch.stack([*(every[layer] for layer in layers), norm(every[-1])]).double().cpu()

    n = len(words.kept)
    sums: list[np.ndarray] = []
    with progress(n * len(words.rows), "words", "text") as bar:
        for context, own in zip(words.rows, words.tokens, strict=True):
            read, done = [], 0
            for batch in loaded.read(dict, [Row(ids, len(ids)) for ids in context], batch_size):
                size = len(batch["input_ids"])
                tokens = torch.tensor(own[done : done + size], device=batch["input_ids"].device)
                read.append(at_word(batch, tokens))
                done += size
                bar.update(size)
            sums.append(torch.cat(read, 1).numpy())
    mean = sum(sums[1:], sums[0]) / len(sums)
    return mean[:-1], mean[-1]


def unembedding(loaded: LoadedModel, tokens: Sequence[int]) -> Float[np.ndarray, "n_tokens d"]:
    """The tokens' rows of the unembedding, in their order."""
    weight = loaded.model.get_output_embeddings().weight
    rows: np.ndarray = weight[list(tokens)].double().cpu().numpy()
    return rows


def spaces(
    words: Float[np.ndarray, "n_words d"],
    seen: Float[np.ndarray, "n_seen d"],
    layers: Mapping[int, Float[np.ndarray, "n_words d"]],
    last: Float[np.ndarray, "n_words d"],
    floor: float,
) -> dict[str, Space]:
    """Return `unembedding`, and `layer.L.VIEW` for each layer and each of `VIEWS` (of `FREE` if there are few words).

    `words` are the words' rows of the unembedding γ. `seen` are the rows of all tokens that the covariance is over (Park et al.
    2024: g = Cov(γ)^(−½)(γ − γ̄)). `last` is what the unembedding reads. An embedding is transformed by the inverse transpose
    of the unembedding's map, here Cov(γ)^½.
    """
    made = {"unembedding": Space(whitened(words, floor, seen), linear_discriminant)}
    values, vectors, _ = spectrum(seen, floor)
    root = (vectors * np.sqrt(values)) @ vectors.T
    views: dict[str, Callable[[np.ndarray], Space]] = {
        "whitened": lambda x: Space(whitened(x, floor), linear_discriminant),
        "causal": lambda x: Space(_mapped(x, last) @ root, linear_discriminant),
        "euclidean": lambda x: Space(x - x.mean(0), linear_discriminant),
        "mean": lambda x: Space(x - x.mean(0), mean_vector),
    }
    # With few words, whitening by their covariance makes all of them equally far apart, and a ridge regression maps any layer
    # onto whatever its targets are.
    used = VIEWS if len(words) > 2 * words.shape[1] else FREE
    return made | {f"layer.{layer}.{name}": views[name](x) for layer, x in layers.items() for name in used}


def _mapped(x: Float[np.ndarray, "n_words d"], last: Float[np.ndarray, "n_words d"]) -> Float[np.ndarray, "n_words d"]:
    """Map one layer's vectors, minus their mean, to the last layer's by ridge regression."""
    centred, target = x - x.mean(0), last - last.mean(0)
    covariance = centred.T @ centred
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), centred.T @ target)
    mapped: np.ndarray = centred @ weights
    return mapped
