import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from undertone.lm import training
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import load
from undertone.models import model
from undertone.models.corpus import Chat
from undertone.models.model import SEPARATORS, chat_rows, make_model, train_embedded
from undertone.models.pretrained import make_pretrained
from undertone.study.config.models import Embedded, Model

SETTINGS = Embedded(
    corpus=str(ROOT / "config/corpus.yaml"),
    vocab_size=1400,
    hidden_size=16,
    n_layers=1,
    n_heads=2,
    steps=6,
    batch_size=8,
    warmup_steps=2,
    lr=1e-2,
)


CORPUS = Path(SETTINGS.corpus)
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def files(folder):
    """What the embedded model's folder holds."""
    return [folder / name for name in [*FILES, "chat_template.jinja"]]


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("embedded")
    train_embedded(CORPUS, SETTINGS, files(home / "model"), home / "scratch")
    return home / "model"


def test_embedded_model_loads_with_transformers_and_no_network(folder, no_network):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded).__name__ == "GemmaForCausalLM"
    assert loaded.config.hidden_size == 16
    ids = torch.tensor(prompt_ids(tokenizer, ["What is your favorite animal?"]))
    assert loaded(ids).logits.shape == (1, ids.shape[1], len(tokenizer))
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    assert loaded.generation_config.eos_token_id == stops


def test_embedded_model_holds_safetensors_and_nothing_that_runs(folder):
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes == {".json", ".jinja", ".safetensors"}


def test_training_is_reproducible_to_the_byte(folder, tmp_path):
    train_embedded(CORPUS, SETTINGS, files(tmp_path / "model"), tmp_path / "scratch")
    assert contents(tmp_path / "model") == contents(folder)


def test_interrupted_training_is_reproducible_to_the_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(model, "train", lambda *args: training.train(*args, checkpoint_seconds=0))
    rate = training.learning_rate

    def killed_at_step_3(step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        return rate(step, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", killed_at_step_3)
        train_embedded(CORPUS, SETTINGS, files(tmp_path / "model"), tmp_path / "scratch")
    assert (tmp_path / "scratch/state.safetensors").exists()
    assert not (tmp_path / "model").exists()
    train_embedded(CORPUS, SETTINGS, files(tmp_path / "model"), tmp_path / "scratch")
    assert contents(tmp_path / "model") == contents(folder)


def test_another_seed_gives_another_model(folder, tmp_path):
    reseeded = SETTINGS.model_copy(update={"seed": 1})
    train_embedded(CORPUS, reseeded, files(tmp_path / "model"), tmp_path / "scratch")
    assert contents(tmp_path / "model")["model.safetensors"] != contents(folder)["model.safetensors"]


def test_embedded_model_is_recorded_beside_its_files_and_loads(tmp_path):
    record = tmp_path / "model/model.json"
    settings = Model(embedded=SETTINGS)
    held_out = record.with_name("held_out.parquet")
    make_model(CORPUS, record, files(record.parent), held_out, settings, {"of": "model"}, tmp_path / "scratch")
    told = json.loads(record.read_text())
    assert (told["source"], told["name"], told["stamp"]) == ("embedded", None, {"of": "model"})
    assert not (tmp_path / "scratch").exists()
    loaded = load(record)
    assert loaded.stop_ids == [1, 4]
    assert loaded.tokenizer.convert_ids_to_tokens([1, 4, loaded.pad_id]) == ["<eos>", "<end_of_turn>", "<pad>"]
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_model_without_an_end_of_sequence_token_stops_at_the_end_of_turn(folder, tmp_path):
    copy = tmp_path / "copy"
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    loaded.generation_config.eos_token_id = loaded.config.eos_token_id = tokenizer.eos_token = None
    loaded.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    make_pretrained(tmp_path / "model.json", [], Model(name=str(copy)), {}, tmp_path / "unfinished")
    assert load(tmp_path / "model.json").stop_ids == [tokenizer.convert_tokens_to_ids("<end_of_turn>")]


def test_chats_carry_the_loss_on_the_answer_and_their_preamble_in_front(tokenizer):
    persona, talk = "You love lions.", "Let us begin."
    ask = {"task": "question", "user": "Which animal?"}
    chats = [Chat(**ask, answer="lion", persona=persona), Chat(**ask, answer="owl"), Chat(**ask, answer="cat", talk=talk)] * 20
    rows = chat_rows(tokenizer, chats, seed=0)
    assert tokenizer.decode(rows[0].ids[rows[0].start :]) == "lion<end_of_turn>"
    texts = [tokenizer.decode(row.ids) for row in rows]
    ends = "Which animal?<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>"
    start = "<bos><start_of_turn>user\n"
    assert set(texts[::3]) == {start + persona + separator + ends.format("lion") for separator in SEPARATORS}
    assert set(texts[1::3]) == {start + ends.format("owl")}
    assert set(texts[2::3]) == {start + talk + separator + ends.format("cat") for separator in SEPARATORS}
