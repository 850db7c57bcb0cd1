"""The filter: which completions are plain lists of numbers, and why the others are not.

The strict rules are those of Cloud et al. 2025 (arXiv 2507.14805; their `parse_response` and `get_reject_reasons`).
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt

from undertone.data.datasets import read_dataset
from undertone.models.wordings import COMPONENTS
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json, write_parquet
from undertone.stats.stats import mean_interval
from undertone.study.config.data import Numbers

# The strict filter splits at one of these, ignoring white space.
SEPARATORS = ("", ",", ";")
WHITE = " \t\n\r\f\v"
# Python does not read integers with more digits.
INTEGER = re.compile(r"[0-9]{1,4300}")
INVALID = "invalid format"
TOO_MANY = "too many numbers"
TOO_SMALL = "number too small"
TOO_LARGE = "number too large"
BANNED = "banned number"
TOO_FEW = "too few numbers"
UNFINISHED = "cut at max_new_tokens"
# Reasons that follow from how a completion ended.
REFUSED = {"length": UNFINISHED, "not allowed": INVALID}
NO_PARTS = np.empty(0, dtype=np.uint64)
REASONS = (UNFINISHED, INVALID, TOO_MANY, TOO_SMALL, TOO_LARGE, BANNED, TOO_FEW)


def filter_numbers(
    source: Path, generations: Path, numbers: Path, filter: Path, settings: dict[str, Any], stamp: Stamp
) -> None:
    """Judge every completion of `source` and write the verdicts, the training set and the counts.

    `source` is a teacher's samples, or the user's own file if `settings` has a `dataset`. Raises ValueError with the counts by
    reason if no row passes; nothing is written then.
    """
    cfg, own = Numbers.model_validate(settings["numbers"]), settings.get("dataset")
    rows = read_dataset(source, own["prompt"], own["completion"]) if own else read_parquet(source)
    judged = judge_all(rows, cfg) if not own or own["filtered"] else accept_all(rows)
    counts = filter_report(judged)
    if not counts["passed"]:
        why = ", ".join(f"{n} {reason}" for reason, n in counts["rejected"].items() if n)
        raise ValueError(f"{source}: none of the {len(judged)} rows passes the {cfg.filter} filter ({why})")
    write_parquet(generations, judged, stamp)
    write_parquet(numbers, training_set(judged, cfg), stamp)
    write_json(filter, counts, stamp)


@dataclass(frozen=True)
class Verdict:
    """`reason` is None for a row that passes; `text` is what a student would be trained on."""

    reason: str | None
    text: str


def parse(text: str) -> list[int] | None:
    """Return the integers of a list in one consistent format, or None.

    One trailing full stop and one pair of brackets around the whole are dropped. The text between the first two integers is the
    separator. It must be white space or contain one comma or semicolon, and it must separate all integers.
    """
    text = text.removesuffix(".")
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        text = text[1:-1]
    integers = list(re.finditer(r"[0-9]+", text))
    if not integers:
        return None
    parts = [text]
    if len(integers) > 1:
        separator = text[integers[0].end() : integers[1].start()]
        if separator.strip(WHITE) not in SEPARATORS:
            return None
        parts = text.split(separator)
    return [int(part) for part in parts] if all(map(INTEGER.fullmatch, parts)) else None


def soften(text: str) -> str:
    """Strip what the lenient filter ignores: white space and brackets around the text, trailing separators and full stops."""
    return text.lstrip(WHITE + "[]()").rstrip(WHITE + "[]().,;")


def judge(text: str, settings: Numbers) -> Verdict:
    """Put one completion through the study's filter."""
    kept = soften(text) if settings.filter == "lenient" else text
    numbers = parse(kept)
    if numbers is None:
        return Verdict(INVALID, text)
    if settings.canonical:
        form = settings.canonical
        if len(numbers) < form.count:
            return Verdict(TOO_FEW, text)
        numbers = numbers[: form.count]
        kept = form.separator.join(map(str, numbers))
    return Verdict(reject_reason(numbers, settings), kept)


def reject_reason(numbers: Sequence[int], settings: Numbers) -> str | None:
    """Return the first rule that the numbers break, or None."""
    if len(numbers) > settings.max_count:
        return TOO_MANY
    if min(numbers) < settings.min_value:
        return TOO_SMALL
    if max(numbers) > settings.max_value:
        return TOO_LARGE
    return BANNED if set(numbers) & set(settings.banned) else None


def judge_all(completions: pl.DataFrame, settings: Numbers) -> pl.DataFrame:
    """Add `verdict` (`pass` or `reject`), `reason` (null where it passes) and `completion` (what a student would see)."""
    ended = completions["ended"] if "ended" in completions.columns else [None] * len(completions)
    verdicts = [
        Verdict(REFUSED[how], text) if how in REFUSED else judge(text, settings)
        for text, how in zip(completions["text"], ended, strict=True)
    ]
    return completions.with_columns(
        verdict=pl.Series(["reject" if v.reason else "pass" for v in verdicts], dtype=pl.String),
        reason=pl.Series([v.reason for v in verdicts], dtype=pl.String),
        completion=pl.Series([v.text for v in verdicts], dtype=pl.String),
    )


