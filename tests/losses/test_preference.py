"""The losses of the lessons equal TRL's on a real batch, and the mistakes that others shipped do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from notebook_functions import executed
from rounding import close
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers.generation.likelihood import completion_log_probs, encode_completions
from posttrain_helpers.losses.kl import token_kl
from posttrain_helpers.losses.preference import dpo_loss

bradley_terry_loss = executed("05_reward_modelling.ipynb", "bradley_terry_loss", logsigmoid=logsigmoid)
ipo_loss, kto_loss, kto_kl, orpo_loss, simpo_loss = (
    executed("07_preference_family.ipynb", name, logsigmoid=logsigmoid)
    for name in ("ipo_loss", "kto_loss", "kto_kl", "orpo_loss", "simpo_loss")
)

PROMPTS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What says a cow?"}],
    [{"role": "user", "content": "3 + 4 ="}],
    [{"role": "user", "content": "Can an owl fly?"}],
]
# Of different lengths, so that sums and means per token give different losses.
CHOSEN = ["The capital of France is Paris.", "moo", "7", "An owl can fly."]
REJECTED = ["Paris", "A cow says moo moo moo moo moo.", "3 + 4 = 8", "No."]
# The replies of KTO, desirable or not, in the order of PROMPTS.
REPLIES = [CHOSEN[0], REJECTED[1], CHOSEN[2], REJECTED[3]]
DESIRABLE = torch.tensor([True, False, True, False])
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
# Two ways to one loss differ by the rounding of float32, 1e-6 or less; the mistakes here by 1e-3 or more.
CLOSE = 1e-5
# Sums of up to 100 nats round ten times as far.
SUM_CLOSE = 1e-4


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pairs() -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": prompt, "chosen": reply(chosen), "rejected": reply(rejected)}
            for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path):
    return AutoTokenizer.from_pretrained(random_model_dir)


@pytest.fixture(scope="module")
def reference(random_model_dir: Path):
    return AutoModelForCausalLM.from_pretrained(random_model_dir).eval()


@pytest.fixture(scope="module")
def trained_weights(random_model_dir: Path, tokenizer) -> dict[str, torch.Tensor]:
    """Weights a few steps away from the reference's, so that policy and reference differ."""
    model = AutoModelForCausalLM.from_pretrained(random_model_dir)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = encode_completions(tokenizer, PROMPTS, CHOSEN)
    for _ in range(5):
        optimizer.zero_grad()
        (-completion_log_probs(model, **batch).mean()).backward()
        optimizer.step()
    return model.state_dict()


@pytest.fixture
def policy(random_model_dir: Path, trained_weights):
    model = AutoModelForCausalLM.from_pretrained(random_model_dir)
    model.load_state_dict(trained_weights)
    return model.eval()


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """One batch of all rows, in the order of the data set."""
    return {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "per_device_train_batch_size": len(PROMPTS),
        "train_sampling_strategy": "sequential",
        **changes,
    }


