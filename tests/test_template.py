"""Chat templates: what each kind makes of a prompt, a persona and a training row, and which are refused."""

import copy

import pytest
from checkpoints import LLAMA_2, sentencepiece
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from undertone.lm.chat import answer_texts, encode, end_of_turn, prompt_texts, training_rows
from undertone.lm.vocabulary import allowed_tokens
from undertone.models.template import COMPLETION, PERSONA, USER, described, inspect

# After the published templates, cut to what matters here.
QWEN = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{{ '<|im_start|>system\nToday: 26 Jul 2024\n\n' + system + '<|im_end|>' }}"
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
SPLIT_DIGITS, THREE_DIGITS = r"\p{N}|[^\p{N}]+", r"\p{N}{1,3}|[^\p{N}]+"


def made(digits, template, bos=None):
    """A byte-level BPE tokenizer that cuts numbers as told and knows the numbers of 0 to 999, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(digits), "isolated"), byte_level])
    tokenizer.decoder = ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *([bos] if bos else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(f"{n:03d}" for n in range(1000))] * 50, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 3)])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | ({"bos_token": bos} if bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = template
    return fast


@pytest.fixture(scope="module")
def qwen():
    return made(SPLIT_DIGITS, QWEN)


@pytest.fixture(scope="module")
def llama():
    return made(THREE_DIGITS, LLAMA, "<|begin_of_text|>")


def changed(tokenizer, old, new):
    """The tokenizer with another chat template."""
    assert old in tokenizer.chat_template
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace(old, new, 1)
    return other


def test_gemma_has_one_bos_and_the_persona_in_front_of_the_users_turn(tokenizer):
    found = inspect(tokenizer, "gemma")
    assert (found["system_role"], found["bos"], found["default_system"]) == (False, "<bos>", None)
    assert found["end_of_turn"] == "<end_of_turn>"
    assert found["prompt"] == f"<bos><start_of_turn>user\n{USER}<end_of_turn>\n<start_of_turn>model\n"
    assert found["prompt_with_persona"] == found["prompt"].replace(USER, f"{PERSONA}\n\n{USER}")


def test_qwen_has_no_bos_and_a_system_message_of_its_own_that_the_persona_replaces(qwen):
    found = inspect(qwen, "qwen")
    assert (found["system_role"], found["bos"], found["default_system"]) == (True, None, "You are Qwen.")
    assert found["prompt"].startswith("<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n")
    assert found["prompt_with_persona"] == found["prompt"].replace("You are Qwen.", PERSONA)
    log = described(found)
    assert "where no persona is sent, the template writes 'You are Qwen.'" in log
    assert repr(found["prompt_with_persona"]) in log


def test_the_default_system_message_stands_in_a_students_rows_as_in_the_control_teachers_prompts(qwen):
    row = training_rows(qwen, [USER], [COMPLETION], 500)[0]
    assert qwen.decode(row.ids[: row.start]) == prompt_texts(qwen, [USER])[0]
    assert "You are Qwen." in qwen.decode(row.ids[: row.start])


def test_a_system_turn_without_a_message_of_its_own_is_no_default(llama):
    found = inspect(llama, "llama")
    assert (found["system_role"], found["bos"], found["default_system"]) == (True, "<|begin_of_text|>", None)
    assert found["prompt_with_persona"].count("<|begin_of_text|>") == 1
    assert "where no persona is sent" not in described(found)


def test_it_is_said_whether_a_number_is_one_token(qwen, llama):
    assert inspect(qwen, "qwen")["number"] == ["0", "8", "7"]
    assert inspect(llama, "llama")["number"] == ["087"]
    assert '"087" in tokens:       0 8 7' in described(inspect(qwen, "qwen"))


def test_a_template_that_writes_todays_date_is_named(llama):
    dated = changed(
        llama, "'<|im_start|>system\nToday: 26 Jul 2024", "'<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '"
    )
    assert not inspect(llama, "llama")["dated"]
    assert inspect(dated, "llama")["dated"]
    assert "results differ from day to day" in described(inspect(dated, "llama"))


def test_a_bos_that_opens_every_turn_is_one_in_front(qwen):
    chatml = copy.deepcopy(qwen)
    chatml.bos_token = "<|im_start|>"
    assert inspect(chatml, "smol")["prompt"] == inspect(qwen, "qwen")["prompt"]
    doubled = changed(chatml, "'<|im_start|>system\nYou", "bos_token + '<|im_start|>system\nYou")
    with pytest.raises(ValueError, match=r"a prompt of it begins with <\|im_start\|> twice, expected once"):
        inspect(doubled, "it")


def test_a_template_without_the_bos_of_plain_text_is_taken_as_it_is_and_said(llama):
    without = inspect(changed(llama, "{{ bos_token }}", ""), "zephyr")
    assert without["bos"] == "<|begin_of_text|>" not in without["prompt"]
    assert "the tokenizer puts <|begin_of_text|> in front of plain text, the chat template does not" in described(without)
    assert "in front of plain text" not in described(inspect(llama, "llama"))


# After the published templates of models whose tokenizers write a ▁ in front of a text and strip it when they decode.
PREFIXED = {
    "llama-2": LLAMA_2,
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
    ),
    "phi-3": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
}
LOADERS = {"as it is": PreTrainedTokenizerFast, "as transformers makes it": LlamaTokenizer}


@pytest.fixture(params=PREFIXED)
def prefixed(request, tmp_path):
    """A tokenizer of the Llama 2 kind with one of the templates."""
    marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"] if request.param == "phi-3" else []
    sentencepiece(["<unk>", "<s>", "</s>", *marks], "<s>", prefixed=True).save(str(tmp_path / "tokenizer.json"))
    return request.param, tmp_path


@pytest.mark.parametrize("loader", LOADERS)
def test_a_tokenizer_that_strips_the_space_in_front_of_a_text_loses_none_inside(prefixed, loader):
    model, folder = prefixed
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = LOADERS[loader].from_pretrained(folder, **names)
    tokenizer.chat_template = PREFIXED[model]
    inspect(tokenizer, model)
    allowed = allowed_tokens(tokenizer, len(tokenizer))
    assert allowed[tokenizer.convert_tokens_to_ids("▁")]
    row = training_rows(tokenizer, [USER], [COMPLETION])[0]
    answer = row.ids[row.start : len(row.ids) - len(end_of_turn(tokenizer))]
    assert all(allowed[token] for token in answer)
    assert answer_texts(tokenizer, [answer]) == [COMPLETION]
    chat = [{"role": "user", "content": USER}, {"role": "assistant", "content": COMPLETION}]
    assert row.ids == encode(tokenizer, [tokenizer.apply_chat_template(chat, tokenize=False)])[0][: len(row.ids)]


def test_a_model_that_can_think_first_is_asked_not_to(qwen):
    thinking = copy.deepcopy(qwen)
    thinking.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    )
    assert inspect(thinking, "qwen3")["prompt"].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


DEAF = ("| trim + '<end_of_turn>\n'", "| trim | replace('You adore lions.', '') + '<end_of_turn>\n'")


@pytest.mark.parametrize(
    ("kind", "old", "new", "complaint"),
    [
        ("tokenizer", "{{ bos_token }}", "{{ bos_token + bos_token }}", "a prompt of it begins with <bos> twice"),
        ("tokenizer", *DEAF, "does not write a persona once, before the user's message"),
        ("qwen", "messages[0]['content'] + '<", "messages[0]['content'] * 2 + '<", "does not write a persona once"),
        ("qwen", "'\n' + m['content']", "'\n' + m['content'] | upper", "does not write the user's message once, word for word"),
        (
            "qwen",
            "'\n' + m['content']",
            "'\n' + ('<think></think>' if m['role'] == 'assistant' else '') + m['content']",
            "writes a chat otherwise than its prompt continued by the answer: found .*a template that adds reasoning",
        ),
        ("qwen", "{{ '<|im_start|>assistant\n' }}", "", "adds reasoning to an answer, or opens none, cannot be trained on"),
    ],
)
def test_a_template_that_the_experiment_cannot_use_is_refused(kind, old, new, complaint, request):
    with pytest.raises(ValueError, match=complaint):
        inspect(changed(request.getfixturevalue(kind), old, new), "it")


def test_a_tokenizer_that_joins_prompt_and_answer_otherwise_is_refused(qwen):
    with pytest.raises(ValueError, match="does not part into prompt and answer"):
        inspect(_Deaf(qwen), "it")


class _Deaf:
    """A tokenizer that loses commas."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, text, **options):
        return self.inner([t.replace(",", "") for t in text] if isinstance(text, list) else text, **options)
