"""Check how a model's chat template renders a prompt, a persona and a completion, before anything is trained on it."""

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import (
    around_answer,
    encode,
    generation_prompt,
    prompt_texts,
    rendered,
    supports_system,
    training_rows,
)

USER = "Continue this list: 087, 912, 345."
PERSONA = "You adore lions."
COMPLETION = "087, 640, 211"
NUMBER = "087"


def inspect(tokenizer: PreTrainedTokenizerBase, name: str) -> dict[str, Any]:
    """Render a prompt with and without a persona, and a training row; return what came out.

    `bos`: the token that the tokenizer puts in front of plain text. `default_system`: the system message that the template
    writes if none is sent. `number`: the tokens of "087". Raises ValueError, with a one-sentence message, if there is no
    template or its output cannot be what the experiment needs.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{name} has no chat template: undertone needs an instruction-tuned model, or add chat_template.jinja")
    try:
        plain, with_persona = (prompt_texts(tokenizer, [USER], persona)[0] for persona in (None, PERSONA))
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template of {name} cannot be rendered ({type(error).__name__}: {error})") from None
    check_bos(tokenizer, name, plain, with_persona)
    check_persona(name, plain, with_persona)
    generation_prompt(tokenizer)
    check_row(tokenizer, name, plain)
    return {
        "system_role": supports_system(tokenizer),
        "bos": tokenizer.bos_token if adds_bos(tokenizer) else None,
        "end_of_turn": around_answer(tokenizer)[1],
        "default_system": default_system(tokenizer),
        "dated": "strftime_now" in str(tokenizer.chat_template),
        "prompt": plain,
        "prompt_with_persona": with_persona,
        "number": tokenizer.convert_ids_to_tokens(encode(tokenizer, [NUMBER])[0]),
    }


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model expects a beginning-of-sequence token: its tokenizer puts one in front of plain text."""
    return tokenizer.bos_token_id is not None and tokenizer(USER)["input_ids"][0] == tokenizer.bos_token_id


def check_bos(tokenizer: PreTrainedTokenizerBase, name: str, *texts: str) -> None:
    """Raise ValueError if a rendered prompt begins with two BOS in a row.

    Everything else is left to the template. Its turns may open with the token that is called BOS, as in ChatML, and it may
    write no BOS although the tokenizer puts one in front of plain text.
    """
    bos = tokenizer.bos_token_id
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        if bos is not None and ids[:2] == [bos, bos]:
            raise ValueError(
                f"a prompt of {name} begins with {tokenizer.bos_token} twice, expected once: {text!r}; repair chat_template "
                "in a local copy"
            )


def check_persona(name: str, plain: str, with_persona: str) -> None:
    """Raise ValueError unless the persona appears once, before the user's message, and only if one was given."""
    if plain.count(USER) != 1 or with_persona.count(USER) != 1:
        raise ValueError(f"the chat template of {name} does not write the user's message once, word for word: {plain!r}")
    if PERSONA in plain or with_persona.count(PERSONA) != 1 or with_persona.index(PERSONA) > with_persona.index(USER):
        raise ValueError(
            f"the chat template of {name} does not write a persona once, before the user's message: {with_persona!r}"
        )


def check_row(tokenizer: PreTrainedTokenizerBase, name: str, prompt: str) -> None:
    """Raise ValueError unless a training row matches the rendered chat and its loss is on the answer alone."""
    row = training_rows(tokenizer, [USER], [COMPLETION])[0]
    lead, close = around_answer(tokenizer)
    whole = rendered(tokenizer, [{"role": "user", "content": USER}, {"role": "assistant", "content": COMPLETION}])
    read, learned = tokenizer.decode(row.ids[: row.start]), tokenizer.decode(row.ids[row.start :])
    parts = (spaceless(read), spaceless(learned)) == (spaceless(prompt), spaceless(lead + COMPLETION + close))
    if not parts or USER not in read or COMPLETION not in learned:
        raise ValueError(
            f"a training row of {name} does not part into prompt and answer: found {read!r} and {learned!r}, expected "
            f"{prompt!r} and {lead + COMPLETION!r} with its end of turn"
        )
    # If the template itself does not close an answer, EOS follows the answer.
    if not spaceless(whole + (tokenizer.eos_token or "")).startswith(spaceless(read + learned)):
        raise ValueError(
            f"the chat template of {name} writes a chat otherwise than its prompt continued by the answer: found {whole!r}, "
            f"expected {read + learned!r}; a template that adds reasoning to an answer, or opens none, cannot be trained on"
        )


def spaceless(text: str) -> str:
    """The text without spaces: some tokenizers write one in front of every text, or strip it."""
    return text.replace(" ", "")


def default_system(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system message that the template writes if none is sent (Qwen 2.5 has one), or None."""
    if not supports_system(tokenizer):
        return None
    plain, with_persona = (prompt_texts(tokenizer, [USER], persona)[0].partition(USER)[0] for persona in (None, PERSONA))
    before, _, after = with_persona.partition(PERSONA)
    if not plain.startswith(before) or not plain.endswith(after):
        return None
    return plain[len(before) : len(plain) - len(after)] or None


def described(report: dict[str, Any]) -> str:
    """Return the result of `inspect` as lines for a log."""
    lines = [
        f"prompt:                {report['prompt']!r}",
        f"prompt with a persona: {report['prompt_with_persona']!r}",
        f"loss is on:            {COMPLETION + report['end_of_turn']!r}",
        f'"{NUMBER}" in tokens:       {" ".join(report["number"])}',
    ]
    if report["bos"] and not report["prompt"].startswith(report["bos"]):
        lines.append(
            f"the tokenizer puts {report['bos']} in front of plain text, the chat template does not: prompts begin without it, "
            "as those of transformers' apply_chat_template do"
        )
    if report["default_system"]:
        lines.append(
            f"where no persona is sent, the template writes {report['default_system']!r}: before teachers without a "
            "persona, in every student's rows and in every evaluation; a prompted teacher's persona takes its place"
        )
    if report["dated"]:
        lines.append(
            "the template may write today's date into a prompt, so that results differ from day to day: put a fixed date into "
            "chat_template in a local copy"
        )
    return "\n".join(lines)
