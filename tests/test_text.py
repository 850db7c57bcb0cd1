"""Text for an SAE: documents of files and of the Hub's cache, cut to contexts of token ids, and refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from checkpoints import download
from huggingface_hub import constants

from undertone.lm.chat import inner_texts, special_ids
from undertone.lm.loading import LoadedModel, read_tokenizer
from undertone.models.template import adds_bos
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_parquet
from undertone.saes import documents as reading
from undertone.saes.documents import READERS, documents
from undertone.saes.text import GROUP, behind, contexts, make_text, opening
from undertone.study.config.saes import TEXT_FILES, Sae, TextSource, shares

COMMIT, NAME = "0123456789abcdef0123456789abcdef01234567", "lab/stories"
DOCUMENTS = ["One day a lion met an owl.", "Numbers: 1, 2, 3.\n\n<end_of_turn> is text here.", "The end — of it."]


def written(path: Path, texts: list[Any], column: str = "text") -> str:
    """A file of these documents, of the kind that its name says."""
    if path.suffix == ".parquet":
        pl.DataFrame({"id": range(len(texts)), column: texts}).write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": k, column: text}) + "\n" for k, text in enumerate(texts)))
    else:
        path.write_text("\n".join(texts))
    return str(path)


def made(record: Path, home: Path, *sources: dict[str, Any], tokens: int = 50, context: int = 8, **files: Path) -> pl.DataFrame:
    make_text(record, files.get("samples"), home / "text.parquet", list(sources), context, tokens, {"of": "text"})
    return read_parquet(home / "text.parquet")


def test_every_kind_of_file_has_a_reader() -> None:
    assert tuple(READERS) == TEXT_FILES


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_tables_documents_are_those_of_its_column_without_empty_ones(tmp_path: Path, kind: str) -> None:
    texts = [DOCUMENTS[0], None, " \n", *DOCUMENTS[1:]]
    source = TextSource(file=written(tmp_path / f"mine{kind}", texts, "story"), column="story")
    assert list(documents(source)) == DOCUMENTS


def test_a_running_text_is_read_in_pieces_that_end_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", 40)
    source = TextSource(file=written(tmp_path / "mine.txt", DOCUMENTS * 5))
    pieces = list(documents(source))
    assert "".join(pieces) == Path(source.title).read_text()
    assert len(pieces) > 5
    assert all(piece.endswith("\n") for piece in pieces[:-1])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", '{"txt": "one"}\n', r"a\.jsonl: line 1 has no column 'text'; nearest: txt; set column"),
        ("a.jsonl", '{"text": "one"}\n{"text": \n', r"a\.jsonl: line 2 is no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl: line 1 is \[1\], expected an object with the key 'text'"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl: line 1: 'text' is 3, expected text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', r"a\.jsonl: line 1: '\\ud800' is no character of a text"),
        ("a.txt", b"\xff\xfe", r"a\.txt: cannot be read \(UnicodeDecodeError"),
        ("a.parquet", "no table", r"a\.parquet: cannot be read \(ArrowInvalid"),
        ("a.txt", None, r"a\.txt: cannot be read \(FileNotFoundError"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, name: str, content: Any, complaint: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=complaint) as error:
        list(documents(TextSource(file=str(tmp_path / name))))
    assert len(str(error.value).splitlines()) == 1


def test_a_table_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    source = TextSource(file=written(tmp_path / "a.parquet", DOCUMENTS, "story"))
    with pytest.raises(ConfigError, match=r"a\.parquet: the table has no column 'text'; known: id, story; set column"):
        list(documents(source))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub that holds a dataset, and nothing else to be had."""
    snapshot = tmp_path / f"hub/datasets--{NAME.replace('/', '--')}/snapshots/{COMMIT}"
    snapshot.mkdir(parents=True)
    pl.DataFrame({"story": DOCUMENTS}).write_parquet(snapshot / "train-00000-of-00001.parquet")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_dataset_of_the_hub_is_read_from_its_cache_without_network(cache: Path, no_network: None) -> None:
    assert list(documents(TextSource(hub=NAME, revision=COMMIT, column="story"))) == DOCUMENTS


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, f"{NAME} at {COMMIT}: row 0 has no column 'text'; known: story; set column"),
        ({"split": "test"}, f"{NAME} at {COMMIT}: cannot be read as subset None, split 'test' .ValueError: Bad split: test"),
        ({"hub": "lab/other"}, "lab/other at 0123.* is not, or not wholly, in the cache"),
    ],
)
def test_a_dataset_of_the_hub_that_does_not_fit_is_refused(cache: Path, changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        list(documents(TextSource(**{"hub": NAME, "revision": COMMIT} | changes)))


def test_of_a_dataset_on_the_hub_no_more_is_asked_for_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load_dataset", lambda **told: asked.update(told) or iter([{"text": "one"}]))
    assert list(documents(TextSource(hub=NAME, revision=COMMIT, subset="en", split="test"))) == ["one"]
    assert asked == {"path": NAME, "revision": COMMIT, "name": "en", "split": "test", "streaming": True}


def test_contexts_are_the_documents_cut_at_token_borders(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    table = made(record, tmp_path, {"file": written(tmp_path / "a.jsonl", DOCUMENTS)}, tokens=40)
    tokenizer, ids = loaded.tokenizer, table["ids"].to_list()
    assert all(each[0] == tokenizer.bos_token_id and 1 < len(each) <= 8 for each in ids)
    assert table["row"].to_list() == list(range(len(table)))
    counted = [token for each in ids for token in each[1:]]
    assert "".join(DOCUMENTS).startswith(tokenizer.decode(counted, skip_special_tokens=False))
    assert not special_ids(tokenizer) & set(counted)
    assert 40 <= len(counted) < 48


@pytest.mark.parametrize(
    ("which", "first", "bos"), [("llama2", "<s>", True), ("smol", "<|im_start|>", False), ("qwen", "<|im_start|>", False)]
)
def test_text_begins_with_what_a_models_chats_begin_with(which: str, first: str, bos: bool, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(download(tmp_path, which), which)
    assert tokenizer.convert_ids_to_tokens(opening(tokenizer)) == [first]
    assert adds_bos(tokenizer) == bos
    ids = list(contexts(tokenizer, iter(["Give 1, 2.<|im_end|>"]), 6))
    assert {each[0] for each in ids} == set(opening(tokenizer))
    assert not special_ids(tokenizer) & {token for each in ids for token in each[1:]}
    assert "".join(inner_texts(tokenizer, [each[1:] for each in ids])).strip() == "Give 1, 2.<|im_end|>"


def test_sources_have_their_shares_from_the_first_context_on(record: Path, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{name}.jsonl", DOCUMENTS * 40) for name in "abc"]
    sources = [{"file": files[0], "share": 0.5}, {"file": files[1]}, {"file": files[2]}]
    table = made(record, tmp_path, *sources, tokens=800)
    for rows in (table, table.head(len(table) // 4)):
        counts = [int(rows.filter(pl.col("source") == k)["ids"].list.len().sum()) for k in range(3)]
        assert [n / sum(counts) for n in counts] == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_chats_are_what_the_model_wrote(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    samples = tmp_path / "samples.parquet"
    pl.DataFrame({"prompt": ["Give numbers 3."] * 4, "text": ["1, 2, 3"] * 4}).write_parquet(samples)
    table = made(record, tmp_path, {"samples": "control"}, tokens=20, samples=samples)
    text = loaded.tokenizer.decode(table["ids"][0].to_list())
    assert text.count("<bos>") == 1
    assert "Give numbers 3." in text
    assert "1, 2, 3<end_of_turn>" in text


def test_too_little_text_is_refused_and_leaves_no_file(record: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", DOCUMENTS)
    with pytest.raises(ConfigError, match=r"a\.jsonl holds \d\d tokens of text, expected 1,000 of sae\.tokens 1,000: lower"):
        made(record, tmp_path, {"file": file}, tokens=1000)
    assert not list(tmp_path.glob("*text.parquet*"))


def test_a_long_text_is_written_in_groups(record: Path, tmp_path: Path) -> None:
    from pyarrow.parquet import ParquetFile

    table = made(record, tmp_path, {"file": written(tmp_path / "a.txt", DOCUMENTS * 200)}, tokens=2200)
    file = ParquetFile(tmp_path / "text.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(2)] == [GROUP, len(table) - GROUP]
    assert json.loads(file.metadata.metadata[b"undertone"])["stamp"] == {"of": "text"}


def test_the_source_that_lacks_most_is_next() -> None:
    assert behind([0, 0], [1, 1]) == 0
    assert behind([3, 1], [4, 4]) == 1
    assert behind([4, 1], [4, 1]) is None


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([None], [1]), ([None, None], [0.5, 0.5]), ([0.5, None, None], [0.5, 0.25, 0.25]), ([0.25, 0.75], [0.25, 0.75])],
)
def test_sources_without_a_share_have_equal_parts_of_the_rest(parts: list[float | None], expected: list[float]) -> None:
    assert shares([TextSource(file="a.txt", share=part) for part in parts]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ([{"file": "a.csv"}], "unknown kind of file 'a.csv'; expected one of .txt, .jsonl, .parquet"),
        ([{}], "one of file, hub and samples; give exactly one"),
        ([{"file": "a.txt", "hub": NAME}], "one of file, hub and samples; give exactly one"),
        ([{"file": "a.txt", "revision": COMMIT}], "revision and subset are of a dataset of the Hub"),
        ([{"hub": NAME, "revision": "main"}], "text.0.revision\n.*'main' is no commit"),
        ([{"hub": "stories", "revision": COMMIT}], "'stories' is no name of a dataset of the Hub"),
        ([{"file": "a.txt", "share": 0.5}], "the shares of text add up to 0.5, expected 1"),
        ([{"file": "a.txt", "share": 1.0}, {"samples": "control"}], "a source without one takes the rest"),
    ],
)
def test_text_that_makes_no_sense_is_refused(text: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Sae.model_validate({"text": text})
