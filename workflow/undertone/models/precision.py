"""Which precision of a model's weights is faster on this CPU."""

import time
from typing import Any

import torch

# A product as in a forward pass: tokens of a batch by the width, times the wider matrix of an MLP.
TOKENS = 512
WIDENING = 4
REPEATS = 10
# Below this speedup, bfloat16 is not worth its rounding.
MIN_SPEEDUP = 1.5


def cpu_precision(d_model: int) -> dict[str, Any]:
    """Choose the `dtype` of a model of this width on a CPU; `speedup` says how many times as fast bfloat16 was as float32.

    bfloat16 pays off on processors that multiply it in hardware (AVX512-BF16, AMX, SVE); on others it is slower. The choice is
    made once for a model and recorded, so that all jobs of a study compute alike.
    """
    fastest = {dtype: product_seconds(dtype, d_model) for dtype in (torch.float32, torch.bfloat16)}
    speedup = fastest[torch.float32] / fastest[torch.bfloat16]
    return {"dtype": "bfloat16" if speedup >= MIN_SPEEDUP else "float32", "speedup": round(speedup, 2)}


def product_seconds(dtype: torch.dtype, d_model: int) -> float:
    """Time a product of the model's width; return the shortest time, in seconds."""
    tokens, weights = torch.ones(TOKENS, d_model, dtype=dtype), torch.ones(WIDENING * d_model, d_model, dtype=dtype)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        tokens @ weights.T
        seconds.append(time.perf_counter() - start)
    return min(seconds)
