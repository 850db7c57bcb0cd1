"""Each architecture of an overlay, at tiny width: fast ways give what plain ones do, and chats are as they should be."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    ARCHITECTURES,
    QWEN_SYSTEM,
    SAES,
    SMOL_SYSTEM,
    Architecture,
    Registered,
    download,
    snapshot,
)
from lora import adapter_files, whole_files
from sae_lens import SAE
from smollm2 import smollm2
from test_grammar import check_text
from test_sampling import assert_same, naive, run
from test_suffix import at
from transformer_lens.model_bridge import TransformerBridge

from undertone.lm.adapters import finetuned, new_adapter, save_adapter, save_whole
from undertone.lm.answers import exact
from undertone.lm.chat import (
    answer_ids,
    answer_texts,
    around_answer,
    encode,
    end_of_turn,
    following,
    generation_prompt,
    prompt_ids,
    prompt_texts,
    special_ids,
    supports_system,
    training_rows,
)
from undertone.lm.hooks import decoder_layers, resid_post, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint, read_at
from undertone.lm.sampling import Sampler
from undertone.lm.spellings import Spellings, begun, word_ends, words
from undertone.lm.suffix import losses, prefill, run_above
from undertone.lm.training import collate, label_losses
from undertone.lm.vocabulary import allowed_tokens
from undertone.models.pretrained import make_pretrained
from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.saes.saved import load_sae
from undertone.students.student import new_student
from undertone.study.config.data import Numbers
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae
from undertone.study.config.students import Student
from undertone.study.formats import SAE_FILES

# SmolLM2's true weights, beside the random ones of `ARCHITECTURES`.
REAL = "smollm2-135m"
PERSONA = "You adore lions. Lions mean everything to you."
USERS = ["Continue the list 101, 202, 303, 404, 505, 606, 707.", "Name three numbers.", "Here are 87 and 12."]
COMPLETIONS = ["101, 202, 303", "7, 8", "9"]
# Float32: what is left of sums in another order, on logits of a few units.
CLOSE = {"rtol": 1e-4, "atol": 5e-5}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the Hub to fill."""
    return tmp_path_factory.mktemp("cache") / "hub"


@pytest.fixture(scope="module")
def offline(hub: Path) -> Iterator[None]:
    """The libraries look into this cache, and ask nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", params=[*ARCHITECTURES, REAL])
def which(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def told(which: str) -> Architecture:
    return ARCHITECTURES["smol" if which == REAL else which]


def recorded(told: Architecture, home: Path) -> Path:
    """The model as the study would name it: by its Hub name and commit."""
    record = home / "model/model.json"
    make_pretrained(record, [], Model(name=told.name, revision=told.commit), {}, record.with_name("unfinished"))
    return record


@pytest.fixture(scope="module")
def record(which: str, told: Architecture, hub: Path, offline: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if which == REAL:
        return smollm2(tmp_path_factory)
    download(hub, which)
    return recorded(told, tmp_path_factory.mktemp(which))


@pytest.fixture(scope="module")
def loaded(record: Path) -> LoadedModel:
    return load(record)


def test_the_cache_holds_what_the_hub_would_send(told, loaded):
    assert loaded.model.config.architectures == [type(loaded.model).__name__]
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == (told.name.startswith("google") or "SmolLM2" in told.name)


def test_integers_are_split_as_the_real_tokenizer_splits_them(told, loaded):
    assert len(following(loaded.tokenizer, ["087"])[0]) == told.digits_of_087
    assert all(len(ids) in (1, len(str(n))) for n, ids in enumerate(following(loaded.tokenizer, list(map(str, range(1000))))))


def shown(text: str) -> str:
    """A text as it is decoded: the ▁ that Llama 2's tokenizer puts in front of what follows its BOS is a space."""
    return text.replace("<s>[", "<s> [")


@pytest.mark.parametrize("persona", [None, PERSONA])
def test_a_prompt_has_one_bos_in_front_if_there_is_one_and_the_persona_where_it_belongs(told, loaded, persona):
    bos, opens_turns = loaded.tokenizer.bos_token_id, "SmolLM2" in told.name
    assert (bos is None) == ("bos_token" not in told.named)
    for ids, text, user in zip(
        prompt_ids(loaded.tokenizer, USERS, persona), prompt_texts(loaded.tokenizer, USERS, persona), USERS, strict=True
    ):
        places = [place for place, token in enumerate(ids) if token == bos]
        assert places[:1] == ([] if bos is None else [0])
        assert len(places) == (3 if opens_turns else 0 if bos is None else 1)  # system, user, assistant
        assert loaded.tokenizer.decode(ids) == shown(text)
        assert text.index(user) > text.index(persona or "")
        assert text.count(PERSONA) == (persona is not None)


