"""Token-wise gains: log-probs of plain forward passes, means and correlations of known answer."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from safetensors.torch import save_file

from undertone.lm.chat import encode, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.read.sequences import agreement, gain, log_probs, read_sequences, summary
from undertone.runtime.files import read_json, write_json
from undertone.stats.stats import mean_interval
from undertone.study.config.data import Numbers
from undertone.study.config.read import Sequences
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint
from undertone.teachers.teaching import PromptedModel

PERSONA = "You love {animal}s."
TEXTS = ["101, 202, 303", "9", "5; 6; 7; 8", "12, 13", "", "404, 505", "7, 7"]
USERS = [f"Continue the list {n}, {2 * n}." for n in range(len(TEXTS))]


@torch.no_grad()
def plain(
    loaded: LoadedModel, user: str, answer: str, system: str | None = None, vector: torch.Tensor | None = None
) -> list[float]:
    """Log-probs of an answer's tokens by one forward pass, `vector` added after layer 0 by a hook written out by hand."""
    prompt, ids = prompt_ids(loaded.tokenizer, [user], system)[0], encode(loaded.tokenizer, [answer])[0]
    layer = loaded.model.model.layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: output if vector is None else output + vector)
    logits = loaded.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
    handle.remove()
    return logits.log_softmax(-1)[range(len(ids)), ids].tolist()


class Study:
    """A prompted lion's rows, and a steered teacher for the same animal."""

    def __init__(self, record: Path, folder: Path, width: int):
        self.record, self.folder = record, folder
        rows = {"row": [3 * k for k in range(len(TEXTS))], "prompt": USERS, "completion": TEXTS}
        pl.DataFrame(rows).write_parquet(folder / "numbers.parquet")
        self.vector = 2 * torch.randn(width, generator=torch.Generator().manual_seed(0))
        save_file({"vector": self.vector}, folder / "teacher.safetensors")
        write_json(folder / "teacher.json", {"mode": "add", "layer": 0, "positions": "all", "system": None}, {})

    def told(self, kind: str | None) -> dict[str, Any]:
        return {"kind": kind, "target": "lion", "teacher": Teacher(persona=PERSONA).model_dump()}

    def read(self, kind: str | None, other: str | None, **more: Any) -> tuple[dict[str, Any], pl.DataFrame]:
        paths = {kind: self.folder / "teacher.json" if kind == "steer" else None for kind in (kind, other)}
        table, result = self.folder / "sequences.parquet", self.folder / "sequences.json"
        settings = self.told(kind) | {"sequences": {}, "other": self.told(other) if other else None, **more}
        read_sequences(
            self.record,
            self.folder / "numbers.parquet",
            paths[kind],
            paths[other],
            None,
            table,
            result,
            settings,
            {"of": "lion"},
        )
        return read_json(result), pl.read_parquet(table)


@pytest.fixture(scope="module")
def study(record: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, tmp_path_factory.mktemp("study"), loaded.model.config.hidden_size)


@pytest.mark.parametrize(("kind", "other"), [("prompt", "steer"), ("steer", "prompt")])
def test_log_probs_are_those_of_plain_forward_passes(study: Study, loaded: LoadedModel, kind: str, other: str) -> None:
    told, table = study.read(kind, other)
    assert table.columns == ["row", "position", "token", "text", "base", "teacher", "other"]
    assert (told["kinds"], told["rows"], told["tokens"]) == ({"teacher": kind, "other": other}, len(TEXTS), len(table))
    ways = {"base": {}, "prompt": {"system": "You love lions."}, "steer": {"vector": study.vector}}
    for k, (user, text) in enumerate(zip(USERS, TEXTS, strict=True)):
        part = table.filter(row=3 * k)
        assert part["token"].to_list() == encode(loaded.tokenizer, [text])[0]
        assert part["position"].to_list() == list(range(len(part)))
        assert "".join(part["text"]) == text
        for column, way in (("base", "base"), ("teacher", kind), ("other", other)):
            assert part[column].to_list() == pytest.approx(plain(loaded, user, text, **ways[way]), abs=1e-3)
    assert (table["base"] - table["teacher"]).abs().max() > 0.1 < (table["teacher"] - table["other"]).abs().max()


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded: LoadedModel, record: Path) -> None:
    small, answers = load(record), encode(loaded.tokenizer, TEXTS)
    with crowded(small.model, 1) as sizes:
        found = log_probs(USERS, answers, PromptedModel(small, "You love lions.", "\n\n"))
    assert sizes[:2] == [6, 3] and set(sizes[2:]) == {1}
    expected = log_probs(USERS, answers, PromptedModel(loaded, "You love lions.", "\n\n"))
    assert found.to_list() == pytest.approx(expected.to_list(), rel=1e-4)


