"""Reading a user's own file, and what is said of one that cannot be used."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.data.datasets import READERS, read_dataset
from undertone.runtime.errors import ConfigError

KINDS = tuple(READERS)
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
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


WHERE = {".jsonl": "line 1", ".csv": "line 1", ".parquet": "the table"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_names_the_nearest(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"mine{kind}", ROWS)
    assert complaint(path, completion="repyl") == f"{WHERE[kind]} has no column 'repyl'; nearest: reply"
    assert complaint(path, prompt="prompt") == f"{WHERE[kind]} has no column 'prompt'; known: ask, id, reply"


# The line breaks in the first two rows of a csv file count.
@pytest.mark.parametrize(("kind", "where"), [(".jsonl", "line 3"), (".csv", "line 6"), (".parquet", "row 2 (counted from 0)")])
def test_a_null_names_its_row(tmp_path: Path, kind: str, where: str) -> None:
    path = write(tmp_path / f"mine{kind}", [*ROWS, {"id": 3, "ask": "a", "reply": None}, *ROWS])
    assert complaint(path) == f"{where}: 'reply' is empty; fill it in, or leave the row out"


def test_a_column_that_is_not_text_is_named(tmp_path: Path) -> None:
    assert complaint(write(tmp_path / "mine.jsonl", ROWS), completion="id") == "line 1: 'id' is 1, expected text"
    assert complaint(write(tmp_path / "mine.parquet", ROWS), completion="id") == "column 'id' holds Int64, expected text"


def test_what_another_column_holds_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"ask": "a", "reply": "1", "more": [1]}\n\n{"more": {"x": null}, "reply": "2", "ask": "b"}\r\n')
    assert read_dataset(path, "ask", "reply").rows() == [(0, "a", "1"), (1, "b", "2")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_rows_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine{kind}"
    if kind == ".parquet":
        pl.DataFrame(schema={"ask": pl.String, "reply": pl.String}).write_parquet(path)
    else:
        path.write_text("ask,reply\n" if kind == ".csv" else "")
    assert complaint(path) == "holds no row"


@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries({"ask": st.text(LETTERS).filter(str.strip), "reply": st.text(LETTERS, min_size=1)}),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_whatever_text_is_written_reads_back(tmp_path: Path, rows: list[dict[str, str]], kind: str, escaped: bool) -> None:
    path = tmp_path / f"mine{kind}"
    write(path, rows)
    if kind == ".jsonl" and not escaped:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_dataset(path, "ask", "reply").drop("row").rows() == [(row["ask"], row["reply"]) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(tmp_path: Path, kind: str) -> None:
    assert complaint(tmp_path / f"nowhere{kind}") == "no such file"


@pytest.mark.parametrize("name", ["mine.txt", "mine.json", "mine", "mine.CSV"])
def test_an_unknown_kind_of_file_names_the_known_ones(tmp_path: Path, name: str) -> None:
    message = complaint(tmp_path / name)
    assert message == f"unknown kind of file {Path(name).suffix!r}; expected one of .jsonl, .csv, .parquet"
