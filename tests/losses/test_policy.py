"""The losses by hand equal TRL's on a real batch, and the mistakes that others shipped do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from notebook_functions import executed
from rounding import FEW_OPERATIONS, close
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_helpers.losses.kl import k1_estimate, k3_estimate
from posttrain_helpers.losses.policy import (
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    token_entropy,
    token_log_probs,
)

group_advantages, aggregate = (
    executed("10_grpo_verifiable_rewards.ipynb", name) for name in ("group_advantages", "aggregate")
)
grpo_loss = executed("10_grpo_verifiable_rewards.ipynb", "grpo_loss", aggregate=aggregate)

PROMPTS = ["What is the capital of France?", "3 + 4 ="]  # of different lengths, so that one is padded
GENERATIONS = 4
LONGEST = 12
TEMPERATURE = 0.8
# loss_type of TRL and the kind of `aggregate`
KINDS = {"dapo": "token", "grpo": "sequence", "dr_grpo": "constant"}
CLOSE = 1e-5
NAN, INF = float("nan"), float("inf")


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Batch:
    """What TRL sampled, and the rewards that it took the advantages from."""

    trainer: Any
    inputs: dict[str, Any]
    rewards: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        return self.inputs["completion_mask"]

    def logits(self) -> torch.Tensor:
        """The logits that predict the completions, with gradient."""
        ids, attention = (
            torch.cat([self.inputs[f"prompt_{name}"], self.inputs[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        logits = self.trainer.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        return logits[:, self.inputs["prompt_ids"].shape[1] - 1 : -1]

    def log_probs(self) -> torch.Tensor:
        return token_log_probs(self.logits(), self.inputs["completion_ids"], TEMPERATURE)

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(self.trainer.model.parameters())))

    def logged(self, name: str) -> float:
        return self.trainer._metrics["train"][name][-1]


@pytest.fixture
def sampled(random_model_dir: Path, tmp_path: Path) -> Callable[..., Batch]:
    """Sample a batch with a GRPOTrainer whose policy has moved away from the reference on disk."""

    def sample(off_policy: bool = False, **changes: Any) -> Batch:
        from trl import GRPOConfig, GRPOTrainer

        seen: list[float] = []

        def reward(completion_ids, **_: Any) -> list[float]:
            seen[:] = [sum(ids) % 7 / 3 for ids in completion_ids]
            return seen

        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
        policy = AutoModelForCausalLM.from_pretrained(random_model_dir)
        with torch.no_grad():
            policy.get_input_embeddings().weight.mul_(5)
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                per_device_train_batch_size=len(PROMPTS) * GENERATIONS,
                num_generations=GENERATIONS,
                max_completion_length=LONGEST,
                temperature=TEMPERATURE,
                # A likelier end with each token, so that the completions differ in length.
                generation_kwargs={"exponential_decay_length_penalty": (1, 2.0)},
                **changes,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1  # as the training loop does
        inputs = trainer._generate_and_score_completions([row for row in rows for _ in range(GENERATIONS)])
        batch = Batch(trainer, inputs, torch.tensor(seen))
        if off_policy:
            now = batch.log_probs().detach()
            inputs["old_per_token_logps"] = now + 0.3 * numbers(1, *now.shape)
        return batch

    return sample


def loss_of(batch: Batch, log_probs: torch.Tensor, scale: str = "group", **settings: Any) -> torch.Tensor:
    return grpo_loss(
        log_probs,
        batch.inputs.get("old_per_token_logps", log_probs.detach()),
        group_advantages(batch.rewards, GENERATIONS, scale),
        batch.mask,
        ref_log_probs=batch.inputs.get("ref_per_token_logps"),
        max_length=LONGEST,
        **settings,
    )


class TestGrpoTrainer:
    # Every two of the four settings meet in at least one row.
    @pytest.mark.parametrize(
        ("loss_type", "scale", "beta", "off_policy"),
        [
            ("dapo", "group", 0.0, False),
            ("dapo", "batch", 0.1, True),
            ("dapo", "none", 0.0, True),
            ("grpo", "group", 0.1, True),
            ("grpo", "batch", 0.0, False),
            ("grpo", "none", 0.1, False),
            ("dr_grpo", "group", 0.1, False),
            ("dr_grpo", "batch", 0.0, True),
            ("dr_grpo", "none", 0.1, True),
        ],
    )
    def test_loss_and_gradient(
        self, sampled: Callable[..., Batch], loss_type: str, scale: str, beta: float, off_policy: bool
    ) -> None:
        batch = sampled(off_policy, loss_type=loss_type, scale_rewards=scale, beta=beta)
        expected = batch.trainer.compute_loss(batch.trainer.model, batch.inputs)
        loss = loss_of(batch, batch.log_probs(), scale, kind=KINDS[loss_type], beta=beta)
        assert loss.item() == pytest.approx(expected.item(), abs=CLOSE)
        for mine, theirs in zip(batch.gradients(loss), batch.gradients(expected), strict=True):
            torch.testing.assert_close(mine, theirs, atol=CLOSE, rtol=1e-3)

    def test_the_batch_is_no_easy_one(self, sampled: Callable[..., Batch]) -> None:
        """Lengths differ, the clip acts on both sides, and each setting of the others changes the loss."""
        batch = sampled(off_policy=True, beta=0.1)
        lengths = batch.mask.sum(-1)
        assert len(set(lengths.tolist())) > 2
        assert (batch.inputs["prompt_mask"] == 0).any()
        log_probs = batch.log_probs().detach()
        advantages = batch.inputs["advantages"].unsqueeze(-1)
        _, clipped = clipped_policy_loss(log_probs, batch.inputs["old_per_token_logps"], advantages)
        for sign in (advantages > 0, advantages < 0):
            assert (clipped & sign & batch.mask.bool()).any()
        losses = [loss_of(batch, log_probs, kind=kind, beta=0.1).item() for kind in KINDS.values()]
        losses += [loss_of(batch, log_probs, scale, beta=0.1).item() for scale in ("batch", "none")]
        losses += [loss_of(batch, log_probs).item()]
        losses += [loss_of(batch, log_probs, beta=0.1, use_bias_correction_kl=False).item()]
        assert len({round(loss, 4) for loss in losses}) == len(losses)

    def test_two_bounds(self, sampled: Callable[..., Batch]) -> None:
        batch = sampled(off_policy=True, epsilon=0.1, epsilon_high=0.4)
        expected = batch.trainer.compute_loss(batch.trainer.model, batch.inputs).item()
        log_probs = batch.log_probs()
        assert loss_of(batch, log_probs, epsilon=0.1, epsilon_high=0.4).item() == pytest.approx(
            expected, abs=CLOSE
        )
        assert loss_of(batch, log_probs, epsilon=0.1).item() != pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("off_policy", [False, True])
    def test_divergence_without_correction(self, sampled: Callable[..., Batch], off_policy: bool) -> None:
        batch = sampled(off_policy, beta=0.1, use_bias_correction_kl=False)
        expected = batch.trainer.compute_loss(batch.trainer.model, batch.inputs)
        loss = loss_of(batch, batch.log_probs(), beta=0.1, use_bias_correction_kl=False)
        assert loss.item() == pytest.approx(expected.item(), abs=CLOSE)
        for mine, theirs in zip(batch.gradients(loss), batch.gradients(expected), strict=True):
            torch.testing.assert_close(mine, theirs, atol=CLOSE, rtol=1e-3)

    def test_logged_numbers(self, sampled: Callable[..., Batch]) -> None:
        batch = sampled(off_policy=True, beta=0.1, use_bias_correction_kl=False)
        batch.trainer.compute_loss(batch.trainer.model, batch.inputs)
        logits = batch.logits().detach()
        log_probs = token_log_probs(logits, batch.inputs["completion_ids"], TEMPERATURE)
        entropy = token_entropy(logits, TEMPERATURE)[batch.mask.bool()].mean()
        assert entropy.item() == pytest.approx(batch.logged("entropy"), abs=CLOSE)
        kl = k3_estimate(log_probs, batch.inputs["ref_per_token_logps"])[batch.mask.bool()].mean()
        assert kl.item() == pytest.approx(batch.logged("kl"), rel=CLOSE)
        advantages = batch.inputs["advantages"].unsqueeze(-1)
        _, clipped = clipped_policy_loss(log_probs, batch.inputs["old_per_token_logps"], advantages)
        share = clipped.float()[batch.mask.bool()].mean().item()
        assert share == close(batch.logged("clip_ratio/region_mean"))


class TestTokens:
    LOGITS = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]])
    TOKENS = torch.tensor([[0, 2]])

    def test_log_probs_by_hand(self) -> None:
        total = math.exp(2) + 1 + math.exp(-1)
        expected = [2 - math.log(total), -math.log(3)]
        assert token_log_probs(self.LOGITS, self.TOKENS).tolist()[0] == close(expected)

    def test_temperature(self) -> None:
        hot = token_log_probs(self.LOGITS, self.TOKENS, temperature=2.0)
        torch.testing.assert_close(hot, token_log_probs(self.LOGITS / 2, self.TOKENS))
        assert hot[0, 0] < token_log_probs(self.LOGITS, self.TOKENS)[0, 0]

    def test_half_precision_is_widened_first(self) -> None:
        half = token_log_probs(self.LOGITS.bfloat16(), self.TOKENS)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, token_log_probs(self.LOGITS, self.TOKENS))
        half = token_entropy(self.LOGITS.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, token_entropy(self.LOGITS))

    def test_entropy_between_its_bounds(self) -> None:
        certain = torch.tensor([[[0.0, -INF, -INF]]])
        assert token_entropy(torch.zeros(1, 2, 7)).tolist()[0] == close([math.log(7)] * 2)
        assert token_entropy(certain).item() == 0
        two = torch.tensor([[[1.0, 1.0, -INF]]])
        assert token_entropy(two).item() == close(math.log(2))

    def test_entropy_by_hand(self) -> None:
        probabilities = torch.tensor([0.5, 0.25, 0.25])
        expected = 0.5 * math.log(2) + 0.5 * math.log(4)
        assert token_entropy(probabilities.log().view(1, 1, 3)).item() == close(expected)

    def test_entropy_rises_with_the_temperature(self) -> None:
        cold, warm, hot = (token_entropy(self.LOGITS, t)[0, 0].item() for t in (0.5, 1.0, 2.0))
        assert cold < warm < hot < math.log(3)


def surrogate(ratio: float, advantage: float, **settings: float) -> tuple[float, bool, float]:
    """Return loss, clipped and the gradient of the loss by the ratio of a single token."""
    log_prob = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    loss, clipped = clipped_policy_loss(
        log_prob, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[advantage]]), **settings
    )
    loss.sum().backward()
    return loss.item(), clipped.item(), log_prob.grad.item() / ratio


class TestClippedPolicyLoss:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "clipped"),
        [
            (1.0, 2.0, -2.0, False),
            (1.1, 2.0, -2.2, False),
            (1.5, 2.0, -2.4, True),  # far enough up
            (0.5, 2.0, -1.0, False),  # moved the wrong way: full gradient back
            (1.0, -2.0, 2.0, False),
            (0.9, -2.0, 1.8, False),
            (0.5, -2.0, 1.6, True),  # far enough down
            (1.5, -2.0, 3.0, False),  # moved the wrong way: full gradient back
            (1.5, 0.0, 0.0, False),
        ],
    )
    def test_both_signs(self, ratio: float, advantage: float, loss: float, clipped: bool) -> None:
        value, is_clipped, gradient = surrogate(ratio, advantage)
        assert value == close(loss)
        assert is_clipped is clipped
        assert gradient == close(0.0 if clipped else -advantage)

    def test_maximum_for_negative_advantages_is_another_loss(self) -> None:
        """It pushes a token down without end, and does not bring back one that went up."""
        advantage = torch.tensor(-2.0)

        def wrong_gradient(at: float) -> float:
            ratio = torch.tensor(at, requires_grad=True)
            (-torch.maximum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).backward()
            return ratio.grad.item()

        for ratio, wrong, right in ((0.1, 2.0, 0.0), (1.5, 0.0, 2.0)):
            assert wrong_gradient(ratio) == wrong
            assert surrogate(ratio, -2.0)[2] == close(right)

    def test_two_bounds(self) -> None:
        assert surrogate(1.25, 1.0, epsilon=0.2, epsilon_high=0.3)[1] is False
        assert surrogate(1.35, 1.0, epsilon=0.2, epsilon_high=0.3)[0] == close(-1.3)
        assert surrogate(0.75, -1.0, epsilon=0.2, epsilon_high=0.3)[0] == close(0.8)
        assert surrogate(1.25, 1.0, epsilon=0.2, epsilon_high=0.0)[0] == close(-1.0)

    def test_a_row_and_its_tokens(self) -> None:
        log_probs, old = numbers(0, 3, 5), numbers(1, 3, 5)
        rows = numbers(2, 3, 1)
        for result, expected in zip(
            clipped_policy_loss(log_probs, old, rows),
            clipped_policy_loss(log_probs, old, rows.expand(3, 5)),
            strict=True,
        ):
            assert result.equal(expected)

    @pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 3, 1), (2, 1)])
    def test_advantages_that_would_spread_the_wrong_way(self, shape: tuple[int, ...]) -> None:
        """As many tokens as completions: without the check the tokens would get the advantages."""
        with pytest.raises(AssertionError, match=r"beside tokens of \(3, 3\)"):
            clipped_policy_loss(numbers(0, 3, 3), numbers(1, 3, 3), torch.ones(shape))


class TestClippedValueLoss:
    @pytest.mark.parametrize(
        ("value", "target", "loss", "clipped"),
        [
            (1.1, 2.0, 0.5 * 0.9**2, False),
            (1.5, 2.0, 0.5 * 0.8**2, True),  # went far enough towards the return
            (0.5, 0.0, 0.5 * 0.8**2, True),
            (1.5, 0.0, 0.5 * 1.5**2, False),  # went the wrong way: full gradient back
            (1.0, 1.0, 0.0, False),
        ],
    )
    def test_from_an_old_value_of_one(self, value: float, target: float, loss: float, clipped: bool) -> None:
        values = torch.tensor([[value]], requires_grad=True)
        losses, is_clipped = clipped_value_loss(values, torch.ones(1, 1), torch.tensor([[target]]))
        losses.sum().backward()
        assert losses.item() == close(loss)
        assert is_clipped.item() is clipped
        assert values.grad.item() == close(0.0 if clipped else value - target)

    def test_wide_bounds_leave_half_the_squared_error(self) -> None:
        values, old, returns = numbers(0, 3, 4), numbers(1, 3, 4), numbers(2, 3, 4)
        losses, clipped = clipped_value_loss(values, old, returns, epsilon=100.0)
        torch.testing.assert_close(losses, 0.5 * (values - returns) ** 2)
        assert not clipped.any()


class TestApproximateKl:
    def test_by_hand(self) -> None:
        result = approximate_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]]))
        assert result.tolist() == [[0.125, 0.5]]

    def test_close_to_the_divergence_of_a_small_step(self) -> None:
        old = numbers(0, 6).double().log_softmax(-1)
        new = (old + 0.01 * numbers(1, 6)).log_softmax(-1)
        exact = (old.exp() * (old - new)).sum()
        assert (old.exp() * approximate_kl(new, old)).sum().item() == pytest.approx(exact.item(), rel=0.02)


class TestAggregate:
    LOSSES = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, NAN, INF, -INF]])
    MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("token", 20 / 5), ("sequence", (2.5 + 10) / 2), ("constant", 20 / (2 * 8))],
    )
    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
    def test_by_hand(self, kind: str, expected: float, dtype: torch.dtype) -> None:
        result = aggregate(self.LOSSES, self.MASK.to(dtype), kind, max_length=8)
        assert result.item() == close(expected)

    @pytest.mark.parametrize("kind", KINDS.values())
    def test_padding_gets_no_gradient(self, kind: str) -> None:
        losses = self.LOSSES.clone().requires_grad_()
        aggregate(losses, self.MASK, kind, max_length=8).backward()
        assert ((losses.grad != 0) == self.MASK.bool()).all()
        assert losses.grad.isfinite().all()

    @pytest.mark.parametrize("kind", KINDS.values())
    def test_nothing_counts(self, kind: str) -> None:
        assert aggregate(self.LOSSES, torch.zeros_like(self.MASK), kind, max_length=8).item() == 0

    @pytest.mark.parametrize(("kind", "expected"), [("token", 2.5), ("sequence", 1.25), ("constant", 0.625)])
    def test_a_completion_without_tokens_adds_nothing(self, kind: str, expected: float) -> None:
        mask = torch.stack([self.MASK[0], torch.zeros_like(self.MASK[0])])
        assert aggregate(self.LOSSES, mask, kind, max_length=8).item() == close(expected)

    def test_a_token_of_a_long_completion(self) -> None:
        """What the kinds are about: its weight beside that of the only token of the short one."""
        weights = {}
        for kind in KINDS.values():
            losses = torch.zeros(2, 4, requires_grad=True)
            aggregate(losses, self.MASK, kind, max_length=8).backward()
            weights[kind] = (losses.grad[0, 0] / losses.grad[1, 0]).item()
        assert weights == close({"token": 1.0, "sequence": 0.25, "constant": 1.0})


class TestGrpoLoss:
    MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])

    def loss_and_gradient(
        self, rewards: list[float], padding: float = 0.0, **settings: Any
    ) -> tuple[float, torch.Tensor]:
        tensors = [numbers(seed, 4, 3).masked_fill(self.MASK == 0, padding) for seed in range(3)]
        log_probs = tensors[0].requires_grad_()
        old = log_probs.detach() if settings.pop("on_policy", False) else tensors[1]
        advantages = group_advantages(torch.tensor(rewards), 2)
        loss = grpo_loss(
            log_probs, old, advantages, self.MASK, ref_log_probs=tensors[2], max_length=3, **settings
        )
        loss.backward()
        return loss.item(), log_probs.grad

    def test_a_loss_of_zero_still_teaches(self) -> None:
        """With equal lengths the advantages sum to 0, so that the logged loss says nothing."""
        log_probs = numbers(0, 4, 3).requires_grad_()
        advantages = group_advantages(torch.tensor([1.0, 0.0, 2.0, 5.0]), 2)
        grpo_loss_value = grpo_loss(log_probs, log_probs.detach(), advantages, torch.ones(4, 3))
        grpo_loss_value.backward()
        assert grpo_loss_value.item() == pytest.approx(0, abs=FEW_OPERATIONS)
        torch.testing.assert_close(log_probs.grad, -advantages.unsqueeze(-1).expand(4, 3) / 12)

    def test_each_completion_once_is_zero_for_all_lengths(self) -> None:
        loss, gradient = self.loss_and_gradient([1.0, 0.0, 2.0, 5.0], kind="sequence", on_policy=True)
        assert loss == pytest.approx(0, abs=FEW_OPERATIONS)
        assert gradient.abs().max() > 0.01

    @pytest.mark.parametrize("kind", KINDS.values())
    def test_constant_reward_teaches_nothing(self, kind: str) -> None:
        loss, gradient = self.loss_and_gradient([0.7] * 4, kind=kind)
        assert loss == 0
        assert (gradient == 0).all()

    def test_constant_reward_leaves_the_divergence(self) -> None:
        loss, gradient = self.loss_and_gradient([0.7] * 4, beta=0.1)
        assert loss > 0
        assert gradient.abs().max() > 0

    @pytest.mark.parametrize("padding", [NAN, INF, -INF, 1e6])
    @pytest.mark.parametrize("beta", [0.0, 0.1])
    @pytest.mark.parametrize("kind", KINDS.values())
    def test_padding_never_matters(self, kind: str, beta: float, padding: float) -> None:
        rewards = [1.0, 0.0, 2.0, 5.0]
        loss, gradient = self.loss_and_gradient(rewards, kind=kind, beta=beta)
        dirty_loss, dirty_gradient = self.loss_and_gradient(rewards, padding, kind=kind, beta=beta)
        assert dirty_loss == loss
        assert dirty_gradient.equal(gradient)
        assert (gradient[self.MASK == 0] == 0).all()

    @pytest.mark.parametrize("corrected", [True, False])
    def test_expected_gradient_of_the_divergence(self, corrected: bool) -> None:
        """Exactly, for a policy over five tokens; without the correction it is that of KL(ref || policy)."""
        reference = numbers(1, 5).double().log_softmax(-1)
        logits = numbers(0, 5).double().requires_grad_()
        log_probs = logits.log_softmax(-1)
        probabilities = log_probs.exp()
        per_token = [
            grpo_loss(
                log_probs[token].view(1, 1),
                log_probs[token].detach().view(1, 1),
                torch.zeros(1),
                torch.ones(1, 1),
                beta=1.0,
                ref_log_probs=reference[token].view(1, 1),
                use_bias_correction_kl=corrected,
            )
            for token in range(5)
        ]
        estimated = (probabilities.detach() * torch.stack(per_token)).sum()
        reverse = (probabilities * (log_probs - reference)).sum()
        forward = (reference.exp() * (reference - log_probs)).sum()
        gradients = [
            torch.autograd.grad(value, logits, retain_graph=True)[0]
            for value in (estimated, reverse, forward)
        ]
        assert estimated.item() == close(reverse.item())  # the value is right either way
        torch.testing.assert_close(gradients[0], gradients[1 if corrected else 2])
        assert not torch.allclose(gradients[1], gradients[2])


class TestSampling:
    """Log-probabilities belong to the distribution that the tokens were sampled from."""

    POLICY = torch.tensor([0.4, 0.3, 0.15, 0.15])
    REFERENCE = torch.tensor([0.5, 0.4, 0.05, 0.05])
    TOKENS = torch.arange(4).unsqueeze(0)

    def log_probs(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of all tokens under the full softmax."""
        return token_log_probs(probabilities.log().expand(1, 4, 4), self.TOKENS)[0]

    def test_top_k_beside_the_full_softmax_gives_a_negative_divergence(self) -> None:
        k1 = k1_estimate(self.log_probs(self.POLICY), self.log_probs(self.REFERENCE))
        top_2 = self.POLICY * torch.tensor([1.0, 1.0, 0.0, 0.0])
        top_2 = top_2 / top_2.sum()
        assert (self.POLICY * k1).sum() > 0.1  # sampled from the policy: the true divergence
        assert (top_2 * k1).sum() < -0.2  # sampled from its top 2, scored as if from all: impossible

    def test_another_temperature_than_that_of_the_sampling(self) -> None:
        sampled = (self.POLICY.log() / 0.3).softmax(-1)
        k1 = k1_estimate(self.log_probs(self.POLICY), self.log_probs(self.REFERENCE))
        assert (sampled * k1).sum() < 0
        tempered = [
            token_log_probs(p.log().expand(1, 4, 4), self.TOKENS, temperature=0.3)[0]
            for p in (self.POLICY, self.REFERENCE)
        ]
        assert (sampled * k1_estimate(*tempered)).sum() > 0
