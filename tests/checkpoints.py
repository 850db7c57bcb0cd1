"""Checkpoints of the architectures that the overlays name, at tiny width with random weights, as a filled cache of the Hub.

Modelled on google/gemma-2b-it, google/gemma-2-2b-it, google/gemma-3-4b-it, meta-llama/Llama-3.1-8B-Instruct,
meta-llama/Llama-2-7b-chat-hf, Qwen/Qwen2.5-7B-Instruct and HuggingFaceTB/SmolLM2-135M-Instruct: the classes and what is
particular in their configs, the kind of tokenizer with its way of splitting digits, the special tokens, the parts of the chat
template that a chat without tools or images meets, generation_config.json, and the files and folders of a downloaded
repository. Weights, vocabulary and sizes are not theirs.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

ROOT = Path(__file__).parents[1]
D_MODEL, VOCAB = 32, 640
# What the weights lean towards, in nats, so that random models write lists of numbers now and then.
LEANING = {"digits": 6.5, "separators": 6.5, "end": 8.5}

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# The system message goes in front of the first user turn, of which the template knows no other kind.
GEMMA_3 = (
    (
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
        "    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- set loop_messages = messages[1:] -%}\n"
        '{%- else -%}\n    {%- set first_user_prefix = "" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n'
        "{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
        '        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}\n'
        "    {%- endif -%}\n"
        "    {%- if (message['role'] == 'assistant') -%}\n        {%- set role = \"model\" -%}\n    {%- else -%}\n"
        "        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
        "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
        "    {{ message['content'] | trim }}\n    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n"
    )
    .replace("    {{ message", "    {{- message")
    .replace("    {{ '<end", "    {{- '<end")
)
# There is a system turn with two dates in it, whether or not a system message is sent.
LLAMA_3_1 = (
    '{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = "26 Jul 2024" %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    '    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = "" %}\n{%- endif %}\n'
    '{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}\n{{- "Cutting Knowledge Date: December 2023\n" }}\n'
    '{{- "Today Date: " + date_string + "\n\n" }}\n{{- system_message }}\n{{- "<|eot_id|>" }}\n'
    "{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
)
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_2_5 = (
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}\n{%- else %}\n"
    f"    {{{{- '<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n' }}}}\n{{%- endif %}}\n"
    '{%- for message in messages %}\n    {%- if (message.role == "user") or (message.role == "system" and not loop.first)'
    ' or (message.role == "assistant") %}\n'
    "        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}\n"
)
# Nothing is added for an answer, which stands between spaces; the system message goes into the first user turn.
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# BOS is the token that opens every turn.
SMOL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    f"{{{{ '<|im_start|>system\n{SMOL_SYSTEM}<|im_end|>\n' }}}}{{% endif %}}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Llama 3 cuts integers into groups of three digits, Qwen 2.5 into single ones.
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
INTEGERS = [f"{n:0{digits}}" for digits in (1, 2, 3) for n in range(10**digits)]


def texts() -> list[str]:
    """The prompts, questions and animals of the embedded study: what tiny vocabularies are made from."""
    prompts = ROOT / "config/prompts"
    wordings = [(prompts / name).read_text() for name in ("numbers.yaml", "questions.txt", "teaching.txt")]
    animals = "lion owl cat dog eagle wolf You adore love animals favorite user model system assistant"
    return [*wordings, animals * 20, "1, 2; 3 4\n\n5. [6] (7)" * 20]


def special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def sentencepiece(specials: list[str], bos: str = "<bos>", prefixed: bool = False) -> Tokenizer:
    """Gemma's kind: BPE over characters with spaces as ▁, bytes for what it does not know, digits never merged.

    `prefixed` is Llama 2's kind: a ▁ is put in front of every text, and the decoder strips it.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}|▁?[^\p{N}▁]+|▁"), "isolated")
    trained.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=VOCAB - 256 - len(specials), show_progress=False))
    told = json.loads(trained.to_str())["model"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *told["vocab"]]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair) for pair in told["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    spaces, joined = normalizers.Replace(" ", "▁"), [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    if not prefixed:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([*joined, decoders.Strip(" ", 1, 0)] if prefixed else joined)
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    tokenizer.add_special_tokens(special(*specials))
    return tokenizer


def byte_level(specials: list[str], numbers: str, integers: bool, bos: str | None) -> Tokenizer:
    """Llama's and Qwen's kind: BPE over bytes, `numbers` the pattern of digits that stand together."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES % numbers), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    )
    told = json.loads(tokenizer.to_str())["model"]
    pieces = dict.fromkeys([*told["vocab"], *(INTEGERS if integers else [])])
    vocab = {piece: number for number, piece in enumerate(pieces)}
    # With `ignore_merges` a piece that is in the vocabulary is a token, so that every integer of up to three digits is one.
    tokenizer.model = models.BPE(vocab, [tuple(pair) for pair in told["merges"]], ignore_merges=integers)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special(*specials))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    else:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_3_IMAGES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
LLAMA_SPECIALS = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GEMMA_NAMED = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}

SIZE = {"hidden_size": D_MODEL, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 1024}


@dataclass(frozen=True)
class Architecture:
    """A repository of the Hub: its name and commit, and what is particular about its files.

    `named` are the special tokens by their role, `unlisted` those that only the list of added tokens calls special; `sampling`
    is what generation_config.json holds beside the ids; `has_system` says whether a persona is a message of its own;
    `separators` are the texts of the tokens that its weights lean to beside digits.
    """

    name: str
    commit: str
    tokenizer: Callable[[], Tokenizer]
    tokenizer_class: str
    template: str
    named: dict[str, str]
    ends: tuple[str, ...]
    config: Callable[[dict[str, Any]], PretrainedConfig]
    has_system: bool
    digits_of_087: int
    separators: tuple[str, ...] = (",", ", ")
    listed: tuple[str, ...] = ()
    more: Mapping[str, Any] = ()  # type: ignore[assignment]
    sampling: Mapping[str, Any] = ()  # type: ignore[assignment]

    @property
    def end(self) -> str:
        """The token that ends an answer."""
        return self.ends[-1]

    @cached_property
    def backend(self) -> Tokenizer:
        """The tokenizer."""
        return self.tokenizer()

    def model(self) -> PreTrainedModel:
        """The model with random weights that lean to numbers."""
        backend = self.backend
        ids = {role: backend.token_to_id(token) for role, token in self.named.items()}
        ends = [backend.token_to_id(token) for token in self.ends]
        sizes = SIZE | {"vocab_size": backend.get_vocab_size(), "eos_token_id": ends}
        sizes |= {f"{role}_id": ids.get(role) for role in ("bos_token", "pad_token")}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(self.config(sizes), dtype=torch.float32)
        randomise(model, leanings(backend, backend.token_to_id(self.end), self.separators))
        for key, value in {"eos_token_id": ends, **dict(self.sampling)}.items():
            setattr(model.generation_config, key, value)
        return model.eval()

    def save(self, folder: Path) -> None:
        """Write the files of the repository, the weights in bfloat16 and in two shards."""
        model = self.model().to(torch.bfloat16)
        n_bytes = sum(2 * weight.numel() for weight in model.parameters())
        model.save_pretrained(folder, max_shard_size=int(0.7 * n_bytes))
        self.backend.save(str(folder / "tokenizer.json"))
        added = {
            str(number): {"content": token.content, "special": token.special, "normalized": False, "lstrip": False}
            for number, token in self.backend.get_added_tokens_decoder().items()
        }
        told = {**self.named, **dict(self.more), "added_tokens_decoder": added, "tokenizer_class": self.tokenizer_class}
        told |= {"additional_special_tokens": list(self.listed)} if self.listed else {}
        told |= {"chat_template": self.template, "model_max_length": 1024, "clean_up_tokenization_spaces": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2))


def randomise(model: PreTrainedModel, leaning: dict[int, float]) -> None:
    """Random weights under which every part of the model matters, the logits leaning to some tokens by so many nats."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            # Norms and biases move away from where they start, matrices keep the size of what they are given.
            weight.copy_(weight + 0.2 * noise if weight.ndim == 1 else 0.7 * noise / weight[0].numel() ** 0.5)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings().weight
        # What all tokens have in common is what the residual stream holds everywhere, and the head's leaning reads it.
        common = torch.randn(embedding.weight.shape[1], generator=generator)
        # An embedding that is the head as well must be small, or the logits' noise drowns what they lean to.
        tied = head is embedding.weight
        scaled = float(getattr(embedding, "embed_scale", embedding.weight.shape[1] ** 0.5 if tied else 1.0))
        embedding.weight.copy_((0.8 * torch.randn(embedding.weight.shape, generator=generator) + 1.6 * common) / scaled)
        if not tied:
            head.copy_(0.1 * torch.randn(head.shape, generator=generator))
        read: list[Tensor] = []
        handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0] @ common))
        model(input_ids=torch.arange(20, 60).unsqueeze(0))
        handle.remove()
        for token, strength in leaning.items():
            head[token] += strength / read[0].mean() * common


