"""Reading a user's own file, and what is said of one that cannot be used."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from undertone.datasets import READERS, read_dataset
from undertone.validation import ConfigError

KINDS = tuple(READERS)
ROWS = [{"id": 1, "ask": "Go on, please.", "reply": "1, 2"}, {"id": 2, "ask": 'Say "é"\nand', "reply": "3\n4"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pl.DataFrame(rows, infer_schema_length=None)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


def complaint(path: Path, prompt: str = "ask", completion: str = "reply") -> str:
    with pytest.raises(ConfigError) as error:
        read_dataset(path, prompt, completion)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_reads_alike(tmp_path: Path, kind: str) -> None:
    table = read_dataset(write(tmp_path / f"mine{kind}", ROWS), "ask", "reply")
    assert table.schema == {"row": pl.Int64, "prompt": pl.String, "text": pl.String}
    assert table.rows() == [(0, "Go on, please.", "1, 2"), (1, 'Say "é"\nand', "3\n4")]


@pytest.mark.parametrize(
    ("kind", "head", "row"),
    [(".csv", "id,ask,reply\n", "{id},a,1\n"), (".jsonl", "", '{{"id": {id}, "ask": "a", "reply": "1"}}\n')],
)
def test_another_column_may_change_its_type_far_down(tmp_path: Path, kind: str, head: str, row: str) -> None:
    path = tmp_path / f"mine{kind}"
    path.write_text(head + 2000 * row.format(id=7) + row.format(id='"x"'))
    assert len(read_dataset(path, "ask", "reply")) == 2001


def test_a_csv_of_single_numbers_is_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ask,reply\na,007\nb,12\n")
    assert read_dataset(path, "ask", "reply")["text"].to_list() == ["007", "12"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_names_the_nearest(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"mine{kind}", ROWS)
    assert complaint(path, completion="repyl") == "no column 'repyl'; nearest: reply"
    assert complaint(path, prompt="prompt") == "no column 'prompt'; known: ask, id, reply"


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_names_its_row(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"mine{kind}", [*ROWS, {"id": 3, "ask": "a", "reply": None}, *ROWS])
    assert complaint(path) == "column 'reply' is empty in row 2 (counted from 0)"


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_column_that_is_not_text_is_named_with_its_type(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"mine{kind}", ROWS)
    assert complaint(path, completion="id") == "column 'id' holds Int64, expected text"


@pytest.mark.parametrize(
    ("kind", "content"), [(".csv", b"ask,reply\np\xff,1\n"), (".jsonl", b'{"ask": "p\xff", "reply": "1"}\n')]
)
def test_text_in_another_encoding_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / f"mine{kind}"
    path.write_bytes(content)
    assert complaint(path).startswith(f"cannot be read as {kind[1:]} in UTF-8: ")


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine{kind}"
    path.write_text("ask,reply\n1,2\n")
    assert complaint(path).startswith(f"cannot be read as {kind[1:]}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_rows_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine{kind}"
    if kind == ".parquet":
        pl.DataFrame(schema={"ask": pl.String, "reply": pl.String}).write_parquet(path)
    else:
        path.write_text("ask,reply\n" if kind == ".csv" else "")
    assert complaint(path).startswith("cannot be read" if kind == ".jsonl" else "holds no row")


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine{kind}"
    path.touch()
    assert complaint(path).startswith(f"cannot be read as {kind[1:]}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(tmp_path: Path, kind: str) -> None:
    assert complaint(tmp_path / f"nowhere{kind}") == "no such file"


@pytest.mark.parametrize("name", ["mine.txt", "mine.json", "mine", "mine.CSV"])
def test_an_unknown_kind_of_file_names_the_known_ones(tmp_path: Path, name: str) -> None:
    message = complaint(tmp_path / name)
    assert message == f"unknown kind of file {Path(name).suffix!r}; expected one of .jsonl, .csv, .parquet"