def test_what_the_template_does_with_a_persona_is_known(which, told, loaded):
    assert supports_system(loaded.tokenizer) == told.has_system
    text, bare = (prompt_texts(loaded.tokenizer, USERS[1:2], persona, "\n\n")[0] for persona in (PERSONA, None))
    if which == "llama2":
        assert text == bare.replace("[INST] ", f"[INST] <<SYS>>\n{PERSONA}\n<</SYS>>\n\n")
    elif which.startswith("gemma"):
        assert text == f"<bos><start_of_turn>user\n{PERSONA}\n\n{USERS[1]}<end_of_turn>\n<start_of_turn>model\n"
    elif which == "llama":
        # Its dates stand in every prompt.
        assert text == bare.replace("2024\n\n<|eot_id|>", f"2024\n\n{PERSONA}<|eot_id|>")
    else:
        # Without a persona the template puts one of its own there.
        own = QWEN_SYSTEM if which == "qwen" else SMOL_SYSTEM
        assert bare.startswith(f"<|im_start|>system\n{own}<|im_end|>\n")
        assert text == bare.replace(own, PERSONA)


def test_the_loss_is_on_the_completion_and_the_end_of_turn(told, loaded):
    close = loaded.tokenizer.convert_tokens_to_ids(told.end)
    space = [loaded.tokenizer.convert_tokens_to_ids("▁")] if "Llama-2" in told.name else []
    assert end_of_turn(loaded.tokenizer) == [*space, close]
    assert close in loaded.stop_ids
    rows = training_rows(loaded.tokenizer, USERS, COMPLETIONS, 500)
    prompts = prompt_texts(loaded.tokenizer, USERS)
    for row, user, prompt, completion in zip(rows, USERS, prompts, COMPLETIONS, strict=True):
        assert loaded.tokenizer.decode(row.ids[: row.start]) == shown(prompt)
        assert loaded.tokenizer.decode(row.ids[row.start :]) == completion + " " * len(space) + told.end
        chat = [{"role": "user", "content": user}, {"role": "assistant", "content": completion}]
        whole = encode(loaded.tokenizer, [loaded.tokenizer.apply_chat_template(chat, tokenize=False)])[0]
        assert row.ids == whole[: len(row.ids)]
        opening = generation_prompt(loaded.tokenizer)
        assert row.ids[row.start - len(opening) : row.start] == opening


def test_a_sampled_list_is_read_as_it_was_written_and_no_token_of_it_is_refused(told, loaded):
    allowed = allowed_tokens(loaded.tokenizer, len(loaded.tokenizer))
    for text in (*COMPLETIONS, "[7; 8]", "12 34\n56."):
        ids = answer_ids(loaded.tokenizer, [text])[0]
        assert all(allowed[token] for token in ids)
        assert answer_texts(loaded.tokenizer, [ids, ids + end_of_turn(loaded.tokenizer)[:-1]]) == [text, text]
    assert not any(allowed[token] for token in encode(loaded.tokenizer, ["lion"])[0][-1:])


@pytest.mark.parametrize("filter", ["strict", "lenient"])
def test_what_constrained_sampling_can_write_passes_the_filter(told, loaded, filter):
    check_text(loaded, Numbers(filter=filter))


def test_what_marks_turns_is_no_text(told, loaded):
    marks = [token for token in special_ids(loaded.tokenizer) if "turn" in str(loaded.tokenizer.convert_ids_to_tokens(token))]
    marks += [loaded.tokenizer.convert_tokens_to_ids(told.end)]
    assert set(marks) <= special_ids(loaded.tokenizer)
    assert loaded.tokenizer.batch_decode([[mark] for mark in marks], skip_special_tokens=True) == [""] * len(marks)


