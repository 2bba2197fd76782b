"""The peak of tensors: what is held at once counts, in its order."""

from __future__ import annotations

import pytest
import torch

from posttrain_helpers.memory.allocations import peak_allocation

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts what a GPU holds there")
MEGABYTE = 2**20


def ones() -> torch.Tensor:
    return torch.ones(MEGABYTE // 4)


def test_tensors_that_are_held_together_add_up() -> None:
    assert peak_allocation(lambda: [ones() for _ in range(5)]) == pytest.approx(5 * MEGABYTE, rel=0.01)


def test_what_is_given_back_counts_once() -> None:
    def one_at_a_time() -> None:
        for _ in range(5):
            tensor = ones()
            del tensor

    assert peak_allocation(one_at_a_time) == pytest.approx(MEGABYTE, rel=0.01)


def test_a_training_step_holds_weights_gradients_and_momentum() -> None:
    def step() -> None:
        layer = torch.nn.Linear(512, 512, bias=False)  # a megabyte
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        layer(torch.ones(1, 512)).sum().backward()
        optimizer.step()

    assert peak_allocation(step) == pytest.approx(3 * MEGABYTE, rel=0.05)


def test_nothing_is_nothing() -> None:
    assert peak_allocation(lambda: None) < 1000
