"""Bad files: datasets of the user's own, wordings, questions and facts, and intermediate results that were damaged."""

import functools
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bad_inputs.case import Case
from undertone.data.datasets import read_dataset
from undertone.data.inputs import FILE_READERS, check_inputs
from undertone.data.numbers import collect_compliance, filter_numbers
from undertone.data.transform import transform_numbers
from undertone.lm.chat import prompt_ids, training_rows
from undertone.lm.tensors import stored
from undertone.plots.student_plots import plot_pref
from undertone.read.sums import Activations
from undertone.runtime.files import write_json, write_parquet
from undertone.study.config.data import Numbers
from undertone.study.config.entries import Transformed
from undertone.study.study import load

PROMPT, COMPLETION = "Continue: 1, 2.", "3, 4, 5"
ROW = {"prompt": PROMPT, "completion": COMPLETION}
LINE = json.dumps(ROW) + "\n"
CSV = f'prompt,completion\n"{PROMPT}","{COMPLETION}"\n'


def dataset(name: str, content: bytes | str | list[dict[str, Any]] | None) -> Callable[[Path], object]:
    """Read `mine` of that content: bytes and text as they are, rows as a parquet file; None leaves it away."""

    def attempt(folder: Path) -> object:
        path = folder / name
        if isinstance(content, list):
            pl.DataFrame(content).write_parquet(path)
        elif content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_dataset(path, "prompt", "completion")

    return attempt


def filtered(content: str, filtered: bool = True) -> Callable[[Path], object]:
    """Put a dataset of these lines through the filter, or take it as it is."""

    def attempt(folder: Path) -> object:
        path = folder / "mine.jsonl"
        path.write_text(content)
        made = (folder / name for name in ("generations.parquet", "numbers.parquet", "filter.json"))
        columns = {"prompt": "prompt", "completion": "completion", "filtered": filtered}
        return filter_numbers(path, *made, {"numbers": Numbers().model_dump(), "dataset": columns}, {})

    return attempt


