"""Run batches that do not fit in the GPU's memory as smaller batches, which changes a result by rounding only."""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchSize:
    """How many rows are run at once: `rows` at first, halved whenever they do not fit. Messages call it `name`.

    Like accelerate's `find_executable_batch_size`, but the size that fits is kept from one call to the next.
    """

    def __init__(self, rows: int, name: str):
        self.rows, self.name = rows, name

    def retried(self, work: Callable[[int], Result], n_rows: int) -> Result:
        """Call `work(rows at once)` for `n_rows` rows; start anew with half as many at once whenever memory runs out.

        What a failed attempt leaves behind must not matter to the next. Raises MemoryError if a single row does not fit.
        """
        while True:
            at_once = min(self.rows, n_rows)
            try:
                return work(at_once)
            except torch.OutOfMemoryError as error:
                state = memory()
                if at_once == 1:
                    raise MemoryError(
                        f"{self.name}: not even one row fits in memory ({state}); ask for a GPU with more, or shorten the rows"
                    ) from error
            # Not in the handler: there the exception would keep alive what the attempt has allocated.
            self._halve(at_once, state)

    def parts(self, work: Callable[[Sequence[Item]], Result], rows: Sequence[Item]) -> Iterator[Result]:
        """Yield `work(part)` for consecutive parts of `rows`, each as large as fits."""
        done = 0
        while done < len(rows):

            def attempt(n: int, start: int = done) -> tuple[Result, int]:
                part = rows[start : start + n]
                return work(part), len(part)

            result, n = self.retried(attempt, len(rows) - done)
            yield result
            done += n

    def _halve(self, at_once: int, state: str) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.rows = at_once // 2
        message = f"{at_once} rows at once do not fit in memory ({state}); from here on {self.rows}"
        tqdm.write(f"{self.name}: {message}; results differ by rounding only", file=sys.stderr)


def memory() -> str:
    """Return the GPU's name and how much of its memory is free, in words."""
    if not torch.cuda.is_available():
        return "no GPU"
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    return f"{torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GiB free"