def trl_loss(trainer) -> tuple[float, dict[str, Any]]:
    """Return TRL's loss of the first batch, and that batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return trainer.compute_loss(trainer.model, dict(batch)).item(), batch


def logged(trainer) -> dict[str, float]:
    """Return the metrics that TRL collected since it logged last."""
    trainer.log({})
    return trainer.state.log_history[-1]


def dpo_trainer(policy, tokenizer, tmp_path: Path, **changes: Any):
    from trl import DPOConfig, DPOTrainer

    # Without ref_model the trainer loads the reference from disk, where the policy's old weights are.
    return DPOTrainer(
        model=policy,
        args=DPOConfig(**settings(tmp_path, **changes)),
        train_dataset=pairs(),
        processing_class=tokenizer,
    )


def log_probs(model, tokenizer, completions: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return completion_log_probs(model, **encode_completions(tokenizer, PROMPTS, completions))


def lengths(tokenizer, completions: list[str]) -> torch.Tensor:
    return encode_completions(tokenizer, PROMPTS, completions)["completion_mask"].sum(-1)


@pytest.fixture
def sums(policy, reference, tokenizer) -> tuple[torch.Tensor, ...]:
    """Policy chosen, policy rejected, reference chosen, reference rejected."""
    models = (policy, reference)
    return tuple(log_probs(m, tokenizer, texts) for m in models for texts in (CHOSEN, REJECTED))


class TestRewardModel:
    def test_equals_trl(self, random_model_dir: Path, tokenizer, tmp_path: Path) -> None:
        from trl import RewardConfig, RewardTrainer

        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1).eval()
        with torch.no_grad():
            model.score.weight.mul_(100)  # rewards that differ
        margins = torch.tensor([0.0, 0.5, 1.0, 2.0])
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**settings(tmp_path)),
            train_dataset=pairs().add_column("margin", margins.tolist()),
            processing_class=tokenizer,
        )
        expected, _ = trl_loss(trainer)

        def rewards(completions: list[str]) -> torch.Tensor:
            batch = encode_completions(tokenizer, PROMPTS, completions)
            with torch.no_grad():
                return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)

        chosen, rejected = rewards(CHOSEN), rewards(REJECTED)
        assert bradley_terry_loss(chosen, rejected, margins).mean().item() == pytest.approx(
            expected, abs=CLOSE
        )
        for wrong in (
            bradley_terry_loss(rejected, chosen, margins),
            bradley_terry_loss(chosen, rejected, -margins),
            bradley_terry_loss(chosen, rejected),
        ):
            assert abs(wrong.mean().item() - expected) > 1e-2

    def test_is_the_negative_log_of_the_models_probability(self) -> None:
        chosen, rejected = torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 2.0])
        probability = chosen.exp() / (chosen.exp() + rejected.exp())
        torch.testing.assert_close(
            bradley_terry_loss(chosen, rejected), -probability.log(), atol=CLOSE, rtol=CLOSE
        )


class TestDPO:
    def test_equals_trl_on_sums_and_means_do_not(self, policy, tokenizer, sums, tmp_path: Path) -> None:
        expected, _ = trl_loss(dpo_trainer(policy, tokenizer, tmp_path, beta=0.3))
        assert dpo_loss(*sums, beta=0.3).mean().item() == pytest.approx(expected, abs=CLOSE)
        chosen, rejected = lengths(tokenizer, CHOSEN), lengths(tokenizer, REJECTED)
        means = [values / count for values, count in zip(sums, [chosen, rejected] * 2, strict=True)]
        assert abs(dpo_loss(*means, beta=0.3).mean().item() - expected) > 1e-2

    def test_starts_at_ln_2(self, sums) -> None:
        same = dpo_loss(sums[0], sums[1], sums[0], sums[1], beta=0.1)
        torch.testing.assert_close(same, torch.full_like(same, math.log(2)), atol=CLOSE, rtol=0)
        assert (dpo_loss(*sums, beta=0.1) - same).abs().min() > 1e-3

    def test_gradient_raises_the_chosen_and_lowers_the_rejected(self) -> None:
        chosen, rejected = torch.tensor([-5.0], requires_grad=True), torch.tensor([-6.0], requires_grad=True)
        dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.2).sum().backward()
        assert chosen.grad.item() == close(-0.1)  # beta times sigmoid(0)
        assert rejected.grad.item() == close(0.1)


class TestBeta:
    """A higher beta stays closer to the reference, in the optimum of the reward and in DPO's own."""

    REWARDS = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    BETAS = (0.05, 0.1, 0.3, 0.5, 1.0)

    def best_policy(self, beta: float) -> torch.Tensor:
        """Log-probabilities that maximise E[reward] - beta KL (Rafailov et al. 2023, eq. 4)."""
        return (self.REFERENCE + self.REWARDS / beta).log_softmax(-1)

    def dpo_policy(self, beta: float) -> torch.Tensor:
        """Log-probabilities that minimise the expected DPO loss over all pairs of arms."""
        logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        weights = self.REFERENCE.exp()[:, None] * self.REFERENCE.exp()
        wins = torch.sigmoid(self.REWARDS[:, None] - self.REWARDS)
        optimizer = torch.optim.LBFGS(
            [logits],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            policy = logits.log_softmax(-1)
            losses = dpo_loss(
                policy[:, None], policy[None], self.REFERENCE[:, None], self.REFERENCE[None], beta
            )
            value = (weights * wins * losses).sum()
            value.backward()
            return value

        optimizer.step(loss)
        return logits.detach().log_softmax(-1)

    def divergences(self, policies: list[torch.Tensor]) -> list[float]:
        return [token_kl(policy, self.REFERENCE).item() for policy in policies]

    def test_divergence_falls_as_beta_grows(self) -> None:
        falls = self.divergences([self.best_policy(beta) for beta in self.BETAS])
        assert all(later < earlier - 1e-3 for earlier, later in pairwise(falls))
        # Beta explained backwards: multiply the reward by it where the optimum divides.
        rises = self.divergences([self.best_policy(1 / beta) for beta in self.BETAS])
        assert all(later > earlier for earlier, later in pairwise(rises))

    def test_dpo_finds_the_same_policies(self) -> None:
        found = [self.dpo_policy(beta) for beta in self.BETAS]
        for policy, beta in zip(found, self.BETAS, strict=True):
            assert torch.allclose(policy.exp(), self.best_policy(beta).exp(), atol=1e-4)
        falls = self.divergences(found)
        assert all(later < earlier - 1e-3 for earlier, later in pairwise(falls))


class TestIPO:
    def test_equals_trl_on_means_and_sums_do_not(self, policy, tokenizer, sums, tmp_path: Path) -> None:
        expected, _ = trl_loss(dpo_trainer(policy, tokenizer, tmp_path, beta=0.5, loss_type="ipo"))
        counts = lengths(tokenizer, CHOSEN), lengths(tokenizer, REJECTED)
        assert ipo_loss(*sums, *counts, beta=0.5).mean().item() == pytest.approx(expected, abs=CLOSE)
        ones = torch.ones_like(counts[0])
        assert abs(ipo_loss(*sums, ones, ones, beta=0.5).mean().item() - expected) > 1e-2

    def test_start_and_target(self) -> None:
        zero, count = torch.zeros(1), torch.tensor([4])
        assert ipo_loss(zero, zero, zero, zero, count, count, beta=0.1).item() == close(25.0)
        target = torch.tensor([4 * 1 / (2 * 0.1)])  # 5 nats per token, on 4 tokens
        assert ipo_loss(target, zero, zero, zero, count, count, beta=0.1).item() == close(0.0)
        assert ipo_loss(2 * target, zero, zero, zero, count, count, beta=0.1).item() == close(25.0)


class TestKTO:
    def trainer(self, policy, reference, tokenizer, tmp_path: Path):
        from trl import KTOConfig, KTOTrainer

        rows = [
            {"prompt": prompt, "completion": reply(text), "label": label}
            for prompt, text, label in zip(PROMPTS, REPLIES, DESIRABLE.tolist(), strict=True)
        ]
        return KTOTrainer(
            model=policy,
            ref_model=reference,
            args=KTOConfig(**settings(tmp_path, beta=0.4, **WEIGHTS)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    def test_loss_and_kl_equal_trl_and_rolled_values_do_not(
        self, policy, random_model_dir: Path, tokenizer, tmp_path: Path
    ) -> None:
        reference = AutoModelForCausalLM.from_pretrained(random_model_dir).eval()
        matched = [log_probs(model, tokenizer, REPLIES) for model in (policy, reference)]
        rolled = [REPLIES[-1], *REPLIES[:-1]]  # each prompt gets the reply of the row before
        kl = kto_kl(*(log_probs(model, tokenizer, rolled) for model in (policy, reference)))
        ours = kto_loss(*matched, DESIRABLE, kl, beta=0.4, **WEIGHTS).mean().item()

        trainer = self.trainer(policy, reference, tokenizer, tmp_path)
        expected, _ = trl_loss(trainer)
        expected_kl = logged(trainer)["kl"]
        assert expected_kl > 0.1  # otherwise the clamp would hide a difference
        assert kl.item() == pytest.approx(expected_kl, abs=SUM_CLOSE)
        assert ours == pytest.approx(expected, abs=CLOSE)

        # The shipped mistake: to roll the values of matched rows leaves their mean as it was ...
        difference = matched[0] - matched[1]
        no_op = difference.roll(1).mean()
        assert no_op.item() == pytest.approx(difference.mean().item(), abs=1e-6)
        # ... which is not the baseline.
        assert abs(no_op.item() - expected_kl) > 1e-2
        wrong = kto_loss(*matched, DESIRABLE, no_op.clamp(min=0), beta=0.4, **WEIGHTS)
        assert abs(wrong.mean().item() - expected) > 1e-4

    def test_kl_is_clamped_as_trl_does(
        self, policy, random_model_dir: Path, tokenizer, tmp_path: Path
    ) -> None:
        before = AutoModelForCausalLM.from_pretrained(random_model_dir).eval()
        rolled = [REPLIES[-1], *REPLIES[:-1]]
        # The roles are swapped, so that the estimate is negative.
        values = [log_probs(model, tokenizer, rolled) for model in (before, policy)]
        assert (values[0] - values[1]).mean() < -0.1
        assert kto_kl(*values) == 0
        trainer = self.trainer(before, policy, tokenizer, tmp_path)
        expected, _ = trl_loss(trainer)
        assert logged(trainer)["kl"] == 0
        matched = [log_probs(model, tokenizer, REPLIES) for model in (before, policy)]
        ours = kto_loss(*matched, DESIRABLE, kto_kl(*values), beta=0.4, **WEIGHTS)
        assert ours.mean().item() == pytest.approx(expected, abs=CLOSE)

    def test_the_mean_is_clamped_and_not_each_reply(self) -> None:
        assert kto_kl(torch.tensor([1.0, -3.0]), torch.zeros(2)) == 0
        assert kto_kl(torch.tensor([3.0, -1.0]), torch.zeros(2)) == 1

    def test_no_gradient_flows_through_the_kl(self) -> None:
        values = torch.tensor([1.0, 2.0], requires_grad=True)
        kl = kto_kl(values, torch.zeros(2))
        assert kl.item() == 1.5
        assert not kl.requires_grad

    def test_gradient_follows_the_label(self) -> None:
        policy = torch.tensor([-5.0, -5.0], requires_grad=True)
        losses = kto_loss(policy, torch.full((2,), -5.0), torch.tensor([True, False]), 0.0, beta=0.2)
        assert losses.tolist() == [0.5, 0.5]
        losses.sum().backward()
        assert policy.grad.tolist() == close([-0.05, 0.05])  # beta times sigmoid'(0)

    def test_a_higher_reference_point_asks_more_of_good_replies(self) -> None:
        ratio, labels = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
        low = kto_loss(ratio, torch.zeros(2), labels, 0.0, beta=1.0)
        high = kto_loss(ratio, torch.zeros(2), labels, 2.0, beta=1.0)
        assert high[0] > low[0]
        assert high[1] < low[1]


def means_of(model, batch: dict[str, Any], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and token counts of the completions in a batch of TRL's ORPO or CPO trainer."""
    ids, attention = batch[f"{kind}_input_ids"], batch[f"{kind}_attention_mask"]
    mask = (batch[f"{kind}_labels"] != -100).long()
    with torch.no_grad():
        return completion_log_probs(model, ids, attention, mask), mask.sum(-1)


class TestORPO:
    def test_equals_trl_and_other_normalisations_do_not(self, policy, tokenizer, tmp_path: Path) -> None:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        trainer = ORPOTrainer(
            model=policy,
            args=ORPOConfig(**settings(tmp_path, beta=0.6, max_length=128, remove_unused_columns=False)),
            train_dataset=pairs(),
            processing_class=tokenizer,
        )
        expected, batch = trl_loss(trainer)
        chosen, chosen_count = means_of(policy, batch, "chosen")
        rejected, rejected_count = means_of(policy, batch, "rejected")
        ids, attention = batch["chosen_input_ids"], batch["chosen_attention_mask"]
        with torch.no_grad():
            whole = completion_log_probs(policy, ids, attention, attention)
        nll = -whole.sum() / attention[:, 1:].sum()
        means = chosen / chosen_count, rejected / rejected_count
        assert orpo_loss(nll, *means, beta=0.6).mean().item() == pytest.approx(expected, abs=CLOSE)
        # TRL's first term counts the prompt's tokens, weighs by tokens, and the odds are those of means.
        for wrong in (
            orpo_loss(-chosen.sum() / chosen_count.sum(), *means, beta=0.6),
            orpo_loss(-whole / attention[:, 1:].sum(-1), *means, beta=0.6),
            orpo_loss(nll, chosen, rejected, beta=0.6),
        ):
            assert abs(wrong.mean().item() - expected) > 1e-3

    def test_odds(self) -> None:
        chosen, rejected = torch.tensor([0.8]), torch.tensor([0.5])
        odds_ratio = (0.8 / 0.2) / (0.5 / 0.5)
        expected = -math.log(odds_ratio / (1 + odds_ratio))
        loss = orpo_loss(torch.tensor([2.0]), chosen.log(), rejected.log(), beta=0.5)
        assert loss.item() == close(2.0 + 0.5 * expected)

    @pytest.mark.parametrize("mean", [-1e-6, -1e-3, -0.5, -20.0, -80.0])
    def test_odds_are_exact_for_likely_and_unlikely_completions(self, mean: float) -> None:
        nothing = torch.tensor([math.log(0.5)], dtype=torch.float64)  # even odds
        ours = orpo_loss(torch.tensor([0.0]), torch.tensor([mean]), nothing.float(), beta=1.0)
        log_odds = mean - math.log(-math.expm1(mean))
        exact = -logsigmoid(torch.tensor([log_odds], dtype=torch.float64))
        assert ours.item() == pytest.approx(exact.item(), rel=1e-4)


class TestSimPO:
    def test_equals_trl_and_gamma_times_beta_does_not(self, policy, tokenizer, tmp_path: Path) -> None:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        config = CPOConfig(
            **settings(tmp_path, beta=2.0, max_length=128, remove_unused_columns=False),
            loss_type="simpo",
            simpo_gamma=0.8,
            cpo_alpha=0.0,
        )
        trainer = CPOTrainer(model=policy, args=config, train_dataset=pairs(), processing_class=tokenizer)
        expected, batch = trl_loss(trainer)
        chosen, chosen_count = means_of(policy, batch, "chosen")
        rejected, rejected_count = means_of(policy, batch, "rejected")
        means = chosen / chosen_count, rejected / rejected_count
        assert simpo_loss(*means, beta=2.0, gamma=0.8).mean().item() == pytest.approx(expected, abs=CLOSE)
        inside = -logsigmoid(2.0 * (means[0] - means[1] - 0.8))
        on_sums = simpo_loss(chosen, rejected, beta=2.0, gamma=0.8)
        for wrong in (inside, on_sums):
            assert abs(wrong.mean().item() - expected) > 1e-2

    def test_the_reward_margin_to_beat_is_gamma_whatever_beta_is(self) -> None:
        for beta in (0.5, 1.0, 4.0):
            difference = torch.tensor([0.6]) / beta  # a reward margin of exactly gamma
            loss = simpo_loss(difference, torch.zeros(1), beta=beta, gamma=0.6)
            assert loss.item() == close(math.log(2))


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bradley_terry": lambda a, b, c, d: bradley_terry_loss(a, b, c),
    "dpo": lambda a, b, c, d: dpo_loss(a, b, c, d, 0.1),
    "ipo": lambda a, b, c, d: ipo_loss(a, b, c, d, 2 - c, 2 - d, 0.1),
    "kto": lambda a, b, c, d: kto_loss(a, b, c > d, 0.3, 0.1),
    "orpo": lambda a, b, c, d: orpo_loss(-c, a, b, 0.1),
    "simpo": lambda a, b, c, d: simpo_loss(a, b, 2.0, 0.5),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_each_pair_has_the_loss_that_it_has_alone(shape: tuple[int, ...], name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = [-5 * torch.rand(shape, generator=generator) for _ in range(4)]
    together = LOSSES[name](*columns)
    assert together.shape == shape
    alone = [LOSSES[name](*row) for row in zip(*(column.flatten() for column in columns), strict=True)]
    torch.testing.assert_close(together.flatten(), torch.stack(alone), atol=CLOSE, rtol=CLOSE)
    assert len(set(together.flatten().tolist())) == together.numel()


@pytest.mark.parametrize("name", ["bradley_terry", "dpo", "orpo", "simpo"])
def test_a_hopeless_pair_has_a_finite_loss_and_still_teaches(name: str) -> None:
    """log(sigmoid(-2000)) is minus infinity, without a gradient; logsigmoid(-2000) is -2000."""
    chosen = torch.tensor([-20_000.0], requires_grad=True)
    rejected, zero = torch.tensor([-1.0]), torch.zeros(1)
    loss = LOSSES[name](chosen, rejected, zero, zero)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert loss.item() > 1000
    assert torch.isfinite(chosen.grad).all()
    assert chosen.grad.item() < 0
