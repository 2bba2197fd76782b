"""What PPO logs, in the names of TRL's last PPO trainer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class PPOMetrics:
    """Collect numbers between two logs: some for each rollout, some for each mini-batch."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._rollouts: dict[str, list[float]] = defaultdict(list)
        self._mini_batches: list[dict[str, float]] = []

    def add_rollout(self, per_completion: Mapping[str, torch.Tensor | float]) -> None:
        """Note the means over the completions of a rollout."""
        for name, values in per_completion.items():
            mean = values.float().mean().item() if isinstance(values, torch.Tensor) else values
            self._rollouts[name].append(mean)

    def begin_mini_batch(self) -> None:
        """Note that another mini-batch begins; its micro-batches add to it."""
        self._mini_batches.append(defaultdict(float))

    def add_micro_batch(
        self, per_token: Mapping[str, torch.Tensor], mask: torch.Tensor, share: float
    ) -> None:
        """Add a micro-batch's share of means over the tokens of a mini-batch.

        Args:
            per_token: numbers of shape (B, T).
            mask: True on the tokens that count, shape (B, T).
            share: the weight of each token, one by their number in the mini-batch.
        """
        for name, values in per_token.items():
            self._mini_batches[-1][name] += (values.float()[mask].sum() * share).item()

    def collect(self) -> dict[str, float]:
        """Return all means since the last call, over rollouts, mini-batches and processes; empty if none."""
        if not self._mini_batches:
            return {}
        names = list(self._mini_batches[0])
        means = {name: sum(batch[name] for batch in self._mini_batches) for name in names}
        means = {name: total / len(self._mini_batches) for name, total in means.items()}
        ratios = torch.tensor([batch["val/ratio"] for batch in self._mini_batches])
        means["val/ratio_var"] = ratios.var(correction=0).item()
        means |= {name: sum(values) / len(values) for name, values in self._rollouts.items()}
        self.clear()
        ordered = sorted(means)
        values = torch.tensor([means[name] for name in ordered], device=self._accelerator.device)
        return dict(zip(ordered, self._accelerator.reduce(values, reduction="mean").tolist(), strict=True))

    def clear(self) -> None:
        """Forget what was noted since the last log."""
        self._rollouts.clear()
        self._mini_batches.clear()