def test_constrained_rows_are_read_among_what_could_be_drawn(study: Study, loaded: LoadedModel) -> None:
    """Gains are of the teacher's choice among allowed tokens; what the constraint left of each model is not one."""
    constraint = {"max_new_tokens": 40, "numbers": Numbers().model_dump()}
    _, free = study.read("prompt", "steer")
    _, table = study.read("prompt", "steer", constraint=constraint)
    assert table["token"].to_list() == free["token"].to_list()
    rows = list(zip(USERS, TEXTS, strict=True))
    completions = Completions(loaded, rows, Constraint.of(constraint))
    parts = list(completions.read(loaded, lambda logits, span: logits.double(), "You love lions.", Teacher().separator))
    allowed = completions.among(torch.cat(parts), slice(None)).gather(1, completions.labels[:, None]).squeeze(1)
    close = len(completions.answers[4])  # that of the empty completion
    own = [k for a, b in pairwise(completions.ends) for k in range(a, b - close)]
    assert table["teacher"].to_list() == pytest.approx(allowed[own].tolist(), abs=1e-3)
    assert (table["teacher"] > free["teacher"]).all()


def test_there_may_be_no_other_teacher(study: Study) -> None:
    told, table = study.read("prompt", None)
    assert table["other"].null_count() == len(table)
    assert set(told["gain"]) == {"teacher"}
    assert told["agreement"] is None
    assert set(told) == {
        *("target", "kinds", "rows", "tokens", "intervals", "gain", "agreement", "largest", "stamp", "versions")
    }


def test_the_controls_teacher_is_the_base_model(study: Study) -> None:
    told, table = study.read("none", None)
    assert table["teacher"].to_list() == table["base"].to_list()
    assert told["gain"]["teacher"]["all"] == {"mean": 0, "ci95": [0, 0]}


def test_rows_of_no_teacher_are_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="no teacher of this study wrote it"):
        study.read(None, None)


def test_only_so_many_rows_are_read(study: Study, tmp_path: Path) -> None:
    n = Sequences().rows + 7
    rows = pl.DataFrame({"row": range(n), "prompt": ["Go on."] * n, "completion": ["1, 2"] * n})
    rows.write_parquet(tmp_path / "numbers.parquet")
    many = Study(study.record, tmp_path, len(study.vector))
    rows.write_parquet(tmp_path / "numbers.parquet")
    told, table = many.read("prompt", None)
    assert told["rows"] == table["row"].n_unique() == Sequences().rows == n - 7


def gains(rng: np.random.Generator, n_rows: int, n: int, shared: float, through_base: float = 0.0) -> pl.DataFrame:
    """Gains and base log-probs of rows of `n` tokens; `shared` variance of the gains is common to both teachers."""
    base = rng.normal(size=n_rows * n)
    common = np.sqrt(shared) * rng.normal(size=n_rows * n) - through_base * base
    teacher, other = (common + np.sqrt(1 - shared) * rng.normal(size=n_rows * n) for _ in range(2))
    row = np.repeat(np.arange(n_rows), n)
    return pl.DataFrame({"row": row, "teacher": teacher, "other": other, "base": base})