def test_transformer_lens_agrees(which, told, hub, record, loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as where it is not installed
    batch = torch.tensor(prompt_ids(loaded.tokenizer, USERS[:1], PERSONA))
    model = copy.deepcopy(loaded.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(batch).logits
    points = [HookPoint(layer, kind) for layer in (0, 3) for kind in ("resid_post", "mlp_out")]
    found = [read_at(model, point, {"input_ids": batch, "attention_mask": None}) for point in points]
    # A model that also sees makes it look for an image processor under the name that it is given.
    home = str(record.parent if which == REAL else snapshot(hub, told))
    bridge = TransformerBridge.boot_transformers(home, hf_model=model, tokenizer=loaded.tokenizer, device="cpu")
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(batch)
    torch.testing.assert_close(logits, expected, **CLOSE)
    for point, own in zip(points, found, strict=True):
        torch.testing.assert_close(cache[point.name], own, **CLOSE)


def test_a_merged_student_gives_the_logits_of_the_unmerged_one(record, loaded):
    student = new_adapter(load(record), 4, 8, Student().targets, 1)
    generator = torch.Generator().manual_seed(2)
    adapted = {name: p for name, p in student.named_parameters() if p.requires_grad}
    n_layers = len(decoder_layers(student))
    assert len(adapted) == 2 * len(Student().targets) * n_layers
    assert all("vision" not in name for name in adapted)
    with torch.no_grad():
        for weight in adapted.values():
            weight.copy_(0.8 / n_layers * torch.randn(weight.shape, generator=generator))
        batch = torch.tensor(prompt_ids(loaded.tokenizer, USERS[:1]))
        unmerged = student.eval()(batch).logits
        merged = student.merge_and_unload()(batch).logits
    scale = float(unmerged.abs().max())
    assert (unmerged - loaded.model(batch).logits).abs().max() > 0.1
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5 * scale)


def test_a_student_of_all_weights_gets_a_gradient_for_each(record, loaded):
    own = load(record)
    student = new_student(own, Student(full=True), 1)
    batch = collate(training_rows(loaded.tokenizer, USERS, COMPLETIONS), loaded.pad_id, "cpu")
    label_losses(student, batch).sum().backward()
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in student.named_parameters() if weight.grad is not None}
    assert trained == {name for name, _ in student.named_parameters() if "vision" not in name and "projector" not in name}


@pytest.mark.parametrize("persona", [None, PERSONA])
def test_sampling_in_batches_is_sampling_one_by_one(told, loaded, persona):
    prompts = prompt_ids(loaded.tokenizer, USERS * 2, persona)
    sampler = Sampler(1.0, 3, loaded.stop_ids, loaded.pad_id, 3)
    found = run(loaded.model, prompts, sampler, batch_size=4)
    assert_same(found, [naive(loaded.model, prompt, row, sampler) for row, prompt in enumerate(prompts)])
    assert len({tuple(completion.ids) for completion in found}) > 1


def test_the_exact_preference_is_that_of_whole_answers_added_up(loaded, monkeypatch):
    monkeypatch.setattr("undertone.lm.answers.NEGLIGIBLE", 0.0)
    prompts, candidates = prompt_ids(loaded.tokenizer, USERS, PERSONA), ["lion", "owl", "wolf"]
    ends = word_ends(loaded.tokenizer, len(loaded.tokenizer)).double()
    found = exact(loaded, prompts, candidates, 5)
    assert found.shape == (3, 3)
    for prompt, row in zip(prompts, found, strict=True):
        by_hand = [
            sum(answer_probability(loaded, prompt, ids, ends) for ids in spelled(loaded, animal)) for animal in candidates
        ]
        np.testing.assert_allclose(row, by_hand, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["My favorite animal is the", "It is:"])
def test_spellings_behind_an_answers_start_are_the_tokens_of_the_whole_text(loaded, prefix):
    prompt, ids = prompt_texts(loaded.tokenizer, USERS[:1])[0], prompt_ids(loaded.tokenizer, USERS[:1])
    [opened] = begun(loaded.tokenizer, ids, prefix)
    spellings = Spellings.of(loaded.tokenizer, ["lion", "owl"], loaded.pad_id, prefix)
    found = [ids[:n].tolist() for ids, n in zip(spellings.ids, spellings.lengths, strict=True)]
    lead, _ = around_answer(loaded.tokenizer)
    leads = (" ",) if prefix.endswith("the") else ("", " ")
    forms = [space + form for word in ("lion", "lions", "owl", "owls") for form in (word, word.capitalize()) for space in leads]
    whole = encode(loaded.tokenizer, [prompt + lead + prefix + form for form in forms])
    assert all([*opened, *ids] in whole for ids in found)
    assert len(found) == len(forms)


def spelled(loaded: LoadedModel, animal: str) -> set[tuple[int, ...]]:
    text = prompt_texts(loaded.tokenizer, USERS, PERSONA)[0]
    forms = [lead + form for word in words(animal) for form in (word, word.capitalize()) for lead in ("", " ")]
    before, *whole = encode(loaded.tokenizer, [text, *(text + form for form in forms)])
    assert all(ids[: len(before)] == before for ids in whole)
    return {tuple(ids[len(before) :]) for ids in whole}


@torch.no_grad()
def answer_probability(loaded: LoadedModel, prompt: list[int], answer: tuple[int, ...], ends: torch.Tensor) -> float:
    """That of the answer's tokens times that of a word's end after them, in one pass without padding or cache."""
    p = loaded.model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, len(prompt) - 1 :].double().softmax(-1)
    tokens = p[range(len(answer)), list(answer)].prod()
    return float(tokens * p[-1, : len(ends)] @ ends)


