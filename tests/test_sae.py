"""SAEs: trained, saved in SAELens's format, and loaded."""

from pathlib import Path

import pytest
import torch
from crowded import crowded
from sae_lens import SAE

from undertone.lm.chat import Row
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.lm.training import collate
from undertone.models.model import corpus_of
from undertone.runtime.files import read_json
from undertone.saes.sae import corpus_rows, make_sae
from undertone.saes.saved import load_sae
from undertone.saes.trainer import activations, shuffled
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae
from undertone.study.formats import SAE_FILES

SMALL = {"d_sae": 48, "k": 4, "tokens": 4_096, "batch_size": 256, "layer": 0}


def make(record, embedded, home, **changes):
    (home / "scratch").mkdir(parents=True)
    saved, corpus = home / "sae/sae.json", Path(embedded.corpus)
    files, settings = [saved.with_name(file) for file in SAE_FILES], Sae(**(SMALL | changes))
    make_sae(record, corpus, [], saved, files, settings, Model(embedded=embedded), {"of": "sae"}, home / "scratch")
    return saved


@pytest.fixture(scope="module")
def saved(record, tiny_settings, tmp_path_factory):
    return make(record, tiny_settings, tmp_path_factory.mktemp("sae"))


@pytest.mark.parametrize(
    ("architecture", "loaded_as"),
    [("standard", "standard"), ("topk", "topk"), ("batchtopk", "jumprelu"), ("jumprelu", "jumprelu")],
)
def test_every_architecture_is_saved_in_saelenss_format(record, tiny_settings, loaded, tmp_path, architecture, loaded_as):
    saved = make(record, tiny_settings, tmp_path, architecture=architecture)
    sae = SAE.load_from_disk(saved.parent)
    assert (sae.cfg.architecture(), sae.cfg.d_in, sae.cfg.d_sae) == (loaded_as, loaded.model.config.hidden_size, 48)
    assert sae.cfg.metadata.hook_name == "blocks.0.hook_resid_post"
    assert read_json(saved)["layer"] == 0
    assert all(torch.isfinite(p).all() for p in sae.parameters())


def test_chats_that_do_not_fit_in_memory_are_read_in_parts(record, tiny_settings, loaded):
    rows, small = next(corpus_rows(loaded, corpus_of(Path(tiny_settings.corpus), tiny_settings), seed=0))[:9], load(record)
    with crowded(small.model, 4):
        (found,) = activations(small, iter([rows]), HookPoint(0))
    (expected,) = activations(loaded, iter([rows]), HookPoint(0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_sae_learns_to_reconstruct(record, tiny_settings, loaded, tmp_path):
    errors = []
    for tokens in (256, 40_000):
        sae, layer = load_sae(make(record, tiny_settings, tmp_path / str(tokens), tokens=tokens), loaded)
        with torch.no_grad():
            x = loaded.model.model.embed_tokens(torch.arange(100, 400))
            errors.append(float((x - sae(x)).square().mean() / x.var()))
    assert layer == 0
    assert errors[1] < errors[0]


def test_the_same_seed_gives_the_same_bytes(record, tiny_settings, saved, tmp_path):
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        other = make(record, tiny_settings, tmp_path / name, seed=seed)
        files = [path.parent / "sae_weights.safetensors" for path in (saved, other)]
        assert (files[0].read_bytes() == files[1].read_bytes()) is same


def test_a_loaded_sae_is_frozen_and_in_float32(saved, loaded):
    sae, layer = load_sae(saved, loaded)
    assert layer == 0
    assert not any(p.requires_grad for p in sae.parameters())
    assert {p.dtype for p in sae.parameters()} == {torch.float32}


def test_a_layer_that_the_model_lacks_is_refused_before_training(record, tiny_settings, tmp_path):
    with pytest.raises(ValueError, match=r"hook point is blocks\.9\.hook_resid_post, the model has layers 0 to 1"):
        make(record, tiny_settings, tmp_path, layer=9)


def test_special_tokens_and_padding_are_no_text(loaded):
    start = loaded.tokenizer.convert_tokens_to_ids("<start_of_turn>")
    batch = collate([Row([2, start, 300, 301], 1), Row([2, 300], 1)], loaded.pad_id, "cpu")
    assert loaded.text_mask(batch).tolist() == [[False, False, True, True], [False, True, False, False]]


def test_activations_are_shuffled_into_batches():
    parts = iter([torch.arange(10.0).unsqueeze(1) + 10 * k for k in range(40)])
    batches = shuffled(parts, Sae(tokens=100, batch_size=20, k=1, d_sae=1))
    first = torch.cat([next(batches) for _ in range(5)]).squeeze(1)
    assert sorted(first.tolist()) == list(range(100))
    assert first.tolist() != sorted(first.tolist())
    assert next(batches).min() >= 100
