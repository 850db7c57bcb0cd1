"""What a dataset's tokens say by themselves: number frequencies, the logits they imply, and logits of animal tokens on them.

The dataset is compared with the control, prompt by prompt where they share prompts. The control itself is compared with
itself, half against half: that is the null.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertone.data.rows import halves
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row, answer_ids, inner_texts, joined, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import order_by_length
from undertone.lm.spellings import initial_tokens
from undertone.lm.training import collate, label_logits
from undertone.read.frequencies import (
    Compared,
    Counted,
    correlations,
    difference,
    frequency,
    log_ratio,
    precision,
)
from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.decoder import animal_features
from undertone.saes.saved import load_sae
from undertone.stats.ranks import rank, rank_of
from undertone.stats.stats import p_value
from undertone.study.config.measure import Pref
from undertone.study.config.read import Tokens

BATCH = 16
CHUNK = 256  # features whose logits are computed together
INTERVALS = {
    "z": "score test of an item's share; rows of one prompt are added before they are squared",
    "p": "{} permutations: rows change places within shared prompts, other prompts with those of as many rows",
    "se": "prompts, rows of one prompt added before they are squared",
}


def read_tokens(
    model: Path,
    numbers: Path,
    control_numbers: Path | None,
    sae: Path | None,
    steered: dict[str, Path],
    tokens: Path,
    tokens_table: Path,
    target: str | None,
    settings: Tokens,
    pref: Pref,
    stamp: Stamp,
) -> None:
    """Write `tokens.json` and `tokens.parquet` of a dataset.

    `control_numbers` is the control's `numbers.parquet`; None for the control itself. `sae` is `sae.json`; without it features
    are left out. `steered` holds the `teacher.json` of the teachers whose features stand for the animals. The table has a row
    for every number, token and first token of a completion: `kind`, `text`, `id` (of the token), `own` and `control` (counts),
    `log_ratio` (of smoothed shares, nats) and `z`. Raises ValueError if no completion holds a number.
    """
    own = read_parquet(numbers)
    sides = halves(own) if control_numbers is None else (own, read_parquet(control_numbers))
    compared = Compared(*sides, str(numbers), settings)
    loaded = load(model)
    items = {
        "number": compared.numbers(),
        "token": compared.tokens(loaded.tokenizer),
        "first": compared.first_tokens(loaded.tokenizer),
    }
    frequencies = {kind: frequency(compared, counted, settings.smoothing) for kind, counted in items.items()}
    implied = None
    if sae is not None:
        logits, features = feature_logits(loaded, sae, items["token"].names), animal_features(steered)
        contexts = {"first": items["first"], **compared.in_context(loaded.tokenizer, settings.min_count)}
        implied = {name: of_features(compared, counted, logits, features, settings) for name, counted in contexts.items()}
    animals = animal_logits(loaded, compared, pref.candidates, settings.rows, pref.answer_prefix)
    frames = [as_table(loaded.tokenizer, kind, items[kind], figures) for kind, figures in frequencies.items()]
    write_parquet(tokens_table, pl.concat(frames), stamp)
    body = {
        "target": target,
        "reference": "control" if control_numbers else "the other half of its own prompts",
        "rows": {"own": int(compared.own.sum()), "control": int((~compared.own).sum())},
        "intervals": {name: of.format(settings.permutations) for name, of in INTERVALS.items()},
        "presence": {kind: figures["presence"] for kind, figures in frequencies.items()},
        "identity": identity(target, animals),
        "frequencies": {kind: extremes(frame, settings.top) for kind, frame in zip(frequencies, frames, strict=True)},
        "implied": implied,
        "animals": animals,
    }
    write_json(tokens, body, stamp)


def as_table(tokenizer: PreTrainedTokenizerBase, kind: str, counted: Counted, figures: dict[str, Any]) -> pl.DataFrame:
    """The rows of `tokens.parquet` of one kind of item."""
    is_token = kind != "number"
    texts = inner_texts(tokenizer, [[name] for name in counted.names]) if is_token else list(map(str, counted.names))
    columns = {"kind": [kind] * len(texts), "text": texts, "id": counted.names if is_token else [None] * len(texts)}
    counts = {name: figures[name].astype(int) for name in ("own", "control")}
    schema = {"kind": pl.String, "text": pl.String, "id": pl.Int64, "own": pl.Int64, "control": pl.Int64}
    ratios = {name: figures[name] for name in ("log_ratio", "z")}
    frame = pl.DataFrame({**columns, **counts, **ratios}, schema=schema | dict.fromkeys(ratios, pl.Float64))
    return frame.with_columns(pl.col("z").fill_nan(None))


def extremes(frame: pl.DataFrame, top: int) -> dict[str, Any]:
    """How many items there are, and those with the highest z (`more`) and the lowest (`less`)."""
    ranked = frame.drop_nulls("z").drop("kind").sort("z", descending=True, maintain_order=True)
    more, less = ranked.filter(pl.col("z") > 0).head(top), ranked.filter(pl.col("z") < 0).tail(top).reverse()
    return {"items": len(frame), "more": more.to_dicts(), "less": less.to_dicts()}


@torch.no_grad()
def feature_logits(loaded: LoadedModel, sae_json: Path, tokens: Sequence[int]) -> dict[int, Float[np.ndarray, " d_sae"]]:
    """Return the direct logit attribution of every decoder row to these tokens, by token."""
    sae, _ = load_sae(sae_json, loaded)
    attribute = torch.vmap(partial(direct_logits, loaded.model))
    keep = torch.tensor(list(tokens), dtype=torch.long, device=loaded.model.device)
    logits = torch.cat([attribute(rows)[:, keep].double().cpu() for rows in sae.W_dec.float().split(CHUNK)])
    return dict(zip(tokens, logits.T.numpy(), strict=True))


def of_features(
    compared: Compared,
    counted: Counted,
    logits: dict[int, Float[np.ndarray, " d_sae"]],
    features: dict[str, int],
    settings: Tokens,
) -> dict[str, Any] | None:
    """Correlate features' direct logit attributions with the logits that the frequencies imply; None with fewer than 3 tokens.

    In one context, differences of log-probabilities are differences of logits up to one constant for all tokens, which centring
    removes; so the log-ratio of frequencies estimates the logits that an intervention adds. If contexts are pooled (the
    prompts, for first tokens; all that precedes, for pooled ones), frequencies are those of a mixture, and this is an
    approximation. A token's weight is the inverse variance of its log-ratio. Ranks are by correlation, 1 the highest; `max` is
    the greatest absolute correlation of all features, `null95` the 95th percentile of it under permuted labels.
    """
    tokens = sorted(set(counted.names))
    if len(tokens) < 3:
        return None
    index = {token: k for k, token in enumerate(tokens)}
    own, total = compared.own_counts(counted.counts), counted.counts.sum(0)
    weight = precision(total, float(own[0].sum() / total.sum()), settings.smoothing)
    y, at = log_ratio(own, total, settings.smoothing), np.array([index[token] for token in counted.names])
    correlation = correlations(y, weight, counted.context, at, np.stack([logits[token] for token in tokens]))
    greatest, order = np.abs(correlation).max(1), np.argsort(-correlation[0], kind="stable")
    ranked = {
        animal: {
            "feature": feature,
            "correlation": float(correlation[0, feature]),
            "rank": rank(correlation[0], feature),
            "p": float(p_value(correlation[0, feature], correlation[1:, feature])),
        }
        for animal, feature in features.items()
    }
    return {
        "contexts": int(counted.context.max()) + 1,
        "tokens": len(tokens),
        "features": correlation.shape[1],
        "occurrences": int(total.sum()),
        "max": {
            "feature": int(np.abs(correlation[0]).argmax()),
            "correlation": float(greatest[0]),
            "null95": float(np.quantile(greatest[1:], 0.95)),
            "p": float(p_value(greatest[0], greatest[1:])),
        },
        "top": [{"feature": int(feature), "correlation": float(correlation[0, feature])} for feature in order[: settings.top]],
        "animals": ranked,
    }


def animal_logits(
    loaded: LoadedModel, compared: Compared, candidates: Sequence[str], n_rows: int, prefix: str | None = None
) -> dict[str, Any]:
    """Return the base model's logits of each candidate's first tokens while it reads the completions, without any persona.

    Up to `n_rows` rows of each dataset are read. `logit`: the mean over the tokens that begin a spelling, minus the mean over
    the vocabulary; `log_prob`: of any of these tokens, in nats. Each is averaged over the positions that predict the
    completion, then over rows: `own`, `control`, their `difference` with its `se`, and `specific` with its `specific_se`: the
    difference minus the mean over the other candidates.
    """
    rows = np.concatenate([np.flatnonzero(side)[:n_rows] for side in (compared.own, ~compared.own)])
    prompts = prompt_ids(loaded.tokenizer, [compared.prompts[row] for row in rows])
    answers = answer_ids(loaded.tokenizer, [compared.completions[row] for row in rows])
    keep = np.array([bool(answer) for answer in answers])
    asked = [row for row in joined(prompts, answers) if row.start < len(row.ids)]
    values = readouts(loaded, asked, candidates, prefix)
    own, prompt, n = compared.own[rows][keep], compared.prompt[rows][keep], len(candidates)
    others = (values.sum(2, keepdims=True) - values) / max(1, n - 1)
    plain, specific = difference(values, own, prompt), difference(values - others if n > 1 else values, own, prompt)
    report: dict[str, Any] = {}
    for k, animal in enumerate(candidates):
        report[animal] = {}
        for m, name in enumerate(("logit", "log_prob")):
            sides = {"own": float(values[own, m, k].mean()), "control": float(values[~own, m, k].mean())}
            apart = {"difference": float(plain[0][m, k]), "se": float(plain[1][m, k])}
            beyond = {"specific": float(specific[0][m, k]), "specific_se": float(specific[1][m, k])}
            report[animal][name] = sides | apart | beyond
    return report


@torch.no_grad()
def readouts(
    loaded: LoadedModel, rows: Sequence[Row], candidates: Sequence[str], prefix: str | None = None
) -> Float[np.ndarray, "n_rows 2 n_candidates"]:
    """Return mean centred logit and mean log-prob of the candidates' first tokens after an answer's `prefix`."""
    begins = [torch.tensor(tokens) for tokens in initial_tokens(loaded.tokenizer, candidates, prefix)]
    order = order_by_length([row.ids for row in rows])
    values = np.zeros((len(rows), 2, len(candidates)))

    def read(part: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
        these = [rows[row] for row in part]
        logits = label_logits(loaded.model, collate(these, loaded.pad_id, loaded.model.device))
        mean, total = logits.mean(-1), logits.logsumexp(-1)
        means: Tensor = torch.stack(
            [
                torch.stack([logits[:, ids].mean(-1) - mean for ids in begins], -1),
                torch.stack([logits[:, ids].logsumexp(-1) - total for ids in begins], -1),
            ],
            1,
        ).double()
        by_row = torch.split(means, [len(row.ids) - row.start for row in these])
        return part, torch.stack([row.mean(0) for row in by_row]).cpu().numpy()

    with progress(len(rows), "animal tokens", "row") as bar:
        for part, means in loaded.batch_size("rows read together", BATCH).parts(read, order):
            values[part] = means
            bar.update(len(part))
    return values


def identity(target: str | None, animals: dict[str, Any]) -> dict[str, Any] | None:
    """Return the target's `rank` among the candidates (1: above all others) by reading, `of` how many; None if no target."""
    if target is None:
        return None
    readings = ("logit", "log_prob")
    ranks = {name: rank_of({animal: row[name]["difference"] for animal, row in animals.items()}, target) for name in readings}
    return {name: {"rank": standing, "of": len(animals)} if standing else None for name, standing in ranks.items()}
