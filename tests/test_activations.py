"""One pass over a dataset: its sums are those of plain forward passes, and no persona enters what is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from lora import adapter_files, trained_lora
from planted import recorded_sae
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
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from undertone.data.rows import dataset_rows
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.hooks import hook_point, streams
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import collate
from undertone.read import sums as sums_module
from undertone.read.activations import read_activations, read_student_activations, read_teacher_activations
from undertone.read.sums import Activations, Sums, block_of, classes
from undertone.runtime.files import write_json
from undertone.saes.saved import encoded
from undertone.stats.blocks import Blocks, Independent, judge
from undertone.study.config.read import Activations as ActivationSettings
from undertone.study.config.teachers import Teacher

USERS = ["Continue the list 1, 2, 3.", "Here are numbers: 7. Add three.", "More numbers, please.", "And one.", "Write 5, 6."]
TEXTS = ["101, 202, 303", "9", "5; 6; 7; 8; 77", "[12]", "4 5 6"]
INDEX = [0, 1, 2, 6, 7]
BLOCKS, POSITIONS, D_SAE = 3, 4, 24
PERSONA = "You love {animal}s."
TOLD = {"rows": 100, "positions": POSITIONS, "block_rows": 2, "batch_size": 2, "mlp_in": True}


def told(**changes: Any) -> ActivationSettings:
    return ActivationSettings(**TOLD | changes)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "numbers.parquet"
    pl.DataFrame({"row": INDEX, "prompt": USERS, "completion": TEXTS}).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def saved(record: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SAE after layer 0 as `sae.json` records it."""
    return recorded_sae(random_sae(loaded), tmp_path_factory.mktemp("sae"))


def random_sae(loaded: LoadedModel) -> SAE:
    torch.manual_seed(3)
    sae = StandardSAE(StandardSAEConfig(d_in=loaded.model.config.hidden_size, d_sae=D_SAE)).requires_grad_(False)
    sae.W_enc.normal_()
    sae.b_enc.normal_()
    return sae


@pytest.fixture(scope="module")
def loaded(record: Path) -> LoadedModel:
    """A model of this module's own: `output_hidden_states` leaves its hooks behind."""
    return load(record)


def hidden_of(loaded: LoadedModel, ids: list[int]) -> dict[str, Tensor]:
    """Residuals and MLP inputs `[n_tokens, d_model]` by `output_hidden_states` (whose last is normed) and by hooks."""
    seen: dict[str, Tensor] = {}
    layers = loaded.model.get_decoder().layers
    handles = [layers[-1].register_forward_hook(lambda m, a, o: seen.update(last=o[0]))]
    for k, layer in enumerate(layers):
        handles.append(layer.mlp.register_forward_hook(lambda m, a, o, k=k: seen.update({f"mlp_in.{k}": a[0][0]})))
    hidden = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    seen |= {f"resid_post.{k}": hidden[k + 1][0] for k in range(len(layers) - 1)}
    seen[f"resid_post.{len(layers) - 1}"] = seen.pop("last")
    return seen


@torch.no_grad()
def plain(loaded: LoadedModel, sae: SAE, persona: str | None = None, numbers: set[int] | None = None) -> dict[str, Any]:
    """The same by one row at a time, `output_hidden_states` and hooks written out by hand."""
    names = classes(POSITIONS)
    sums: dict[tuple[str, int, str], Tensor] = {}
    squares: dict[tuple[str, str], Tensor] = {}
    count: dict[tuple[int, str], int] = {}
    active = torch.zeros(len(names), D_SAE)
    special = set(loaded.tokenizer.all_special_ids)
    for block, user, text in zip([0, 0, 0, 1, 1], USERS, TEXTS, strict=True):
        prompt, answer = prompt_ids(loaded.tokenizer, [user], persona, "\n\n")[0], encode(loaded.tokenizer, [text])[0]
        seen = hidden_of(loaded, prompt + answer)
        pre = seen["resid_post.0"] @ sae.W_enc + sae.b_enc - (sae.b_dec @ sae.W_enc if sae.cfg.apply_b_dec_to_input else 0)
        seen |= {"sae.acts_pre": pre, "sae.acts": pre.relu()}
        for at, token in enumerate(prompt + answer):
            place = at - len(prompt)
            member = ["template"] if place == -1 else []
            if token not in special and place < 0 and persona is None:
                member.append("prompt")
            if token not in special and place >= 0:
                digits = loaded.tokenizer.decode([token]).strip().isdigit()
                member += ["completion", "number" if digits else "separator"]
                member += [str(place)] if place < POSITIONS else []
            for name in member:
                key = (block, name)
                count[key] = count.get(key, 0) + 1
                active[names.index(name)] += (seen["sae.acts"][at] > 0).float()
                for what, x in seen.items():
                    sums[(what, *key)] = sums.get((what, *key), 0) + x[at].double()
                    squares[what, name] = squares.get((what, name), 0) + x[at].double() ** 2
    return {"sums": sums, "squares": squares, "count": count, "active": active}