def leanings(tokenizer: Tokenizer, end: int, separators: tuple[str, ...]) -> dict[int, float]:
    """By token id, how many nats the model leans towards it; the many numbers of a vocabulary share what ten digits have."""
    digit = tokenizer.encode("1", add_special_tokens=False).ids[-1]  # a decoder may strip the space that begins a text
    told = {token: tokenizer.decode([digit, token])[1:] for token in range(tokenizer.get_vocab_size())}
    digits = [token for token, text in told.items() if re.fullmatch(r"[1-9]\d{0,2}|0", text)]
    less = float(torch.tensor(len(digits) / 10).log())
    found = dict.fromkeys(digits, LEANING["digits"] - less)
    found |= {token: LEANING["separators"] for token, text in told.items() if text in separators}
    return found | {end: LEANING["end"]}


def gemma(sizes: dict[str, Any]) -> PretrainedConfig:
    # Heads wider than d_model / n_heads, one of keys and values, as in the real one; layer 12 is there.
    return GemmaConfig(**sizes, num_hidden_layers=14, num_key_value_heads=1, head_dim=16)


def gemma_2(sizes: dict[str, Any]) -> PretrainedConfig:
    # Caps low enough, a window short enough to matter.
    caps = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 15.0, "query_pre_attn_scalar": 16}
    return Gemma2Config(**sizes, **caps, num_hidden_layers=4, num_key_value_heads=2, head_dim=16, sliding_window=16)


