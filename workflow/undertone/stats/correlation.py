"""The correlation of two lists of numbers, if it is defined."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Values = Sequence[float] | Float[np.ndarray, " n"]


def pearson(a: Values, b: Values) -> float | None:
    """Return Pearson's r, or None if there are fewer than three pairs or if one list does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
