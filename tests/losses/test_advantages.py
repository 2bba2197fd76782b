"""Advantages have their closed forms, equal TRL's and ignore the padding; known mistakes are none of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from notebook_functions import executed
from rounding import close
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_helpers.losses.advantages import (
    explained_variance,
    generalized_advantages,
    masked_whiten,
    shaped_rewards,
)
from posttrain_helpers.losses.kl import k1_estimate, k3_estimate
from posttrain_helpers.losses.policy import approximate_kl, clipped_policy_loss

group_advantages = executed("10_grpo_verifiable_rewards.ipynb", "group_advantages")

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
NAN, INF = float("nan"), float("inf")
# A policy and its reference over five tokens; every expectation is a sum over them.
POLICY_LOGITS = torch.tensor([1.0, 0.5, -0.5, 0.0, -2.0], dtype=torch.float64)
REF_LOG_PROBS = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64).log()


def numbers(seed: int, shape: tuple[int, ...] = tuple(MASK.shape)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_advantages(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """The sum of eq. 16 of the GAE paper for one completion, in plain Python and without recursion."""
    values = [*values, 0.0]
    errors = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    advantages = [
        sum((gamma * lam) ** ahead * error for ahead, error in enumerate(errors[t:]))
        for t in range(len(errors))
    ]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=False)]


class TestMasked:
    def test_whitening(self) -> None:
        values = numbers(0) * 3 + 7
        whitened = masked_whiten(values, MASK)
        inside = whitened[MASK.bool()]
        assert inside.mean().item() == pytest.approx(0, abs=1e-12)
        assert inside.std().item() == pytest.approx(1, abs=1e-6)  # the unbiased one
        assert (whitened[MASK == 0] == 0).all()

    def test_whitening_may_keep_the_mean(self) -> None:
        values = numbers(0) * 3 + 7
        kept = masked_whiten(values, MASK, shift_mean=False)
        assert kept[MASK.bool()].mean().item() == close(values[MASK.bool()].mean().item())
        assert (kept[MASK == 0] == 0).all()

    def test_whitening_by_hand(self) -> None:
        values = torch.tensor([[1.0, 3.0]])
        scale = 1 / math.sqrt(2 + 1e-8)
        assert masked_whiten(values, torch.ones(1, 2)).tolist()[0] == close([-scale, scale])

    def test_equal_values_whiten_to_zero(self) -> None:
        assert masked_whiten(torch.full((2, 3), 5.0), torch.ones(2, 3)).abs().max() == 0

    def test_one_value_has_no_variance(self) -> None:
        mask = torch.tensor([[1, 0], [0, 0]])
        with pytest.raises(AssertionError, match="at least 2 tokens, but the mask has 1"):
            masked_whiten(numbers(0, (2, 2)), mask)


class TestShapedRewards:
    LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.5], [-0.3, -3.0, NAN]])
    REF = torch.tensor([[-1.5, -1.0, -0.5], [-0.1, -4.0, NAN]])
    MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
    SCORES = torch.tensor([10.0, -20.0])

    def test_by_hand(self) -> None:
        rewards, kl = shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, self.MASK, kl_coef=0.1)
        torch.testing.assert_close(kl, torch.tensor([[0.5, -1.0, 0.0], [-0.2, 1.0, 0.0]]))
        torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 10.0], [0.02, -20.1, 0.0]]))

    def test_k3(self) -> None:
        rewards, kl = shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, self.MASK, 0.1, "k3")
        assert kl[0, 0].item() == close(math.exp(-0.5) + 0.5 - 1)
        assert kl.min() >= 0
        assert kl[1, 2] == 0
        assert rewards[1, 1].item() == close(-20 - 0.1 * kl[1, 1].item())

    def test_without_coefficient_only_the_score_remains(self) -> None:
        rewards, _ = shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, self.MASK, kl_coef=0.0)
        assert rewards.tolist() == [[0, 0, 10], [0, -20, 0]]

    def test_the_sum_is_score_minus_the_price(self) -> None:
        rewards, kl = shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, self.MASK, kl_coef=0.3)
        torch.testing.assert_close(rewards.sum(-1), self.SCORES - 0.3 * kl.sum(-1))

    def test_inputs_stay_as_they_are(self) -> None:
        before = self.LOG_PROBS.clone()
        shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, self.MASK, kl_coef=0.3)
        torch.testing.assert_close(self.LOG_PROBS, before, equal_nan=True)

    def test_completion_without_tokens(self) -> None:
        mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
        with pytest.raises(AssertionError, match="without tokens"):
            shaped_rewards(self.SCORES, self.LOG_PROBS, self.REF, mask, 0.1)


class TestGeneralizedAdvantages:
    @pytest.mark.parametrize("gamma", [1.0, 0.9])
    @pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
    def test_equals_the_sum_of_the_paper(self, gamma: float, lam: float) -> None:
        rewards, values = numbers(1), numbers(2)
        advantages, returns = generalized_advantages(rewards, values, MASK, gamma, lam)
        for row, length in enumerate(MASK.sum(-1).tolist()):
            expected = slow_advantages(
                rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam
            )
            assert advantages[row, :length].tolist() == close(expected[0])
            assert returns[row, :length].tolist() == close(expected[1])
        for result in (advantages, returns):
            assert (result[MASK == 0] == 0).all()

    def test_lam_1_returns_the_discounted_sums(self) -> None:
        rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), numbers(2, (1, 3)).float()
        _, returns = generalized_advantages(rewards, values, torch.ones(1, 3), gamma=0.5, lam=1.0)
        torch.testing.assert_close(returns, torch.tensor([[3.0, 4.0, 4.0]]))

    def test_lam_0_gives_the_errors_of_one_step(self) -> None:
        rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 20.0, 40.0]])
        advantages, _ = generalized_advantages(rewards, values, torch.ones(1, 3), gamma=0.5, lam=0.0)
        assert advantages.tolist() == [[1 + 10 - 10, 2 + 20 - 20, 4 - 40]]

    def test_perfect_values_leave_no_advantage(self) -> None:
        rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
        mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
        values = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0]])
        advantages, returns = generalized_advantages(rewards, values, mask)
        assert advantages.abs().max() == 0
        assert returns.equal(values)

    def test_defaults_are_those_of_ppo(self) -> None:
        explicit = generalized_advantages(numbers(1), numbers(2), MASK, gamma=1.0, lam=0.95)
        for result, expected in zip(
            generalized_advantages(numbers(1), numbers(2), MASK), explicit, strict=True
        ):
            assert result.equal(expected)

    def test_rows_do_not_see_each_other(self) -> None:
        rewards, values = numbers(1), numbers(2)
        together, _ = generalized_advantages(rewards, values, MASK)
        alone, _ = generalized_advantages(rewards[1:2, :2], values[1:2, :2], torch.ones(1, 2))
        torch.testing.assert_close(together[1:2, :2], alone)


FUNCTIONS_OF_TOKENS: dict[str, Callable[..., Any]] = {
    "whiten": lambda a, b, mask: masked_whiten(a, mask),
    "whiten, mean kept": lambda a, b, mask: masked_whiten(a, mask, shift_mean=False),
    "k1": lambda a, b, mask: shaped_rewards(torch.ones(3).double(), a, b, mask, 0.1),
    "k3": lambda a, b, mask: shaped_rewards(torch.ones(3).double(), a, b, mask, 0.1, "k3"),
    "gae": lambda a, b, mask: generalized_advantages(a, b, mask),
}


@pytest.mark.parametrize("name", FUNCTIONS_OF_TOKENS)
@pytest.mark.parametrize("padding", [NAN, INF, -INF, 1e6])
def test_padding_never_matters(name: str, padding: float) -> None:
    function = FUNCTIONS_OF_TOKENS[name]
    clean = [numbers(seed) for seed in (1, 2)]
    dirty = [tensor.masked_fill(MASK == 0, padding) for tensor in clean]
    torch.testing.assert_close(function(*dirty, MASK), function(*clean, MASK), rtol=0, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS_OF_TOKENS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_any_type(name: str, dtype: torch.dtype) -> None:
    function, tensors = FUNCTIONS_OF_TOKENS[name], [numbers(seed) for seed in (1, 2)]
    torch.testing.assert_close(function(*tensors, MASK.to(dtype)), function(*tensors, MASK))


class TestGroups:
    REWARDS = torch.tensor([1.0, 0.0, 0.0, 3.0, 5.0, 5.0, 5.0, 5.0])

    def test_group_scale_by_hand(self) -> None:
        std = math.sqrt(2.0)  # of 1, 0, 0, 3 around 1: (0 + 1 + 1 + 4) / 3
        expected = [x / (std + 1e-4) for x in (0, -1, -1, 2)] + [0.0] * 4
        assert group_advantages(self.REWARDS, 4).tolist() == close(expected)

    def test_batch_scale_by_hand(self) -> None:
        scale = self.REWARDS.std().item() + 1e-4
        expected = [x / scale for x in (0, -1, -1, 2)] + [0.0] * 4
        assert group_advantages(self.REWARDS, 4, "batch").tolist() == close(expected)

    def test_no_scale_by_hand(self) -> None:
        assert group_advantages(self.REWARDS, 4, "none").tolist() == [0, -1, -1, 2, 0, 0, 0, 0]

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    def test_each_group_sums_to_zero(self, scale: str) -> None:
        advantages = group_advantages(numbers(3, (12,)), 3, scale)
        assert advantages.view(-1, 3).sum(-1).abs().max() < 1e-5

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    @pytest.mark.parametrize("size", [2, 3, 6, 7])
    def test_constant_reward_has_no_advantage(self, size: int, scale: str) -> None:
        # Subtracting the float mean as it is would leave a rest of some of these.
        for reward in (0.0, 0.1, 0.7, 1 / 3, 2.3, -4.7):
            rewards = torch.full((2 * size,), reward)
            assert (group_advantages(rewards, size, scale) == 0).all()

    def test_a_constant_group_beside_another(self) -> None:
        advantages = group_advantages(self.REWARDS, 4)
        assert (advantages[4:] == 0).all()
        assert (advantages[:4] != 0).any()

    def test_whole_numbers(self) -> None:
        rewards = torch.tensor([1, 0, 0, 1])
        assert group_advantages(rewards, 2, "none").tolist() == [0.5, -0.5, -0.5, 0.5]


class TestGroupsOfTRL:
    """The advantages that TRL's trainers compute from the same rewards."""

    REWARDS = (1.0, 0.0, 0.25, 3.0, -2.0, 0.1, 0.5, 0.0)

    def trl_advantages(self, trainer_class, config_class, model_dir: Path, tmp_path: Path, **changes: Any):
        def reward(completions, **_: Any) -> list[float]:
            return list(self.REWARDS)

        rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("3 + 4 =", "What says a cow?")]
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(model_dir),
            reward_funcs=reward,
            args=config_class(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                per_device_train_batch_size=8,
                num_generations=4,
                max_completion_length=2,
                beta=0.0,
                **changes,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_dir),
        )
        trainer.model.train()
        batch = trainer._generate_and_score_completions([row for row in rows for _ in range(4)])
        return batch["advantages"]

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    def test_grpo(self, random_model_dir: Path, tmp_path: Path, scale: str) -> None:
        from trl import GRPOConfig, GRPOTrainer

        expected = self.trl_advantages(
            GRPOTrainer, GRPOConfig, random_model_dir, tmp_path, scale_rewards=scale
        )
        torch.testing.assert_close(group_advantages(torch.tensor(self.REWARDS), 4, scale), expected)


