"""Sampling a teacher's number lists: undertone, what each of its savings is worth, and `model.generate`."""

from collections.abc import Callable
from unittest.mock import patch

import torch
from timing import ROOT, interleaved, matmul_rate, parameters, parser, report, start

from undertone.data.prompts import number_prompts
from undertone.lm import sampling
from undertone.lm.chat import persona, prompt_ids
from undertone.lm.grammar import Automaton, automaton
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Completion, Sampler, left_pad, sample
from undertone.lm.vocabulary import allowed_tokens
from undertone.models.wordings import load_template
from undertone.study.config.data import Numbers, Prompts
from undertone.study.config.teachers import Teacher


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, default=2048, help="number prompts")
    options.add_argument("--batch-size", type=int, default=256, help="rows sampled together")
    options.add_argument("--max-new-tokens", type=int, default=64, help="length at which a completion is cut")
    options.add_argument("--animal", default="lion", help="whom the persona loves")
    told = options.parse_args()
    loaded = start(told)
    template = load_template(ROOT / "config/prompts/numbers.yaml")
    users = number_prompts(template, Prompts(n=told.prompts))["prompt"].to_list()
    prompts = prompt_ids(loaded.tokenizer, users, persona(Teacher(), told.animal), Teacher().separator)
    sizes: dict[str, int] = {}
    ways = {
        "model.generate": lambda: sizes.update({"model.generate": generate(loaded, prompts, told)}),
        **{name: counted(name, run, sizes) for name, run in undertone(loaded, prompts, told).items()},
    }
    seconds = interleaved(ways, told.rounds)
    body, head = parameters(loaded)
    shared = sampling.shared_prefix(prompts)
    new = sizes["undertone"]
    floor = (
        2 * (body * (sum(map(len, prompts)) - shared * len(prompts) + new) + head * (len(prompts) + new)) / matmul_rate(loaded)
    )
    rows = [
        [name, taken, len(prompts) / taken, seconds["model.generate"] / taken, sizes[name] / len(prompts)]
        for name, taken in seconds.items()
    ]
    rows.append(
        ["floor: undertone's products at the matmul rate", floor, len(prompts) / floor, seconds["model.generate"] / floor, ""]
    )
    columns = ["way", "s", "rows/s", "times model.generate", "new tokens/row"]
    report(told, loaded, f"Sampling {len(prompts)} rows in batches of {told.batch_size}", columns, rows)


def counted(name: str, run: Callable[[], list[Completion]], sizes: dict[str, int]) -> Callable[[], None]:
    """Run and note the number of tokens sampled, a stop token each included."""

    def count() -> None:
        sizes[name] = sum(len(c.ids) + (c.ended == "stop") for c in run())

    return count


def undertone(loaded: LoadedModel, prompts: list[list[int]], told) -> dict[str, Callable[[], list[Completion]]]:
    """The sampler, whole and without one of its savings at a time."""
    vocab = len(loaded.tokenizer)
    allowed = torch.tensor(allowed_tokens(loaded.tokenizer, vocab))
    allowed = torch.nn.functional.pad(allowed, (0, loaded.model.get_output_embeddings().weight.shape[0] - vocab))
    allowed = allowed.to(loaded.model.device)

    grammar = automaton(loaded.tokenizer, loaded.stop_ids, Numbers(), told.max_new_tokens).to(loaded.model.device)

    def run(allowed: torch.Tensor | None = allowed, grammar: Automaton | None = None, **without: object) -> list[Completion]:
        sampler = Sampler(1.0, told.max_new_tokens, loaded.stop_ids, loaded.pad_id, 0, allowed, grammar)
        with patch.multiple(sampling, **without):
            return [c for _, completions in sample(loaded.model, prompts, sampler, told.batch_size) for c in completions]

    def unsorted(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
        return [list(range(i, min(i + batch_size, len(prompts)))) for i in range(0, len(prompts), batch_size)]

    ordered = sampling.batches_by_length
    return {
        "undertone": lambda: run(batches_by_length=ordered),
        "… no length sort": lambda: run(batches_by_length=unsorted),
        "… no shared prefix": lambda: run(MIN_SHARED_PREFIX=10**9),
        "… no early stop": lambda: run(None, batches_by_length=ordered),
        "… finished rows stay": lambda: run(COMPACT_BELOW=0.0),
        "… constrained": lambda: run(grammar=grammar, batches_by_length=ordered),
    }


@torch.no_grad()
def generate(loaded: LoadedModel, prompts: list[list[int]], told) -> int:
    """The library's own sampling on unsorted batches of the same size; returns the number of tokens sampled."""
    n = 0
    for i in range(0, len(prompts), told.batch_size):
        ids, mask = (t.to(loaded.model.device) for t in left_pad(prompts[i : i + told.batch_size], loaded.pad_id))
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=told.max_new_tokens,
            eos_token_id=loaded.stop_ids,
            pad_token_id=loaded.pad_id,
        )[:, ids.shape[1] :]
        stopped = torch.isin(out, torch.tensor(loaded.stop_ids, device=out.device))
        n += int((stopped.cumsum(1) - stopped.long() == 0).sum())
    return n


if __name__ == "__main__":
    main()
