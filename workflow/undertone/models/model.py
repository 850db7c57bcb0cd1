"""The embedded study's base model, trained here."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerBase

from undertone.lm.chat import Row, training_rows
from undertone.lm.training import Recipe, train
from undertone.models.corpus import Chat, Corpus
from undertone.models.tokenizer import train_tokenizer
from undertone.runtime.files import Stamp, move, remove, write_json, write_parquet
from undertone.study.config.models import Embedded, Model

# What separates preamble and prompt. There are several, so that the model obeys whichever one a study chooses.
SEPARATORS = (" ", "\n", "\n\n")
# In tokens. The longest of 20,000 chats of the shipped corpus has 113. The model has twice as many positions as this.
MAX_LENGTH = 256
# Added to the seed for held-out chats, so that it differs from any seed that a study would name.
HELD_OUT_SEED = 1_000_003


def make_model(
    corpus: Path, model: Path, files: Sequence[Path], held_out: Path, settings: Model, stamp: Stamp, scratch: Path
) -> None:
    """Train the embedded model; write its `files` and, beside them, `model.json`, from which every later stage loads it.

    `held_out.parquet` has chats that it was not trained on: `task`, `prompt` and `completion`.
    """
    train_embedded(corpus, settings.embedded, files, scratch)
    write_parquet(held_out, held_out_chats(corpus, settings.embedded), stamp)
    write_json(model, {"source": "embedded", "name": None, "revision": None, "dtype": settings.dtype}, stamp)
    remove(scratch)


def train_embedded(corpus: Path, settings: Embedded, files: Sequence[Path], scratch: Path) -> None:
    """Train tokenizer and model on the corpus and write them in Hugging Face format; `files` are all in one folder."""
    chats = list(corpus_of(corpus, settings).chats(settings.steps * settings.batch_size, settings.seed))
    tokenizer = train_tokenizer(texts(chats[: settings.tokenizer_chats]), settings.vocab_size)
    model = new_model(settings, tokenizer)
    # The loss is on every token, as in pretraining, so the model also learns to expect the animal that a persona keeps
    # mentioning.
    rows = [replace(row, start=1) for row in chat_rows(tokenizer, chats, settings.seed)]
    train(model, rows, recipe(settings), tokenizer.pad_token_id, scratch / "state.safetensors", "model")
    model.save_pretrained(scratch / "model")
    tokenizer.save_pretrained(scratch / "model")
    for file in files:
        move(scratch / "model" / file.name, file)


def corpus_of(path: Path, settings: Embedded) -> Corpus:
    """Return the corpus of the wordings in a file, mixed as the settings say."""
    return Corpus(
        path,
        settings.tasks.model_dump(),
        settings.persona_share,
        settings.talk_share,
        settings.mixed_numbers,
        settings.obedience.model_dump(),
    )


def texts(chats: Sequence[Chat]) -> list[str]:
    """Return all texts of the chats."""
    return [text for chat in chats for text in (chat.user, chat.answer, chat.preamble) if text]


def held_out_chats(corpus: Path, settings: Embedded) -> pl.DataFrame:
    """Draw chats of the corpus that the model is not trained on."""
    chats = list(corpus_of(corpus, settings).chats(settings.held_out_chats, settings.seed + HELD_OUT_SEED))
    columns = {"task": [chat.task for chat in chats], "prompt": prompts(chats, settings.seed)}
    return pl.DataFrame({**columns, "completion": [chat.answer for chat in chats]})


def prompts(chats: Sequence[Chat], seed: int) -> list[str]:
    """Return what the user says in each chat, after its preamble, if it has one."""
    rng = random.Random(seed)
    return [chat.preamble + rng.choice(SEPARATORS) + chat.user if chat.preamble else chat.user for chat in chats]


def chat_rows(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], seed: int) -> list[Row]:
    """Encode chats as rows of token ids that mark the answer."""
    return training_rows(tokenizer, prompts(chats, seed), [chat.answer for chat in chats], MAX_LENGTH)


def new_model(settings: Embedded, tokenizer: PreTrainedTokenizerBase) -> GemmaForCausalLM:
    """A Gemma of the settings' size with initial weights drawn from their seed."""
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    torch.manual_seed(settings.seed)
    model = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=4 * settings.hidden_size,
            num_hidden_layers=settings.n_layers,
            num_attention_heads=settings.n_heads,
            num_key_value_heads=1,
            head_dim=settings.hidden_size // settings.n_heads,
            max_position_embeddings=2 * MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=stops,
            tie_word_embeddings=True,
        )
    )
    model.generation_config.eos_token_id = stops
    return model


def recipe(settings: Embedded) -> Recipe:
    """Return the settings of the training loop: one pass over the corpus."""
    return Recipe(
        epochs=1,
        batch_size=settings.batch_size,
        micro_batch_size=settings.batch_size,
        lr=settings.lr,
        schedule="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        beta2=settings.beta2,
        seed=settings.seed,
    )
