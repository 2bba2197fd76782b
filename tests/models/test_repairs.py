from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.chatml import chat_template
from posttrain_helpers.models.repairs import grow_embeddings, repair_generation_config, repair_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOREIGN_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}</s>\n{% endfor %}{% if "
    "add_generation_prompt %}[assistant] {% endif %}"
)
WITHOUT_END = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.fixture
def pair(random_model_dir: Path, tmp_path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = shutil.copytree(random_model_dir, tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def vocabulary_without_specials(pair: tuple) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A tokenizer of another family: none of the special tokens that the course knows."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"</s>": 0, "question": 1, "x": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    model = pair[0]
    model.resize_token_embeddings(4)
    return model, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")


def test_a_healthy_pair_is_left_alone(pair: tuple) -> None:
    model, tokenizer = pair
    assert repair_tokenizer(tokenizer, model) == []
    repair_generation_config(model, tokenizer)
    assert repair_generation_config(model, tokenizer) == []


def test_missing_template(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = None
    (change,) = repair_tokenizer(tokenizer, model)
    assert "had no chat template" in change
    assert tokenizer.chat_template == chat_template()


def test_missing_template_in_a_vocabulary_without_its_tokens(pair: tuple) -> None:
    model, tokenizer = vocabulary_without_specials(pair)
    changes = repair_tokenizer(tokenizer, model)
    assert any("<|im_start|>, <|im_end|>" in change for change in changes)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id}) == 2
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "question"}], return_dict=False)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert max(ids) < model(input_ids=_tensor(ids)).logits.shape[-1]


def test_embeddings_with_spare_rows_are_not_cut(pair: tuple) -> None:
    model, tokenizer = pair
    model.resize_token_embeddings(len(tokenizer) + 64)
    tokenizer.chat_template = None
    repair_tokenizer(tokenizer, model)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) + 64


