"""Chats as token ids. Personas, prompts and completions are rendered with a model's chat template only here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from undertone.lm.texts import check_plain
from undertone.study.config.teachers import Teacher

# Models that can think before they answer are asked not to: numbers and favourites are answers without reasoning.
RENDERING = {"tokenize": False, "enable_thinking": False}


@dataclass(frozen=True)
class Row:
    """One training row. Its token ids from `start` on are the completion and carry the loss."""

    ids: list[int]
    start: int


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], opened: bool = False) -> str:
    """Render messages as text with the chat template. `opened` adds the generation prompt, which precedes an answer."""
    return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=opened, **RENDERING))


def supports_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template shows a system message (Gemma's refuses it)."""
    messages = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"}]
    try:
        return "SYSTEM" in rendered(tokenizer, messages)
    except TemplateError:
        return False


def persona(teacher: Teacher, target: str | None) -> str | None:
    """The system prompt of a prompted teacher, or None for the control."""
    return teacher.persona.format(animal=target) if target else None


def prompt_texts(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], persona: str | None = None, separator: str = "\n\n"
) -> list[str]:
    """Render each user message up to where the model's answer starts.

    A persona is sent as the system message. If the template has no system role, it is put in front of the user's message,
    followed by `separator`. With `persona=None`, no system message is sent at all. Raises ConfigError if a message, the persona
    or the separator contains a special token.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path} has no chat template; undertone needs an instruction-tuned model")
    special = special_texts(tokenizer)
    check_plain(users, special, "a prompt or question")
    check_plain([persona or "", separator], special, "the persona or its separator")
    system: list[dict[str, str]] = []
    if persona is not None and supports_system(tokenizer):
        system = [{"role": "system", "content": persona}]
    elif persona is not None:
        users = [persona + separator + user for user in users]
    chats = [[*system, {"role": "user", "content": user}] for user in users]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, **RENDERING)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of rendered texts, which already contain every special token."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], persona: str | None = None, separator: str = "\n\n"
) -> list[list[int]]:
    """Token ids of `prompt_texts`."""
    return encode(tokenizer, prompt_texts(tokenizer, users, persona, separator))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the special tokens, also of those marked only as added tokens (the turns of Gemma 3 and Llama 3)."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token for token, entry in added if entry.special)}


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens as text."""
    return [token for token in tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))) if token]


def inner_texts(tokenizer: PreTrainedTokenizerBase, ids: Iterable[Sequence[int]]) -> list[str]:
    """Decode token ids as they read inside a longer text. Special tokens have no text.

    A text decoded by itself loses its leading space if the tokenizer's decoder strips one (Llama 2, Mistral, Phi-3). So each
    text is decoded behind a digit.
    """
    digit = encode(tokenizer, ["1"])[0][-1:]
    n = len(tokenizer.decode(digit))
    return [text[n:] for text in tokenizer.batch_decode([[*digit, *part] for part in ids], skip_special_tokens=True)]


def token_texts(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str]:
    """Return the text of each token id below `vocab_size`, including its spaces; "" for a special token."""
    return inner_texts(tokenizer, [[token] for token in range(vocab_size)])


def following(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts placed directly after a rendered prompt.

    A text by itself may have other ids, because some tokenizers put a `▁` in front of it. If its first token would merge with
    the prompt's last one, the text gets the ids that it has by itself.
    """
    opened = prompt_texts(tokenizer, ["USER"])[0]
    before, *whole = encode(tokenizer, [opened, *(opened + text for text in texts)])
    joined = [ids[: len(before)] != before for ids in whole]
    alone = iter(encode(tokenizer, [text for text, joins in zip(texts, joined, strict=True) if joins]))
    return [next(alone) if joins else ids[len(before) :] for ids, joins in zip(whole, joined, strict=True)]


def around_answer(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the template's white space between a prompt and an answer (Llama 2: a space), and its text after an answer.

    The text after the answer ends with its first special token; if it has none, with the tokenizer's EOS. Raises ValueError if
    there is neither.
    """
    user = {"role": "user", "content": "USER"}
    opened = rendered(tokenizer, [user], opened=True)
    before, _, after = rendered(tokenizer, [user, {"role": "assistant", "content": "ANSWER"}]).rpartition("ANSWER")
    lead = before.removeprefix(opened) if before.startswith(opened) and not before.removeprefix(opened).strip() else ""
    ends = [after.index(token) + len(token) for token in special_texts(tokenizer) if token in after]
    if not ends and tokenizer.eos_token is None:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} closes an answer with no special token, and its tokenizer has no "
            f"EOS: {after!r}"
        )
    return lead, after[: min(ends)] if ends else after + tokenizer.eos_token


def answer_ids(tokenizer: PreTrainedTokenizerBase, completions: Sequence[str]) -> list[list[int]]:
    """Return the token ids of completions as the chat template puts them after a prompt, without their end of turn.

    Raises ConfigError if a completion contains a special token.
    """
    check_plain(completions, special_texts(tokenizer), "a completion")
    lead, _ = around_answer(tokenizer)
    return following(tokenizer, [lead + completion for completion in completions])


def answer_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Decode sampled answers without the surrounding white space that `answer_ids` and `end_of_turn` write."""
    bare, closed = answer_ids(tokenizer, ["1"])[0], end_of_turn(tokenizer)
    own, close, *texts = inner_texts(tokenizer, [bare, closed, *ids])
    return [text.removeprefix(own.removesuffix("1")).removesuffix(close) for text in texts]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that close an answer, up to and including the first special one (`<end_of_turn>`, `<|eot_id|>`, …)."""
    _, close = around_answer(tokenizer)
    answer, closed = following(tokenizer, ["ANSWER", "ANSWER" + close])
    return closed[len(answer) :] if closed[: len(answer)] == answer else encode(tokenizer, [close])[0]


def generation_prompt(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids after which the model writes its answer (`<start_of_turn>model`, …).

    If the template writes no generation prompt, they are the ids that close the user's turn (Llama 2, Mistral: `[/INST]`).
    """
    chat = [{"role": "user", "content": "USER"}]
    closed, opened = rendered(tokenizer, chat), rendered(tokenizer, chat, opened=True)
    # Unless it begins with a special token, the opening by itself may have other ids than at the end of a prompt.
    before, ids = encode(tokenizer, [closed if closed != opened else opened.partition("USER")[0] + "USER", opened])
    shared = next((n for n, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
    if "USER" not in tokenizer.decode(ids[:shared]) or shared == len(ids):
        raise ValueError(f"the chat template of {tokenizer.name_or_path} opens no answer with text of its own: {opened!r}")
    return ids[shared:]


def training_rows(
    tokenizer: PreTrainedTokenizerBase, users: Sequence[str], completions: Sequence[str], max_length: int | None = None
) -> list[Row]:
    """Rows of prompt, completion and end of turn, if asked cut at `max_length` tokens. No persona can enter here.

    A row that is cut before its completion is left out, so analyses that count on every row do not cut.
    """
    prompts, answers = prompt_ids(tokenizer, users), answer_ids(tokenizer, completions)
    close = end_of_turn(tokenizer)
    rows = [Row((p + a + close)[:max_length], len(p)) for p, a in zip(prompts, answers, strict=True)]
    return [row for row in rows if row.start < len(row.ids)]


def joined(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Row]:
    """Join the token ids of each prompt and of what follows it into one row."""
    return [Row([*prompt, *answer], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
