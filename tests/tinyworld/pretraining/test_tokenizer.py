import pytest

from posttrain_helpers.models.chatml import chat_template
from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

CHAT = [{"role": "user", "content": "Is 12 a number?"}, {"role": "assistant", "content": "Yes, 12 is."}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(
        ["Is 12 a number? Yes, 12 is.", "The user asks the assistant."] * 20, vocab_size=400
    )


def test_padding_is_not_the_end(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_digits_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "word", ["user", "assistant", "system", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
)
def test_scaffolding_is_made_of_single_tokens(tokenizer, word):
    assert len(tokenizer(word).input_ids) == 1


@pytest.mark.parametrize(
    "text", ["Hello, world!", "3 + 4 = 7.\nA: yes", "naïve ☕ 漢字", "  two  spaces", "assistants"]
)
def test_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_mask_covers_exactly_the_reply_and_its_end_token(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    supervised = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(supervised) == "Yes, 12 is.<|im_end|>"


def test_generation_prompt_is_a_prefix_of_the_conversation(tokenizer):
    asked = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert whole.startswith(asked)
    assert asked.endswith("<|im_start|>assistant\n")


def test_template_is_stored_with_the_tokenizer(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == chat_template()
    assert loaded("Is 12").input_ids == tokenizer("Is 12").input_ids
    assert loaded.pad_token_id == tokenizer.pad_token_id
