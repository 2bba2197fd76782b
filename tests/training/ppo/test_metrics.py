from __future__ import annotations

import pytest
import torch

from posttrain_helpers.training.ppo.metrics import PPOMetrics


class OneProcess:
    """An accelerator that notes what it averages; `factor` stands for what the others would add."""

    def __init__(self, factor: float = 1.0) -> None:
        self.device, self.factor, self.asked = torch.device("cpu"), factor, []

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        self.asked.append((len(values), reduction))
        return values * self.factor


MASK = torch.tensor([[True, True], [True, False]])


def ratios(*rows: list[float]) -> dict[str, torch.Tensor]:
    return {"val/ratio": torch.tensor(rows)}


def test_micro_batches_add_up_to_the_mean_over_the_tokens_of_a_mini_batch() -> None:
    metrics = PPOMetrics(OneProcess())
    metrics.begin_mini_batch()
    nan = float("nan")
    metrics.add_micro_batch(ratios([1.0, 2.0], [3.0, nan]), MASK, share=1 / 4)
    metrics.add_micro_batch(ratios([6.0]), torch.tensor([[True]]), share=1 / 4)
    assert metrics.collect() == {"val/ratio": 3.0, "val/ratio_var": 0.0}


def test_mini_batches_are_averaged_and_their_ratios_compared() -> None:
    metrics = PPOMetrics(OneProcess())
    for value in (1.0, 2.0, 6.0):
        metrics.begin_mini_batch()
        metrics.add_micro_batch(
            {**ratios([value]), "clipped": torch.tensor([[True]])}, torch.tensor([[True]]), share=1.0
        )
    found = metrics.collect()
    assert found["val/ratio"] == 3.0
    assert found["clipped"] == 1.0
    assert found["val/ratio_var"] == pytest.approx(14 / 3)


def test_rollouts_are_averaged() -> None:
    metrics = PPOMetrics(OneProcess())
    metrics.add_rollout({"score": torch.tensor([1, 2]), "kl_coef": 0.5})
    metrics.add_rollout({"score": torch.tensor([3, 6]), "kl_coef": 0.25})
    metrics.begin_mini_batch()
    metrics.add_micro_batch(ratios([1.0]), torch.tensor([[True]]), share=1.0)
    found = metrics.collect()
    assert (found["score"], found["kl_coef"]) == (3.0, 0.375)


def test_one_reduction_averages_over_the_processes() -> None:
    accelerator = OneProcess(factor=2.0)
    metrics = PPOMetrics(accelerator)
    metrics.add_rollout({"score": 5.0})
    metrics.begin_mini_batch()
    metrics.add_micro_batch(ratios([1.0]), torch.tensor([[True]]), share=1.0)
    assert metrics.collect() == {"score": 10.0, "val/ratio": 2.0, "val/ratio_var": 0.0}
    assert accelerator.asked == [(3, "mean")]


def test_nothing_is_reported_twice() -> None:
    metrics = PPOMetrics(OneProcess())
    assert metrics.collect() == {}
    metrics.begin_mini_batch()
    metrics.add_micro_batch(ratios([1.0]), torch.tensor([[True]]), share=1.0)
    assert metrics.collect()
    assert metrics.collect() == {}


def test_an_interrupted_mini_batch_can_be_forgotten() -> None:
    metrics = PPOMetrics(OneProcess())
    metrics.add_rollout({"score": 1.0})
    metrics.begin_mini_batch()
    metrics.clear()
    assert metrics.collect() == {}
    metrics.add_rollout({"score": 3.0})
    metrics.begin_mini_batch()
    metrics.add_micro_batch(ratios([1.0]), torch.tensor([[True]]), share=1.0)
    assert metrics.collect()["score"] == 3.0
