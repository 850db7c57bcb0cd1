"""What the training of an SAE costs."""


def flops(n: float, tokens: float, d_model: int) -> float:
    """Floating-point operations of a training: 6 per weight and token, of an encoder and a decoder."""
    return 6 * tokens * 2 * d_model * n
