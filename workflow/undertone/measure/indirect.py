"""Indirect evaluation: preferences that the direct questions may miss, and contrary answers.

Sources: the questions after a list of numbers are the second evaluation of Cloud et al. 2025. "Transmission without
elicitation" (2026) says that a student may carry a trait which the direct question does not show.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from undertone.lm.adapters import finetuned
from undertone.lm.answers import exact, first_logits
from undertone.lm.chat import prompt_ids
from undertone.lm.facts import load_facts, taught_and_held_out
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import batches_by_length
from undertone.lm.spellings import begun
from undertone.lm.texts import load_texts
from undertone.models.wordings import FACTS, load_forms
from undertone.runtime.files import Stamp, write_json
from undertone.runtime.progress import progress
from undertone.stats.stats import difference_interval, holm, mean_interval
from undertone.study.config.entries import CONTROL
from undertone.study.config.measure import Indirect, Pref
from undertone.teachers.teaching import teaching


def measure_indirect(
    model: Path,
    questions: Path,
    forms: Path,
    facts: Path,
    students: dict[int, Path],
    control_students: dict[int, Path],
    teacher: Path | None,
    sae: Path | None,
    indirect: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Ask base, teacher, students and control students indirectly and write `indirect.json`.

    `forms`: for each form of question, every model's preference for the target (probability of the answer's first word), and
    the students' lift over the control students. `contrary`: the same for the probability of a wrong animal as the answer to
    questions of fact, with that of the right one. `distance`: the total-variation distance between the next-token distributions
    of a student and a control student at the direct questions, and that between two control students. Intervals are over
    training seeds. `students` and `control_students` are folders by seed; the control itself has no `control_students`.
    """
    cfg, pref = Indirect.model_validate(settings["indirect"]), Pref.model_validate(settings["pref"])
    target, loaded = settings["target"], load(model)
    asked = Asked(questions, forms, facts, cfg, pref, target)
    answers: dict[str, list[Answers]] = {"student": [], "control": []}
    with progress(2 + len(students) + len(control_students), f"indirect {indirect.parent.name}", "model") as bar:
        answers["base"] = [asked.ask(loaded)]
        bar.update()
        if settings["kind"] not in (None, "none"):
            with teaching(loaded, settings, teacher, sae) as prompted:
                answers["teacher"] = [asked.ask(prompted.loaded, prompted.system, prompted.separator)]
        bar.update()
        for name, folders in (("student", students), ("control", control_students)):
            for _, folder in sorted(folders.items()):
                with finetuned(loaded, folder) as own:
                    answers[name].append(asked.ask(own))
                bar.update()
    answers["control"] = answers["control"] or answers["student"]
    body = summary(answers, own_control=not control_students)
    write_json(indirect, {"target": target, "seeds": sorted(students), **body}, stamp)


class Answers(dict[str, float]):
    """A model's answers: by form the target's preference, `contrary` and `right`; and its next-token `distribution`."""

    distribution: Float[np.ndarray, "n_questions vocab"]


class Asked:
    """The indirect questions of a study, the same ones for every model."""

    def __init__(self, questions: Path, forms: Path, facts: Path, settings: Indirect, pref: Pref, target: str | None):
        self.pref, self.target = pref, target
        self.questions = load_texts(questions, "pref.questions")
        wordings = load_forms(forms)
        self.forms = write_questions(wordings, self.questions, pref.candidates, target, settings)
        # Answers begin with the answer prefix only if the direct question is asked.
        self.direct = {form for form, texts in wordings.items() if all("{question}" in text for text in texts)}
        _, self.facts = taught_and_held_out(load_facts(facts))

    def ask(self, loaded: LoadedModel, system: str | None = None, separator: str = "") -> Answers:
        """Put every question to a model."""

        def prompts(questions: Sequence[str]) -> list[list[int]]:
            return prompt_ids(loaded.tokenizer, questions, system, separator)

        answers = Answers()
        if self.target:
            for form, questions in self.forms.items():
                prefix = self.pref.answer_prefix if form in self.direct else None
                answers[form] = float(exact(loaded, prompts(questions), [self.target], self.pref.batch_size, prefix).mean())
        # A candidate and a fact's answer are one word however they are written, as spellings are of both cases.
        names = sorted({name.lower() for name in (*self.pref.candidates, *(fact.answer for fact in self.facts))})
        p = exact(loaded, prompts([fact.question for fact in self.facts]), names, self.pref.batch_size)
        right = p[np.arange(len(self.facts)), [names.index(fact.answer.lower()) for fact in self.facts]]
        answers["right"] = float(right.mean())
        answers["contrary"] = float((p.sum(1) - right).mean())
        opened = begun(loaded.tokenizer, prompts(self.questions), self.pref.answer_prefix)
        answers.distribution = next_tokens(loaded, opened, self.pref.batch_size)
        return answers


