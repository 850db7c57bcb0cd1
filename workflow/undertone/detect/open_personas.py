"""Personas about any word of the vocabulary: likelihoods under system prompts, without a list of candidates.

All words are tried in one wording on a few rows; the best of them go through the rounds of `personas`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undertone.detect.personas import gains, tournament
from undertone.detect.rounds import Round, of_rounds
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.detect.trained import Vocabulary
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import begun
from undertone.lm.texts import load_texts
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors, OpenPersonas, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Constraint


def read_open_personas(
    model: Path,
    matched: Path,
    bank: Path,
    questions: Path,
    open_personas: Path,
    own: OpenPersonas,
    rounds: Personas,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `open_personas.json`: words ranked by the gain of their best wording, in nats per token, as in `personas.json`.

    The words are the single-token words that the base model is most likely to begin an answer to the `questions` with.
    """
    loaded, entries = load(model), Bank.read(bank)
    words = likely_words(loaded, load_texts(questions, "pref.questions"), pref.answer_prefix, own.words)
    constraint = Constraint.of(settings.get("constraint"))

    def read(pairs: Pairs) -> Reading:
        rows = list(zip(pairs.prompts, pairs.own, strict=True))
        tried = narrowed(loaded, rows, entries, words, teacher.separator, own, rounds, constraint)
        return of_rounds(tried, pairs.prompts, set(words), detectors, entries.described)

    read_sets(matched, open_personas, read, detectors, stamp, scratch)


def likely_words(loaded: LoadedModel, questions: Sequence[str], prefix: str | None, n: int) -> list[str]:
    """Return the `n` words of the vocabulary with the highest mean probability as an answer's first word."""
    vocabulary = Vocabulary.of(loaded)
    p = vocabulary.first(loaded, begun(loaded.tokenizer, prompt_ids(loaded.tokenizer, questions), prefix)).mean(0)
    return [vocabulary.words[k] for k in np.argsort(-p, kind="stable")[:n]]


def narrowed(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    bank: Bank,
    words: Sequence[str],
    separator: str,
    settings: OpenPersonas,
    rounds: Personas,
    constraint: Constraint | None,
) -> list[Round]:
    """Run a round of all words in the first wording, then the rounds of `personas` with the best of them on other rows."""
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    n = min(settings.rows, max(1, len(rows) // 4))
    first, rest = np.sort(order[:n]), np.sort(order[n:])
    [wording] = bank.first(1)
    trials = [(wording, word) for word in words]
    with progress((len(trials) + 1) * n, "words", "row") as bar:
        values = gains(loaded, [rows[k] for k in first], bank, trials, separator, bar.update, constraint)
    all_words = Round(trials, first, values)
    kept = [word for _, word in all_words.best(settings.kept)]
    later = tournament(loaded, [rows[k] for k in rest], bank, kept, separator, rounds, constraint)
    return [all_words, *(Round(each.pairs, rest[each.rows], each.gains) for each in later)]
