from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_toys import sharpen
from transformers import AutoModelForSequenceClassification

from posttrain_helpers.generation.rollouts import TokenBatch, token_batch
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.ppo.actor_critic import ActorCritic, _head_values, completion_logits

PROMPTS = [[5, 9, 33], [17], [40, 41, 42, 43, 44]]
COMPLETIONS = [[7, 8], [50, 51, 52, 53], [60]]


@pytest.fixture
def policy(random_model_dir: Path) -> Any:
    return sharpen(load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0])


@pytest.fixture
def critic(random_model_dir: Path) -> Any:
    torch.manual_seed(2)
    return AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1).eval()


@pytest.fixture
def batch() -> TokenBatch:
    return token_batch(PROMPTS, COMPLETIONS, pad=0)


def fields(batch: TokenBatch) -> tuple[torch.Tensor, ...]:
    return batch.prompts, batch.prompt_mask, batch.completions, batch.completion_mask


def check_logits(logits: torch.Tensor, policy: Any) -> None:
    """Compare with one forward pass per row, without padding."""
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        with torch.no_grad():
            expected = policy(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row, : len(completion)], expected, atol=1e-4, rtol=0)


def test_the_logits_are_those_of_the_policy(policy: Any, critic: Any, batch: TokenBatch) -> None:
    with torch.no_grad():
        for module in (ActorCritic(policy), ActorCritic(policy, critic)):
            logits, values = module(*fields(batch))
            assert logits.shape == (3, 4, policy.config.vocab_size)
            assert values.shape == (3, 4)
            check_logits(logits, policy)
        check_logits(completion_logits(policy, batch), policy)


def test_a_new_value_head_predicts_nothing(policy: Any, batch: TokenBatch) -> None:
    module = ActorCritic(policy)
    assert module.value_model is None
    assert torch.equal(module(*fields(batch))[1], torch.zeros(3, 4))


def test_the_shared_head_reads_the_states_before_the_tokens(policy: Any, batch: TokenBatch) -> None:
    module = ActorCritic(policy)
    torch.nn.init.normal_(module.value_head.weight)
    values = module(*fields(batch))[1]
    torch.testing.assert_close(values, module.values(batch))
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        hidden = policy.model(input_ids=torch.tensor([prompt + completion])).last_hidden_state
        expected = module.value_head(hidden)[0, len(prompt) - 1 : -1, 0]
        torch.testing.assert_close(values[row, : len(completion)], expected, atol=1e-4, rtol=0)


def test_a_separate_critic_gives_the_score_of_each_position(
    policy: Any, critic: Any, batch: TokenBatch
) -> None:
    module = ActorCritic(policy, critic)
    assert module.value_head is None
    with torch.no_grad():
        values = module(*fields(batch))[1]
        torch.testing.assert_close(values, module.values(batch))
        assert values.abs().max() > 1e-3
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            for t in range(len(completion)):
                # The score of a text is that of its last token.
                text = torch.tensor([prompt + completion[:t]])
                assert values[row, t].item() == pytest.approx(critic(input_ids=text).logits.item(), abs=1e-5)


def test_padding_on_either_side_changes_nothing(policy: Any, critic: Any, batch: TokenBatch) -> None:
    wide = token_batch([*PROMPTS, [9] * 12], [*COMPLETIONS, [9] * 9], pad=0)
    for module in (ActorCritic(policy), ActorCritic(policy, critic)):
        if module.value_head is not None:
            torch.nn.init.normal_(module.value_head.weight)
        narrow_logits, narrow = module(*fields(batch))
        wide_logits, values = module(*fields(wide))
        for row, completion in enumerate(COMPLETIONS):
            length = len(completion)
            torch.testing.assert_close(values[row, :length], narrow[row, :length], atol=1e-4, rtol=0)
            torch.testing.assert_close(
                wide_logits[row, :length], narrow_logits[row, :length], atol=1e-4, rtol=0
            )


def test_gradients_reach_the_policy_and_the_head(policy: Any, batch: TokenBatch) -> None:
    module = ActorCritic(policy)
    torch.nn.init.normal_(module.value_head.weight)
    module(*fields(batch))[1].sum().backward()
    assert module.value_head.weight.grad.abs().sum() > 0
    assert policy.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    policy.zero_grad()
    module(*fields(batch))[0].log_softmax(-1)[..., 0].sum().backward()
    assert policy.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_a_separate_critic_leaves_the_policy_alone(policy: Any, critic: Any, batch: TokenBatch) -> None:
    ActorCritic(policy, critic)(*fields(batch))[1].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert critic.score.weight.grad.abs().sum() > 0
    assert critic.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("separate", [False, True])
def test_checkpointing_gives_the_same_gradients(
    separate: bool, policy: Any, critic: Any, batch: TokenBatch
) -> None:
    module = ActorCritic(policy, critic if separate else None).train()
    if not separate:
        torch.nn.init.normal_(module.value_head.weight)

    def gradients() -> dict[str, torch.Tensor]:
        module.zero_grad()
        logits, values = module(*fields(batch))
        (logits.log_softmax(-1)[..., 3].sum() + values.sum()).backward()
        return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    expected = gradients()
    module.activation_checkpointing_enable()
    assert policy.is_activation_checkpointing
    assert not separate or critic.is_activation_checkpointing
    found = gradients()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_an_adapter_is_part_of_the_policy(policy: Any, batch: TokenBatch) -> None:
    from peft import LoraConfig, get_peft_model

    expected = ActorCritic(policy)(*fields(batch))[0].detach()
    adapted = get_peft_model(policy, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    module = ActorCritic(adapted)
    logits, values = module(*fields(batch))
    torch.testing.assert_close(logits, expected)
    assert values.shape == (3, 4)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert {"value_head.weight", "value_head.bias"} <= trained
    assert all("lora_" in name or name.startswith("value_head") for name in trained)


def test_values_of_a_head_in_half_precision_are_single_precision() -> None:
    head = torch.nn.Linear(4, 1).to(torch.bfloat16)
    values = _head_values(head, torch.ones(2, 5, 4), 3)
    assert (values.dtype, values.shape) == (torch.float32, (2, 3))