def test_a_profile_may_replace_the_template(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = FOREIGN_TEMPLATE
    assert "profile replaces" in repair_tokenizer(tokenizer, model, "chatml")[0]
    assert tokenizer.chat_template == chat_template()
    assert repair_tokenizer(tokenizer, model, "chatml") == []


def test_of_several_templates_the_default_is_kept(pair: tuple) -> None:
    model, tokenizer = pair
    own = tokenizer.chat_template
    tokenizer.chat_template = {"default": own, "tool_use": FOREIGN_TEMPLATE}
    assert "(default, tool_use) it keeps 'default'" in repair_tokenizer(tokenizer, model)[0]
    assert tokenizer.chat_template == own
    tokenizer.chat_template = {"rag": own, "tool_use": own}
    with pytest.raises(CourseError, match="2 chat templates"):
        repair_tokenizer(tokenizer, model)


def test_pad_equal_to_end_gets_another_token(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.pad_token = tokenizer.eos_token
    (change,) = repair_tokenizer(tokenizer, model)
    assert "<|endoftext|>" in change
    assert "masked" in change
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_missing_pad(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.pad_token = None
    (change,) = repair_tokenizer(tokenizer, model)
    assert "there was none" in change
    assert tokenizer.pad_token == "<|endoftext|>"


def begins_with_end_of_text(tokenizer: PreTrainedTokenizerBase, how: str) -> None:
    """Name <|endoftext|> as beginning token, as GPT-2 and SmolLM2 do, and write it or not."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.pad_token, tokenizer.bos_token = None, "<|endoftext|>"
    if how == "in every text":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A",
            pair="<|endoftext|> $A $B",
            special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)],
        )
    elif how == "in conversations":
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template


@pytest.mark.parametrize(
    ("how", "pad"),
    [("never", "<|endoftext|>"), ("in every text", "<|pad|>"), ("in conversations", "<|pad|>")],
)
def test_a_beginning_token_that_texts_hold_does_not_pad_them(pair: tuple, how: str, pad: str) -> None:
    model, tokenizer = pair
    begins_with_end_of_text(tokenizer, how)
    repair_tokenizer(tokenizer, model)
    assert tokenizer.pad_token == pad


def test_new_rows_are_always_the_same_and_leave_the_random_state(pair: tuple, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    rows = other.get_input_embeddings().num_embeddings
    assert grow_embeddings(other, rows + 3) == 3
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    grow_embeddings(pair[0], rows + 3)
    weights = pair[0].get_input_embeddings().weight
    assert torch.equal(weights, other.get_input_embeddings().weight)
    assert len(torch.unique(weights[rows:], dim=0)) == 3  # or the model could not tell the new tokens apart
    assert grow_embeddings(other, rows) == 0
    assert other.get_input_embeddings().num_embeddings == rows + 3


def test_end_token_follows_the_template(pair: tuple) -> None:
    """Qwen3's base models name <|endoftext|> as end and padding; their template ends with <|im_end|>."""
    model, tokenizer = pair
    tokenizer.eos_token = "<|endoftext|>"
    changes = repair_tokenizer(tokenizer, model)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert ["it was <|endoftext|>" in change for change in changes] == [True]


def test_the_end_token_is_the_longest_that_stands_there(pair: tuple) -> None:
    model, tokenizer = pair
    ends = ["<end" + "!" * number for number in range(8)]
    tokenizer.add_tokens(ends, special_tokens=True)
    for end in ends[4:]:
        tokenizer.chat_template = WITHOUT_END.replace("\n", f"{end}\n")
        repair_tokenizer(tokenizer, model)
        assert tokenizer.eos_token == end


def test_missing_end_token_is_taken_from_the_template(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.eos_token = None
    repair_tokenizer(tokenizer, model)
    assert tokenizer.eos_token == "<|im_end|>"


def test_end_token_of_another_family(pair: tuple) -> None:
    model, tokenizer = vocabulary_without_specials(pair)
    tokenizer.chat_template = FOREIGN_TEMPLATE
    repair_tokenizer(tokenizer, model)
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token == "<|pad|>"


def test_no_end_token_anywhere(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.eos_token, tokenizer.chat_template = None, WITHOUT_END
    with pytest.raises(CourseError, match=r"no end token.*set eos_token"):
        repair_tokenizer(tokenizer, model)


def test_template_that_does_not_render(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = "{{ raise_exception('only system prompts') }}"
    with pytest.raises(CourseError, match=r"cannot render.*only system prompts"):
        repair_tokenizer(tokenizer, model)


def test_left_padding_becomes_right(pair: tuple) -> None:
    model, tokenizer = pair
    tokenizer.padding_side = "left"
    assert len(repair_tokenizer(tokenizer, model)) == 1
    assert tokenizer.padding_side == "right"


def test_sampling_settings_without_sampling_no_longer_stop_a_save(pair: tuple, tmp_path: Path) -> None:
    model, tokenizer = pair
    model.generation_config.temperature = 0.7
    model.generation_config.top_k = 20
    with pytest.raises(ValueError, match="GenerationConfig"):
        model.save_pretrained(tmp_path / "before")
    changes = repair_generation_config(model, tokenizer)
    assert any("temperature, top_k" in change for change in changes)
    model.save_pretrained(tmp_path / "after")


def test_sampling_settings_of_a_sampling_model_stay(pair: tuple) -> None:
    model, tokenizer = pair
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.7
    repair_generation_config(model, tokenizer)
    assert model.generation_config.temperature == 0.7


@pytest.mark.parametrize(("before", "after"), [(None, "end"), (7, ["end", 7]), ([7, 8], ["end", 7, 8])])
def test_generation_stops_at_the_end_token(pair: tuple, before: object, after: object) -> None:
    model, tokenizer = pair
    model.generation_config.eos_token_id = before
    changes = repair_generation_config(model, tokenizer)
    end = tokenizer.eos_token_id
    expected = end if after == "end" else [end if token == "end" else token for token in after]
    assert model.generation_config.eos_token_id == expected
    assert len(changes) == 1
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id


def test_a_model_without_generation_config_gets_its_padding_token(pair: tuple, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    _, tokenizer = pair
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    model.config.pad_token_id = None
    assert repair_tokenizer(tokenizer, model) == []
    assert repair_generation_config(model, tokenizer) == []
    assert model.config.pad_token_id == tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "generation_config.json").exists()


def _tensor(ids: list[int]):
    import torch

    return torch.tensor([ids])
