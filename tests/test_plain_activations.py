"""An SAE on plain activations: what is said of it is what the definitions say, however the samples are cut."""

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sklearn.decomposition import PCA

from undertone.saes import plain_activations
from undertone.saes.plain_activations import quality_of_samples


def test_the_quality_on_samples_is_that_of_its_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_activations, "CHUNK", 7)
    torch.manual_seed(0)
    x = torch.randn(50, 6) * torch.arange(1, 7) + 3
    sae = StandardSAE(StandardSAEConfig(d_in=6, d_sae=9)).requires_grad_(False)
    sae.b_enc[4] = -1e9
    with torch.no_grad():
        acts, rebuilt = sae.encode(x).numpy(), sae(x).numpy()
    l0 = (acts > 0).sum(1).mean()
    error, around = ((x.numpy() - rebuilt) ** 2).sum(), ((x - x.mean(0)).numpy() ** 2).sum()
    said = quality_of_samples(sae, x)
    assert (said["features"], said["dead"]) == (9, int((acts == 0).all(0).sum()))
    assert said["dead"] >= 1
    assert said["l0"] == pytest.approx(l0)
    assert said["explained_variance"] == pytest.approx(1 - error / around, rel=1e-5)
    components = PCA().fit(x.numpy()).explained_variance_ratio_
    assert said["pca"] == pytest.approx(float(np.sum(components[: round(l0)])), rel=1e-5)
