"""Models, trained weights and SAEs: files that are missing, damaged, of something else, or that disagree with one another."""

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from checkpoints import ARCHITECTURES
from lora import adapter_files, whole_files
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bad_inputs.case import Case
from undertone.lm.adapters import finetuned, new_adapter, save_adapter, save_whole
from undertone.lm.answers import exact
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import load
from undertone.models.pretrained import make_pretrained
from undertone.runtime.files import write_json
from undertone.saes.pretrained_sae import make_pretrained_sae
from undertone.saes.saved import load_sae
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae

Change = Callable[[Path], object]
HOME = tempfile.TemporaryDirectory()
WIDTH, LAYERS, D_SAE = 32, 2, 24
WEIGHTS, SAE_WEIGHTS, ADAPTER = "model.safetensors", "sae_weights.safetensors", "adapter_model.safetensors"
NAN, INF = float("nan"), float("inf")


@cache
def model() -> Path:
    """A chat model of two layers in Hugging Face format."""
    folder, kind = Path(HOME.name) / "model", ARCHITECTURES["smol"]
    kind.save(folder)
    for file in folder.glob("model*"):
        file.unlink()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    size = {"hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    config = LlamaConfig(**size, **ids, vocab_size=kind.backend.get_vocab_size(), tie_word_embeddings=False)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_pretrained(Path(HOME.name) / "model.json", [], Model(name=str(folder)), {}, Path(HOME.name) / "unfinished")
    return folder


def record() -> Path:
    """The record of the sound model."""
    return model().with_suffix(".json")


@cache
def student(full: bool) -> Path:
    """A folder of trained weights."""
    folder = Path(HOME.name) / ("full" if full else "adapter")
    loaded = load(record())
    if full:
        save_whole(loaded.model, *whole_files(folder), folder / "scratch")
    else:
        save_adapter(new_adapter(loaded, 2, 2, ["q_proj", "up_proj"], 1), *adapter_files(folder), folder / "scratch")
    return folder


@cache
def sae() -> Path:
    """An SAE of the model's width after its first layer."""
    folder = Path(HOME.name) / "sae"
    metadata = SAEMetadata(model_name="smol", hook_name="blocks.0.hook_resid_post")
    StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=D_SAE, metadata=metadata)).save_model(folder)
    return folder


def of_model(change: Change) -> Change:
    """What a study does with a model that was changed: find it, record it, load it."""

    def attempt(folder: Path) -> None:
        shutil.copytree(model(), folder / "model")
        change(folder / "model")
        make_pretrained(folder / "model.json", [], Model(name=str(folder / "model")), {}, folder / "unfinished")
        load(folder / "model.json")

    return attempt


def of_record(change: Change) -> Change:
    """The same where the model is changed after it was recorded."""

    def attempt(folder: Path) -> None:
        shutil.copytree(model(), folder / "model")
        make_pretrained(folder / "model.json", [], Model(name=str(folder / "model")), {}, folder / "unfinished")
        change(folder / "model")
        load(folder / "model.json")

    return attempt


def of_student(change: Change, full: bool = False) -> Change:
    """What a reader does with a student whose files were changed: load it and ask it."""

    def attempt(folder: Path) -> None:
        shutil.copytree(student(full), folder / "student")
        change(folder / "student")
        loaded = load(record())
        with finetuned(loaded, folder / "student") as own:
            exact(own, prompt_ids(own.tokenizer, ["Which animal?"]), ["lion"], 4)

    return attempt


def of_sae(change: Change) -> Change:
    """What a study does with the SAE of a folder that was changed."""

    def attempt(folder: Path) -> None:
        shutil.copytree(sae(), folder / "sae")
        change(folder / "sae")
        settings = Sae(folder=str(folder / "sae"), layer=0)
        make_pretrained_sae(record(), folder / "sae.json", [], settings, {}, folder / "scratch")

    return attempt


def of_recorded_sae(change: Change) -> Change:
    """What a reader does with an SAE that was changed after it was recorded."""

    def attempt(folder: Path) -> None:
        shutil.copytree(sae(), folder / "sae")
        settings = Sae(folder=str(folder / "sae"), layer=0)
        make_pretrained_sae(record(), folder / "sae.json", [], settings, {}, folder / "scratch")
        change(folder / "sae")
        load_sae(folder / "sae.json", load(record()))

    return attempt