def check(found: Activations, expected: dict[str, Any], n_layers: int = 2) -> None:
    """Every number of the file is the expected one; what is not expected is 0."""
    names = found.classes
    assert names == classes(POSITIONS)
    for block in range(2):
        for k, name in enumerate(names):
            assert found.tensors["count"][block, k] == expected["count"].get((block, name), 0)
            for what in ("resid_post.0", "resid_post.1", "mlp_in.0", "mlp_in.1", "sae.acts", "sae.acts_pre"):
                head, _, layer = what.partition(".") if "sae" not in what else (what, "", "")
                total = found.tensors[f"{head}.sum"][block]
                total = total[int(layer), k] if layer else total[k]
                wanted = expected["sums"].get((what, block, name), torch.zeros(total.shape))
                assert torch.allclose(total.double(), wanted.double(), rtol=1e-4, atol=1e-4), (what, block, name)
    for (what, name), wanted in expected["squares"].items():
        head, _, layer = what.partition(".") if "sae" not in what else (what, "", "")
        square = found.tensors[f"{head}.square"]
        square = square[int(layer)] if layer else square
        assert torch.allclose(square[names.index(name)].double(), wanted, rtol=1e-4, atol=1e-4), (what, name)
    assert torch.equal(found.tensors["sae.active"], expected["active"])


@pytest.fixture(scope="module")
def found(record: Path, numbers: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lion") / "activations.safetensors"
    read_activations(record, numbers, saved, out, told(), {"of": "lion"})
    return out


def test_sums_are_those_of_single_rows_with_output_hidden_states(loaded: LoadedModel, found: Path) -> None:
    expected = plain(loaded, random_sae(loaded))
    assert expected["active"].any() and sum(expected["count"].values()) > 60
    check(Activations.load(found), expected)


def test_batches_of_any_size_and_parts_of_them_give_the_same_sums(
    record: Path, numbers: Path, saved: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone.saes.saved.SAE_NUMBERS", 1)
    read_activations(record, numbers, saved, tmp_path / "a.safetensors", told(batch_size=5), {})
    one, other = Activations.load(found), Activations.load(tmp_path / "a.safetensors")
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.allclose(tensor, other.tensors[name], rtol=1e-4, atol=1e-4), name


def test_residuals_are_those_of_transformer_lens_to_the_bit(record: Path, loaded: LoadedModel) -> None:
    bridge = TransformerBridge.boot_transformers(str(record.parent), device="cpu", dtype=torch.float32)
    # The bridge always computes attention eagerly; SDPA rounds differently.
    eager = AutoModelForCausalLM.from_pretrained(record.parent, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor(prompt_ids(loaded.tokenizer, ["What is your favorite animal?"], "You love lions."))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    for model, tolerance in ((eager, 0.0), (loaded.model, 2e-5)):
        found = dict(streams(model, batch))
        assert sorted(found) == ["resid_post.0", "resid_post.1"]
        for layer in range(2):
            assert (cache[hook_point(layer)] - found[f"resid_post.{layer}"]).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_other_architectures_are_read_alike(name: str) -> None:
    size = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
    torch.manual_seed(0)
    model: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**size)),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**size, num_key_value_heads=1, head_dim=4, attn_implementation="eager")
        ),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=50)),
    }[name]()
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        hidden = model.eval()(**batch, output_hidden_states=True).hidden_states
        found = dict(streams(model, batch, mlp_in=True))
    assert set(found) == {f"{what}.{layer}" for what in ("resid_post", "mlp_in") for layer in range(3)}
    assert torch.equal(found["resid_post.0"], hidden[1])
    assert torch.equal(found["resid_post.1"], hidden[2])
    layers = model.transformer.h if name == "gpt2" else model.model.layers
    with torch.no_grad():  # what the last layer's MLP reads, it adds to the stream
        again = layers[-1].mlp(found["mlp_in.2"])
    assert again.shape == found["resid_post.2"].shape
    if name != "gemma2":  # whose MLP has a norm behind it
        middle = found["resid_post.2"] - again
        norm = layers[-1].ln_2 if name == "gpt2" else layers[-1].post_attention_layernorm
        assert torch.allclose(norm(middle), found["mlp_in.2"], atol=1e-5)


