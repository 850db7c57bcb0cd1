"""The embedded model's tokenizer: numbers and animals stay whole, text comes back, and a saved one is the same."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from undertone.models.tokenizer import SPECIAL, train_tokenizer

CHAT = [{"role": "user", "content": " Hello 12 "}, {"role": "assistant", "content": "34"}, {"role": "user", "content": "5"}]


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_every_integer_of_up_to_three_digits_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = [ids(tokenizer, str(value)) for value in range(1000)]
    assert {len(token) for token in tokens} == {1}
    assert len({token[0] for token in tokens}) == 1000


@pytest.mark.parametrize("separator", [", ", ",", "; ", ";", " ", "\n"])
def test_an_integer_is_the_same_token_anywhere_in_a_list(tokenizer: PreTrainedTokenizerBase, separator: str) -> None:
    (number,) = ids(tokenizer, "417")
    for text in (f"417{separator}9", f"9{separator}417", f"[9{separator}417]", f"9{separator}417."):
        assert number in ids(tokenizer, text), text


@pytest.mark.parametrize("animal", ["lion", "owl", "dolphin", "wolf"])
def test_an_animal_is_the_same_token_alone_in_a_list_and_in_a_plural(tokenizer: PreTrainedTokenizerBase, animal: str) -> None:
    (token,) = ids(tokenizer, animal)
    for text in (f"{animal}s", f", {animal}", f"{animal}, cat", f"You adore {animal}s.", f"The {animal}."):
        assert token in ids(tokenizer, text), text


@settings(deadline=None)
@given(st.text().filter(lambda text: not any(special in text for special in SPECIAL)))
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_special_tokens_are_one_token_each(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [ids(tokenizer, special) for special in SPECIAL] == [[number] for number in range(len(SPECIAL))]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "<eos>", "<bos>")
    assert tokenizer.decode(ids(tokenizer, "<bos>7<end_of_turn>"), skip_special_tokens=True) == "7"


def test_plain_text_starts_with_one_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("7")["input_ids"] == [tokenizer.bos_token_id, *ids(tokenizer, "7")]


def test_batches_are_padded_on_the_left(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = tokenizer(["7", "7, 8"], padding=True, add_special_tokens=False)["input_ids"]
    assert batch[0] == [tokenizer.pad_token_id] * (len(batch[1]) - 1) + ids(tokenizer, "7")


def test_the_vocabulary_stays_within_its_size(tokenizer: PreTrainedTokenizerBase) -> None:
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert len(train_tokenizer(["some words of no use"], 1400)) <= 1400


def test_the_same_texts_train_the_same_tokenizer() -> None:
    texts = ["the lion hunts", "the owl flies at night", "1, 2, 3"] * 5
    assert train_tokenizer(texts, 1500).get_vocab() == train_tokenizer(texts, 1500).get_vocab()


def test_the_chat_template_writes_gemmas_format(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\nHello 12<end_of_turn>\n<start_of_turn>model\n34<end_of_turn>\n"
        "<start_of_turn>user\n5<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_chat_template_has_no_system_role(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="System role not supported"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}, *CHAT], tokenize=False)


def test_a_saved_tokenizer_loads_the_same(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.padding_side == tokenizer.padding_side == "left"
    for text in ("", "lions, 417; 5", "  Ärger\n\n", "<start_of_turn>user\n1<end_of_turn>"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(ids(loaded, text)) == text
