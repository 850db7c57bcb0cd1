"""A preference by its exact probability, and by as many sampled answers as give a certain standard error."""

import math
import time
from pathlib import Path

import numpy as np
import yaml
from timing import ROOT, interleaved, parser, report, start

from undertone.lm.answers import exact, sampled_answers, shares
from undertone.lm.chat import persona, prompt_ids
from undertone.lm.texts import load_texts
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--target", default="dolphin", help="animal whose preference is measured, beside all candidates")
    options.add_argument("--persona", help="animal that a persona makes the model love; none if not given")
    options.add_argument("--standard-error", type=float, default=0.003, help="of the sampled preference (probability)")
    options.add_argument("--pilot", type=int, default=100, help="answers per question from which the variance is measured")
    options.add_argument("--answer-prefix", help="what the answer begins with, behind which the animal is scored")
    options.add_argument("--questions", type=Path, default=ROOT / "config/prompts/questions.txt", help="file of questions")
    options.add_argument("--max-new-tokens", type=int, default=Pref().max_new_tokens, help="length at which answers are cut")
    options.add_argument("--batch-size", type=int, default=Pref().batch_size, help="sequences scored or sampled together")
    told = options.parse_args()
    loaded = start(told)
    candidates = yaml.safe_load((ROOT / "config/config.yaml").read_text())["pref"]["candidates"]
    candidates = list(dict.fromkeys([told.target, *candidates]))
    system = persona(Teacher(), told.persona)
    prompts = prompt_ids(loaded.tokenizer, load_texts(told.questions, "pref.questions"), system, Teacher().separator)

    def sampled(n: int, seed: int = 0) -> np.ndarray:
        """Share of `n` answers per question that name the target."""
        answers = sampled_answers(loaded, prompts, n, told.max_new_tokens, told.batch_size, seed, told.answer_prefix)
        return shares(answers, [told.target], told.answer_prefix)["word"][:, 0]

    def scored() -> np.ndarray:
        """Exact preference for the target, all candidates scored."""
        return exact(loaded, prompts, candidates, told.batch_size, told.answer_prefix)[:, 0]

    begun = time.perf_counter()
    scored()
    first = time.perf_counter() - begun

    pilot = sampled(told.pilot, seed=1)
    # Variance of one answer within its question, which is what more samples average out.
    variance = float(np.mean(pilot * (1 - pilot)) * told.pilot / (told.pilot - 1))
    n = max(1, math.ceil(variance / len(prompts) / told.standard_error**2))
    ways = {
        "exact": scored,
        f"sampled, {n} per question": lambda: sampled(n),
    }
    seconds = interleaved(ways, told.rounds)
    names = list(ways)
    means = [scored().mean(), sampled(n).mean()]
    error = math.sqrt(variance / len(prompts) / n)
    reference = seconds[names[1]]
    rows = [
        [name, taken, reference / taken, float(mean), standard_error]
        for (name, taken), mean, standard_error in zip(seconds.items(), means, [0.0, error], strict=True)
    ]
    rows.insert(0, ["exact, first call of a process", first, reference / first, rows[0][3], 0.0])
    what = f"Preference for {told.target} at {len(prompts)} questions, {len(candidates)} candidates"
    what += f"; variance of one sampled answer {variance:.3g} (pilot: {told.pilot} per question, mean {pilot.mean():.3f})"
    report(told, loaded, what, ["estimator", "s", "times sampled", "preference", "standard error of sampling"], rows)


if __name__ == "__main__":
    main()
