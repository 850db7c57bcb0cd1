"""Sampling number lists freely and constrained: rows a second, how many pass the filter, and how often free sampling would."""

from itertools import chain

import numpy as np
import torch
from timing import ROOT, interleaved, parser, report, start

from undertone.data.numbers import judge
from undertone.data.prompts import number_prompts
from undertone.data.samples import grammar_of
from undertone.lm.chat import answer_texts, persona, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Completion, Sampler, sample
from undertone.lm.vocabulary import allowed_tokens
from undertone.models.wordings import load_template
from undertone.stats.stats import mean_interval
from undertone.study.config.data import Numbers, Prompts, Samples
from undertone.study.config.teachers import Teacher


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, default=1024, help="number prompts")
    options.add_argument("--batch-size", type=int, default=256, help="rows sampled together")
    options.add_argument("--max-new-tokens", type=int, default=64, help="length at which a completion is cut")
    options.add_argument("--animal", default="lion", help="whom the persona loves")
    options.add_argument("--filter", choices=["strict", "lenient"], default="strict", help="the filter")
    told = options.parse_args()
    loaded = start(told)
    users = number_prompts(load_template(ROOT / "config/prompts/numbers.yaml"), Prompts(n=told.prompts))["prompt"].to_list()
    prompts = prompt_ids(loaded.tokenizer, users, persona(Teacher(), told.animal), Teacher().separator)
    samplers, drawn = samplers_of(loaded, told.max_new_tokens), {}

    def draw(name: str) -> None:
        drawn[name] = list(chain.from_iterable(c for _, c in sample(loaded.model, prompts, samplers[name], told.batch_size)))

    seconds = interleaved({name: lambda name=name: draw(name) for name in samplers}, told.rounds)
    rows = [
        [name, len(prompts) / seconds[name], *figures(loaded, drawn[name], Numbers(filter=told.filter))] for name in samplers
    ]
    columns = ["way", "rows/s", "new tokens/row", "pass rate", "free pass rate by log_mass"]
    report(told, loaded, f"Sampling {len(prompts)} rows in batches of {told.batch_size}, filter {told.filter}", columns, rows)


def samplers_of(loaded: LoadedModel, max_new_tokens: int) -> dict[str, Sampler]:
    """The samplers of a study's teachers, of both kinds."""
    allowed = torch.zeros(loaded.model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
    allowed[: len(loaded.tokenizer)] = torch.tensor(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer)))
    given = (1.0, max_new_tokens, loaded.stop_ids, loaded.pad_id, 0, allowed.to(loaded.model.device))
    settings = Samples(constrained=True, max_new_tokens=max_new_tokens)
    return {"free": Sampler(*given), "constrained": Sampler(*given, grammar_of(loaded, settings, Numbers()))}


def figures(loaded: LoadedModel, completions: list[Completion], numbers: Numbers) -> list[object]:
    """Tokens of a row, stop tokens included, the share that passes, and the mean of `exp(log_mass)` with its 95 % interval."""
    texts = answer_texts(loaded.tokenizer, [c.ids for c in completions])
    passed = [c.ended == "stop" and judge(t, numbers).reason is None for c, t in zip(completions, texts, strict=True)]
    masses = [c.log_mass for c in completions if c.log_mass is not None]
    free = mean_interval(np.exp(masses)) if masses else None
    said = f"{free.mean:.3g} [{free.ci95[0]:.2g}, {free.ci95[1]:.2g}]" if free and free.ci95 else ""
    return [float(np.mean([len(c.ids) + (c.ended == "stop") for c in completions])), float(np.mean(passed)), said]


if __name__ == "__main__":
    main()