def unusual(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Read a dataset where `make` put something that is no file."""

    def attempt(folder: Path) -> object:
        make(folder / "mine.jsonl")
        return read_dataset(folder / "mine.jsonl", "prompt", "completion")

    return attempt


def configured(**dataset: Any) -> Callable[[Path], object]:
    """A study with that dataset."""
    return lambda _: load({"datasets": {"mine": dataset}})


def named(file: str) -> Callable[[Path], object]:
    """Look for the files of a study whose only dataset has that file."""
    return lambda _: check_inputs(load({"datasets": {"mine": {"file": file}}}))


def rows(*completions: str) -> str:
    return "".join(json.dumps({"prompt": f"{PROMPT} {k}", "completion": text}) + "\n" for k, text in enumerate(completions))


def of(**changes: Any) -> str:
    return json.dumps({**ROW, **changes}) + "\n"


def parquet(*cells: Any, dtype: Any = None) -> Callable[[Path], object]:
    """Read a parquet file with these completions."""

    def attempt(folder: Path) -> object:
        table = pl.DataFrame({"prompt": [PROMPT] * len(cells), "completion": pl.Series(list(cells), dtype=dtype, strict=False)})
        table.write_parquet(folder / "mine.parquet")
        return read_dataset(folder / "mine.parquet", "prompt", "completion")

    return attempt


def truncated_parquet(folder: Path) -> object:
    pl.DataFrame([ROW] * 50).write_parquet(folder / "whole.parquet")
    (folder / "mine.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-20])
    return read_dataset(folder / "mine.parquet", "prompt", "completion")


def loop(path: Path) -> None:
    path.symlink_to(path)


CSV_LINES = 'prompt,completion\n"p, 1","1, 2"\n'
NO_COLUMN = "has no column 'completion'"
DATASETS = [
    # D1: what was refused in a sentence.
    Case("no such file", dataset("mine.jsonl", None), ("mine.jsonl: no such file",)),
    Case("a home that no shell opened", configured(file="~/mine.txt"), ("unknown kind of file '~/mine.txt'",)),
    Case(
        "no such column in jsonl",
        dataset("mine.jsonl", '{"prompt": "a", "complete": "1"}\n'),
        ("line 1", NO_COLUMN, "complete"),
    ),
    Case("no such column in csv", dataset("mine.csv", "prompt,complete\na,1\n"), ("line 1", NO_COLUMN, "nearest: complete")),
    Case("no such column in parquet", dataset("mine.parquet", [{"prompt": "a", "complete": "1"}]), (NO_COLUMN, "complete")),
    Case("a column that one line lacks", dataset("mine.jsonl", LINE + '{"prompt": "a"}\n'), ("line 2", NO_COLUMN)),
    Case(
        "semicolons in csv", dataset("mine.csv", "prompt;completion\na;1\n"), ("no column 'prompt'; known: prompt;completion",)
    ),
    Case("a csv header only", dataset("mine.csv", "prompt,completion\n"), ("holds no row",)),
    Case("an empty csv", dataset("mine.csv", ""), ("holds no row",)),
    Case("an empty jsonl", dataset("mine.jsonl", ""), ("holds no row",)),
    Case("blank lines only", dataset("mine.jsonl", "\n \n\n"), ("holds no row",)),
    Case("an empty parquet file", dataset("mine.parquet", b""), ("cannot be read as parquet",)),
    Case("a parquet file without rows", parquet(dtype=pl.String), ("holds no row",)),
    Case("a null in jsonl", dataset("mine.jsonl", LINE + of(completion=None)), ("line 2", "'completion' is empty")),
    Case("a null prompt in jsonl", dataset("mine.jsonl", of(prompt=None)), ("line 1", "'prompt' is empty")),
    Case("an empty field in csv", dataset("mine.csv", CSV + "a,\n"), ("line 3", "'completion' is empty")),
    Case("a null in parquet", parquet("1", None, dtype=pl.String), ("row 1 (counted from 0)", "'completion' is empty")),
    Case("whole numbers in jsonl", dataset("mine.jsonl", of(completion=7)), ("line 1: 'completion' is 7, expected text",)),
    Case("a Boolean in jsonl", dataset("mine.jsonl", of(completion=True)), ("'completion' is True, expected text",)),
    Case("a list in jsonl", dataset("mine.jsonl", of(completion=[1, 2])), ("'completion' is [1, 2], expected text",)),
    Case("chat messages in jsonl", dataset("mine.jsonl", of(prompt=[{"role": "user"}])), ("'prompt' is", "expected text")),
    Case(
        "chat messages as the only column",
        dataset("mine.jsonl", '{"messages": []}\n'),
        ("no column 'prompt'; known: messages",),
    ),
    Case("whole numbers in parquet", parquet(7, 8), ("column 'completion' holds Int64, expected text",)),
    Case("lists in parquet", parquet([1, 2]), ("column 'completion' holds List(Int64), expected text",)),
    Case("bytes in parquet", parquet(b"1", dtype=pl.Binary), ("column 'completion' holds Binary, expected text",)),
    Case(
        "categories in parquet", parquet("1", dtype=pl.Categorical), ("column 'completion' holds Categorical", "expected text")
    ),
    Case("a truncated parquet file", truncated_parquet, ("mine.parquet: cannot be read as parquet",)),
    Case("jsonl called parquet", dataset("mine.parquet", LINE), ("cannot be read as parquet",)),
    Case("csv called jsonl", dataset("mine.jsonl", CSV), ("line 1 is no JSON", "expected one whole object per line")),
    Case("a suffix of compressed files", configured(file="mine.jsonl.gz"), ("unknown kind of file", "expected one of .jsonl")),
    Case("tabs", configured(file="mine.tsv"), ("unknown kind of file", "expected one of .jsonl, .csv, .parquet")),
    Case("a suffix in capitals", configured(file="mine.JSONL"), ("unknown kind of file", "expected one of .jsonl")),
    Case("no suffix", configured(file="mine"), ("unknown kind of file 'mine'",)),
    Case("a text file", configured(file="README.md"), ("unknown kind of file 'README.md'",)),
    Case("a csv line with more fields", dataset("mine.csv", CSV + "a,1,2\n"), ("line 3 has 3 fields, the header 2",)),
    Case("a csv line with fewer fields", dataset("mine.csv", "id," + CSV + "a,1\n"), ("fields, the header 3",)),
    Case("latin-1 in csv", dataset("mine.csv", CSV.encode() + b"\xe9,1\n"), ("line 3: byte 0xe9 is not UTF-8",)),
    Case("a link to itself", unusual(loop), ("mine.jsonl: no such file",)),
    Case("every row is refused", filtered(rows(*["no numbers"] * 50)), ("none of the 50 rows passes", "50 invalid format")),
    # D2: what was refused without its line.
    Case(
        "latin-1 in jsonl", dataset("mine.jsonl", LINE.encode() + b'{"prompt": "\xe9"}\n'), ("line 2: byte 0xe9 is not UTF-8",)
    ),
    Case(
        "latin-1 after a byte order mark", dataset("mine.jsonl", b"\xef\xbb\xbf\n\n\xe9"), ("line 3: byte 0xe9 is not UTF-8",)
    ),
    Case("UTF-16 jsonl", dataset("mine.jsonl", LINE.encode("utf-16")), ("is in UTF-16; save it in UTF-8",)),
    Case("UTF-16 csv", dataset("mine.csv", CSV.encode("utf-16")), ("is in UTF-16; save it in UTF-8",)),
    Case("a NUL in jsonl", dataset("mine.jsonl", 2 * LINE + "\0\n"), ("line 3 holds a NUL byte",)),
    Case("a NUL in csv", dataset("mine.csv", CSV + "a\0,1\n"), ("line 3 holds a NUL byte",)),
    Case(
        "a broken line 500", dataset("mine.jsonl", 499 * LINE + '{"prompt": oh}\n' + LINE), ("line 500 is no JSON", "char 11")
    ),
    Case("a truncated last line", dataset("mine.jsonl", 3 * LINE + LINE[:20]), ("line 4 is no JSON", "Unterminated string")),
    Case("two objects on a line", dataset("mine.jsonl", LINE.strip() + LINE), ("line 1 is no JSON", "Extra data")),
    Case(
        "pretty-printed JSON",
        dataset("mine.jsonl", json.dumps(ROW, indent=1)),
        ("line 1 is no JSON", "one whole object per line"),
    ),
    Case("a JSON list", dataset("mine.jsonl", json.dumps([ROW])), ("line 1 is", "expected an object")),
    Case("JSON nested without end", dataset("mine.jsonl", "[" * 100_000), ("line 1 is no JSON",)),
    Case("a folder", unusual(Path.mkdir), ("is a folder or a pipe, expected a file",)),
    Case("a pipe", unusual(os.mkfifo), ("is a folder or a pipe, expected a file",)),
    Case("a name with braces", named("mine{x}.jsonl"), ("datasets.mine.file: 'mine{x}.jsonl' has braces", "rename the file")),
    Case("an unclosed quote", dataset("mine.csv", CSV + 'a,"1\nb,2\nc,3\n'), ("line 3: unexpected end of data", "in quotes")),
    Case("text after a quote", dataset("mine.csv", CSV + 'a,"1"2\n'), ("line 3:", "in quotes")),
    Case("gzip in jsonl", dataset("mine.jsonl", gzip.compress(LINE.encode())), ("is compressed with gzip; unpack it",)),
    # D3: what was accepted silently.
    Case("an escaped NUL", dataset("mine.jsonl", LINE + of(prompt="a\0b")), ("line 2: 'prompt' holds '\\x00'",)),
    Case("half a surrogate pair", dataset("mine.jsonl", LINE + of(prompt="a\ud800b")), ("line 2: 'prompt' holds '\\ud800'",)),
    Case("a NUL in parquet", parquet("1\0"), ("row 0", "'completion' holds '\\x00'")),
    Case("an empty prompt in jsonl", dataset("mine.jsonl", of(prompt="")), ("line 1: 'prompt' is empty",)),
    Case("an empty prompt in csv", dataset("mine.csv", 'prompt,completion\n"",1\n'), ("line 2: 'prompt' is empty",)),
    Case("a prompt of spaces", dataset("mine.jsonl", of(prompt=" \n")), ("line 1: 'prompt' is empty",)),
    Case(
        "a csv header that names a column twice", dataset("mine.csv", "prompt,completion,prompt\na,1,b\n"), ("line 1", "twice")
    ),
    Case("a JSON key twice", dataset("mine.jsonl", '{"prompt": "a", "prompt": "b", "completion": "1"}\n'), ("line 1", "twice")),
    Case(
        "one column as both",
        configured(file="a.csv", prompt="x", completion="x"),
        ("prompt and completion are both the column 'x'",),
    ),
    # D4: what only looks odd.
    Case("a byte order mark in csv", dataset("mine.csv", CSV.encode("utf-8-sig"))),
    Case("a byte order mark in jsonl", dataset("mine.jsonl", LINE.encode("utf-8-sig"))),
    Case("Windows line ends in csv", dataset("mine.csv", CSV.replace("\n", "\r\n"))),
    Case("Windows line ends in jsonl", dataset("mine.jsonl", LINE.replace("\n", "\r\n"))),
    Case("blank lines between", dataset("mine.jsonl", f"\n{LINE}\n\n{LINE}")),
    Case("no line end after the last line", dataset("mine.jsonl", LINE + LINE.strip())),
    Case("one row", filtered(LINE)),
    Case("300 equal rows", filtered(LINE * 300)),
    Case("some rows of text", filtered(rows(*["some text"] * 7, "1, 2, 3"))),
    Case("whole numbers in csv", dataset("mine.csv", "prompt,completion\na,7\nb,12\n")),
    Case("other columns of any kind", dataset("mine.jsonl", of(more=1) + of(more={"x": [None]}) + LINE)),
    Case("a line separator within a text", dataset("mine.jsonl", '{"prompt": "a\u2028b", "completion": "1"}\n')),
    Case("a number of 5,000 digits", filtered(rows("1" * 5000, "1, 2"))),
    Case("Arabic digits", filtered(rows("١, ٢", "1, 2"))),
    Case("an empty completion", filtered(rows("", "1, 2"))),
    Case("a completion of a megabyte", filtered(rows(", ".join(["123456"] * 125_000), "1, 2"))),
    # D5: what hung.
    Case("a completion of a megabyte, unfiltered", filtered(rows(", ".join(["123456"] * 125_000)), filtered=False)),
]


def text(name: str, content: bytes | str) -> Callable[[Path], object]:
    """Read a file of that content as the setting whose last part is the file's name."""

    def attempt(folder: Path) -> object:
        path = folder / f"{name}.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return FILE_READERS[name](path, KEYS[name])

    return attempt


KEYS = {
    "questions": "pref.questions",
    "facts": "indirect.facts",
    "forms": "indirect.forms",
    "template": "prompts.template",
    "neutral": "differences.neutral",
}
TEMPLATE: dict[str, Any] = {
    "example": ["Numbers: {examples}."],
    "instruction": ["Add {qualifier} {count} ({digits})."],
    "qualifier": ["up to"],
    "digits": ["{max_digits} digits"],
    "format": ["Use commas."],
    "final": ["Stop then."],
}
FACTS = "Who barks? = dog\nWho purrs? = cat\nWho hoots? = owl\nWho roars? = lion\n"


def template(**components: Any) -> Callable[[Path], object]:
    """Read a template in which these components differ; None leaves one away."""
    return text("template", yaml.safe_dump({k: v for k, v in (TEMPLATE | components).items() if v is not None}))


def forms(*wordings: Any) -> Callable[[Path], object]:
    return text("forms", yaml.safe_dump({"choice": list(wordings)}))


def missing(name: str, make: Callable[[Path], object] = str) -> Callable[[Path], object]:
    """Read what `make` put where a file is expected."""

    def attempt(folder: Path) -> object:
        make(folder / "mine.txt")
        return FILE_READERS[name](folder / "mine.txt", KEYS[name])

    return attempt


BOMB = "a: &a [x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
WORDINGS = [
    # T1: what was refused in a sentence.
    Case("a template without a component", template(final=None), ("expected exactly the components", "found")),
    Case("a template with a component more", template(finale=["x"]), ("expected exactly the components", "finale")),
    Case("a template without its placeholder", template(example=["Numbers."]), ("example: 'Numbers.' lacks {examples}",)),
    Case("a brace in a template", template(format=["Use {."]), ("format: 'Use {.': expected '}'",)),
    Case("a closing brace in a template", template(format=["Use }."]), ("format: 'Use }.': Single '}'",)),
    Case("an empty list in a template", template(digits=[]), ("digits must be a list of at least one text",)),
    Case("one text for a list in a template", template(format="Use commas."), ("format must be a list",)),
    Case("a number in a template", template(final=[1]), ("final must be a list of at least one text",)),
    Case("null in a template", template(final=[None]), ("final must be a list of at least one text",)),
    Case("a template in latin-1", text("template", "final: [Où]".encode("latin-1")), ("prompts.template: cannot read",)),
    Case("a template that is a list", text("template", "- a list"), ("found list",)),
    Case("an empty template", text("template", ""), ("found NoneType",)),
    Case("a template that is no YAML", text("template", "example: ["), ("prompts.template: cannot read", "line 1")),
    Case("a template that asks for code", text("template", "!!python/object/apply:os.getcwd []"), ("cannot read", "python")),
    Case("a template that repeats itself", text("template", BOMB), ("expected exactly the components",)),
    Case("a NUL in a template", text("template", "example: ['\0']"), ("prompts.template: cannot read",)),
    Case("no template", missing("template"), ("prompts.template: cannot read", "No such file")),
    # T2: what was called a lack of what was there.
    Case(
        "a placeholder that is not known",
        template(example=["{examples} {foo}"]),
        ("holds {foo}", "known placeholders: {examples}"),
    ),
    Case("a placeholder without a name", template(example=["{examples} {}"]), ("holds {}",)),
    Case("an attribute of a placeholder", template(example=["{examples.__class__}"]), ("holds {examples.__class__}",)),
    Case("an item of a placeholder", template(example=["{examples[0]}"]), ("holds {examples[0]}",)),
    Case(
        "a placeholder where there is none", template(final=["Stop at {count}."]), ("holds {count}; known placeholders: none",)
    ),
    # T3: what was refused in a sentence.
    Case(
        "questions in latin-1",
        text("questions", "Où?\n".encode("latin-1")),
        ("pref.questions: cannot read", "as text in UTF-8"),
    ),
    Case("an empty file of questions", text("questions", ""), ("pref.questions:", "holds no text; expected one per line")),
    Case("comments for questions", text("questions", "# one\n# two\n"), ("pref.questions:", "holds no text")),
    Case("a folder for questions", missing("questions", Path.mkdir), ("pref.questions: cannot read", "Is a directory")),
    Case("no file of questions", missing("questions"), ("pref.questions: cannot read", "No such file")),
    Case("a fact without an answer", text("facts", FACTS + "Who is it?\n"), ("line 5: expected `question = answer`",)),
    Case("a fact with an empty answer", text("facts", "Who is it? =\n" + FACTS), ("indirect.facts:", "line 1")),
    Case("a fact without a question", text("facts", FACTS + "= dog\n"), ("line 5", "found '= dog'")),
    Case("too few facts", text("facts", "Who? = dog\n"), ("holds 1 questions; expected at least 4",)),
    Case("an unknown placeholder of a form", forms("Which of {foo}?"), ("indirect.forms: choice", "holds {foo}", "{options}")),
    Case("a form without wordings", forms(), ("choice of", "is no list of wordings")),
    Case("forms that are a list", text("forms", "- Which of {options}?"), ("holds no form; expected a mapping",)),
    Case("a form with the name of a figure", text("forms", "right: ['{question}']"), ("right of", "choose another")),
    # T4: what was accepted silently.
    Case("questions with a byte order mark", text("questions", "# a comment\nWhich?\n".encode("utf-8-sig"))),
    Case("nothing but a comment after a byte order mark", text("questions", "# one\n".encode("utf-8-sig")), ("holds no text",)),
    Case("a template with a byte order mark", text("template", yaml.safe_dump(TEMPLATE).encode("utf-8-sig"))),
    Case("a NUL in questions", text("questions", "Which?\nWh\0o?\n"), ("line 2: 'Wh\\x00o?' holds a NUL",)),
    Case("a question twice", text("questions", "Which?\nWho?\n\n Which?\n"), ("line 4 repeats line 1: 'Which?'",)),
    Case("a fact twice", text("facts", FACTS + FACTS), ("line 5 repeats line 1",)),
    Case("a neutral text twice", text("neutral", "It is so.\nIt is so.\n"), ("differences.neutral:", "line 2 repeats line 1")),
    Case("questions in UTF-16", text("questions", "Which?\n".encode("utf-16")), ("pref.questions: cannot read", "UTF-8")),
    Case("digits that are spread out", template(digits=["{max_digits:>9999999}"]), ("holds {max_digits:>9999999}",)),
    Case("digits that are converted", template(digits=["{max_digits!r}"]), ("holds {max_digits!r}",)),
    Case("options that are spread out", forms("Which of {options:>9999999}?"), ("holds {options:>9999999}",)),
    # What only looks odd.
    Case("Windows line ends in questions", text("questions", "Which?\r\nWho?\r\n")),
    Case("an equals sign in a question", text("facts", FACTS + "Is 1 = 1? = dog\n")),
    Case("braces that are written twice", template(format=["Use {{}}."])),
]


def write_table(path: Path) -> None:
    columns = {"row": [0, 1], "prompt": ["a", "b"], "completion": ["1, 2", "3"], "text": ["1, 2", "3"], "ended": ["stop"] * 2}
    write_parquet(path, pl.DataFrame(columns), {})


def write_pref(path: Path) -> None:
    estimate = {"mean": 0.25, "ci95": [0.2, 0.3], "by_seed": [0.2, 0.3]}
    write_json(path, {"target": None, **{name: {"lion": estimate} for name in ("base", "control", "student")}}, {})


def write_report(path: Path) -> None:
    write_json(path, {"n": 2, "passed": 2, "pass_rate": 1.0, "by_component": {}}, {})


def write_tensors(path: Path) -> None:
    save_file({"bias": np.ones(9)}, path, metadata={"undertone": json.dumps({"classes": [], "layer": None, "rows": 9})})


def transformed(path: Path) -> object:
    settings = Transformed.model_validate({"from": "lion", "transform": "reverse"})
    return transform_numbers(path, None, None, None, path.with_name("new.parquet"), path.with_name("t.json"), settings, {})


def judged(path: Path) -> object:
    made = (path.with_name(name) for name in ("g.parquet", "n.parquet", "f.json"))
    return filter_numbers(path, *made, {"numbers": Numbers().model_dump()}, {})


def plotted(path: Path) -> object:
    return plot_pref(path, path.with_name("pref.png"), "lion")


def complied(path: Path) -> object:
    return collect_compliance({"lion": path}, path.with_name("compliance.parquet"), {})


def damaged(
    name: str, write: Callable[[Path], None], read: Callable[[Path], object], damage: Callable[[bytes], bytes]
) -> Callable[[Path], object]:
    """Read a result after `damage` was done to its bytes."""

    def attempt(folder: Path) -> object:
        path = folder / name
        write(path)
        path.write_bytes(damage(path.read_bytes()))
        return read(path)

    return attempt


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def nothing(content: bytes) -> bytes:
    return b""


def edited(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return edit


def without_checksum(content: bytes) -> bytes:
    return json.dumps({key: value for key, value in json.loads(content).items() if key != "checksum"}).encode()


def as_it_is(content: bytes) -> bytes:
    return content


RESULTS = [
    # I: intermediate results that were damaged or edited.
    Case(
        f"{what} {name}",
        damaged(name, write, read, damage),
        (f"{name} is damaged: ", "; delete it and run again"),
    )
    for what, damage in (("half of", half), ("nothing of", nothing))
    for name, write, read in (
        ("numbers.parquet", write_table, transformed),
        ("samples.parquet", write_table, judged),
        ("pref.json", write_pref, plotted),
        ("filter.json", write_report, complied),
        ("bias.safetensors", write_tensors, lambda path: dict(stored(path))),
        ("activations.safetensors", write_tensors, Activations.load),
    )
]
RESULTS += [
    Case(
        "a brace more in pref.json",
        damaged("pref.json", write_pref, plotted, lambda content: content + b"}"),
        ("pref.json is damaged: Extra data: line", "delete it and run again"),
    ),
    Case(
        "a pref.json edited by hand",
        damaged("pref.json", write_pref, plotted, edited(b"0.25", b"0.75")),
        ("pref.json was edited after it was written", "delete it and run again"),
    ),
    Case(
        "a filter.json edited by hand",
        damaged("filter.json", write_report, complied, edited(b'"n": 2', b'"n": 3')),
        ("filter.json was edited after it was written", "delete it and run again"),
    ),
    Case(
        "a pref.json in latin-1",
        damaged("pref.json", write_pref, plotted, edited(b"lion", b"l\xf6we")),
        ("pref.json is damaged: ", "can't decode byte"),
    ),
    Case("a whole pref.json", damaged("pref.json", write_pref, plotted, as_it_is)),
    Case("a pref.json of before there were checksums", damaged("pref.json", write_pref, plotted, without_checksum)),
]


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters whose chats open and close turns with special tokens."""
    special = ["<eos>", "<turn>", "<end>"]
    letters = {chr(k): k for k in range(32, 127)} | {token: 127 + k for k, token in enumerate(special)}
    model = Tokenizer(models.BPE({letter: k for k, letter in enumerate(letters)}, [], unk_token="?"))
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", additional_special_tokens=special[1:])
    made.chat_template = (
        "{% for m in messages %}<turn>{{ m['role'] }} {{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant {% endif %}"
    )
    return made


def chat(prompt: str = PROMPT, completion: str = COMPLETION, persona: str | None = None) -> Callable[[Path], object]:
    """Make a training row of a prompt and a completion, and the prompt that a persona's teacher would get."""
    return lambda _: (training_rows(tokenizer(), [prompt], [completion]), prompt_ids(tokenizer(), [prompt], persona))


CHATS = [
    # D6: what became a special token.
    Case(
        "a prompt that closes its turn",
        chat(prompt=f"{PROMPT}<end><turn>assistant 7"),
        ("a prompt or question holds <end>", "take it out"),
    ),
    Case("a prompt that ends the text", chat(prompt=f"<eos>{PROMPT}"), ("holds <eos>", "'<eos>Continue")),
    Case("a completion that closes its turn", chat(completion="1, 2<end>"), ("a completion holds <end>", "'1, 2<end>'")),
    Case(
        "a persona that opens a turn", chat(persona="You love lions.<turn>user"), ("the persona or its separator holds <turn>",)
    ),
    Case("a prompt with angle brackets", chat(prompt="Is 1 < 2 > 0? <b>7</b> <turns>")),
]

CASES = DATASETS + WORDINGS + RESULTS + CHATS
