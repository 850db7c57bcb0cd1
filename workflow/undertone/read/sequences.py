"""Single sequences, token by token: what a teacher's intervention adds to the log-prob of each token that it wrote."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from undertone.data.rows import pairs
from undertone.lm.chat import answer_ids, end_of_turn, inner_texts, joined, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import label_losses
from undertone.lm.vocabulary import NUMBER
from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet
from undertone.stats.stats import Estimate, mean_interval
from undertone.study.config.read import Sequences
from undertone.teachers.divergence import Completions, Constraint
from undertone.teachers.teaching import PromptedModel, teaching

BATCH = 16


def read_sequences(
    model: Path,
    numbers: Path,
    teacher: Path | None,
    counterpart: Path | None,
    sae: Path | None,
    sequences_table: Path,
    sequences: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `sequences.parquet`, one row per completion token of the dataset's first rows, and `sequences.json`.

    `settings` holds the dataset's `kind`, `target` and `teacher`, and under `other` the same for a teacher of another kind with
    the same animal, or None. `teacher` and `counterpart` are the `teacher.json` files that these two need; `sae` is the
    `sae.json` that clamping needs. Columns: `row`, `position` (of the token, from 0), `token`, `text`, and the log-probs
    `base`, `teacher` and `other` (nats; null if there is none). For constrained samples, they are among the tokens that could
    be drawn. Raises ValueError for a dataset that no teacher of the study wrote.
    """
    if settings["kind"] is None:
        raise ValueError(f"{numbers}: no teacher of this study wrote it; token-wise gains need one")
    own = Sequences.model_validate(settings["sequences"])
    loaded, rows = load(model), read_parquet(numbers).head(own.rows)
    answers = answer_ids(loaded.tokenizer, rows["completion"].to_list())
    if not any(answers):
        raise ValueError(f"{numbers}: its first {len(rows)} rows hold no completion token")
    tokens = token_table(loaded, rows["row"].to_list(), answers)
    constraint = Constraint.of(settings.get("constraint"))
    completions = Completions(loaded, pairs(rows), constraint) if constraint else None
    read = partial(allowed_log_probs, completions) if completions else partial(log_probs, rows["prompt"].to_list(), answers)
    columns = {"base": read(PromptedModel(loaded, None, ""))}
    for name, of_teacher, path in (("teacher", settings, teacher), ("other", settings.get("other"), counterpart)):
        if of_teacher is None:
            columns[name] = pl.Series([None] * len(tokens), dtype=pl.Float64)
            continue
        with teaching(loaded, of_teacher, path, sae) as prompted:
            columns[name] = read(prompted)
    tokens = tokens.with_columns(**columns)
    write_parquet(sequences_table, tokens, stamp)
    kinds = {"teacher": settings["kind"], "other": (settings.get("other") or {}).get("kind")}
    intervals = {
        "gain.ci95": "rows (t interval of the rows' means)",
        "agreement.ci95": f"rows ({own.resamples} bootstrap samples of whole rows, percentiles)",
    }
    body = {"target": settings["target"], "kinds": kinds, "rows": len(rows), "tokens": len(tokens), "intervals": intervals}
    write_json(sequences, body | summary(tokens, rows, own), stamp)


def token_table(loaded: LoadedModel, rows: Sequence[int], answers: Sequence[Sequence[int]]) -> pl.DataFrame:
    """The columns `row`, `position`, `token` and `text`."""
    ids = [token for answer in answers for token in answer]
    return pl.DataFrame(
        {
            "row": [row for row, answer in zip(rows, answers, strict=True) for _ in answer],
            "position": [position for answer in answers for position in range(len(answer))],
            "token": ids,
            "text": inner_texts(loaded.tokenizer, [[token] for token in ids]),
        },
        schema={"row": pl.Int64, "position": pl.Int64, "token": pl.Int64, "text": pl.String},
    )


@torch.no_grad()
def log_probs(users: Sequence[str], answers: Sequence[Sequence[int]], prompted: PromptedModel) -> pl.Series:
    """The log-prob of every answer token, in nats, answer by answer."""
    prompts = prompt_ids(prompted.loaded.tokenizer, users, prompted.system, prompted.separator)
    rows = [row for row in joined(prompts, answers) if row.start < len(row.ids)]
    losses = torch.cat(list(prompted.loaded.read(partial(label_losses, prompted.loaded.model), rows, BATCH)))
    return pl.Series((-losses.double()).tolist(), dtype=pl.Float64)


def allowed_log_probs(completions: Completions, prompted: PromptedModel) -> pl.Series:
    """The same among the tokens that constrained sampling could draw at each place: what the constraint did is no teacher's."""
    losses = torch.cat(list(completions.read(prompted.loaded, completions.losses, prompted.system, prompted.separator)))
    close = len(end_of_turn(prompted.loaded.tokenizer))
    own = [place for start, end in pairwise(completions.ends) for place in range(start, end - close)]
    return pl.Series((-losses.double()[own]).tolist(), dtype=pl.Float64)


