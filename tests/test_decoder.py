"""What a feature adds to the residual stream, for every kind of SAE, and the tokens that are told of it."""

import json
from pathlib import Path

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TrainingSAE,
)

from undertone.saes import decoder
from undertone.saes.decoder import animal_features, directions

D_IN, D_SAE = 12, 30


def make(kind: str, folder: Path) -> SAE:
    """An SAE with random weights and decoder rows of norms 0.2 to 3."""
    if kind == "batchtopk":
        told = BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, rescale_acts_by_decoder_norm=True)
        randomized(TrainingSAE.from_dict(told.to_dict())).save_inference_model(str(folder))
        return SAE.load_from_disk(folder).requires_grad_(False)
    made = {
        "standard": lambda: StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE)),
        "standard, b_dec in the encoder": lambda: StandardSAE(
            StandardSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=True)
        ),
        "topk": lambda: TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, rescale_acts_by_decoder_norm=False)),
        "topk, rescaled": lambda: TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, rescale_acts_by_decoder_norm=True)),
        "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE)),
    }
    return randomized(made[kind]())


def randomized(sae: SAE) -> SAE:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
        norms = torch.linspace(0.2, 3.0, D_SAE).unsqueeze(1)
        sae.W_dec.copy_(norms * torch.nn.functional.normalize(sae.W_dec, dim=-1))
    return sae.requires_grad_(False)


KINDS = ["standard", "standard, b_dec in the encoder", "topk", "topk, rescaled", "jumprelu", "batchtopk"]


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_what_a_bias_on_the_features_adds_to_a_reconstruction(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "CHUNK", 7)
    sae, generator = make(kind, tmp_path), torch.Generator().manual_seed(1)
    x, bias = torch.randn(5, D_IN, generator=generator), torch.randn(D_SAE, generator=generator)
    active = sae.encode(x)
    moved = sae.decode(active + bias) - sae.decode(active)
    found = directions(sae)
    assert found.shape == (D_SAE, D_IN)
    torch.testing.assert_close(directions(sae, [8, 3]), found[[8, 3]])
    torch.testing.assert_close((bias @ found).expand(5, -1), moved, rtol=1e-4, atol=1e-5)
    for k in (0, 6, 7, D_SAE - 1):
        unit = torch.zeros(D_SAE)
        unit[k] = 1.0
        torch.testing.assert_close(found[k], (sae.decode(active + unit) - sae.decode(active))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "unit"), [("standard", False), ("topk", False), ("topk, rescaled", True), ("jumprelu", False)]
)
def test_directions_are_unit_vectors_only_where_activations_are_in_units_of_decoder_norms(
    kind: str, unit: bool, tmp_path: Path
) -> None:
    norms = directions(make(kind, tmp_path)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(D_SAE) if unit else torch.linspace(0.2, 3.0, D_SAE))


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_whose_units_change_from_token_to_token_has_no_directions(normalisation: str) -> None:
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE, normalize_activations=normalisation))
    with pytest.raises(ValueError, match=f"normalize_activations {normalisation} have no fixed directions; use one whose"):
        directions(sae)


def test_features_stand_for_animals_only_where_a_feature_steers(tmp_path: Path) -> None:
    told = {
        "lion": {"vector": "feature", "feature": 7},
        "owl": {"vector": "contrast"},
        "cat": {"vector": "feature", "feature": 0},
    }
    paths = {f"steer-{animal}": tmp_path / f"{animal}.json" for animal in told}
    for animal, path in zip(told, paths.values(), strict=True):
        path.write_text(json.dumps(told[animal]))
    assert animal_features(paths) == {"lion": 7, "cat": 0}
