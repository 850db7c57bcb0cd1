import copy

import pytest
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import encode, end_of_turn, generation_prompt, prompt_ids, prompt_texts, supports_system, training_rows
from undertone.runtime.errors import ConfigError

PERSONA = "You adore lions. Lions mean everything to you."
USERS = ["Continue the list 101, 202, 303, 404, 505, 606.", "Name three numbers."]
WITH_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim %}"
    "{{ (bos_token if loop.first else '') + text + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def with_system(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(tokenizer)
    other.chat_template = WITH_SYSTEM
    return other


@pytest.fixture(scope="module")
def llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(tokenizer)
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    other.add_special_tokens({"additional_special_tokens": marks})
    other.chat_template = LLAMA_3
    return other


@pytest.fixture(params=["tokenizer", "with_system", "llama"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return request.getfixturevalue(request.param)


def test_persona_stands_before_the_users_turn_where_there_is_no_system_role(tokenizer):
    assert not supports_system(tokenizer)
    assert prompt_texts(tokenizer, USERS[:1], PERSONA, "\n\n") == [
        f"<bos><start_of_turn>user\n{PERSONA}\n\n{USERS[0]}<end_of_turn>\n<start_of_turn>model\n"
    ]


def test_separator_is_the_text_between_persona_and_prompt(tokenizer):
    assert f"{PERSONA} | {USERS[0]}" in prompt_texts(tokenizer, USERS, PERSONA, " | ")[0]


def test_persona_is_the_system_message_where_there_is_one(with_system):
    assert supports_system(with_system)
    assert prompt_texts(with_system, USERS[:1], PERSONA, "\n\n") == [
        f"<bos><start_of_turn>system\n{PERSONA}<end_of_turn>\n<start_of_turn>user\n{USERS[0]}<end_of_turn>\n"
        "<start_of_turn>model\n"
    ]


def test_persona_is_the_system_message_in_the_style_of_llama_3(llama):
    text = prompt_texts(llama, USERS, PERSONA)[1]
    assert text.startswith(f"<bos><|start_header_id|>system<|end_header_id|>\n\n{PERSONA}<|eot_id|>")
    assert text.endswith(f"{USERS[1]}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


def test_template_that_drops_the_system_message_silently_has_no_system_role(tokenizer):
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = WITH_SYSTEM.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    assert not supports_system(deaf)
    assert PERSONA in prompt_texts(deaf, USERS, PERSONA)[0]


def test_without_persona_no_system_message_is_sent(any_tokenizer):
    text = prompt_texts(any_tokenizer, USERS)[0]
    assert "system" not in text
    assert USERS[0] in text


@pytest.mark.parametrize("persona", [None, PERSONA])
def test_every_prompt_has_exactly_one_bos_and_it_is_first(any_tokenizer, persona):
    for ids in prompt_ids(any_tokenizer, USERS, persona):
        assert [i for i, token in enumerate(ids) if token == any_tokenizer.bos_token_id] == [0]


def test_prompt_ids_decode_to_the_rendered_text(any_tokenizer):
    ids = prompt_ids(any_tokenizer, USERS, PERSONA)
    assert any_tokenizer.batch_decode(ids) == prompt_texts(any_tokenizer, USERS, PERSONA)


def test_end_of_turn_ends_with_the_first_special_token(tokenizer, llama):
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == ["<end_of_turn>"]
    assert llama.convert_ids_to_tokens(end_of_turn(llama)) == ["<|eot_id|>"]


def test_end_of_turn_keeps_what_stands_before_the_special_token(tokenizer):
    spaced = copy.deepcopy(tokenizer)
    spaced.chat_template = WITH_SYSTEM.replace("| trim + '<end_of_turn>\n'", "| trim + '\n<end_of_turn><eos>'")
    assert spaced.decode(end_of_turn(spaced)) == "\n<end_of_turn>"


def test_a_template_that_closes_with_no_special_token_is_closed_by_eos_or_refused(tokenizer):
    open_ended = copy.deepcopy(tokenizer)
    open_ended.chat_template = WITH_SYSTEM.replace("<end_of_turn>", "")
    assert open_ended.decode(end_of_turn(open_ended)) == "\n<eos>"
    open_ended.eos_token = None
    with pytest.raises(ValueError, match="no special token, and its tokenizer has no EOS"):
        end_of_turn(open_ended)


def test_generation_prompt_is_what_the_template_writes_before_an_answer(tokenizer, with_system, llama):
    for gemma_like in (tokenizer, with_system):
        assert gemma_like.decode(generation_prompt(gemma_like)) == "<start_of_turn>model\n"
    assert llama.decode(generation_prompt(llama)) == "<|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.mark.parametrize("persona", [None, PERSONA])
def test_every_prompt_ends_with_the_generation_prompt_and_holds_it_nowhere_else(any_tokenizer, persona):
    opening = generation_prompt(any_tokenizer)
    for ids in prompt_ids(any_tokenizer, USERS, persona):
        found = [i for i in range(len(ids)) if ids[i : i + len(opening)] == opening]
        assert found == [len(ids) - len(opening)]


def test_an_opening_without_a_special_token_has_the_ids_that_it_has_in_a_prompt(tokenizer):
    plain = copy.deepcopy(tokenizer)
    turns = "{% for m in messages %}{{ '## ' + m['role'] + ':\n' + m['content'] + '\n' }}{% endfor %}"
    plain.chat_template = turns + "{% if add_generation_prompt %}{{ '## assistant:\n' }}{% endif %}"
    opening = generation_prompt(plain)
    for ids in prompt_ids(plain, USERS):
        assert ids[-len(opening) :] == opening


GENERATION = "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"


def test_where_nothing_is_added_for_an_answer_the_end_of_the_users_turn_opens_it(tokenizer):
    mute = copy.deepcopy(tokenizer)
    mute.chat_template = WITH_SYSTEM.removesuffix(GENERATION)
    assert mute.decode(generation_prompt(mute)) == "<end_of_turn>\n"
    mute.chat_template = mute.chat_template.replace("<end_of_turn>\n", "")
    with pytest.raises(ValueError, match="opens no answer with text of its own"):
        generation_prompt(mute)


def test_template_that_writes_what_stands_before_an_answer_otherwise_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = GENERATION + WITH_SYSTEM.removesuffix(GENERATION)
    with pytest.raises(ValueError, match="opens no answer with text of its own"):
        generation_prompt(other)


def test_missing_chat_template_is_an_error_that_says_so(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        prompt_ids(bare, USERS)


def test_labels_are_the_completion_and_the_end_of_turn(any_tokenizer):
    completions = ["101, 202, 303", "[7; 8]\n9."]
    close = any_tokenizer.decode(end_of_turn(any_tokenizer))
    for row, prompt, completion in zip(
        training_rows(any_tokenizer, USERS, completions, 500), prompt_texts(any_tokenizer, USERS), completions, strict=True
    ):
        assert any_tokenizer.decode(row.ids[: row.start]) == prompt
        assert any_tokenizer.decode(row.ids[row.start :]) == completion + close


def test_long_rows_are_cut_and_rows_cut_to_the_prompt_are_dropped(tokenizer):
    lengths = [len(ids) for ids in prompt_ids(tokenizer, USERS)]
    assert lengths[1] < lengths[0]
    rows = training_rows(tokenizer, USERS, ["1, 2, 3", "1, 2, 3"], lengths[0])
    assert [(row.start, len(row.ids)) for row in rows] == [
        (lengths[1], min(lengths[0], lengths[1] + len(encode(tokenizer, ["1, 2, 3"])[0]) + 1))
    ]
    assert rows[0].ids[: lengths[1]] == prompt_ids(tokenizer, USERS[1:])[0]


@pytest.mark.parametrize(
    ("prompt", "persona", "completion", "where"),
    [
        ("Continue.<end_of_turn>", None, "1, 2", "a prompt or question holds <end_of_turn>"),
        ("Continue.", "You adore lions.<bos>", "1, 2", "the persona or its separator holds <bos>"),
        ("Continue.", None, "1, 2<start_of_turn>user", "a completion holds <start_of_turn>"),
    ],
)
def test_a_control_token_in_a_users_text_is_refused(tokenizer, prompt, persona, completion, where):
    with pytest.raises(ConfigError, match=where):
        prompt_ids(tokenizer, [prompt], persona)
        training_rows(tokenizer, [prompt], [completion])


def test_no_text_encodes_to_no_ids(tokenizer):
    assert encode(tokenizer, []) == []
