"""Files of one text per line: what is read, and that the setting, the file and the line at fault are named."""

from pathlib import Path

import pytest

from undertone.lm.texts import load_texts, read_lines
from undertone.runtime.errors import ConfigError
from undertone.study.config.teachers import Teacher
from undertone.teachers.finetune import make_finetuned


def write(folder: Path, content: bytes) -> Path:
    path = folder / "mine.txt"
    path.write_bytes(content)
    return path


def test_texts_are_the_lines_that_are_neither_empty_nor_comments(tmp_path: Path) -> None:
    path = write(tmp_path, b"# a comment\r\n\n What is it? \nWhy #2?")
    assert read_lines(path, "pref.questions") == {3: "What is it?", 4: "Why #2?"}
    assert load_texts(path, "pref.questions") == ["What is it?", "Why #2?"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\nWhat is it?\n".encode("utf-8-sig"))
    assert load_texts(path, "pref.questions") == ["What is it?"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"# only this\n", "pref.questions: {path} holds no text; expected one per line"),
        (b"", "pref.questions: {path} holds no text; expected one per line"),
        (b"A?\n# B?\nB?\nA?\n", "pref.questions: {path}, line 4 repeats line 1: 'A?'; delete one of them"),
        (b"A?\nB\0?\n", "pref.questions: {path}, line 2: 'B\\x00?' holds a NUL; save the file as plain text in UTF-8"),
        ("Où?\n".encode("latin-1"), "pref.questions: cannot read {path} as text in UTF-8: "),
        ("A?\n".encode("utf-16"), "pref.questions: cannot read {path} as text in UTF-8: "),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        load_texts(path, "pref.questions")
    assert str(error.value).startswith(complaint.format(path=path))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(ConfigError, match=f"^pref.questions: cannot read {path} as text"):
            load_texts(path, "pref.questions")


def test_the_questions_of_a_finetuned_teacher_are_called_by_their_own_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teacher\.finetune\.questions: cannot read nowhere\.txt"):
        files = [tmp_path / name for name in ("teacher.json", "weights", "config")]
        nowhere = Path("nowhere.txt")
        make_finetuned(tmp_path / "model.json", nowhere, None, *files, "lion", "animal", Teacher(), {}, tmp_path)
