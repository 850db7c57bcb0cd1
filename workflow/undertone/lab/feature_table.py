"""Table of an SAE's features on text: how often and how strongly each fires, on which tokens, and which tokens it raises."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from sae_lens import SAE
from torch import Tensor

from undertone.lab.context_table import read_contexts
from undertone.lab.contributions import contributions
from undertone.lab.feature_examples import example_rows, shown_texts
from undertone.lab.feature_scores import input_scores, others, output_scores, raised
from undertone.lab.feature_sums import Sums, Widths, entropies, entropies_by_chance
from undertone.lab.peaks import NONE, Peaks
from undertone.lab.reading import Reader
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.lm.vocabulary import TOKEN_KINDS, token_kinds
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.cautions import of_dead
from undertone.saes.features import neuronpedia
from undertone.saes.saved import load_sae_at
from undertone.study.config.lab import Features

QUANTILES = [0.5, 0.9, 0.99]
# Tokens shown for a feature.
TOKENS = 5


def make_features(
    model: Path, sae: Path, text: Path, features: Path, examples: Path, summary: Path, settings: Features, stamp: Stamp
) -> str:
    """Write every feature's figures (`features`), its examples, and a summary; return a message for the log.

    The text is read twice: bands and histograms are in units of each feature's greatest activation, which the first pass finds.
    Raises ConfigError, naming the context, if an activation is NaN or infinite.
    """
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    contexts = read_contexts(text)
    reader = Reader(loaded, dictionary, at, contexts, settings.max_norm, settings.before, settings.after)
    sums, groups = first_pass(reader, settings)
    keys, acts = sums.pairs()
    token = commonest(keys, acts, dictionary.cfg.d_sae, sums.vocab)
    widths = second_pass(reader, settings, Widths(sums.greatest, token[0][:, 0]), groups)
    table = columns(reader, sums, widths, token, groups["top"], settings)
    rows = example_rows(loaded, groups, contributions(reader, groups["top"], settings.attributed), contexts, settings)
    counts = summarised(table, sums, at, loaded, dictionary, len(contexts), settings)
    write_parquet(features, table, stamp)
    write_parquet(examples, rows, stamp)
    write_json(summary, {**counts, "model": read_json(model)["name"], "hook_point": at.name}, stamp)
    return (
        f"{counts['d_sae']} features on {counts['tokens']:,} tokens: {counts['dead']} are dead, {counts['rare']} fire on fewer "
        f"than {settings.min_count}, {counts['junk']} mostly on what is no word"
    )


def first_pass(reader: Reader, settings: Features) -> tuple[Sums, dict[str, Peaks]]:
    """Return sums over all text tokens, and the examples of greatest and of least positive activation."""
    d_sae, device = reader.sae.cfg.d_sae, reader.loaded.model.device
    n_window = settings.before + 1 + settings.after
    sums = Sums(d_sae, *junk_tokens(reader.loaded, settings.numbers_are_junk))
    groups = {name: Peaks.none(d_sae, n, n_window, device) for name, n in (("top", settings.top), ("bottom", settings.bottom))}
    with progress(len(reader.rows), "features, first pass", "context") as bar:
        for read in reader.batches():
            active = read.acts > 0
            sums.add(read)
            groups["top"].add(read.acts.masked_fill(~active, -torch.inf), read)
            groups["bottom"].add((-read.acts).masked_fill(~active, -torch.inf), read)
            bar.update(len(read.row))
    return sums, groups


def second_pass(reader: Reader, settings: Features, widths: Widths, groups: dict[str, Peaks]) -> Widths:
    """Count histograms; add to `groups` examples drawn from each band, and from where a feature is silent on its token."""
    d_sae, device = reader.sae.cfg.d_sae, reader.loaded.model.device
    n_window = settings.before + 1 + settings.after
    sizes = {f"q{k}": settings.per_band for k in range(settings.bands)} | {"miss": settings.misses}
    drawn = {name: Peaks.none(d_sae, n, n_window, device) for name, n in sizes.items()}
    with progress(len(reader.rows), "features, second pass", "context") as bar:
        for read in reader.batches():
            widths.add(read)
            draws = read.draws(settings.seed)
            band = (read.acts / widths.greatest.clamp(min=1e-30) * settings.bands).clamp(max=settings.bands - 1).long()
            band.masked_fill_(read.acts <= 0, NONE)
            for k in range(settings.bands):
                drawn[f"q{k}"].add(draws.masked_fill(band != k, -torch.inf), read)
            silent = widths.own(read) & (read.acts <= 0)
            drawn["miss"].add(draws.masked_fill(~silent, -torch.inf), read)
            bar.update(len(read.row))
    groups.update(drawn)
    return widths


def commonest(
    keys: Int[Tensor, " n"], acts: Float[Tensor, " n"], d_sae: int, vocab: int
) -> tuple[Int[Tensor, "d_sae n_tokens"], Float[Tensor, "d_sae n_tokens"]]:
    """Return the 5 tokens that most of a feature's activation falls on, -1 if there are fewer, and the activation on each."""
    order = acts.argsort(descending=True, stable=True)
    order = order[(keys[order] // vocab).argsort(stable=True)]
    feature, token = keys[order] // vocab, keys[order] % vocab
    first = torch.searchsorted(feature, torch.arange(d_sae, device=keys.device))
    place = torch.arange(len(feature), device=keys.device) - first[feature]
    tokens = torch.full((d_sae, TOKENS), NONE, device=keys.device)
    shown = place < TOKENS
    tokens[feature[shown], place[shown]] = token[shown]
    mass = torch.zeros(tokens.shape, dtype=torch.float64, device=keys.device)
    mass[feature[shown], place[shown]] = acts[order][shown]
    return tokens, mass


def columns(
    reader: Reader,
    sums: Sums,
    widths: Widths,
    token: tuple[Int[Tensor, "d_sae n_tokens"], Float[Tensor, "d_sae n_tokens"]],
    top: Peaks,
    settings: Features,
) -> pl.DataFrame:
    """Return a table with a row per feature; values that a feature lacks because it never fires are null."""
    sae, (keys, acts) = reader.sae, sums.pairs()
    d_sae, count, total = sae.cfg.d_sae, sums.count, sums.total
    alive = count > 0
    texts = shown_texts(reader.loaded)
    tokens = [
        [{"text": texts[t], "share": mass / float(total[j])} for t, mass in zip(*entry, strict=True) if t != NONE]
        for j, entry in enumerate(zip(*(each.tolist() for each in token), strict=True))
    ]
    quantiles = widths.quantiles(QUANTILES)
    chance = entropies_by_chance(sums.by_token.cpu().numpy(), count.cpu().numpy(), settings.seed)
    encoder, decoder = sae.W_enc.detach().float(), sae.W_dec.detach().float()
    values: dict[str, Any] = {
        "density": count / sums.tokens,
        "max": torch.where(alive, sums.greatest, torch.nan),
        "mean_active": total / count,
        "token_recall": 1 - widths.silent / widths.seen,
        "token_entropy": entropies(keys, acts, d_sae, sums.vocab),
        "token_entropy_null": torch.where(alive.cpu(), torch.tensor(chance), torch.nan),
        "junk": sums.junk / total,
        "position_mean": sums.position / count,
        "dec_norm": decoder.norm(dim=-1),
        "enc_dec_cosine": torch.cosine_similarity(encoder.T, decoder),
    }
    floats = {name: pl.Series(value.double().cpu().numpy()).fill_nan(None) for name, value in values.items()}
    own: dict[str, Any] = {
        "feature": np.arange(d_sae),
        "count": count.long().cpu().numpy(),
        "dead": (~alive).cpu().numpy(),
        "rare": (alive & (count < settings.min_count)).cpu().numpy(),
        "q": [q if n else None for q, n in zip(quantiles.tolist(), count.tolist(), strict=True)],
        "histogram": widths.histogram().cpu().tolist(),
        "tokens": tokens,
        "neuronpedia": pl.Series([neuronpedia(sae, j) for j in range(d_sae)], dtype=pl.String),
    }
    logits, most = raised(reader.loaded, sae)
    other = others(d_sae, settings.seed)
    scores = input_scores(top, [row.ids for row in reader.rows], most, other)
    scores |= output_scores(reader, quantiles[:, -1], most, other, settings.clamped, settings.seed)
    return pl.DataFrame(own | floats | logits | scores)


def junk_tokens(loaded: LoadedModel, numbers: bool) -> tuple[Bool[Tensor, " vocab"], Bool[Tensor, " vocab"]]:
    """Mark the token ids that are punctuation, white space or, if `numbers`, numbers; and those that hold a line end."""
    kinds = {"white space", "punctuation"} | ({"number"} if numbers else set())
    indices = [k for k, name in enumerate(TOKEN_KINDS) if name in kinds]
    n = loaded.model.get_input_embeddings().num_embeddings
    is_junk = torch.zeros(n, dtype=torch.bool)
    of_tokens = token_kinds(loaded.tokenizer)[:n]
    is_junk[: len(of_tokens)] = torch.tensor(np.isin(of_tokens, indices))
    newline = torch.tensor(["\n" in text for text in shown_texts(loaded)] + [False] * n)[:n]
    return is_junk.to(loaded.model.device), newline.to(loaded.model.device)


def summarised(
    table: pl.DataFrame,
    sums: Sums,
    at: HookPoint,
    loaded: LoadedModel,
    sae: SAE[Any],
    n_contexts: int,
    settings: Features,
) -> dict[str, Any]:
    """Summarise all features."""
    alive = table.filter(~pl.col("dead"))
    n_dead = int(table["dead"].sum())
    return {
        "warning": of_dead(n_dead, len(table)),
        "d_sae": sae.cfg.d_sae,
        "layer": at.layer,
        "contexts": n_contexts,
        "tokens": sums.tokens,
        "outliers": sums.outliers,
        "l0": float(sums.count.sum()) / sums.tokens,
        "dead": n_dead,
        "rare": int(table["rare"].sum()),
        "junk": int((alive["junk"] > 0.5).sum()),
        "position_mean": sums.positions / sums.tokens,
        "token_entropy": alive["token_entropy"].median(),
        "token_entropy_null": alive["token_entropy_null"].median(),
        "input_score": alive["input_score"].mean(),
        "input_score_null": alive["input_score_null"].mean(),
        "output_score": alive["output_score"].mean(),
        "output_score_null": alive["output_score_null"].mean(),
        "architecture": sae.cfg.architecture(),
        **{key: getattr(settings, key) for key in ("min_count", "bands", "attributed")},
    }