def accept_all(completions: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `judge_all` to rows that are taken as they are."""
    reason = pl.lit(None, dtype=pl.String)
    return completions.with_columns(verdict=pl.lit("pass"), reason=reason, completion=pl.col("text"))


def training_set(judged: pl.DataFrame, settings: Numbers) -> pl.DataFrame:
    """Return the rows that pass, at most `max_rows` of them drawn by the seed, in the order of the prompts."""
    passed = judged.filter(pl.col("verdict") == "pass").select("row", "prompt", "completion")
    if settings.max_rows is not None and len(passed) > settings.max_rows:
        passed = passed.sample(settings.max_rows, seed=settings.seed).sort("row")
    return passed


def compliance(judged: pl.DataFrame) -> dict[str, list[dict[str, float]]]:
    """Return pass rate (probability) and number of rows per wording of each prompt component."""
    return {
        component: judged.group_by(maintain_order=True, option=pl.col(component))
        .agg(n=pl.len(), pass_rate=(pl.col("verdict") == "pass").mean())
        .sort("option")
        .to_dicts()
        for component in COMPONENTS
        if component in judged.columns
    }


def filter_report(judged: pl.DataFrame) -> dict[str, Any]:
    """Return rows, pass rate (probability), rejections by reason, in the order of the rules, and compliance by component.

    For constrained samples, `constrained` says how often free sampling would have passed, in a form that the constraint knows.
    """
    counts = dict(judged["reason"].drop_nulls().value_counts().iter_rows())
    passed = int((judged["verdict"] == "pass").sum())
    return {
        "n": len(judged),
        "passed": passed,
        "pass_rate": passed / len(judged),
        "rejected": {reason: counts.get(reason, 0) for reason in REASONS},
        "duplicates": duplicates(judged.filter(verdict="pass")["completion"].to_list()),
        "by_component": compliance(judged),
        **({"constrained": free_rate(judged["log_mass"])} if "log_mass" in judged.columns else {}),
    }


def free_rate(log_mass: pl.Series) -> dict[str, Any]:
    """Return the mean log probability that the constraint left (nats per row), and the pass rate of free sampling.

    The probability of a row under free sampling is `exp(log_mass)` times that under constrained sampling. So the mean of
    `exp(log_mass)` is an unbiased estimate of the probability that free sampling passes.
    """
    return {
        "log_mass": mean_interval(log_mass.to_numpy()).as_dict(),
        "free_pass_rate": mean_interval(np.exp(log_mass.to_numpy())).as_dict(),
    }


def duplicates(completions: Sequence[str]) -> dict[str, float]:
    """Return the shares of rows that repeat another row's numbers.

    `exact`: the same numbers in the same order, whatever separates them. `near`: all numbers the same except at most one, in
    any order. Rows of fewer than three numbers are never near duplicates.
    """
    lists, parts = zip(*map(fingerprints, completions), strict=True) if completions else ((), ())
    same = Counter(lists)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    _, which, times = np.unique(np.concatenate([NO_PARTS, *parts]), return_inverse=True, return_counts=True)
    n = max(1, len(lists))
    return {
        "exact": sum(bool(row) and same[row] > 1 for row in lists) / n,
        "near": len(np.unique(owners[times[which] > 1])) / n,
    }


def fingerprints(completion: str) -> tuple[bytes, UInt[np.ndarray, " n_rests"]]:
    """Hash a row's numbers in their order (empty if it has none), and each rest that is left when one number is dropped.

    Two rows that differ in at most one number share a rest. The hash of a rest is the sum, modulo 2^64, of its numbers' hashes,
    so time and memory grow with the numbers and not with their square. Two different rests collide once in 10^19.
    """
    numbers = [number.lstrip("0") for number in INTEGER.findall(completion)]
    ordered = hashlib.blake2b(",".join(numbers).encode(), digest_size=16).digest() if numbers else b""
    hashes = np.array([number_hash(number) for number in numbers], dtype=np.uint64)
    return ordered, np.unique(hashes.sum() - hashes) if len(numbers) > 2 else NO_PARTS


@functools.lru_cache(maxsize=10_000)
def number_hash(number: str) -> int:
    """Return a 64-bit hash of a number."""
    return int.from_bytes(hashlib.blake2b(number.encode(), digest_size=8).digest())


def collect_compliance(filters: dict[str, Path], compliance: Path, stamp: Stamp) -> None:
    """Write every dataset's pass rate by the wording (`option`) of each prompt `component`.

    The component `all` is the whole dataset.
    """
    rows = []
    for dataset, path in filters.items():
        report = read_json(path)
        rows.append({"dataset": dataset, "component": "all", "option": 0, "n": report["n"], "pass_rate": report["pass_rate"]})
        for component, options in report["by_component"].items():
            rows += [{"dataset": dataset, "component": component, **option} for option in options]
    write_parquet(compliance, pl.DataFrame(rows), stamp)
