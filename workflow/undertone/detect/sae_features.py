"""SAE features as steering: which single feature, added to the residual stream, makes a dataset likelier."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from undertone.detect.persona_vectors import all_concepts, read_persona_vectors
from undertone.detect.rounds import dealt
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.detect.steered_rows import Tries
from undertone.lm.chat import training_rows
from undertone.lm.loading import load
from undertone.models.bank import Bank
from undertone.read.biases import gradient, prefilled
from undertone.read.feature_bias import Spliced
from undertone.runtime.files import Stamp
from undertone.saes.saved import load_sae
from undertone.study.config.detect import Detectors, Tried
from undertone.study.config.measure import Pref
from undertone.teachers.divergence import Constraint


def read_sae_features(
    model: Path,
    sae: Path,
    persona_vectors: Path,
    matched: Path,
    bank: Path,
    sae_features: Path,
    own: Tried,
    detectors: Detectors,
    pref: Pref,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `sae_features.json`: features ranked by the gain of their decoder row, in nats per token.

    Lengths are in units of the mean length of persona vectors after the SAE's layer. If the SAE has more features than
    `steering.features`, only those are tried along which the log-likelihood of a few rows rises most steeply. `best` is as in
    `contrasts.json`, with the `tokens` that the feature's direct logit attribution raises most. Features are no concepts, so no
    candidate is ranked.
    """
    loaded = load(model)
    spliced = Spliced(loaded, *load_sae(sae, loaded))
    vectors = read_persona_vectors(persona_vectors, len(all_concepts(pref.candidates, Bank.read(bank))))
    unit = float(vectors[:, spliced.layer].norm(dim=-1).mean())
    constraint = Constraint.of(settings.get("constraint"))

    def vector(name: str, layer: int) -> Float[Tensor, " d_model"]:
        return unit * spliced.directions[int(name)].float()

    tries = Tries(loaded, [spliced.layer], vector, own, detectors, constraint, f"features {sae_features.parent.name}")

    def read(pairs: Pairs) -> Reading:
        reading = tries.read(pairs, steepest(spliced, pairs, own), set())
        best = reading.details["best"]
        best["tokens"] = spliced.tokens(int(best["concept"]))
        return reading

    read_sets(matched, sae_features, read, detectors, stamp, scratch)


def steepest(spliced: Spliced, pairs: Pairs, settings: Tried) -> list[str]:
    """Return the numbers of the features to try: all, or those along which the rows' log-likelihood rises most steeply.

    Only rows of the first round are used for this choice, so later rounds and the test of presence are independent of it.
    """
    n = len(spliced.directions)
    if n <= settings.features:
        return [str(k) for k in range(n)]
    loaded, few = spliced.loaded, dealt(list(zip(pairs.prompts, pairs.own, strict=True)), settings.rows, settings.seed)[0]
    rows = training_rows(loaded.tokenizer, [pairs.prompts[k] for k in few], [pairs.own[k] for k in few])
    batches = prefilled(loaded, rows, [spliced.layer], len(rows), True)
    batch_size = loaded.batch_size("steering.rows", len(rows))
    slope = -gradient((n,), spliced.biased, batches, loaded.model.device, batch_size)
    return [str(k) for k in slope.topk(settings.features).indices.tolist()]