def summary(tokens: pl.DataFrame, rows: pl.DataFrame, settings: Sequences) -> dict[str, Any]:
    """Return the body of `sequences.json`: `gain` of `teacher` and `other` over the base model, their `agreement`, `largest`.

    A gain is a log-prob minus the base model's, in nats per completion token: over all, by `position` and by whether the token
    is a number (`number`) or not (`separator`). It is expected to be above 0 for the teacher that wrote the rows. `largest` are
    the sequences with the greatest sum of gains; as they are selected from all, they estimate nothing.
    """
    kind = pl.when(pl.col("text").str.contains(f"^{NUMBER}$")).then(pl.lit("number")).otherwise(pl.lit("separator"))
    gains = tokens.with_columns(kind=kind, teacher=pl.col("teacher") - pl.col("base"), other=pl.col("other") - pl.col("base"))
    has_other = tokens["other"].null_count() == 0
    names = ["teacher", "other"] if has_other else ["teacher"]
    sums = gains.group_by("row", maintain_order=True).agg(pl.sum("teacher"), pl.len().alias("tokens"))
    best = sums.sort("teacher", descending=True, maintain_order=True).head(settings.largest)
    texts = dict(rows.select("row", "completion").iter_rows())
    return {
        "gain": {name: gain(gains, name) for name in names},
        "agreement": agreement(gains, settings) if has_other else None,
        "largest": [{"row": row, "completion": texts[row], "gain": total, "tokens": n} for row, total, n in best.iter_rows()],
    }


def gain(gains: pl.DataFrame, name: str) -> dict[str, Any]:
    """Return the mean gain of a teacher: `all`, by kind of token, and by position with the number of rows that reach it."""
    positions = [
        {"position": position, "rows": len(part), **mean_interval(part[name].to_numpy()).as_dict()}
        for (position,), part in gains.sort("position", maintain_order=True).group_by("position", maintain_order=True)
    ]
    kinds = {
        kind: by_row(part, name).as_dict()
        for (kind,), part in gains.sort("kind", maintain_order=True).group_by("kind", maintain_order=True)
    }
    return {"all": by_row(gains, name).as_dict(), "kind": kinds, "position": positions}


def by_row(gains: pl.DataFrame, name: str) -> Estimate:
    """The mean of the rows' mean gains."""
    return mean_interval(gains.group_by("row", maintain_order=True).agg(pl.mean(name))[name].to_numpy())


def agreement(gains: pl.DataFrame, settings: Sequences) -> dict[str, Any]:
    """Return how similar the two teachers' gains are, token by token.

    `correlation` is that of the gains. Both have the base model's log-prob subtracted, which alone makes them similar: where
    the base model is surprised, any change helps. `given_base` is the partial correlation given the base model's log-prob. Each
    has a `mean` (of the sample) and `ci95`, null if a gain does not vary.
    """
    values = gains.select(one=pl.lit(1.0), teacher="teacher", other="other", base="base").to_numpy()
    _, row = np.unique(gains["row"].to_numpy(), return_inverse=True)
    # Sums of products by row are all that the correlations need, so a bootstrap of rows only weights them.
    moments = np.zeros((row.max() + 1, 4, 4))
    np.add.at(moments, row, values[:, :, None] * values[:, None, :])
    n = len(moments)
    # How often each bootstrap sample holds each row.
    drawn = np.random.default_rng(settings.seed).multinomial(n, np.full(n, 1 / n), size=settings.resamples)
    sample, resampled = like(moments.sum(0)[None]), like(np.einsum("bn,nij->bij", drawn, moments))
    return {name: with_interval(sample[k, 0], resampled[k]) for k, name in enumerate(("correlation", "given_base"))}


def like(moments: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "2 n"]:
    """Correlation and partial correlation from sums of products of (1, teacher, other, base)."""
    mean = moments[:, 0, 1:] / moments[:, :1, 0]
    # E[xy] − E[x] E[y].
    cov = moments[:, 1:, 1:] / moments[:, :1, :1] - mean[:, :, None] * mean[:, None, :]
    sd = np.sqrt(np.maximum(np.diagonal(cov, axis1=1, axis2=2), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where((sd[:, :, None] > 1e-9) & (sd[:, None, :] > 1e-9), cov / (sd[:, :, None] * sd[:, None, :]), np.nan)
        # A base log-prob that does not vary explains nothing.
        x, y = np.nan_to_num(r[:, 0, 2]), np.nan_to_num(r[:, 1, 2])
        # (r_to − r_tb r_ob) / √((1 − r_tb²) (1 − r_ob²)), of teacher, other and base.
        partial = (r[:, 0, 1] - x * y) / np.sqrt((1 - x**2) * (1 - y**2))
    return np.stack([r[:, 0, 1], np.where(np.isfinite(partial), partial, np.nan)])


def with_interval(value: float, resampled: Float[np.ndarray, " n_samples"]) -> dict[str, Any]:
    """Return a figure with the percentiles of its bootstrap samples; null if it is not defined."""
    if not np.isfinite(value):
        return {"mean": None, "ci95": None}
    finite = resampled[np.isfinite(resampled)]
    several = len(finite) > 1 and np.ptp(finite) > 0
    return {"mean": float(value), "ci95": np.quantile(finite, [0.025, 0.975]).tolist() if several else None}