class TestSignOfTheDivergence:
    def test_mean_of_k1_is_the_divergence(self) -> None:
        """On tokens of the policy; the flipped sign gives a divergence below 0, which none can be."""
        log_probs = POLICY_LOGITS.log_softmax(-1)
        exact = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=log_probs),
            torch.distributions.Categorical(logits=REF_LOG_PROBS),
        )
        for estimator in ("k1", "k3"):
            rows = (log_probs.unsqueeze(-1), REF_LOG_PROBS.unsqueeze(-1), torch.ones(5, 1))
            _, kl = shaped_rewards(torch.zeros(5), *rows, kl_coef=0.1, kl_estimator=estimator)
            torch.testing.assert_close((log_probs.exp() * kl.squeeze(-1)).sum(), exact)
        assert exact > 0
        assert (log_probs.exp() * k1_estimate(REF_LOG_PROBS, log_probs)).sum() < 0

    def test_sampled_tokens(self) -> None:
        log_probs = POLICY_LOGITS.log_softmax(-1)
        tokens = torch.multinomial(
            log_probs.exp(), 8 * 500, replacement=True, generator=torch.Generator().manual_seed(0)
        ).view(8, 500)
        mask = torch.ones(8, 500)
        scores = torch.zeros(8)
        rewards, kl = shaped_rewards(scores, log_probs[tokens], REF_LOG_PROBS[tokens], mask, kl_coef=0.1)
        assert kl.min() < 0  # single tokens may be
        assert kl.mean() > 0
        assert rewards.mean() < 0


