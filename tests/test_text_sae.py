"""SAEs of named models, trained on text: as SAELens saves them, the same again from the same text, and by the workflow."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import download
from sae_lens import SAE
from test_inputs import study

from undertone.data.inputs import check_contents
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.models.pretrained import make_pretrained
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, read_parquet
from undertone.saes import text as text_module
from undertone.saes.saved import load_sae
from undertone.saes.store import make_store
from undertone.saes.stored import read_shard
from undertone.saes.text import make_text
from undertone.saes.text_sae import make_text_sae, text_rows
from undertone.saes.trainer import activations, usual
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae, Store
from undertone.study.formats import SAE_FILES
from workflow import REPOSITORY, Project

READ, TRAIN = "Read the text that the SAE is trained on", "Train the SAE on text"
SMALL: dict[str, Any] = {"d_sae": 48, "k": 4, "tokens": 3_000, "batch_size": 256, "layer": 3, "context": 32}


def of_text(folder: Path) -> dict[str, Any]:
    """Settings of a small SAE, and the text that it is trained on."""
    lines = "".join((REPOSITORY / f"docs/{name}.md").read_text() for name in ("concepts", "models"))
    (folder / "mine.txt").write_text(lines)
    return {**SMALL, "text": [{"file": str(folder / "mine.txt")}]}


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.json` of a tiny SmolLM2 in a folder, in bfloat16."""
    home = tmp_path_factory.mktemp("smol")
    settings = Model(name=str(download(home / "hub", "smol")), dtype="bfloat16")
    make_pretrained(home / "model.json", [], settings, {}, home / "scratch")
    return home / "model.json"


@pytest.fixture(scope="module")
def text(smol: Path) -> Path:
    sources = of_text(smol.parent)["text"]
    make_text(smol, None, smol.parent / "text.parquet", sources, SMALL["context"], SMALL["tokens"], {"of": "text"})
    return smol.parent / "text.parquet"


def make(smol: Path, text: Path, home: Path, store: Sequence[Path] = (), **changes: Any) -> Path:
    saved, settings = home / "sae/sae.json", Sae(**SMALL | changes)
    (home / "scratch").mkdir(parents=True)
    files = [saved.with_name(file) for file in SAE_FILES]
    make_text_sae(smol, text, store, saved, files, settings, {"of": "sae"}, home / "scratch")
    return saved


def test_it_is_saved_in_saelenss_format_with_what_it_was_trained_on(smol: Path, text: Path, tmp_path: Path) -> None:
    saved = make(smol, text, tmp_path)
    sae = SAE.load_from_disk(saved.parent)
    told = sae.cfg.metadata
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.W_dec.dtype) == (32, 48, torch.float32)
    assert (told.model_name, told.hook_name) == (read_json(smol)["name"], "blocks.3.hook_resid_post")
    assert (told.prepend_bos, told.context_size) == (True, 32)
    assert load_sae(saved, load(smol))[1] == 3
    assert (
        make(smol, text, tmp_path / "again").with_name(SAE_FILES[1]).read_bytes() == saved.with_name(SAE_FILES[1]).read_bytes()
    )


def test_it_learns_to_reconstruct_the_models_residual_stream(smol: Path, text: Path, tmp_path: Path) -> None:
    loaded, errors = load(smol), []
    x = next(activations(loaded, text_rows(text, 0, 64), HookPoint(3)))
    assert (loaded.model.dtype, x.dtype) == (torch.bfloat16, torch.float32)
    for tokens in (256, 30_000):
        sae, _ = load_sae(make(smol, text, tmp_path / str(tokens), tokens=tokens), loaded)
        errors.append(float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()))
    assert errors[1] < errors[0] / 2


