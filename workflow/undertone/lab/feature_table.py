"""Every feature of an SAE on text: how often and how strongly it fires, on which tokens, and what it raises."""

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
from undertone.lab.feature_sums import Sums, Widths, entropies, entropies_by_chance
from undertone.lab.peaks import NONE, Peaks
from undertone.lab.reading import Reader
from undertone.lm.attribution import direct_logits
from undertone.lm.hooks import hook_point
from undertone.lm.loading import LoadedModel, load
from undertone.lm.vocabulary import TOKEN_KINDS, token_kinds
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.features import neuronpedia, token_table
from undertone.saes.saved import load_sae
from undertone.study.config.lab import Features

QUANTILES = [0.5, 0.9, 0.99]
# Tokens that are shown of a feature; raised tokens that the tokens of its peaks are looked for among.
TOKENS, RAISED = 5, 50
# Other features' raised tokens that a feature's peaks are compared with.
OTHERS = 20


def make_features(
    model: Path, sae: Path, text: Path, features: Path, examples: Path, summary: Path, settings: Features, stamp: Stamp
) -> str:
    """Write every feature's figures (`features`), its examples, and a summary; returns what to say of them in the log.

    The text is read twice: bands and histograms are in units of each feature's greatest activation, which the first pass sees.
    Raises ConfigError, which names the context, where an activation is NaN or infinite.
    """
    loaded = load(model)
    dictionary, layer = load_sae(sae, loaded)
    contexts = read_contexts(text)
    reader = Reader(loaded, dictionary, layer, contexts, settings.max_norm, settings.before, settings.after)
    sums, groups = first_pass(reader, settings)
    keys, acts = sums.pairs()
    token = commonest(keys, acts, dictionary.cfg.d_sae, sums.vocab)
    widths = second_pass(reader, settings, Widths(sums.greatest, token[:, 0]), groups)
    table = columns(loaded, dictionary, sums, widths, token, groups["top"], contexts, settings)
    rows = example_rows(loaded, groups, contributions(reader, groups["top"], settings.attributed), contexts, settings)
    counts = summarised(table, sums, layer, loaded, dictionary, len(contexts), settings)
    write_parquet(features, table, stamp)
    write_parquet(examples, rows, stamp)
    write_json(summary, {**counts, "model": read_json(model)["name"], "hook_point": hook_point(layer)}, stamp)
    return (
        f"{counts['d_sae']} features on {counts['tokens']:,} tokens: {counts['dead']} are dead, {counts['rare']} fire on fewer "
        f"than {settings.min_count}, {counts['junk']} mostly on what is no word"
    )


def first_pass(reader: Reader, settings: Features) -> tuple[Sums, dict[str, Peaks]]:
    """Sums over all text tokens, and the examples of greatest and of least positive activation."""
    d_sae, device = reader.sae.cfg.d_sae, reader.loaded.model.device
    n_window = settings.before + 1 + settings.after
    sums = Sums(d_sae, junk_tokens(reader.loaded, settings.numbers_are_junk))
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
    """Histograms, and into `groups` examples drawn from each band and from where a feature's token leaves it silent."""
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


