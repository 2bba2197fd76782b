import math

import pytest
import torch
from rounding import FEW_OPERATIONS, close
from torch.nn.functional import cross_entropy

from posttrain_helpers.losses import masked_loss


def test_toy_numbers():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    labels = torch.tensor(
        [[0, -100, 2]]
    )  # the second target is masked, the third is token 2 with probability 0.8
    assert masked_loss(probabilities.log()[None], labels).item() == close(-math.log(0.8))


def test_equals_pytorchs_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 11, generator=generator)
    labels = torch.randint(0, 11, (4, 9), generator=generator)
    labels[torch.rand(4, 9, generator=generator) < 0.5] = -100
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert masked_loss(logits, labels).item() == pytest.approx(expected.item(), abs=FEW_OPERATIONS)


def test_masked_tokens_have_no_influence():
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, 3, -100, 1]])
    other = logits.clone()
    other[:, 1] += 5.0 * torch.arange(5)  # position 1 predicts token 2, which is masked
    assert masked_loss(logits, labels) == masked_loss(other, labels)
    other[:, 0] += 5.0 * torch.arange(5)  # position 0 predicts token 1, which is not
    assert masked_loss(logits, labels) != masked_loss(other, labels)
