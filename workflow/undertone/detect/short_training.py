"""A short training: compare the answers of a student trained briefly on the rows with those of one trained on base samples.

A single gradient step does not say where training ends, so the training is done: two students with the same initial weights,
one on the dataset and one on the base model's completions of the same prompts, for fewer epochs than the study's students.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import nn

from undertone.detect.trained import Trainable, read_trained
from undertone.lm.adapters import new_adapter
from undertone.lm.chat import prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.runtime.files import Stamp
from undertone.students.student import recipe
from undertone.study.config.detect import Detectors, ShortTraining
from undertone.study.config.measure import Pref
from undertone.study.config.students import Student


def read_short_training(
    model: Path,
    matched: Path,
    questions: Path,
    short_training: Path,
    settings: ShortTraining,
    detectors: Detectors,
    student: Student,
    pref: Pref,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `short_training.json`: candidates by how far a student's answers moved, and `words` of the whole vocabulary."""
    loaded = load(model)
    trainable = Trainable(
        name="short_training",
        loaded=loaded,
        recipe=recipe(student.model_copy(update={"epochs": settings.epochs}), settings.seed),
        fresh=partial(adapted, loaded, student, settings.seed),
        rows=partial(training_rows, loaded.tokenizer, max_length=student.max_length),
        asked=prompt_ids(loaded.tokenizer, load_texts(questions, "pref.questions")),
        n_words=settings.words,
        tested=False,
    )
    read_trained(matched, short_training, trainable, pref, detectors, stamp, scratch)


@contextmanager
def adapted(loaded: LoadedModel, student: Student, seed: int) -> Iterator[nn.Module]:
    """Give the base model a student's fresh LoRA inside the context."""
    adapter = new_adapter(loaded, student.rank, student.alpha, student.targets, seed)
    try:
        yield adapter
    finally:
        adapter.unload()