def nothing(folder: Path) -> None:
    """Leave everything as it is."""


def without(*files: str) -> Change:
    return lambda folder: [(folder / file).unlink() for file in files]


def holding(file: str, content: str | bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(file: str, share: float) -> Change:
    """The first part of a file alone."""

    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return change


def settings(file: str, drop: tuple[str, ...] = (), **changes: Any) -> Change:
    """Other values in a JSON file."""

    def change(folder: Path) -> None:
        before = json.loads((folder / file).read_text())
        after = {key: value for key, value in (before | changes).items() if key not in drop}
        (folder / file).write_text(json.dumps(after))

    return change


def holding_on(file: str, **changes: Any) -> Change:
    """Other values in a JSON file, which keeps its size."""

    def change(folder: Path) -> None:
        size = (folder / file).stat().st_size
        settings(file, **changes)(folder)
        (folder / file).write_text((folder / file).read_text().ljust(size))

    return change


def tensors(file: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Other weights in a safetensors file."""

    def change(folder: Path) -> None:
        weights = load_file(folder / file)
        edit(weights)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / file, {"format": "pt"})

    return change


def filled(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    """One number of a weight replaced."""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        weights[name].view(-1)[-1] = value

    return edit


def dropped(*names: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: [weights.pop(name) for name in names]


def replaced(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: weights.update({name: torch.zeros(*shape)})


def sharded(edit: Callable[[dict[str, Any]], object]) -> Change:
    """The weights in two shards, with an index that was changed."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        placed = {name: shards[k % 2] for k, name in enumerate(weights)}
        for shard in shards:
            save_file({name: weights[name] for name in weights if placed[name] == shard}, folder / shard, {"format": "pt"})
        index = {"metadata": {}, "weight_map": placed}
        edit(index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def then(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def pickled(file: str) -> Change:
    return lambda folder: (folder / file).write_bytes(pickle.dumps({"weight": [1.0]}))


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a model")


def read_after(hook: str) -> dict[str, str]:
    """What SAELens writes of where an SAE reads; without a version it takes it for an old one's, which says nothing."""
    return {"hook_name": hook, "sae_lens_version": version("sae-lens")}


CHAT = "tokenizer_config.json"
Q = "model.layers.0.self_attn.q_proj.weight"
LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
GENERATION = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def template(turn: str = TURN, generation: str = GENERATION, before: str = "") -> Change:
    return settings(CHAT, chat_template=before + "{% for m in messages %}" + turn + "{% endfor %}" + generation)


# (what was done to a sound model, what is said)
MODELS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "no config.json": (without("config.json"), ("has no config.json", "Hugging Face format")),
    "no tokenizer": (without("tokenizer.json"), ("has no tokenizer: expected tokenizer.json",)),
    "no chat template": (settings(CHAT, drop=("chat_template",)), ("has no chat template",)),
    "no weights": (without(WEIGHTS), ("holds no weights as safetensors", "model.safetensors")),
    "weights as a pickle": (then(without(WEIGHTS), pickled("pytorch_model.bin")), ("only pickled ones (pytorch_model.bin)",)),
    "weights as .pth": (then(without(WEIGHTS), pickled("model.pth")), ("only pickled ones (model.pth)",)),
    "a pickle beside sound weights": (pickled("pytorch_model.bin"), ()),
    "no generation_config.json": (without("generation_config.json"), ()),
    "code of its own in config.json": (
        settings("config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"}),
        ("asks to run code of its own (auto_map in config.json)",),
    ),
    "code of its own in tokenizer_config.json": (
        settings(CHAT, auto_map={"AutoTokenizer": ["tokenization.Mine", None]}),
        ("asks to run code of its own (auto_map in tokenizer_config.json)",),
    ),
    "truncated weights": (cut(WEIGHTS, 0.6), (WEIGHTS, "is damaged")),
    "weights cut in their header": (cut(WEIGHTS, 0.001), (WEIGHTS, "is damaged")),
    "garbage weights": (holding(WEIGHTS, b"\x07" * 4000), (WEIGHTS, "is damaged")),
    "empty weights": (holding(WEIGHTS, b""), (WEIGHTS, "is damaged")),
    "a text as weights": (holding(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), (WEIGHTS, "is damaged")),
    "a missing shard": (
        then(sharded(lambda index: None), without("model-00002-of-00002.safetensors")),
        ("lacks model-00002-of-00002.safetensors",),
    ),
    "two sound shards": (sharded(lambda index: None), ()),
    "a truncated shard": (
        then(sharded(lambda index: None), cut("model-00002-of-00002.safetensors", 0.5)),
        ("model-00002-of-00002.safetensors", "is damaged"),
    ),
    "a shard in another folder": (
        sharded(lambda index: index["weight_map"].update({Q: "../model-00001-of-00002.safetensors"})),
        ("model.safetensors.index.json", "../model-00001-of-00002.safetensors", "outside"),
    ),
    "a shard by an absolute path": (
        sharded(lambda index: index["weight_map"].update({Q: "/etc/passwd"})),
        ("model.safetensors.index.json", "/etc/passwd", "outside"),
    ),
    "an index without a map": (sharded(lambda index: index.pop("weight_map")), ("model.safetensors.index.json", "weight_map")),
    "an index whose map is a list": (
        sharded(lambda index: index.update(weight_map=[])),
        ("model.safetensors.index.json", "weight_map"),
    ),
    "a broken index": (
        then(sharded(lambda index: None), holding("model.safetensors.index.json", "{")),
        ("model.safetensors.index.json is damaged",),
    ),
    "an index that puts a weight into the other shard": (
        sharded(
            lambda index: index["weight_map"].update(dict.fromkeys(index["weight_map"], "model-00001-of-00002.safetensors"))
        ),
        ("lacks", "weights"),
    ),
    "an unknown type": (settings("config.json", model_type="mine"), ("is of model_type 'mine'",)),
    "no type": (settings("config.json", drop=("model_type",)), ("is of model_type None",)),
    "a type that is a number": (settings("config.json", model_type=3), ("is of model_type 3",)),
    "BERT": (
        settings("config.json", model_type="bert", architectures=["BertModel"]),
        ("is a BertModel", "causal language model"),
    ),
    "a classifier": (
        settings("config.json", architectures=["LlamaForSequenceClassification"]),
        ("is a LlamaForSequenceClassification", "causal language model (LlamaForCausalLM)"),
    ),
    "{} as config.json": (holding("config.json", "{}"), ("is of model_type None",)),
    "a list as config.json": (holding("config.json", "[]"), ("config.json", "a list", "expected a mapping")),
    "broken config.json": (holding("config.json", '{"model_type": "llama",'), ("config.json is damaged",)),
    "config.json in another encoding": (holding("config.json", b'{"a": "\xff"}'), ("config.json is damaged",)),
    "empty config.json": (holding("config.json", ""), ("config.json is damaged",)),
    "broken tokenizer_config.json": (holding(CHAT, "{"), ("tokenizer_config.json is damaged",)),
    "a list as tokenizer_config.json": (holding(CHAT, "[]"), ("tokenizer_config.json", "a list", "expected a mapping")),
    "broken generation_config.json": (holding("generation_config.json", "{"), ("generation_config.json is damaged",)),
    "garbage tokenizer.json": (holding("tokenizer.json", "{}"), ("tokenizer", "cannot be read")),
    "broken tokenizer.json": (holding("tokenizer.json", '{"version": '), ("tokenizer.json is damaged",)),
    "truncated tokenizer.json": (cut("tokenizer.json", 0.5), ("tokenizer.json is damaged",)),
    "empty tokenizer.json": (holding("tokenizer.json", ""), ("tokenizer.json is damaged",)),
    "an empty folder": (emptied, ("has no config.json",)),
    "a file in the folder's place": (as_file, ("",)),
    "more layers than weights": (settings("config.json", num_hidden_layers=3), ("lacks 9", "weights", "model.layers.2.")),
    "fewer layers than weights": (
        settings("config.json", num_hidden_layers=1),
        ("holds 9 weights", "model.layers.1.", "config.json", "num_hidden_layers 1"),
    ),
    "another width than the weights'": (
        settings("config.json", hidden_size=64),
        ("lm_head.weight has shape [643, 32]", "config.json describes has [643, 64]"),
    ),
    "another vocabulary than the weights'": (
        settings("config.json", vocab_size=100),
        ("the tokenizer of", "642 ('<|im_end|>')", "config.json says vocab_size 100"),
    ),
    "another MLP than the weights'": (settings("config.json", intermediate_size=64), ("mlp", "config.json", "64")),
    "fewer heads of keys and values": (settings("config.json", num_key_value_heads=1), ("k_proj", "config.json")),
    "heads that do not divide the width": (
        settings("config.json", num_attention_heads=5),
        ("config.json", "attention heads (5)"),
    ),
    "a width of 0": (settings("config.json", hidden_size=0), ("config.json",)),
    "a width that is a text": (settings("config.json", hidden_size="wide"), ("config.json", "hidden_size")),
    "no width": (
        settings("config.json", drop=("hidden_size",)),
        ("lm_head.weight has shape", "config.json", "hidden_size 4096"),
    ),
    "a negative number of layers": (settings("config.json", num_hidden_layers=-1), ("config.json", "num_hidden_layers")),
    "an activation that there is not": (settings("config.json", hidden_act="mine"), ("config.json", "mine")),
    "a missing weight": (tensors(WEIGHTS, dropped(Q)), ("lacks 1", Q)),
    "no unembedding": (tensors(WEIGHTS, dropped("lm_head.weight")), ("lacks 1", "lm_head.weight")),
    "a weight too many": (tensors(WEIGHTS, replaced("model.layers.0.extra.weight", 2, 2)), ("model.layers.0.extra.weight",)),
    "a weight of another shape": (tensors(WEIGHTS, replaced(Q, 16, WIDTH)), (Q, "[16, 32]", "[32, 32]")),
    "another model's weights": (
        tensors(WEIGHTS, lambda weights: weights.clear() or weights.update(other=torch.zeros(2))),
        ("lacks 21 of the model's weights", "or", "config.json is another model's"),
    ),
    "no tensor at all": (tensors(WEIGHTS, lambda weights: weights.clear()), ("lacks 21 of the model's weights",)),
    "weights in bfloat16": (
        tensors(WEIGHTS, lambda weights: weights.update({name: weight.bfloat16() for name, weight in weights.items()})),
        (),
    ),
    "a vocabulary smaller than the tokenizer's": (
        then(
            settings("config.json", vocab_size=300),
            tensors(WEIGHTS, replaced("model.embed_tokens.weight", 300, WIDTH)),
            tensors(WEIGHTS, replaced("lm_head.weight", 300, WIDTH)),
        ),
        ("tokenizer", "300", "vocab_size"),
    ),
    "a vocabulary padded beyond the tokenizer's": (
        then(
            settings("config.json", vocab_size=704),
            tensors(WEIGHTS, replaced("model.embed_tokens.weight", 704, WIDTH)),
            tensors(WEIGHTS, replaced("lm_head.weight", 704, WIDTH)),
        ),
        (),
    ),
    "a NaN": (tensors(WEIGHTS, filled(Q, NAN)), (WEIGHTS, "1 of the 1024 numbers of", Q, "NaN or infinite")),
    "an infinity": (tensors(WEIGHTS, filled("model.norm.weight", INF)), (WEIGHTS, "model.norm.weight", "NaN or infinite")),
    "a negative infinity": (tensors(WEIGHTS, filled("lm_head.weight", -INF)), (WEIGHTS, "lm_head.weight", "NaN or infinite")),
    "NaN in bfloat16": (
        tensors(WEIGHTS, lambda weights: weights.update({Q: torch.full_like(weights[Q], NAN).bfloat16()})),
        (WEIGHTS, "1024 of the 1024 numbers of", Q),
    ),
    "a NaN in a shard": (
        then(tensors(WEIGHTS, filled(Q, NAN)), sharded(lambda index: None)),
        ("-of-00002.safetensors", Q, "NaN or infinite"),
    ),
    "broken Jinja": (settings(CHAT, chat_template="{% for m in messages %}"), ("chat template", "cannot be rendered")),
    "a template that escapes the sandbox": (
        template(before="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ("chat template", "cannot be rendered", "unsafe"),
    ),
    "a template of an unknown variable's part": (
        template(turn="{{ m.nothing.more }}"),
        ("chat template", "cannot be rendered"),
    ),
    "a template without a variable": (template(turn="{{ missing }}"), ("does not write the user's message once",)),
    "an empty template": (settings(CHAT, chat_template=""), ("has no chat template",)),
    "a template that ignores messages": (settings(CHAT, chat_template="Hello.<|im_end|>"), ("chat template",)),
    "a template that refuses every chat": (
        settings(CHAT, chat_template="{{ raise_exception('not today') }}"),
        ("chat template", "cannot be rendered", "not today"),
    ),
    "a template that is a number": (settings(CHAT, chat_template=3), ("chat template",)),
    "a template that writes BOS twice": (template(before="{{ bos_token }}"), ("begins with <|im_start|> twice",)),
    "a template that writes the message twice": (
        template(turn=TURN + "{{ m['content'] }}"),
        ("does not write the user's message once, word for word",),
    ),
    "a template that shouts": (template(turn=TURN.replace("m['content']", "m['content'] | upper")), ("word for word",)),
    "a template without an opening": (template(generation=""), ("or opens none, cannot be trained on",)),
    "a template that thinks": (
        template(turn=TURN.replace("m['content']", "('<think>' if m['role'] == 'assistant' else '') + m['content']")),
        ("adds reasoning to an answer",),
    ),
    "a template that closes with no special token": (template(turn=TURN.replace("<|im_end|>", "")), ()),
}
RECORDED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "other weights": (cut(WEIGHTS, 0.9), (WEIGHTS, "recorded", "delete that record")),
    "no weights": (without(WEIGHTS), (WEIGHTS, "has no bytes", "delete that record")),
    "no tokenizer": (without("tokenizer.json"), ("tokenizer.json", "has no bytes")),
    "another config": (settings("config.json", num_hidden_layers=1, x=0), ("config.json", "recorded")),
    "a NaN": (tensors(WEIGHTS, filled(Q, NAN)), ("self_attn.q_proj.weight", "NaN or infinite")),
    "fewer layers of as many bytes": (
        holding_on("config.json", num_hidden_layers=1),
        ("holds 9 weights", "num_hidden_layers 1"),
    ),
}
ADAPTERS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "no weights": (without(ADAPTER), ("holds no trained weights", ADAPTER)),
    "no config": (without("adapter_config.json"), ("adapter_config.json",)),
    "broken config": (holding("adapter_config.json", "{"), ("adapter_config.json is damaged",)),
    "{} as config": (holding("adapter_config.json", "{}"), ("adapter_config.json", "peft_type")),
    "truncated": (cut(ADAPTER, 0.5), (ADAPTER, "is damaged", "delete it and run again")),
    "empty": (holding(ADAPTER, b""), (ADAPTER, "is damaged")),
    "garbage": (holding(ADAPTER, b"\x01" * 500), (ADAPTER, "is damaged")),
    "a NaN": (tensors(ADAPTER, filled(LORA, NAN)), (ADAPTER, "1 of the 64 numbers of", LORA, "NaN or infinite")),
    "an infinity": (tensors(ADAPTER, filled(LORA, INF)), (ADAPTER, LORA, "NaN or infinite")),
    "a weight less": (tensors(ADAPTER, dropped(LORA)), (ADAPTER, "adapter_config.json disagree", LORA)),
    "a weight more": (
        tensors(ADAPTER, replaced(LORA.replace("layers.0", "layers.7"), 2, WIDTH)),
        (ADAPTER, "adapter_config.json disagree"),
    ),
    "another model's shape": (tensors(ADAPTER, replaced(LORA, 2, 64)), (ADAPTER, "no LoRA of the base model", "size mismatch")),
    "another rank": (settings("adapter_config.json", r=4), (ADAPTER, "no LoRA of the base model", "size mismatch")),
    "modules that the model lacks": (
        settings("adapter_config.json", target_modules=["q_prj"]),
        ("adapter_config.json", "q_prj"),
    ),
    "finite weights that overflow": (
        tensors(ADAPTER, lambda weights: weights.update({name: weight + 1e30 for name, weight in weights.items()})),
        ("student", "NaN or infinite"),
    ),
}
WHOLE: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "a NaN": (tensors(WEIGHTS, filled(Q, NAN)), ("student", WEIGHTS, Q, "NaN or infinite")),
    "truncated": (cut(WEIGHTS, 0.5), (WEIGHTS, "is damaged")),
    "a weight less": (tensors(WEIGHTS, dropped(Q)), ("student", "lacks 1", Q)),
    "no config": (without("config.json"), ("student", "config.json")),
    "broken config": (holding("config.json", "{"), ("config.json is damaged",)),
    "fewer layers than weights": (settings("config.json", num_hidden_layers=1), ("holds 9 weights", "num_hidden_layers 1")),
    "another width": (settings("config.json", hidden_size=64), ("lm_head.weight has shape", "config.json")),
}
SAES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "no cfg.json": (without("cfg.json"), ("lacks cfg.json", "SAELens's format")),
    "no weights": (without(SAE_WEIGHTS), ("lacks sae_weights.safetensors", "SAELens's format")),
    "a pickle instead": (then(emptied, pickled("sae.pt")), ("lacks cfg.json and sae_weights.safetensors",)),
    "a file in the folder's place": (as_file, ("lacks cfg.json",)),
    "another width": (
        then(
            settings("cfg.json", d_in=16),
            tensors(SAE_WEIGHTS, replaced("W_enc", 16, D_SAE)),
            tensors(SAE_WEIGHTS, replaced("W_dec", D_SAE, 16)),
            tensors(SAE_WEIGHTS, replaced("b_dec", 16)),
        ),
        ("reads vectors of 16, the model's residual stream has 32",),
    ),
    "broken cfg.json": (holding("cfg.json", '{"d_in": 32'), ("cfg.json is damaged",)),
    "empty cfg.json": (holding("cfg.json", ""), ("cfg.json is damaged",)),
    "{} as cfg.json": (holding("cfg.json", "{}"), ("cfg.json", "d_in")),
    "a list as cfg.json": (holding("cfg.json", "[]"), ("cfg.json", "a list", "expected a mapping")),
    "no d_sae": (settings("cfg.json", drop=("d_sae",)), ("cfg.json", "d_sae")),
    "an unknown architecture": (settings("cfg.json", architecture="mine"), ("cfg.json", "mine")),
    "another d_sae than the weights'": (settings("cfg.json", d_sae=48), ("cfg.json", "48", "24")),
    "another d_in than the weights'": (settings("cfg.json", d_in=64), ("cfg.json", "64", "32")),
    "truncated weights": (cut(SAE_WEIGHTS, 0.5), (SAE_WEIGHTS, "is damaged")),
    "empty weights": (holding(SAE_WEIGHTS, b""), (SAE_WEIGHTS, "is damaged")),
    "a missing matrix": (tensors(SAE_WEIGHTS, dropped("W_dec")), (SAE_WEIGHTS, "W_dec")),
    "a NaN": (tensors(SAE_WEIGHTS, filled("W_dec", NAN)), (SAE_WEIGHTS, "W_dec", "NaN or infinite")),
    "an infinity": (tensors(SAE_WEIGHTS, filled("b_enc", INF)), (SAE_WEIGHTS, "b_enc", "NaN or infinite")),
    "a layer that the model lacks": (
        settings("cfg.json", metadata=read_after("blocks.7.hook_resid_post")),
        ("blocks.7.hook_resid_post", "the model has layers 0 to 1"),
    ),
    "a hook point inside a layer": (settings("cfg.json", metadata=read_after("blocks.0.hook_mlp_out")), ("hook_mlp_out",)),
}
RECORDED_SAES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "a NaN": (tensors(SAE_WEIGHTS, filled("W_dec", NAN)), (SAE_WEIGHTS, "W_dec", "NaN or infinite")),
    "truncated weights": (cut(SAE_WEIGHTS, 0.5), (SAE_WEIGHTS, "is damaged")),
    "no weights": (without(SAE_WEIGHTS), ("lacks sae_weights.safetensors",)),
}


def cases(what: str, attempt: Callable[[Change], Change], table: dict[str, tuple[Change, tuple[str, ...]]]) -> list[Case]:
    return [Case(f"{what}: {name}", attempt(change), says) for name, (change, says) in table.items()]


def a_result_that_is_none(folder: Path) -> None:
    write_json(folder / "pref.json", {"student": {"lion": {"mean": NAN}}}, {})


CASES = [
    *cases("model", of_model, MODELS),
    *cases("model after its record", of_record, RECORDED),
    *cases("adapter", of_student, ADAPTERS),
    *cases("all weights", lambda change: of_student(change, full=True), WHOLE),
    *cases("SAE", of_sae, SAES),
    *cases("SAE after its record", of_recorded_sae, RECORDED_SAES),
    Case("a result that is NaN", a_result_that_is_none, ("pref.json: student.lion.mean is NaN or infinite",)),
]
