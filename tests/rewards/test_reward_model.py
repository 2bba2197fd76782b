from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.reward_model import (
    as_reward_function,
    check_scored_token,
    score_replies,
)
from posttrain_helpers.stages.loading import load_model_and_tokenizer

pytestmark = pytest.mark.usefixtures("output_root")

PROMPTS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What says a cow?"}],
    [{"role": "user", "content": "Moo?"}],
    [{"role": "user", "content": "What is 3 + 4?"}],
]
# Two ways to one score differ by the rounding of float32, 4e-7 or so; another token's differs by 0.01.
CLOSE = 1e-5
REPLIES = ["The capital of France is Paris.", "A cow says moo.", "No.", "3 + 4 = 7. An owl can fly."]


@pytest.fixture
def pair(random_model_dir: Path):
    torch.manual_seed(0)
    model, tokenizer = load_model_and_tokenizer(random_model_dir, head="reward", verbose=False)
    with torch.no_grad():  # freshly drawn weights would give scores near zero
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return model, tokenizer


def ids_of(tokenizer, prompt: list, reply: str) -> list[int]:
    messages = [*prompt, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, return_dict=False)


def score_at_every_token(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.score(model.model(input_ids=torch.tensor([ids])).last_hidden_state)[0, :, 0]


def test_scores_keep_the_order_of_the_replies_in_any_batch(pair) -> None:
    model, tokenizer = pair
    alone = [score_replies(model, tokenizer, [p], [r])[0] for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert len({round(score, 4) for score in alone}) == len(alone)
    for size in (1, 2, 3, 32):
        scores = score_replies(model, tokenizer, PROMPTS, REPLIES, batch_size=size)
        assert scores.shape == (4,)
        np.testing.assert_allclose(scores, alone, atol=CLOSE)
    reverse = score_replies(model, tokenizer, PROMPTS[::-1], REPLIES[::-1])
    np.testing.assert_allclose(reverse[::-1], alone, atol=CLOSE)


def test_a_score_is_the_one_at_the_last_token_without_padding(pair) -> None:
    model, tokenizer = pair
    scores = score_replies(model, tokenizer, PROMPTS, REPLIES)
    for prompt, reply, score in zip(PROMPTS, REPLIES, scores, strict=True):
        expected = score_at_every_token(model, ids_of(tokenizer, prompt, reply))[-1]
        assert score == pytest.approx(float(expected), abs=CLOSE)


def test_replies_may_be_messages_as_in_a_preference_data_set(pair) -> None:
    model, tokenizer = pair
    messages = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    np.testing.assert_array_equal(
        score_replies(model, tokenizer, PROMPTS, messages),
        score_replies(model, tokenizer, PROMPTS, REPLIES),
    )


def test_the_reward_trainer_computes_the_same_scores(pair, output_root: Path) -> None:
    from trl import RewardConfig, RewardTrainer

    model, tokenizer = pair
    rows = [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": reply}],
            "rejected": [{"role": "assistant", "content": "I do not know."}],
        }
        for prompt, reply in zip(PROMPTS, REPLIES, strict=True)
    ]
    config = RewardConfig(str(output_root / "run"), use_cpu=True, bf16=False, activation_checkpointing=False)
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    chosen = score_replies(model, tokenizer, PROMPTS, REPLIES)
    rejected = score_replies(model, tokenizer, PROMPTS, ["I do not know."] * 4)
    theirs = outputs.logits.squeeze(-1).detach().numpy()
    np.testing.assert_allclose(np.concatenate([chosen, rejected]), theirs, atol=CLOSE)
    assert loss.item() == pytest.approx(float(np.mean(np.log1p(np.exp(rejected - chosen)))), abs=CLOSE)


def test_scoring_at_the_end_token_gives_another_number(pair) -> None:
    """ChatML writes a newline behind <|im_end|>: whoever leaves it out reads a score that was not trained."""
    model, tokenizer = pair
    ids = ids_of(tokenizer, PROMPTS[0], REPLIES[0])
    assert ids[-2] == tokenizer.eos_token_id
    with torch.no_grad():
        short = float(model(input_ids=torch.tensor([ids[:-1]])).logits[0, 0])
    assert abs(short - score_replies(model, tokenizer, PROMPTS[:1], REPLIES[:1])[0]) > 0.01


def test_the_scored_token_is_the_newline_behind_the_end_token(pair) -> None:
    model, tokenizer = pair
    ids = ids_of(tokenizer, PROMPTS[0], REPLIES[0])
    assert tokenizer.decode(ids[-1:]) == "\n"
    score = score_replies(model, tokenizer, PROMPTS[:1], REPLIES[:1])[0]
    assert float(score_at_every_token(model, ids)[-1]) == pytest.approx(score, abs=CLOSE)


def test_an_adapter_is_part_of_what_scores(random_model_dir: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, head="reward", lora={"r": 2}, verbose=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "score" in name:
                parameter.normal_()
    scores = score_replies(model, tokenizer, PROMPTS, REPLIES)
    with model.disable_adapter():
        assert np.abs(score_replies(model, tokenizer, PROMPTS, REPLIES) - scores).max() > 0.01
    merged = model.merge_and_unload()
    np.testing.assert_allclose(scores, score_replies(merged, tokenizer, PROMPTS, REPLIES), atol=1e-4)


def test_the_mode_of_the_model_comes_back_and_training_goes_on(pair) -> None:
    model, tokenizer = pair
    expected = score_replies(model, tokenizer, PROMPTS, REPLIES)
    assert not model.training
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    scores = score_replies(model, tokenizer, PROMPTS, REPLIES)
    np.testing.assert_allclose(scores, expected, atol=CLOSE)  # without the dropout
    assert model.training
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()


def test_the_padding_side_of_the_tokenizer_does_not_matter_for_scores(pair) -> None:
    model, tokenizer = pair
    before = score_replies(model, tokenizer, PROMPTS, REPLIES)
    tokenizer.padding_side = "left"
    np.testing.assert_array_equal(score_replies(model, tokenizer, PROMPTS, REPLIES), before)


def test_a_language_model_has_no_score(random_model_dir: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    for call in (
        lambda: score_replies(model, tokenizer, PROMPTS, REPLIES),
        lambda: check_scored_token(model, tokenizer),
    ):
        with pytest.raises(CourseError, match="Qwen3ForCausalLM has no score head"):
            call()


@pytest.mark.parametrize(
    ("prompts", "replies", "sentence"),
    [
        (PROMPTS, REPLIES[:3], "4 prompts and 3 replies were given"),
        (PROMPTS, "No.", "but one string was given"),
        ([], [], "no replies to score"),
        (["What is 3 + 4?"], ["7"], "a prompt must be a list of messages .* 'What is 3"),
        (PROMPTS[:1], [7], "a reply a text or a list of messages, but '7'"),
        (PROMPTS[:1], ["moo " * 300], r"text 0 has \d+ tokens, but the model has 256 positions"),
        (PROMPTS[:2], ["No.", "moo " * 300], r"text 1 has \d+ tokens, but the model has 256 positions"),
    ],
    ids=["lengths", "one string", "empty", "prompt", "reply", "too long", "second too long"],
)
def test_bad_input_is_one_sentence(pair, prompts: list, replies: list, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        score_replies(*pair, prompts, replies)


def test_the_longest_text_that_fits(pair) -> None:
    model, tokenizer = pair
    length = len(ids_of(tokenizer, PROMPTS[0], REPLIES[0]))
    expected = score_replies(model, tokenizer, PROMPTS[:1], REPLIES[:1])
    model.config.max_position_embeddings = length
    np.testing.assert_allclose(
        score_replies(model, tokenizer, PROMPTS[:1], REPLIES[:1]), expected, atol=CLOSE
    )
    model.config.max_position_embeddings = length - 1
    with pytest.raises(CourseError, match=f"has {length} tokens, but the model has {length - 1} positions"):
        score_replies(model, tokenizer, PROMPTS[:1], REPLIES[:1])


def test_batch_size(pair) -> None:
    with pytest.raises(CourseError, match="batch_size must be at least 1"):
        score_replies(*pair, PROMPTS, REPLIES, batch_size=0)


def test_no_template(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = None
    with pytest.raises(CourseError, match="no chat template"):
        score_replies(model, tokenizer, PROMPTS, REPLIES)


def test_a_loaded_reward_model_passes_the_check(pair) -> None:
    check_scored_token(*pair)


def test_no_padding_token(pair) -> None:
    model, tokenizer = pair
    model.config.pad_token_id = None
    for call in (
        lambda: check_scored_token(model, tokenizer),
        lambda: score_replies(model, tokenizer, PROMPTS, REPLIES),
    ):
        with pytest.raises(CourseError, match="config names no padding token"):
            call()


def test_another_padding_token_than_the_tokenizer(pair) -> None:
    model, tokenizer = pair
    model.config.pad_token_id = tokenizer.pad_token_id + 1
    with pytest.raises(
        CourseError, match=r"the model takes .* for padding, so it would score a padding token"
    ):
        check_scored_token(model, tokenizer)


def test_padding_on_the_left(pair) -> None:
    model, tokenizer = pair
    tokenizer.padding_side = "left"
    for check in (check_scored_token, as_reward_function):
        with pytest.raises(CourseError, match="pads on the left"):
            check(model, tokenizer)


def test_a_padding_token_inside_the_text_is_text(pair) -> None:
    model, tokenizer = pair
    reply = f"The capital{tokenizer.pad_token} of France is Paris."
    ids = ids_of(tokenizer, PROMPTS[0], reply)
    assert tokenizer.pad_token_id in ids
    score = score_replies(model, tokenizer, PROMPTS[:1], [reply])[0]
    assert score == pytest.approx(float(score_at_every_token(model, ids)[-1]), abs=CLOSE)


def test_a_conversation_that_ends_with_the_padding_token(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = tokenizer.chat_template.rstrip() + "{{ '" + tokenizer.pad_token + "' }}"
    ids = ids_of(tokenizer, PROMPTS[0], REPLIES[0])
    assert ids[-1] == tokenizer.pad_token_id
    for call in (
        lambda: check_scored_token(model, tokenizer),
        lambda: score_replies(model, tokenizer, PROMPTS, REPLIES),
    ):
        with pytest.raises(CourseError, match="text 0 ends with the padding token"):
            call()
    tokenizer.chat_template = "{{ messages[-1].content }}"  # so that replies may end in different ways
    with pytest.raises(CourseError, match="text 1 ends with the padding token"):
        score_replies(model, tokenizer, PROMPTS[:2], ["No.", f"moo{tokenizer.pad_token}"])
