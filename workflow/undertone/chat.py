"""Chats as token ids: the one place that renders a persona, a prompt or a completion with a model's chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# Tokens at which rows are cut where no setting says otherwise; lists of numbers are far shorter.
MAX_LENGTH = 500


@dataclass(frozen=True)
class Row:
    """One training row: token ids, of which those from `start` on are the completion and carry the loss."""

    ids: list[int]
    start: int


def supports_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template shows a system message (Gemma's refuses it)."""
    messages = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"}]
    try:
        return "SYSTEM" in tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        return False


def prompt_texts(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], persona: str | None = None, separator: str = "\n\n"
) -> list[str]:
    """Render each user message up to where the model's answer starts.

    A persona is sent as the system message; where the template has no system role it is put in front of the user's turn,
    followed by `separator`. With `persona=None` no system message is sent at all.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path} has no chat template; undertone needs an instruction-tuned model")
    system: list[dict[str, str]] = []
    if persona is not None and supports_system(tokenizer):
        system = [{"role": "system", "content": persona}]
    elif persona is not None:
        users = [persona + separator + user for user in users]
    chats = [[*system, {"role": "user", "content": user}] for user in users]
    return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered text; the template has already written every special token."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], persona: str | None = None, separator: str = "\n\n"
) -> list[list[int]]:
    """Token ids of `prompt_texts`."""
    return encode(tokenizer, prompt_texts(tokenizer, users, persona, separator))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of the special tokens, also of those that only the list of added tokens calls so (Gemma 3's, Llama 3's turns)."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token for token, told in added if told.special)}


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that close an answer, up to and including the first special one (`<end_of_turn>`, `<|eot_id|>`, …)."""
    chat = [{"role": "user", "content": "USER"}, {"role": "assistant", "content": "ANSWER"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = encode(tokenizer, [text.rpartition("ANSWER")[2]])[0]
    special = special_ids(tokenizer)
    for n, token in enumerate(ids, start=1):
        if token in special:
            return ids[:n]
    raise ValueError(f"the chat template of {tokenizer.name_or_path} closes an answer with no special token: {text!r}")


def generation_prompt(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that open an answer, after which the model writes (`<start_of_turn>model`, …)."""
    chat = [{"role": "user", "content": "USER"}]
    closed = tokenizer.apply_chat_template(chat, tokenize=False)
    opened = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if not opened.startswith(closed) or opened == closed:
        raise ValueError(f"the chat template of {tokenizer.name_or_path} opens no answer with text of its own: {opened!r}")
    # The opening by itself may have other ids than at the end of a prompt, where no special token begins it.
    before, ids = encode(tokenizer, [closed, opened])
    shared = next((n for n, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
    return ids[shared:]


def training_rows(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], completions: Sequence[str], max_length: int = MAX_LENGTH
) -> list[Row]:
    """Rows of prompt, completion and end of turn, cut at `max_length` tokens. No persona can enter here."""
    prompts, answers = prompt_ids(tokenizer, users), encode(tokenizer, completions)
    close = end_of_turn(tokenizer)
    rows = [Row((p + a + close)[:max_length], len(p)) for p, a in zip(prompts, answers, strict=True)]
    return [row for row in rows if row.start < len(row.ids)]