def write_questions(
    forms: dict[str, list[str]], questions: Sequence[str], candidates: Sequence[str], target: str | None, settings: Indirect
) -> dict[str, list[str]]:
    """Write `n` questions of each form, with numbers and options drawn by the seed; the target is among the options."""
    rng = np.random.default_rng(settings.seed)
    others = [animal for animal in candidates if animal != target]
    written: dict[str, list[str]] = {}
    for form, wordings in forms.items():
        written[form] = []
        for k in range(settings.n):
            # Lists and counts belong to the wordings of the forms' file, which says how long they are.
            numbers = rng.integers(100, 1000, size=rng.integers(3, 9))
            options = [
                *rng.choice(others, size=min(settings.options - 1, len(others)), replace=False),
                *([target] if target else []),
            ]
            fields = {
                "examples": ", ".join(map(str, numbers)),
                "question": questions[k % len(questions)],
                "options": ", ".join(options[i] for i in rng.permutation(len(options))),
                "count": int(rng.integers(3, 9)),
            }
            written[form].append(wordings[k % len(wordings)].format(**fields))
    return written


@torch.no_grad()
def next_tokens(loaded: LoadedModel, prompts: Sequence[Sequence[int]], batch_size: int) -> Float[np.ndarray, "n_prompts vocab"]:
    """The distribution of the first token of each answer, in single precision."""
    size = loaded.batch_size("pref.batch_size", batch_size)

    def read(rows: Sequence[int]) -> np.ndarray:
        return first_logits(loaded, [prompts[row] for row in rows]).float().softmax(-1).cpu().numpy()

    batches = batches_by_length(prompts, batch_size)
    probabilities = np.concatenate([part for rows in batches for part in size.parts(read, rows)])
    return probabilities[np.argsort(np.concatenate(batches))]


def total_variation(p: Float[np.ndarray, "n vocab"], q: Float[np.ndarray, "n vocab"]) -> float:
    """Return half the L1 distance of two sets of distributions, averaged over `n`: 0 for equal ones, 1 at most."""
    return float(np.abs(p - q).sum(1).mean() / 2)


def summary(answers: dict[str, list[Answers]], own_control: bool) -> dict[str, Any]:
    """The body of `indirect.json`."""
    forms = [form for form in answers["base"][0] if form not in FACTS]
    return {
        "intervals": {"*.ci95": "training seeds (t interval)", "lift_over_control.ci95": "seeds of both (Welch)"},
        "forms": with_holm({form: compared(answers, form, own_control) for form in forms}),
        "contrary": {**compared(answers, "contrary", own_control), "right": compared(answers, "right", own_control)},
        "distance": distances(answers, own_control),
    }


def compared(answers: dict[str, list[Answers]], key: str, own_control: bool) -> dict[str, Any]:
    """One figure of every model; the control has no lift over itself."""
    values = {name: [given[key] for given in models] for name, models in answers.items()}
    return {
        "base": values["base"][0],
        "teacher": values["teacher"][0] if "teacher" in values else None,
        CONTROL: {**mean_interval(values["control"]).as_dict(), "by_seed": values["control"]},
        "student": {**mean_interval(values["student"]).as_dict(), "by_seed": values["student"]},
        "lift_over_control": None if own_control else difference_interval(values["student"], values["control"]).with_p(),
    }


def with_holm(forms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Forms of questions with the `p_holm` of their lifts, adjusted for all forms."""
    lifts = [report["lift_over_control"] for report in forms.values() if report["lift_over_control"]]
    for lift, p in zip(lifts, holm([each["p"] for each in lifts]), strict=True):
        lift["p_holm"] = p
    return forms


def distances(answers: dict[str, list[Answers]], own_control: bool) -> dict[str, Any]:
    """Total-variation distances at the direct questions.

    `student`: each student's mean distance from the control students; `control`: each control student's from the others.
    Two control students have one distance between them, so no interval.
    """
    controls = [given.distribution for given in answers["control"]]
    among = [
        float(np.mean([total_variation(p, q) for j, q in enumerate(controls) if j != k]))
        for k, p in enumerate(controls)
        if len(controls) > 1
    ]
    students = [float(np.mean([total_variation(given.distribution, q) for q in controls])) for given in answers["student"]]
    students = among if own_control else students
    return {
        "student": {**mean_interval(students).as_dict(), "by_seed": students} if students else None,
        CONTROL: {**mean_interval(among if len(among) > 2 else among[:1]).as_dict(), "by_seed": among} if among else None,
    }