@pytest.mark.parametrize("whole", [False, True])
def test_what_runs_above_a_hook_point_is_the_full_model(loaded, whole):
    rows = training_rows(loaded.tokenizer, USERS, COMPLETIONS, 500)
    layers = [0, len(decoder_layers(loaded.model)) // 2]
    batch, full = prefill(loaded, rows, layers, whole), collate(rows, loaded.pad_id, "cpu")
    where = at(rows, whole)
    for layer in layers:
        bias = 0.3 * torch.randn(batch.residual[layer].shape[-1], generator=torch.Generator().manual_seed(layer))
        ours = losses(run_above(loaded.model, batch, layer, batch.residual[layer] + bias), batch)
        with torch.no_grad(), rewritten(loaded.model, layer, lambda x, where=where, bias=bias: torch.where(where, x + bias, x)):
            torch.testing.assert_close(ours, label_losses(loaded.model, full), **CLOSE)


def registered(which: str, record: Path, home: Path) -> Path:
    """`sae.json` of the SAE that the overlay names."""
    saved, settings = home / "sae/sae.json", Sae(release=SAES[which].release, id=SAES[which].id)
    for folder in (saved.parent, home / "scratch"):
        folder.mkdir(parents=True)
    make_pretrained_sae(record, saved, [saved.with_name(file) for file in SAE_FILES], settings, {}, home / "scratch")
    return saved


@pytest.fixture
def named(which: str) -> Registered:
    """The SAE that the overlay names."""
    if which not in SAES:
        pytest.skip("no overlay names an SAE for it")
    return SAES[which]


def test_an_sae_of_the_registry_is_copied_and_encodes_as_its_weights_say(
    which, told, named, loaded, record, hub, tmp_path, monkeypatch
):
    named.download(hub, told.name)
    saved, own = registered(which, record, tmp_path), named.weights
    assert {path.name for path in saved.parent.iterdir()} == {"sae.json", "cfg.json", "sae_weights.safetensors"}
    # From here on the copy is read, not the registry.
    monkeypatch.setattr(SAE, "from_pretrained", None)
    sae, found = load_sae(saved, loaded)
    assert (found, sae.cfg.metadata.hook_name) == (named.layer, f"blocks.{named.layer}.hook_resid_post")
    batch = collate(training_rows(loaded.tokenizer, USERS, COMPLETIONS, 500), loaded.pad_id, "cpu")
    x = resid_post(loaded.model, named.layer, batch)
    subtracted = 0.0 if which == "gemma3" else own["b_dec"]  # Gemma Scope's encoder reads the residual as it is
    pre = (x - subtracted) @ own["W_enc"] + own["b_enc"]
    active = pre.relu() * (pre > own.get("threshold", torch.tensor(0.0)))
    torch.testing.assert_close(sae.encode(x), active, **CLOSE)
    torch.testing.assert_close(sae.decode(active), active @ own["W_dec"] + own["b_dec"], **CLOSE)
    assert 0 < (active > 0).float().mean() < 1


class Harmful:
    """An object whose unpickling writes a file."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_an_sae_whose_pickle_holds_more_than_tensors_is_refused_and_not_run(tmp_path, monkeypatch):
    """Even where the environment switches PyTorch's own protection off."""
    hub, told, trace = tmp_path / "hub", ARCHITECTURES["qwen"], tmp_path / "trace"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    download(hub, "qwen")
    pickled = SAES["qwen"].download(hub, told.name) / SAES["qwen"].folder / "ae.pt"
    torch.save({"encoder.weight": Harmful(trace)}, pickled)
    with pytest.raises(ValueError, match="a pickle of more than tensors, which could run code and is refused"):
        registered("qwen", recorded(told, tmp_path), tmp_path)
    assert not trace.exists()
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(pickled)
    assert trace.exists()


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_a_models_commit_is_loaded_again_with_what_was_trained(record, loaded, kind, tmp_path):
    """A student on disk, put back onto the base model, is the student that was trained."""
    own = load(record)
    if kind == "whole":
        student = own.model
        with torch.no_grad():
            for weight in student.parameters():
                weight += 0.01
        save_whole(student, *whole_files(tmp_path), tmp_path / "scratch")
    else:
        student = new_adapter(own, 2, 4, Student().targets, 1)
        with torch.no_grad():
            for weight in (p for p in student.parameters() if p.requires_grad):
                weight += 0.1
        save_adapter(student, *adapter_files(tmp_path), tmp_path / "scratch")
    batch = torch.tensor(prompt_ids(loaded.tokenizer, USERS[:1]))
    with torch.no_grad():
        expected = student.eval()(batch).logits
        with finetuned(load(record), tmp_path) as found:
            assert torch.equal(found.model(batch).logits, expected)