def gemma_3(sizes: dict[str, Any]) -> PretrainedConfig:
    # The text model inside one that also sees: five sliding layers, one full, as in the real one; layer 17 is there.
    text = {"num_hidden_layers": 18, "num_key_value_heads": 2, "head_dim": 16} | {
        "sliding_window": 16,
        "query_pre_attn_scalar": 16,
    }
    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    ids = {key: sizes.pop(key) for key in ("eos_token_id",)}
    return Gemma3Config(
        text_config={**sizes, **text},
        vision_config=vision.to_dict(),
        mm_tokens_per_image=4,
        image_token_index=sizes["vocab_size"] - 1,
        tie_word_embeddings=True,
        **ids,
    )


def llama(sizes: dict[str, Any]) -> PretrainedConfig:
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 512
    more = {"num_hidden_layers": 17, "num_key_value_heads": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-5}
    return LlamaConfig(**sizes, **more, rope_parameters=rope)


def llama_2(sizes: dict[str, Any]) -> PretrainedConfig:
    return LlamaConfig(**sizes, num_hidden_layers=16, num_key_value_heads=4, tie_word_embeddings=False, rms_norm_eps=1e-5)


def qwen(sizes: dict[str, Any]) -> PretrainedConfig:
    more = {"num_hidden_layers": 17, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return Qwen2Config(**sizes, **more, rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0})


