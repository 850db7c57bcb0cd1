"""What the system prompt that `prompt_search` put together explains, beside the bank's best one and what the teacher was told.

A row for each dataset of a prompted teacher: by how much each of the three makes rows likelier by which neither wording was
chosen (nats per token), the found one's gain less the bank's with a 95 % interval over rows, and its share of the true one's.
"""

from argparse import Namespace
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from carried import study_of
from timing import parser, report, start

from undertone.detect.prompt_search import Likelihoods, slots_of
from undertone.detect.rounds import dealt
from undertone.detect.sets import sets_of
from undertone.lm.chat import persona
from undertone.lm.loading import LoadedModel
from undertone.models.prompt_grammar import Grammar
from undertone.runtime.files import read_json
from undertone.stats.stats import mean_interval
from undertone.study.dataset_settings import constraint
from undertone.study.node import Node
from undertone.study.study import Study
from undertone.teachers.divergence import Constraint


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--configfile", type=Path, nargs="+", default=[], help="overlays of config/config.yaml")
    options.add_argument("--results", type=Path, default=Path("results"), help="results root of the study")
    options.add_argument("--datasets", nargs="+", required=True, help="datasets of prompted teachers, with both files")
    told = options.parse_args()
    loaded, study = start(told), study_of(told.configfile)
    rows = list(rows_of(told, study, loaded))
    columns = ["dataset", "told", "found", "of the bank", "rows", "gain: told", "found", "bank", "found less bank", "of told"]
    report(told, loaded, "system prompts and what they explain, nats per token", columns, rows)


def rows_of(told: Namespace, study: Study, loaded: LoadedModel) -> Iterator[list[object]]:
    """A row of the table for each dataset."""
    for dataset in told.datasets:
        folder = told.results / dataset
        prompts = [persona(study.section("teacher", dataset), study.target(dataset))]  # type: ignore[arg-type]
        for name in ("prompt_search", "personas"):
            [reading] = read_json(folder / f"{name}.json")["sets"]
            prompts.append(reading["best"]["prompt"])
        [(_, pairs)] = sets_of(folder / "matched.parquet", study.detectors.rows)
        kept = Constraint.of(constraint(study, Node("samples", dataset)).get("constraint"))
        rows = list(zip(pairs.prompts, pairs.own, strict=True))
        unread = sorted(set(range(len(rows))) - set(chosen_by(study, rows)))
        gains = Likelihoods(loaded, rows, study.teacher.separator, kept).gains(unread, [(str(each), "") for each in prompts])
        true, found, bank = gains.gains.T
        more = mean_interval(found - bank)
        shown = f"{more.mean:.4f} [{more.ci95[0]:.4f}, {more.ci95[1]:.4f}]" if more.ci95 else ""
        yield [dataset, *prompts, len(unread), true.mean(), found.mean(), bank.mean(), shown, found.mean() / true.mean()]


def chosen_by(study: Study, rows: list[tuple[str, str]]) -> Iterator[int]:
    """The rows by which a wording was chosen."""
    search, personas = study.prompt_search, study.personas
    slots = slots_of(Grammar.read(Path(search.grammar)), search.passes, len(rows))
    *parts, _ = dealt(rows, [search.rows] * (1 + len(slots)) + [search.final_rows], search.seed)
    return chain(*parts, *dealt(rows, personas.rows, personas.seed))


if __name__ == "__main__":
    main()
