"""Running out of memory: batches are halved for good, nothing is lost or repeated, and the end is a sentence."""

import pytest
import torch

from undertone.runtime.memory import BatchSize


def summing(limit, sizes):
    """Sums its rows, and runs out of memory with more than `limit`."""

    def work(rows):
        sizes.append(len(rows))
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sum(rows)

    return work


def test_parts_cover_the_rows_once_and_in_order_and_the_smaller_batch_size_stays(capsys):
    batch_size, sizes = BatchSize(8, "samples.batch_size"), []
    assert list(batch_size.parts(summing(2, sizes), range(9))) == [1, 5, 9, 13, 8]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert list(batch_size.parts(summing(2, sizes), [10, 20, 30])) == [30, 30]
    assert sizes[7:] == [2, 1]
    told = capsys.readouterr().err
    assert [line.split(" (")[0] for line in told.splitlines()] == [
        f"samples.batch_size: {n} rows at once do not fit in memory" for n in (8, 4)
    ]
    assert "from here on 2; results differ by rounding only" in told


def test_nothing_is_said_or_halved_where_all_fits(capsys):
    batch_size, sizes = BatchSize(4, "x"), []
    assert list(batch_size.parts(summing(4, sizes), range(6))) == [6, 9]
    assert (batch_size.rows, capsys.readouterr().err) == (4, "")


def test_halving_starts_from_the_rows_that_there_are():
    batch_size, sizes = BatchSize(512, "x"), []
    assert list(batch_size.parts(summing(3, sizes), range(6))) == [3, 12]
    assert (sizes, batch_size.rows) == ([6, 3, 3], 3)


def test_one_row_that_does_not_fit_ends_with_a_sentence_that_says_what_to_do():
    with pytest.raises(MemoryError, match=r"samples.batch_size: not even one row fits in memory .*; ask for a GPU with more"):
        list(BatchSize(4, "samples.batch_size").parts(summing(0, []), range(4)))


def test_other_errors_are_no_reason_to_halve():
    batch_size = BatchSize(4, "x")

    def broken(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(batch_size.parts(broken, range(4)))
    assert batch_size.rows == 4


def test_a_failed_attempt_leaves_none_of_its_tensors_behind(monkeypatch):
    """The handler of an exception keeps the frames that raised it; memory is only freed once it is left."""
    alive, freed = [], []

    class Big:
        def __init__(self):
            alive.append(self.__class__)

        def __del__(self):
            alive.pop()

    def work(n):
        held = Big()
        if n > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        freed.append(len(alive))
        return held

    BatchSize(2, "x").retried(work, 2)
    assert freed == [1]
