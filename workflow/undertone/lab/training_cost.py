"""The compute cost of training an SAE."""


def flops(n: float, tokens: float, d_model: int) -> float:
    """Return the floating-point operations of a training: 6 per token and weight of the encoder and the decoder."""
    return 6 * tokens * 2 * d_model * n