class TestWhereTheDivergenceBelongs:
    """The expected gradient of each way to use an estimate, exactly, for a policy over five tokens."""

    def expected_gradient(self, loss_of_tokens: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the gradient of the mean over sampled tokens: sampling itself has no gradient."""
        logits = POLICY_LOGITS.clone().requires_grad_()
        log_probs = logits.log_softmax(-1)
        (log_probs.detach().exp() * loss_of_tokens(log_probs)).sum().backward()
        return logits.grad

    def true_gradient(self, reverse: bool = True) -> torch.Tensor:
        logits = POLICY_LOGITS.clone().requires_grad_()
        log_probs = logits.log_softmax(-1)
        if reverse:
            (log_probs.exp() * (log_probs - REF_LOG_PROBS)).sum().backward()
        else:
            (REF_LOG_PROBS.exp() * (REF_LOG_PROBS - log_probs)).sum().backward()
        return logits.grad

    def test_k1_in_the_loss_teaches_nothing(self) -> None:
        gradient = self.expected_gradient(lambda log_probs: k1_estimate(log_probs, REF_LOG_PROBS))
        assert gradient.abs().max() < 1e-12
        assert self.true_gradient().abs().max() > 0.1

    def test_k2_in_the_loss_is_right(self) -> None:
        gradient = self.expected_gradient(lambda log_probs: approximate_kl(log_probs, REF_LOG_PROBS))
        torch.testing.assert_close(gradient, self.true_gradient())

    def test_k3_in_the_loss_pulls_by_the_other_divergence(self) -> None:
        gradient = self.expected_gradient(lambda log_probs: k3_estimate(log_probs, REF_LOG_PROBS))
        torch.testing.assert_close(gradient, self.true_gradient(reverse=False))
        assert not torch.allclose(gradient, self.true_gradient())

    def test_k3_times_the_ratio_is_right(self) -> None:
        gradient = self.expected_gradient(
            lambda log_probs: (log_probs - log_probs.detach()).exp() * k3_estimate(log_probs, REF_LOG_PROBS)
        )
        torch.testing.assert_close(gradient, self.true_gradient())

    @pytest.mark.parametrize("value", [0.0, 0.7])
    def test_k1_in_the_reward_is_right(self, value: float) -> None:
        """Whatever the value model predicts for the prompt: a baseline does not change the gradient."""

        def loss(log_probs: torch.Tensor) -> torch.Tensor:
            sampled, mask = log_probs.detach().unsqueeze(-1), torch.ones(5, 1)
            scores, reference = torch.zeros(5), REF_LOG_PROBS.unsqueeze(-1)
            rewards, _ = shaped_rewards(scores, sampled, reference, mask, kl_coef=0.3)
            advantages, _ = generalized_advantages(rewards, torch.full_like(rewards, value), mask)
            return clipped_policy_loss(log_probs.unsqueeze(-1), sampled, advantages)[0].squeeze(-1)

        torch.testing.assert_close(self.expected_gradient(loss), 0.3 * self.true_gradient())


class TestExplainedVariance:
    RETURNS = torch.tensor([[1.0, 2.0, 3.0], [4.0, NAN, INF]])
    MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([[1.0, 2, 3], [4, 9, 9]], 1.0),
            ([[0.0, 1, 2], [3, 9, 9]], 1.0),  # a constant error is no variance
            ([[7.0, 7, 7], [7, 9, 9]], 0.0),
            # Errors 0, 0, 0, 4 have a variance of 12 / 3, the returns one of 5 / 3.
            ([[1.0, 2, 3], [0, 9, 9]], 1 - 12 / 5),
        ],
    )
    def test_by_hand(self, values: list[list[float]], expected: float) -> None:
        found = explained_variance(torch.tensor(values), self.RETURNS, self.MASK).item()
        assert found == close(expected)
