"""Activations on disk: those at a hook point for every text token of a table of contexts, shuffled, in shards.

The shuffle takes two passes, and memory for a shard and its copy. While the model reads, each token goes to a shard drawn at
random; then each shard is permuted. Every order of all tokens is equally likely: it is as if tokens were sorted by random keys
whose leading digit is the shard.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from pyarrow.parquet import ParquetFile
from safetensors.numpy import save_file
from torch import Tensor

from undertone.lm.chat import Row, special_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint, Point, check_point, read_at
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, flush, move, read_json, remove, replacing, whole, write_json
from undertone.runtime.progress import progress
from undertone.study.config.saes import Store

# Tokens read at a time, padding included.
TOKENS = 4096
# Seconds between notes of the progress, from which a killed job resumes.
NOTED_AFTER_S = 20.0
# Disk space needed, as a multiple of the store's size: one shard at a time is there twice.
ROOM = 1.2
# Larger numbers are near the greatest that float16 can hold.
MOST_IN_HALF = 6e4
TOKEN = np.dtype(np.int64)


@dataclass
class Noted:
    """Progress of the first pass: row groups of the table that are done, the ids in them, and the tokens in each shard."""

    groups: int = 0
    ids: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Unfinished:
    """Files of the unfinished shards: each one's `x` `[n, d_model]` and `token` `[n]` as raw numbers, and noted progress."""

    home: Path
    n_shards: int
    d_model: int
    dtype: np.dtype

    def files(self, k: int) -> dict[str, tuple[Path, int]]:
        """Return the files of a shard's `x` and `token`, each with the bytes that one token takes there."""
        return {
            "x": (self.home / f"{k}.x", self.d_model * self.dtype.itemsize),
            "token": (self.home / f"{k}.token", TOKEN.itemsize),
        }

    def shuffled(self, k: int) -> Path:
        """Return the path where a finished shard waits for the others."""
        return self.home / f"{k}.safetensors"

    @property
    def note(self) -> Path:
        """The file of the noted progress."""
        return self.home / "noted.json"

    def taken_up(self) -> Noted:
        """Return the progress of a killed job; none if its files hold less than it noted."""
        fresh = Noted(tokens=[0] * self.n_shards)
        noted = read_json(self.note) if self.note.exists() else {}
        if not noted:
            return fresh
        earlier = Noted(noted["groups"], noted["ids"], noted["tokens"])
        for k, n in enumerate(earlier.tokens):
            there = all(path.exists() and path.stat().st_size >= n * size for path, size in self.files(k).values())
            if not there and not self.shuffled(k).exists():
                remove(self.note, *(self.shuffled(other) for other in range(self.n_shards)))
                return fresh
        return earlier


def make_store(
    model: Path,
    text: Path,
    shards: Sequence[Path],
    store: Path,
    point: Point,
    layer: int,
    settings: Store,
    stamp: Stamp,
    scratch: Path,
) -> str:
    """Write a model's activations at a hook point over the contexts of the table `text`; return a message for the log.

    Each of `shards` holds `x` `[n, d_model]` and `token` `[n]`, int64: the token's place among all ids of the table, including
    special tokens (`stored.places` gives its context). Special tokens and the first token of each context are left out.
    `store` is a JSON summary. A killed job resumes where it was and ends with the same bytes.
    Raises ConfigError if the disk lacks room (before the model is run), an activation is not finite, or one does not fit in
    float16.
    """
    loaded, at = load(model), HookPoint(layer, point)
    check_point(at, loaded.model)
    d_model = loaded.model.config.get_text_config().hidden_size
    unfinished = Unfinished(scratch, len(shards), d_model, np.dtype(settings.dtype))
    n = count(text, special_ids(loaded.tokenizer))
    size = n * (d_model * unfinished.dtype.itemsize + TOKEN.itemsize)
    for folder in {scratch, store.parent}:
        check_room(folder, size, f"the store of {n:,} tokens of {d_model} numbers", scratch)
    tokens = spread(loaded, at, text, n, unfinished, settings.seed)
    for k in range(len(shards)):
        permute(unfinished, k, tokens[k], settings.seed)
    for k, shard in enumerate(shards):
        move(unfinished.shuffled(k), shard)
    about = {"hook_point": at.name, "d_model": d_model, "dtype": settings.dtype, "tokens": n, "by_shard": tokens, "bytes": size}
    write_json(store, about, stamp)
    remove(scratch)
    return f"{n:,} tokens at {at.name} in {len(shards)} shards, {size / 1e9:.2f} GB"


def count(text: Path, special: set[int]) -> int:
    """Count the text tokens of a table of contexts, without the first token of each context."""
    with whole(text):
        file, odd, n = ParquetFile(text), np.array(sorted(special)), 0
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["ids"])["ids"].combine_chunks()
            flat, starts = ids.values.to_numpy(), ids.offsets.to_numpy()[:-1]
            inner = ~np.isin(flat, odd)
            inner[starts] = False
            n += int(inner.sum())
    return n