def commonest(keys: Int[Tensor, " n"], acts: Float[Tensor, " n"], d_sae: int, vocab: int) -> Int[Tensor, "d_sae n_tokens"]:
    """The tokens that most of a feature's activation falls on, -1 where there are fewer."""
    order = acts.argsort(descending=True, stable=True)
    order = order[(keys[order] // vocab).argsort(stable=True)]
    feature, token = keys[order] // vocab, keys[order] % vocab
    first = torch.searchsorted(feature, torch.arange(d_sae, device=keys.device))
    place = torch.arange(len(feature), device=keys.device) - first[feature]
    tokens = torch.full((d_sae, TOKENS), NONE, device=keys.device)
    shown = place < TOKENS
    tokens[feature[shown], place[shown]] = token[shown]
    return tokens


def columns(
    loaded: LoadedModel,
    sae: SAE[Any],
    sums: Sums,
    widths: Widths,
    token: Int[Tensor, "d_sae n_tokens"],
    top: Peaks,
    contexts: list[list[int]],
    settings: Features,
) -> pl.DataFrame:
    """A row per feature; what a feature that never fires has no value of is null."""
    d_sae, keys, acts = sae.cfg.d_sae, *sums.pairs()
    count, total = sums.count, sums.total
    alive = count > 0
    texts = shown_texts(loaded)
    mass = dict(zip(keys.tolist(), acts.tolist(), strict=True))
    tokens = [
        [{"text": texts[t], "share": mass[j * sums.vocab + t] / float(total[j])} for t in row if t != NONE]
        for j, row in enumerate(token.tolist())
    ]
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
        "q": [q if n else None for q, n in zip(widths.quantiles(QUANTILES).tolist(), count.tolist(), strict=True)],
        "histogram": widths.histogram().cpu().tolist(),
        "tokens": tokens,
        "neuronpedia": pl.Series([neuronpedia(sae, j) for j in range(d_sae)], dtype=pl.String),
    }
    return pl.DataFrame(own | floats | raised(loaded, sae, top, contexts, settings))


def junk_tokens(loaded: LoadedModel, numbers: bool) -> Bool[Tensor, " vocab"]:
    """Which token ids are punctuation or white space, and if asked, numbers."""
    kinds = {"white space", "punctuation"} | ({"number"} if numbers else set())
    indices = [k for k, name in enumerate(TOKEN_KINDS) if name in kinds]
    n = loaded.model.get_input_embeddings().num_embeddings
    is_junk = torch.zeros(n, dtype=torch.bool)
    of_tokens = token_kinds(loaded.tokenizer)[:n]
    is_junk[: len(of_tokens)] = torch.tensor(np.isin(of_tokens, indices))
    return is_junk.to(loaded.model.device)


def raised(loaded: LoadedModel, sae: SAE[Any], top: Peaks, contexts: list[list[int]], settings: Features) -> dict[str, Any]:
    """`logits_up`, `logits_down` and `input_score` with its null, by direct logit attribution of the decoder rows."""
    d_sae, up, most = sae.cfg.d_sae, [], []
    down: list[Any] = []
    for j in range(d_sae):
        logits = direct_logits(loaded.model, sae.W_dec[j].float())
        table = token_table(loaded, logits)
        up.append([{"text": text, "value": value} for text, value in table["top"]])
        down.append([{"text": text, "value": value} for text, value in table["bottom"]])
        n = min(len(loaded.tokenizer), len(logits))
        most.append(set(logits[:n].topk(min(RAISED, n)).indices.tolist()))
    peaks = [
        [contexts[row][position] for row, position, score in zip(*entry, strict=True) if score > -np.inf]
        for entry in zip(top.row.tolist(), top.position.tolist(), top.score.tolist(), strict=True)
    ]
    rng = np.random.default_rng(settings.seed)
    own, null = [], []
    for j, tokens in enumerate(peaks):
        others = rng.choice(np.delete(np.arange(d_sae), j), min(OTHERS, d_sae - 1), replace=False)
        own.append(float(np.mean([t in most[j] for t in tokens])) if tokens else None)
        null.append(float(np.mean([[t in most[k] for t in tokens] for k in others])) if tokens and len(others) else None)
    scores = {"input_score": pl.Series(own, dtype=pl.Float64), "input_score_null": pl.Series(null, dtype=pl.Float64)}
    return {"logits_up": up, "logits_down": down, **scores}


def summarised(
    table: pl.DataFrame,
    sums: Sums,
    layer: int,
    loaded: LoadedModel,
    sae: SAE[Any],
    n_contexts: int,
    settings: Features,
) -> dict[str, Any]:
    """What is said of all features together."""
    alive = table.filter(~pl.col("dead"))
    return {
        "d_sae": sae.cfg.d_sae,
        "layer": layer,
        "contexts": n_contexts,
        "tokens": sums.tokens,
        "outliers": sums.outliers,
        "l0": float(sums.count.sum()) / sums.tokens,
        "dead": int(table["dead"].sum()),
        "rare": int(table["rare"].sum()),
        "junk": int((alive["junk"] > 0.5).sum()),
        "position_mean": sums.positions / sums.tokens,
        "token_entropy": alive["token_entropy"].median(),
        "token_entropy_null": alive["token_entropy_null"].median(),
        "input_score": alive["input_score"].mean(),
        "input_score_null": alive["input_score_null"].mean(),
        "architecture": sae.cfg.architecture(),
        **{key: getattr(settings, key) for key in ("min_count", "bands", "attributed")},
    }