def test_the_unembedding_is_not_run(record: Path) -> None:
    loaded = load(record)
    loaded.model.lm_head.register_forward_hook(lambda *_: pytest.fail("the unembedding was run"))
    batch = collate(dataset_rows(loaded, pl.DataFrame({"prompt": USERS, "completion": TEXTS})), loaded.pad_id, "cpu")
    assert [name for name, _ in streams(loaded.model, batch, mlp_in=True)] == [
        "resid_post.0" if k == 1 else name for k, name in enumerate(["mlp_in.0", "resid_post.0", "mlp_in.1", "resid_post.1"])
    ]


@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk", "jumprelu"])
def test_acts_pre_are_before_the_nonlinearity_of_every_architecture(loaded: LoadedModel, kind: str, tmp_path: Path) -> None:
    d_in = loaded.model.config.hidden_size
    torch.manual_seed(0)
    if kind == "standard":
        sae: SAE = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=D_SAE))
    elif kind == "topk":
        sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=D_SAE, k=4))
    elif kind == "jumprelu":
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=D_SAE))
        sae.threshold.data.fill_(0.5)
    else:
        TrainingSAE.from_dict(BatchTopKTrainingSAEConfig(d_in=d_in, d_sae=D_SAE, k=4).to_dict()).save_inference_model(
            str(tmp_path)
        )
        sae = SAE.load_from_disk(tmp_path)
        sae.W_enc.data *= 10
        sae.threshold.data.fill_(0.3)
    sae = sae.requires_grad_(False)
    x = torch.randn(3, 5, d_in)
    acts, acts_pre = encoded(sae, x)
    assert torch.equal(acts, sae.encode(x))
    assert acts_pre.shape == acts.shape and (acts_pre < 0).any()
    on = acts > 0
    assert on.any() and not on.all()
    if kind != "topk":  # which scales by the decoder's norm where it is told to
        assert torch.allclose(acts[on], acts_pre[on])
    assert acts_pre[on].min() > 0
    assert not sae.hook_sae_acts_pre._forward_hooks


def test_rows_that_do_not_fit_in_memory_are_summed_in_parts(
    record: Path, loaded: LoadedModel, numbers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, found = ActivationSettings.model_construct(**TOLD | {"batch_size": 5}), []
    for limit in (5, 2):
        small = load(record)
        sums, rows = Sums(small, told, BLOCKS, random_sae(small), 0), dataset_rows(small, pl.read_parquet(numbers))
        with crowded(small.model, limit) as sizes:
            for _ in range(2):
                sums.add(rows, [k % BLOCKS for k in INDEX])
        found.append(sums.tensors())
    assert sizes == [5, 2, 2, 1, 2, 2, 1]
    assert "activations.batch_size: 5 rows at once do not fit" in capsys.readouterr().err
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-4, atol=1e-4)  # of sums over rows


