"""Probability of an animal as an answer's first word, and as the word behind its start, without a persona and under one."""

from pathlib import Path

import numpy as np
from timing import ROOT, parser, report, start

from undertone.lm.answers import scorer
from undertone.lm.chat import persona
from undertone.lm.texts import load_texts
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--animals", nargs="+", default=["lion", "owl", "cat"], help="animals whose probability is measured")
    options.add_argument("--persona", nargs="+", default=["lion"], help="animals that a persona makes the model love")
    options.add_argument("--wording", default=Teacher().persona, help="of the persona; {animal} stands for the animal")
    options.add_argument("--prefix", default="My favorite animal is the", help="what the answer begins with")
    options.add_argument("--questions", type=Path, default=ROOT / "config/prompts/questions.txt", help="file of questions")
    told = options.parse_args()
    loaded, questions = start(told), load_texts(told.questions, "pref.questions")
    teacher = Teacher(persona=told.wording)
    rows = []
    for animal in (None, *told.persona):
        for prefix in (None, told.prefix):
            score = scorer(questions, told.animals, Pref(candidates=told.animals, answer_prefix=prefix, batch_size=64))
            p: np.ndarray = score(loaded, persona(teacher, animal), teacher.separator)["exact"].mean(0)
            rows.append([animal or "none", prefix or "none", *map(float, p)])
    what = f"Probability of the word, mean over {len(questions)} questions"
    report(told, loaded, what, ["persona", "answer's start", *told.animals], rows)


if __name__ == "__main__":
    main()