def test_it_learns_as_much_from_a_store_of_the_same_text(smol: Path, text: Path, tmp_path: Path) -> None:
    loaded, errors = load(smol), []
    shards = [tmp_path / f"{k}.safetensors" for k in range(3)]
    (tmp_path / "scratch").mkdir()
    make_store(smol, text, shards, tmp_path / "store.json", "resid_post", 3, Store(), {}, tmp_path / "scratch")
    x = torch.cat([read_shard(path)[0].float() for path in shards])
    for store in ([], shards):
        sae, _ = load_sae(make(smol, text, tmp_path / f"{len(store)}", store, tokens=30_000), loaded)
        errors.append(float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()))
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_every_context_is_read_before_any_is_read_again(text: Path) -> None:
    ids = [tuple(each) for each in read_parquet(text)["ids"].to_list()]
    batches = list(islice(text_rows(text, 0, 32), -(-len(ids) // 32)))
    assert sorted(tuple(row.ids) for rows in batches for row in rows) == sorted(ids)
    lengths = [len(row.ids) for rows in batches for row in rows]
    assert lengths == sorted(lengths)


def test_no_group_of_contexts_is_empty(smol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "GROUP", 4)
    sources = of_text(tmp_path)["text"]
    rows = set()
    for tokens in range(200, 400, 10):
        make_text(smol, None, tmp_path / "text.parquet", sources, 16, tokens, {})
        of_groups = pq.ParquetFile(tmp_path / "text.parquet").metadata
        rows.add(of_groups.row_group(of_groups.num_row_groups - 1).num_rows)
    assert rows == {1, 2, 3, 4}


def test_the_first_token_is_left_out_and_so_are_vectors_far_longer_than_others(smol: Path, text: Path) -> None:
    loaded, rows = load(smol), next(text_rows(text, 0, 8))
    (x,) = activations(loaded, iter([rows]), HookPoint(3))
    assert len(x) == sum(len(row.ids) - 1 for row in rows)
    parts = iter([torch.tensor([[1.0, 0], [0, 2], [3, 0], [0, -31]]), torch.zeros(0, 2)])
    assert [part.tolist() for part in usual(parts, 10)] == [[[1, 0], [0, 2], [3, 0]], []]


def test_a_damaged_table_is_named(smol: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ConfigError, match=r"text\.parquet is damaged"):
        next(text_rows(tmp_path / "text.parquet", 0, 8))


@pytest.fixture(scope="module")
def finished(smol: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study of a named model whose SAE was trained on a file and on the model's own samples, on a pretended GPU."""
    project = Project.create(tmp_path_factory.mktemp("text") / "project")
    settings = of_text(project.root) | {"text": [{"file": "mine.txt"}, {"samples": "control", "share": 0.25}]}
    project.configure(model={"name": read_json(smol)["name"]}, sae=settings, teachers=["prompt", "steer"])
    project.forked("results/sae/sae.json", PRETEND_GPU="1")
    return project


def test_the_workflow_trains_it_on_a_gpu(finished: Project) -> None:
    results = finished.root / "results"
    assert json.loads((results / "sae/sae.json").read_text())["stamp"]["settings"]["text"]["tokens"] == 3_000
    used = json.loads((finished.root / "benchmarks/text_sae/study.used.json").read_text())
    assert used["gpu"]["name"] == "a pretended GPU"
    table = read_parquet(results / "sae/text.parquet")
    assert set(table["source"]) == {0, 1}
    assert "mine.txt: 2,2" in (finished.root / "logs/text/study.log").read_text()
    assert finished.planned("results/sae/sae.json") == set()


@pytest.mark.parametrize(
    ("edit", "stale"),
    [({}, {READ, TRAIN}), ({"sae": {"k": 5}}, {TRAIN}), ({"sae": {"context": 16}}, {READ, TRAIN})],
    ids=["the file", "k", "context"],
)
def test_what_changes_reruns_what_depends_on_it(
    finished: Project, tmp_path: Path, edit: dict[str, Any], stale: set[str]
) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(**edit)
    if not edit:
        (project.root / "mine.txt").write_text("Another text.\n" * 1000)
    assert project.planned("results/sae/sae.json") == stale


@pytest.fixture
def beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").symlink_to(REPOSITORY / "config")
    (tmp_path / "a.jsonl").write_text('{"story": "one"}\n')
    (tmp_path / "empty.txt").write_text("\n \n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ([{"samples": "control"}, {"file": "a.jsonl"}], "^sae.text.1.file: a.jsonl: line 1 has no column 'text'"),
        ([{"file": "empty.txt"}], "^sae.text.0.file: empty.txt: holds no text"),
    ],
)
def test_text_that_cannot_be_used_is_refused_before_any_job(smol: Path, text: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_contents(study(model={"name": read_json(smol)["name"]}, sae={"text": text}))


@pytest.mark.usefixtures("beside_the_config")
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": {"name": None}}, "sae.text is for a model with a name"),
        ({"sae": {"folder": "elsewhere"}}, "text is what an SAE is trained on, and release or folder name one that exists"),
        ({"sae": {"layer": 16}}, "sae.layer 16: the model has layers 0 to 15"),
        ({"sae": {"context": 20_000}}, "sae.context 20000: the model has"),
    ],
)
def test_settings_that_do_not_fit_are_refused(smol: Path, changes: dict[str, dict[str, Any]], complaint: str) -> None:
    settings = {"model": {"name": read_json(smol)["name"]}, "sae": {"text": [{"file": "mine.txt"}]}}
    with pytest.raises(ConfigError, match=complaint):
        study(**{key: own | changes.get(key, {}) for key, own in settings.items()})
