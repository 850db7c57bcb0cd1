"""Effects of adding a vector at every strength: preference, side effects on text, and the numbers that are still written."""

from pathlib import Path
from typing import Any

from undertone.lm.answers import sampled_answers
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.texts import load_texts
from undertone.measure.model_metrics import passing
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.study.config.vectors import Dose
from undertone.vectors.dose_layers import by_layer
from undertone.vectors.last_token import steered
from undertone.vectors.responses import judge, responses
from undertone.vectors.steering_by import Direction
from undertone.vectors.streams_of_text import text_rows


def measure_dose(
    model: Path,
    text: Path,
    prompts: Path,
    questions: Path,
    vector: Path,
    dose: Path,
    settings: Dose,
    pref: Pref,
    sampling: Samples,
    numbers: Numbers,
    contrast: dict[str, Any] | None,
    stamp: Stamp,
) -> str:
    """Write `dose.json`; return its verdict for the log.

    `vector` is the `vector.json`. `contrast` holds the settings of a contrast that is to be repeated at every layer, else None.
    Scales are in mean norms of the residual stream, of both signs. Preference is exact, at the questions that no contrast is
    built from. KL and loss are on text with all tokens steered, in nats per token.
    """
    loaded, direction = load(model), Direction.read(vector)
    rows_of_text = text_rows(loaded, text, settings.tokens)
    base, rows = responses(loaded, direction, rows_of_text, questions, settings, pref, f"dose {dose.parent.name}")
    for row in (base, *rows):
        row |= written(loaded, direction, row.get("scale", 0.0), prompts, questions, settings, sampling, numbers)
    judged = judge(rows, direction.target, settings.max_kl)
    repeated = by_layer(loaded, contrast, text, rows_of_text, prompts, questions, settings, pref) if contrast else None
    body = {
        "target": direction.target,
        "layer": direction.layer,
        "mean_norm": direction.mean_norm,
        "vector_scale": direction.norm / direction.mean_norm,
        **judged,
        "base": base,
        "scales": rows,
        "by_layer": repeated,
    }
    write_json(dose, body, stamp)
    return str(judged["verdict"])


def written(
    loaded: LoadedModel,
    direction: Direction,
    scale: float,
    prompts: Path,
    questions: Path,
    settings: Dose,
    sampling: Samples,
    numbers: Numbers,
) -> dict[str, Any]:
    """Return `pass_rate`, the share of sampled lists that pass the filter, and `texts`, an answer to each first question."""
    users = read_parquet(prompts)["prompt"].head(settings.prompts).to_list()
    asked = load_texts(questions, "pref.questions")[: settings.samples]
    with steered(loaded, direction.steering(direction.unit, scale)):
        passed = passing(loaded, users, None, Teacher(), sampling, numbers)
        answers = (
            sampled_answers(
                loaded, prompt_ids(loaded.tokenizer, asked), 1, settings.max_new_tokens, sampling.batch_size, settings.seed
            )
            if asked
            else []
        )
    return {"pass_rate": len(passed) / len(users), "texts": [answer for (answer,) in answers]}
