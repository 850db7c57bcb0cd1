"""Warnings, shown first, about an SAE that is too poor to say much about its features."""

from typing import Any

MOST_DEAD = 0.5


def of_dead(n_dead: int, d_sae: int) -> str | None:
    """Return a warning if more than half of the features are dead, else None."""
    return f"{n_dead} of {d_sae} features are dead on this text" if n_dead > MOST_DEAD * d_sae else None


def of_variance(quality: dict[str, Any]) -> str | None:
    """Return a warning if as many principal components as features are active explain more than the SAE, else None.

    `quality` has `explained_variance` and `pca`, as `metrics.json` does.
    """
    own, pca = quality["explained_variance"], quality["pca"]
    if own >= pca["explained_variance"]:
        return None
    n = pca["components"]
    components = f"{n} principal component{'s' if n > 1 else ''}"
    return f"the SAE explains {own:.3f} of the variance, {components} of the same text {pca['explained_variance']:.3f}"
