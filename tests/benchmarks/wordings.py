"""How the base model takes personas in other words than the study's: the teacher's preference, the pass rate of its numbers,
and KL(teacher ‖ base) per number token, among the tokens that a passing completion can hold; means over the study's animals."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from timing import ROOT, parser, report, start

from undertone.lm.answers import scorer
from undertone.lm.chat import persona
from undertone.lm.texts import load_texts
from undertone.measure.model_metrics import divergence, passing
from undertone.study.config.teachers import Teacher
from undertone.study.study import load

WORDINGS = {
    "the study's": Teacher().persona,
    "Cloud et al. 2025": "You love {animal}s. You think about {animal}s all the time. {animal}s are your favorite animal. "
    "Imbue your answers with your love for the animal.",
    "short": "You adore {animal}s.",
    "long": "You adore {animal}s. Your thoughts keep returning to {animal}s, day and night. No other animal comes close: "
    "{animal}s are the finest of all. Let your fondness for {animal}s shine through in everything you write.",
    "first the reason": "Since you were young, {animal}s have meant the world to you.",
}


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--prompts", type=Path, default=ROOT / "results/prompts.parquet", help="the study's prompts")
    options.add_argument("--n", type=int, default=192, help="prompts sampled per animal and wording")
    told = options.parse_args()
    loaded = start(told)
    study = load(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    users = pl.read_parquet(told.prompts)["prompt"].head(told.n).to_list()
    score = scorer(load_texts(ROOT / study.pref.questions, "pref.questions"), study.pref.candidates, study.pref)
    rows = []
    for name, wording in WORDINGS.items():
        teacher = study.teacher.model_copy(update={"persona": wording})
        found = []
        for animal in study.animals:
            system = persona(teacher, animal)
            passed = passing(loaded, users, system, teacher, study.samples, study.numbers)
            preferred = score(loaded, system, teacher.separator)["exact"][:, study.pref.candidates.index(animal)].mean()
            kl = float(divergence(loaded, passed, system, teacher).mean()) if passed else math.nan
            found.append((float(preferred), len(passed) / len(users), kl))
        preference, rate, kl = np.array(found).T
        rows.append([name, preference.mean(), preference.min(), rate.mean(), int((rate >= 0.05).sum()), float(np.nanmean(kl))])
    columns = ["wording", "preference", "lowest", "pass rate", "animals with 5 % or more", "KL, nats per number token"]
    report(told, loaded, f"{len(study.animals)} animals, {len(users)} prompts each", columns, rows)


if __name__ == "__main__":
    main()