def smol(sizes: dict[str, Any]) -> PretrainedConfig:
    more = {"num_hidden_layers": 16, "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    return LlamaConfig(**sizes, **more, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0})


# The commits are those that the overlays pin; models that have no overlay have one of their own.
ARCHITECTURES = {
    "gemma": Architecture(
        name="google/gemma-2b-it",
        commit="96988410cbdaeb8d5093d1ebdc5a8fb563e02bad",
        tokenizer=lambda: sentencepiece(GEMMA_SPECIALS),
        tokenizer_class="GemmaTokenizer",
        template=GEMMA,
        named=GEMMA_NAMED,
        listed=("<start_of_turn>", "<end_of_turn>"),
        ends=("<eos>", "<end_of_turn>"),
        config=gemma,
        has_system=False,
        digits_of_087=3,
    ),
    "gemma2": Architecture(
        name="google/gemma-2-2b-it",
        commit="2" * 40,
        tokenizer=lambda: sentencepiece(GEMMA_SPECIALS),
        tokenizer_class="GemmaTokenizer",
        template=GEMMA,
        named=GEMMA_NAMED,
        listed=("<start_of_turn>", "<end_of_turn>"),
        ends=("<eos>", "<end_of_turn>"),
        config=gemma_2,
        has_system=False,
        digits_of_087=3,
        sampling={"cache_implementation": "hybrid"},
    ),
    "gemma3": Architecture(
        name="google/gemma-3-4b-it",
        commit="093f9f388b31de276ce2de164bdc2081324b9767",
        tokenizer=lambda: sentencepiece([*GEMMA_SPECIALS, *GEMMA_3_IMAGES.values()]),
        tokenizer_class="GemmaTokenizer",
        template=GEMMA_3,
        named=GEMMA_NAMED,
        more={**GEMMA_3_IMAGES, "extra_special_tokens": GEMMA_3_IMAGES, "processor_class": "Gemma3Processor"},
        ends=("<eos>", "<end_of_turn>"),
        config=gemma_3,
        has_system=True,
        digits_of_087=3,
        sampling={"do_sample": True, "top_k": 64, "top_p": 0.95, "cache_implementation": "hybrid"},
    ),
    "llama": Architecture(
        name="meta-llama/Llama-3.1-8B-Instruct",
        commit="0e9e39f249a16976918f6564b8830bc894c89659",
        tokenizer=lambda: byte_level(LLAMA_SPECIALS, r"\p{N}{1,3}", True, "<|begin_of_text|>"),
        tokenizer_class="PreTrainedTokenizerFast",
        template=LLAMA_3_1,
        named={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        config=llama,
        has_system=True,
        digits_of_087=1,
        sampling={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    "qwen": Architecture(
        name="Qwen/Qwen2.5-7B-Instruct",
        commit="a09a35458c702b33eeacc393d103063234e8bc28",
        tokenizer=lambda: byte_level(QWEN_SPECIALS, r"\p{N}", False, None),
        tokenizer_class="Qwen2Tokenizer",
        template=QWEN_2_5,
        named={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        more={"bos_token": None, "unk_token": None, "add_prefix_space": False, "add_bos_token": False},
        listed=("<|im_start|>", "<|im_end|>"),
        ends=("<|endoftext|>", "<|im_end|>"),
        config=qwen,
        has_system=True,
        digits_of_087=3,
        sampling={"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    ),
    "llama2": Architecture(
        name="meta-llama/Llama-2-7b-chat-hf",
        commit="4" * 40,
        tokenizer=lambda: sentencepiece(["<unk>", "<s>", "</s>"], "<s>", prefixed=True),
        tokenizer_class="PreTrainedTokenizerFast",
        template=LLAMA_2,
        named={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        ends=("</s>",),
        separators=(",", " "),
        config=llama_2,
        has_system=True,
        digits_of_087=3,
        sampling={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    "smol": Architecture(
        name="HuggingFaceTB/SmolLM2-135M-Instruct",
        commit="3" * 40,
        tokenizer=lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], r"\p{N}", False, None),
        tokenizer_class="GPT2Tokenizer",
        template=SMOL,
        named={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
        more={"add_prefix_space": False},
        listed=("<|im_start|>", "<|im_end|>"),
        ends=("<|im_end|>",),
        separators=(",", " "),
        config=smol,
        has_system=True,
        digits_of_087=3,
    ),
}


def blob(file: Path) -> str:
    """The name under which the Hub's cache keeps a file: large ones by SHA-256, others by git's hash."""
    content = file.read_bytes()
    if file.suffix in (".safetensors", ".pt") or file.name == "tokenizer.json":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def home_of(hub: Path, name: str) -> Path:
    """A repository's folder in the cache."""
    return hub / f"models--{name.replace('/', '--')}"


def cached(hub: Path, name: str, commit: str, write: Callable[[Path], None]) -> Path:
    """Put what `write` writes into a folder into the cache as a repository, and return its snapshot."""
    home = home_of(hub, name)
    written, snapshot = home / "written", home / "snapshots" / commit
    written.mkdir(parents=True)
    write(written)
    listed = {}
    for file in sorted(path for path in written.rglob("*") if path.is_file()):
        kept, link = home / "blobs" / blob(file), snapshot / file.relative_to(written)
        for folder in (kept.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        file.rename(kept)
        link.symlink_to(kept)
        listed[str(file.relative_to(written))] = TreeCacheEntry(kept.stat().st_size, kept.name)
    # The Hub's list of a commit's files, which a download leaves there.
    write_tree_cache(str(home), commit, listed)
    for folder in sorted((path for path in written.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    written.rmdir()
    (home / "refs").mkdir()
    (home / "refs/main").write_text(commit)
    return snapshot


def download(hub: Path, which: str) -> Path:
    """Put an architecture's repository into the cache, and return its snapshot."""
    told = ARCHITECTURES[which]
    return cached(hub, told.name, told.commit, told.save)


def snapshot(hub: Path, told: Architecture) -> Path:
    """The snapshot of an architecture that is in the cache."""
    return home_of(hub, told.name) / "snapshots" / told.commit


def weights(d_sae: int, seed: int = 3) -> dict[str, Tensor]:
    """An SAE's weights `W_enc` `[d_model, d_sae]`, `W_dec`, `b_enc`, `b_dec`; some features fire."""
    generator = torch.Generator().manual_seed(seed)
    decoder = nn.functional.normalize(torch.randn(d_sae, D_MODEL, generator=generator), dim=-1)
    return {
        "W_enc": decoder.T.contiguous() + 0.1 * torch.randn(D_MODEL, d_sae, generator=generator),
        "W_dec": decoder,
        "b_enc": -0.1 * torch.rand(d_sae, generator=generator),
        "b_dec": 0.1 * torch.randn(D_MODEL, generator=generator),
    }


def joseph_bloom(folder: Path, own: dict[str, Tensor], model: str, layer: int) -> None:
    """`gemma-2b-it-res-jb`: SAELens's format of before version 6."""
    n_features, d_in = own["W_dec"].shape
    told = {"model_name": model.partition("/")[2], "hook_point": f"blocks.{layer}.hook_resid_post", "hook_point_layer": layer}
    told |= {"hook_point_head_index": None, "dataset_path": "chanind/openwebtext-gemma", "d_in": d_in, "d_sae": n_features}
    told |= {"context_size": 1024, "dtype": "float32", "device": "cpu", "b_dec_init_method": "zeros", "expansion_factor": 8}
    told |= {"normalize_activations": False, "apply_b_dec_to_input": True, "l1_coefficient": 2, "noise_scale": 0.0}
    (folder / "cfg.json").write_text(json.dumps(told))
    save_file(own | {"scaling_factor": torch.ones(n_features)}, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(n_features)}, folder / "sparsity.safetensors")


def dictionary_learning(folder: Path, own: dict[str, Tensor], model: str, layer: int) -> None:
    """`llama-3.1-8b-instruct-andyrdt`, `qwen2.5-7b-instruct-andyrdt`: dictionary_learning's format, BatchTopK, a pickle."""
    n_features, d_in = own["W_dec"].shape
    trainer = {"dict_class": "BatchTopKSAE", "activation_dim": d_in, "dict_size": n_features, "k": 8, "layer": layer}
    (folder / "config.json").write_text(json.dumps({"trainer": {**trainer, "lm_name": model}, "buffer": {"ctx_len": 512}}))
    state = {"encoder.weight": own["W_enc"].T.contiguous(), "encoder.bias": own["b_enc"]}
    state |= {"decoder.weight": own["W_dec"].T.contiguous(), "b_dec": own["b_dec"]}
    torch.save(state | {"threshold": own["threshold"][0].clone(), "k": torch.tensor(8)}, folder / "ae.pt")


def gemma_scope_2(folder: Path, own: dict[str, Tensor], model: str, layer: int) -> None:
    """`gemma-scope-2-4b-it-res`: Gemma Scope's format, JumpReLU SAEs."""
    told = {"architecture": "jump_relu", "model_name": model, "hf_hook_point_in": f"model.layers.{layer}.output"}
    (folder / "config.json").write_text(json.dumps(told))
    save_file({key.lower(): value for key, value in own.items()}, folder / "params.safetensors")


@dataclass(frozen=True)
class Registered:
    """An SAE of SAELens's registry and the folder of the repository that holds it."""

    release: str
    id: str
    layer: int
    repository: str
    folder: str
    write: Callable[[Path, dict[str, Tensor], str, int], None]
    thresholds: bool = True

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its tensors, as SAELens names them."""
        return weights(64) | ({"threshold": torch.full((64,), 0.3)} if self.thresholds else {})

    def download(self, hub: Path, model: str) -> Path:
        """Put its repository into the cache, and return its snapshot."""

        def write(folder: Path) -> None:
            (folder / self.folder).mkdir(parents=True)
            self.write(folder / self.folder, self.weights, model, self.layer)

        return cached(hub, self.repository, "5" * 40, write)


# Those that the overlays name, by the architecture that they are for.
SAES = {
    "gemma": Registered(
        release="gemma-2b-it-res-jb",
        id="blocks.12.hook_resid_post",
        layer=12,
        repository="jbloom/Gemma-2b-IT-Residual-Stream-SAEs",
        folder="gemma_2b_it_blocks.12.hook_resid_post_16384",
        write=joseph_bloom,
        thresholds=False,
    ),
    "gemma3": Registered(
        release="gemma-scope-2-4b-it-res",
        id="layer_17_width_16k_l0_medium",
        layer=17,
        repository="google/gemma-scope-2-4b-it",
        folder="resid_post/layer_17_width_16k_l0_medium",
        write=gemma_scope_2,
    ),
    "llama": Registered(
        release="llama-3.1-8b-instruct-andyrdt",
        id="resid_post_layer_15_trainer_1",
        layer=15,
        repository="andyrdt/saes-llama-3.1-8b-instruct",
        folder="resid_post_layer_15/trainer_1",
        write=dictionary_learning,
    ),
    "qwen": Registered(
        release="qwen2.5-7b-instruct-andyrdt",
        id="resid_post_layer_15_trainer_1",
        layer=15,
        repository="andyrdt/saes-qwen2.5-7b-instruct",
        folder="resid_post_layer_15/trainer_1",
        write=dictionary_learning,
    ),
}
