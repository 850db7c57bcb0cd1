"""How far a steered teacher's preference moves, and how much of it its numbers can carry, by layer and scale of the contrast.

A row each for the study's system prompt and for every layer and scale: the teacher's preference for the target (probability,
exact), and KL(teacher ‖ base) in nats per token on the control's rows, among the tokens that the filter lets pass. A student
can learn from the numbers no more than that KL.
"""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from snakemake.utils import update_config
from timing import ROOT, parser, report, start

from undertone.data.rows import texts
from undertone.lm.answers import exact
from undertone.lm.chat import persona, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering, steered
from undertone.lm.texts import load_texts
from undertone.runtime.files import read_parquet
from undertone.study.config.teachers import Contrast
from undertone.study.configfiles import read_config
from undertone.study.dataset_settings import constraint
from undertone.study.node import Node
from undertone.study.study import Study, load
from undertone.teachers.divergence import Constraint, TeacherDistribution
from undertone.teachers.steer import Situation, of_contrast


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--configfile", type=Path, nargs="+", default=[], help="overlays of config/config.yaml")
    options.add_argument("--numbers", type=Path, default=Path("results/control/numbers.parquet"), help="rows of the control")
    options.add_argument("--target", default="lion", help="animal that is steered to")
    options.add_argument("--layers", type=int, nargs="+", required=True, help="layers after which the contrast is added")
    options.add_argument("--scales", type=float, nargs="+", default=[1, 4, 16], help="times the contrast")
    options.add_argument(
        "--prompts", type=int, default=10, help="number prompts, beside questions, that the contrast is made of"
    )
    options.add_argument("--rows", type=int, default=64, help="rows that the KL is read on")
    told = options.parse_args()
    loaded, study = start(told), study_of(told.configfile)
    rows = list(rows_of(told, study, loaded))
    columns = ["teacher", "layer", "scale", "preference", "KL, nats per token"]
    report(told, loaded, f"{told.target}, {told.rows} rows of the control", columns, rows)


def study_of(overlays: list[Path]) -> Study:
    """The study of the project's config and these overlays."""
    config = read_config(ROOT / "config/config.yaml")
    for overlay in overlays:
        update_config(config, read_config(overlay))
    return load(config)


def rows_of(told: Namespace, study: Study, loaded: LoadedModel) -> Iterator[list[object]]:
    """The rows of the table: the base model, the prompted teacher, and the steered ones."""
    separator = study.teacher.separator
    questions = load_texts(ROOT / study.pref.questions, "pref.questions")
    pairs = list(zip(*texts(read_parquet(told.numbers).head(told.rows)), strict=True))
    kept = Constraint.of(constraint(study, Node("samples", "control")).get("constraint"))

    def measured(system: str | None = None) -> list[object]:
        prompts = prompt_ids(loaded.tokenizer, questions, system, separator)
        preference = exact(loaded, prompts, [told.target], study.pref.batch_size, study.pref.answer_prefix).mean()
        return [float(preference), TeacherDistribution(loaded, pairs, system, separator, kept)]

    teachers = [(("none", "", ""), measured()), (("system prompt", "", ""), measured(persona(study.teacher, told.target)))]
    for layer in told.layers:
        unit = contrast(told, study, loaded, questions, layer)
        for scale in told.scales:
            with steered(loaded, replace(unit, vector=scale * unit.vector)):
                teachers.append((("steered", layer, scale), measured()))
    for name, (preference, distribution) in teachers:
        yield [*name, preference, float(distribution.divergence(loaded).mean())]


def contrast(told: Namespace, study: Study, loaded: LoadedModel, questions: list[str], layer: int) -> Steering:
    """The study's contrast for the target after a layer, unscaled."""
    steer = study.teacher.steer.model_copy(update={"scale": 1.0, "contrast": Contrast(layer=layer)})
    prompts = read_parquet(told.numbers)["prompt"].head(told.prompts).to_list()
    situation = Situation(loaded, study.teacher.model_copy(update={"steer": steer}), questions, prompts, study.pref)
    return of_contrast(situation, told.target)[0]


if __name__ == "__main__":
    main()