def check_room(folder: Path, size: int, what: str, made: Path) -> None:
    """Raise ConfigError, with the free space, if the disk of `folder` lacks room for what is not yet in `made`."""
    folder.mkdir(parents=True, exist_ok=True)
    need = ROOM * size - sum(path.stat().st_size for path in made.iterdir())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ConfigError(
            f"{what} needs {need / 1e9:.2f} GB on the disk of {folder}, which has {free / 1e9:.2f} GB free; free some, or "
            "lower sae.tokens"
        )


def spread(loaded: LoadedModel, at: HookPoint, text: Path, n: int, unfinished: Unfinished, seed: int) -> list[int]:
    """Run the first pass: write each token of the table to a shard drawn at random; return the tokens of each shard."""
    noted = unfinished.taken_up()
    with whole(text):
        file = ParquetFile(text)
    with ExitStack() as stack:
        opened = (
            [
                {name: stack.enter_context(reopened(*own, done)) for name, own in unfinished.files(k).items()}
                for k, done in enumerate(noted.tokens)
            ]
            if noted.groups < file.num_row_groups
            else []
        )
        bar = stack.enter_context(progress(n, "store", "token"))
        bar.update(sum(noted.tokens))
        last = time.monotonic()
        while noted.groups < file.num_row_groups:
            with whole(text):
                contexts = file.read_row_group(noted.groups, columns=["ids"])["ids"].to_pylist()
            token, x = read_contexts(loaded, at, contexts)
            shard = np.random.default_rng([seed, 0, noted.groups]).integers(unfinished.n_shards, size=len(token))
            for k in range(unfinished.n_shards):
                mine = shard == k
                opened[k]["x"].write(checked(x[mine], at, unfinished.dtype).tobytes())
                opened[k]["token"].write((noted.ids + token[mine]).astype(TOKEN).tobytes())
                noted.tokens[k] += int(mine.sum())
            noted.groups, noted.ids = noted.groups + 1, noted.ids + sum(map(len, contexts))
            bar.update(len(token))
            if time.monotonic() - last > NOTED_AFTER_S or noted.groups == file.num_row_groups:
                note(unfinished, noted, opened)
                last = time.monotonic()
    return noted.tokens


def reopened(path: Path, size: int, done: int) -> BinaryIO:
    """Open a file of numbers to append after the tokens that are done; cut off anything behind them."""
    path.touch()
    file = path.open("r+b")
    file.truncate(done * size)
    file.seek(0, 2)
    return file


def note(unfinished: Unfinished, noted: Noted, opened: Sequence[dict[str, BinaryIO]]) -> None:
    """Flush the open files to disk, then note the progress."""
    for own in opened:
        for file in own.values():
            file.flush()
            flush(Path(file.name))
    write_json(unfinished.note, asdict(noted), {})


@torch.no_grad()
def read_contexts(
    loaded: LoadedModel, at: HookPoint, contexts: Sequence[Sequence[int]]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d_model"]]:
    """Return the places, among all ids, of the contexts' text tokens except their first, and the activations there."""
    lengths = np.array([len(ids) for ids in contexts])
    first = np.cumsum(lengths) - lengths
    order = np.argsort(lengths, kind="stable")
    rows, tokens, parts, seen = [Row(list(contexts[i]), 0) for i in order], [], [], 0

    def read(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        kept = loaded.text_mask(batch)
        kept[:, 0] = False  # the first token acts as a BOS, whatever it is
        return kept, read_at(loaded.model, at, batch)[kept].float()

    for kept, x in loaded.read(read, rows, max(1, TOKENS // int(lengths.max()))):
        row, position = (each.cpu().numpy() for each in kept.nonzero(as_tuple=True))
        tokens.append(first[order[seen + row]] + position)
        parts.append(x.cpu().numpy())
        seen += len(kept)
    return np.concatenate(tokens), np.concatenate(parts)


def checked(x: Float[np.ndarray, "n d_model"], at: HookPoint, dtype: np.dtype) -> Float[np.ndarray, "n d_model"]:
    """Convert activations to the store's precision. Raises ConfigError if one is not finite or does not fit in it."""
    if not np.isfinite(x).all():
        raise ConfigError(
            f"what is at {at.name} is NaN or infinite; the model's weights are damaged, or overflow in their precision"
        )
    if dtype == np.float16 and len(x) and (greatest := np.abs(x).max()) > MOST_IN_HALF:
        raise ConfigError(f"what is at {at.name} reaches {greatest:.0f}, beyond what float16 holds; set store.dtype: float32")
    return x.astype(dtype)


def permute(unfinished: Unfinished, k: int, n: int, seed: int) -> None:
    """Run the second pass on one shard: write its tokens in random order to a finished file."""
    files = unfinished.files(k)
    if not unfinished.shuffled(k).exists():
        order = np.random.default_rng([seed, 1, k]).permutation(n)
        x = np.fromfile(files["x"][0], unfinished.dtype, n * unfinished.d_model).reshape(n, unfinished.d_model)
        token = np.fromfile(files["token"][0], TOKEN, n)
        with replacing(unfinished.shuffled(k)) as temporary:
            save_file({"x": x[order], "token": token[order]}, temporary)
    remove(*(path for path, _ in files.values()))