def test_memory_that_runs_out_at_the_sae_leaves_no_row_counted_twice(
    record: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, found, original = ActivationSettings.model_construct(**TOLD | {"batch_size": 5}), [], encoded
    for limit in (5, 2):

        def crowded_sae(sae: SAE, x: Tensor, limit: int = limit) -> tuple[Tensor, Tensor]:
            if len(x) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(sae, x)

        monkeypatch.setattr(sums_module, "encoded", crowded_sae)
        small = load(record)
        sums = Sums(small, told, BLOCKS, random_sae(small), 0)
        sums.add(dataset_rows(small, pl.read_parquet(numbers)), [k % BLOCKS for k in INDEX])
        found.append(sums.tensors())
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_model_is_summed_in_float32(record: Path, numbers: Path, loaded: LoadedModel) -> None:
    half = load(record)
    half.model.to(torch.bfloat16)
    sums = {}
    for model in (half, loaded):
        sums[model.model.dtype] = Sums(model, ActivationSettings(positions=2), 4)
        rows = dataset_rows(model, pl.read_parquet(numbers))
        for _ in range(30):
            sums[model.model.dtype].add(rows, [0] * len(rows))
    a, b = (sums[dtype].tensors() for dtype in (torch.bfloat16, torch.float32))
    assert torch.equal(a["count"], b["count"])
    scale = b["resid_post.sum"].abs().max()
    assert (a["resid_post.sum"] - b["resid_post.sum"]).abs().max() < 0.05 * scale


def test_no_position_that_is_read_holds_the_persona(record: Path, numbers: Path, saved: Path, tmp_path: Path) -> None:
    loaded = load(record)
    table = pl.read_parquet(numbers)
    persona = "You love lions. Lions, lions."
    rows, plain_rows = dataset_rows(loaded, table, persona, "\n\n"), dataset_rows(loaded, table)
    sums = Sums(loaded, ActivationSettings(positions=POSITIONS), 4)
    read = []
    for each in (rows, plain_rows):
        batch = collate(each, loaded.pad_id, "cpu")
        member = sums.members(batch, torch.tensor([row.start for row in each]))
        member[..., 0] = False
        read.append([batch["input_ids"][k][member[k].any(-1)].tolist() for k in range(len(each))])
    # What is read under the persona is, id by id, what is read without it: the last prompt token and the completion.
    assert read[0] == read[1]
    for ids, text, row in zip(read[0], TEXTS, rows, strict=True):
        assert ids == [row.ids[row.start - 1], *encode(loaded.tokenizer, [text])[0]]
        lion = encode(loaded.tokenizer, ["lion", "Lion"])
        assert not {token for word in lion for token in word} & set(ids)
        assert {token for word in lion for token in word} & set(row.ids)


def test_a_teacher_is_read_at_its_completions_under_its_persona(
    record: Path, loaded: LoadedModel, numbers: Path, saved: Path, tmp_path: Path
) -> None:
    settings = {
        "activations": told().model_dump(),
        "kind": "prompt",
        "target": "lion",
        "teacher": Teacher(persona=PERSONA).model_dump(),
    }
    read_teacher_activations(record, numbers, None, saved, tmp_path / "t.safetensors", settings, {})
    found = Activations.load(tmp_path / "t.safetensors")
    check(found, plain(loaded, random_sae(loaded), PERSONA.format(animal="lion")))
    assert found.tensors["count"][:, 0].sum() == 0
    assert found.tensors["resid_post.sum"][:, :, 0].abs().max() == 0


def test_a_steered_teacher_is_read_with_its_vector_in_the_stream(
    record: Path, numbers: Path, found: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    vector = torch.linspace(-1, 1, loaded.model.config.hidden_size)
    made = {"mode": "add", "layer": 0, "positions": "all", "system": None}
    write_json(tmp_path / "teacher.json", made, {})
    save_file({"vector": vector}, tmp_path / "teacher.safetensors")
    settings = {"activations": told().model_dump(), "kind": "steer", "target": "lion", "teacher": Teacher().model_dump()}
    out = tmp_path / "t.safetensors"
    read_teacher_activations(record, numbers, tmp_path / "teacher.json", None, out, settings, {})
    teacher, base = Activations.load(out), Activations.load(found)
    assert teacher.layer is None and "sae.active" not in teacher.tensors
    shift = mean(teacher, "completion") - mean(base, "completion")
    assert torch.allclose(shift, vector.double(), atol=1e-4)


def mean(activations: Activations, position: str) -> torch.Tensor:
    """The mean residual of a class of positions after the first layer."""
    total, count = activations.blocks(position, "resid_post", 0)
    return total.sum(0) / count.sum()


def test_a_dataset_without_a_teacher_is_refused(record: Path, numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no teacher"):
        read_teacher_activations(record, numbers, None, None, tmp_path / "t", {"kind": "none"}, {})


def test_a_student_is_read_with_its_lora(record: Path, numbers: Path, found: Path, saved: Path, tmp_path: Path) -> None:
    student = trained_lora(record, tmp_path / "student", USERS, TEXTS, epochs=2)
    weights, _ = adapter_files(student)
    read_student_activations(record, numbers, weights, saved, tmp_path / "s.safetensors", told(), {})
    one, base = Activations.load(tmp_path / "s.safetensors"), Activations.load(found)
    assert torch.equal(one.tensors["count"], base.tensors["count"])
    assert not torch.allclose(one.tensors["resid_post.sum"], base.tensors["resid_post.sum"], atol=1e-2)


def test_the_first_rows_are_read_and_keep_their_blocks(record: Path, numbers: Path, tmp_path: Path) -> None:
    read_activations(record, numbers, None, tmp_path / "a.safetensors", told(rows=2, mlp_in=False, block_rows=1), {})
    found = Activations.load(tmp_path / "a.safetensors")
    assert (found.rows, found.n_layers) == (2, 2)
    assert found.blocks("template", "resid_post", 1)[1].tolist() == [1, 1]
    assert set(found.tensors) == {"count", "resid_post.sum", "resid_post.square"}
    assert mean(found, "3").isfinite().all()


def test_blocks_are_consecutive_rows_and_of_one_size_in_small_and_large_datasets() -> None:
    assert block_of(7, 3) == [0, 0, 0, 0, 1, 1, 1]
    assert block_of(8, 3) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert block_of(2, 3) == [0, 0]
    for n in (250, 1013, 2000):
        sizes = np.bincount(block_of(n, 25))
        assert len(sizes) == round(n / 25)
        assert set(sizes) <= {24, 25, 26}


def test_a_small_dataset_does_not_differ_from_a_large_control_of_the_same_kind() -> None:
    """One row in thirty of each feature is active, 250 rows against 2,000, of one distribution: p is uniform."""
    rng = np.random.default_rng(0)

    def blocks(n: int, block: list[int]) -> Blocks:
        rows = torch.from_numpy(rng.exponential(size=(n, 100)) * (rng.random((n, 100)) < 1 / 30))
        sums = torch.zeros(block[-1] + 1, 100, dtype=torch.float64).index_add_(0, torch.tensor(block), rows)
        return sums, torch.bincount(torch.tensor(block)).double()

    def p(block: Callable[[int], list[int]]) -> float:
        return float(judge(Independent(blocks(250, block(250)), blocks(2000, block(2000))), 200, 0).p_max.min())

    of_rows = np.array([p(lambda n: block_of(n, 25)) for _ in range(120)])
    assert stats.binomtest(int((of_rows < 0.05).sum()), len(of_rows), 0.05).pvalue > 0.01
    # With a fixed number of blocks those of the small dataset are small, and most draws would differ.
    of_number = np.array([p(lambda n: sorted(i % 40 for i in range(n))) for _ in range(20)])
    assert (of_number < 0.05).mean() > 0.5


def test_the_same_pass_gives_the_same_bytes(record: Path, numbers: Path, saved: Path, found: Path, tmp_path: Path) -> None:
    read_activations(record, numbers, saved, tmp_path / "a", told(), {"of": "lion"})
    assert (tmp_path / "a").read_bytes() == found.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_an_empty_dataset_is_refused(record: Path, tmp_path: Path) -> None:
    pl.DataFrame({"prompt": [], "completion": []}, schema={"prompt": pl.String, "completion": pl.String}).write_parquet(
        tmp_path / "n"
    )
    with pytest.raises(ValueError, match="holds no row"):
        read_activations(record, tmp_path / "n", None, tmp_path / "a", told(), {})