def test_agreement_is_the_correlation_of_the_gains() -> None:
    found = agreement(table := gains(np.random.default_rng(0), 200, 20, 0.6), Sequences())
    expected = np.corrcoef(table["teacher"], table["other"])[0, 1]
    assert found["correlation"]["mean"] == pytest.approx(expected)
    low, high = found["correlation"]["ci95"]
    assert low < 0.6 < high
    assert high - low == pytest.approx(2 * 1.96 * (1 - 0.36) / np.sqrt(4000), rel=0.2)


def test_what_both_gains_owe_to_the_base_model_is_told_apart() -> None:
    found = agreement(table := gains(np.random.default_rng(1), 200, 20, 0.0, through_base=1.0), Sequences())
    assert found["correlation"]["mean"] == pytest.approx(0.5, abs=0.05)
    low, high = found["given_base"]["ci95"]
    assert low < 0 < high < 0.06
    x, y = (table[name] - np.polyval(np.polyfit(table["base"], table[name], 1), table["base"]) for name in ("teacher", "other"))
    assert found["given_base"]["mean"] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_the_interval_covers_rows_not_tokens() -> None:
    rng = np.random.default_rng(2)
    few = gains(rng, 20, 1, 0.5)
    same = pl.concat([few] * 30)
    fewer = agreement(few, Sequences(resamples=20))["correlation"]
    assert fewer["mean"] == agreement(few, Sequences())["correlation"]["mean"]
    assert fewer["ci95"] != agreement(few, Sequences(resamples=20, seed=1))["correlation"]["ci95"]
    wide, repeated = agreement(few, Sequences())["correlation"]["ci95"], agreement(same, Sequences())["correlation"]["ci95"]
    assert repeated == pytest.approx(wide)


def test_gains_that_do_not_vary_have_no_agreement() -> None:
    table = gains(np.random.default_rng(3), 5, 4, 0.5).with_columns(other=pl.lit(0.0))
    assert agreement(table, Sequences()) == {key: {"mean": None, "ci95": None} for key in ("correlation", "given_base")}


def test_one_row_has_no_interval() -> None:
    found = agreement(gains(np.random.default_rng(3), 1, 40, 0.5), Sequences())
    assert found["correlation"]["ci95"] is None
    assert found["correlation"]["mean"] is not None


def test_means_are_over_rows() -> None:
    table = pl.DataFrame(
        {
            "row": [0, 0, 0, 1],
            "position": [0, 1, 2, 0],
            "kind": ["number", "separator", "number", "number"],
            "teacher": [1.0, -3.0, 5.0, 9.0],
        }
    )
    found = gain(table, "teacher")
    assert found["all"] == mean_interval([1.0, 9.0]).as_dict()
    assert found["kind"] == {"number": mean_interval([3.0, 9.0]).as_dict(), "separator": {"mean": -3.0, "ci95": None}}
    assert [(one["position"], one["rows"], one["mean"]) for one in found["position"]] == [
        (0, 2, 5.0),
        (1, 1, -3.0),
        (2, 1, 5.0),
    ]


def test_the_largest_gains_are_sums_over_a_sequence() -> None:
    n = 5
    tokens = pl.DataFrame(
        {
            "row": np.repeat(np.arange(n), 2),
            "position": [0, 1] * n,
            "text": ["7", ", "] * n,
            "base": [-2.0] * 2 * n,
            "teacher": np.repeat(np.arange(n), 2) - 2.0,
        }
    ).with_columns(other=pl.lit(None, dtype=pl.Float64))
    rows = pl.DataFrame({"row": range(n), "completion": [f"c{k}" for k in range(n)]})
    found = summary(tokens, rows, Sequences(largest=3))["largest"]
    assert [one["row"] for one in found] == list(range(n - 1, 1, -1))
    assert found[0] == {"row": n - 1, "completion": f"c{n - 1}", "gain": 2.0 * (n - 1), "tokens": 2}
