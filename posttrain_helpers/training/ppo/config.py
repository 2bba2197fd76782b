"""The arguments of `PPOTrainer`, in the names of TRL's last PPO and of today's TRL trainers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from posttrain_helpers.errors import CourseError

_USUAL_SAVE_STEPS = 500  # of transformers


@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of a PPO training; those of `transformers.TrainingArguments` apply as well.

    A *rollout* is `num_mini_batches` mini-batches of completions on each process. It is used for
    `num_ppo_epochs` epochs, then sampled anew: one *update*. A mini-batch is one optimizer step:
    `per_device_train_batch_size` times `gradient_accumulation_steps` completions on each process.
    `max_steps`, `logging_steps` and `save_steps` count optimizer steps, as everywhere in transformers.

    Attributes:
        total_episodes: completions to sample in the whole training; None samples `num_train_epochs` of the
            prompts. `max_steps` overrules both.
        num_ppo_epochs: passes over each rollout.
        num_mini_batches: optimizer steps in each pass.
        max_completion_length: the most tokens of a completion (`response_length` of TRL's last PPO).
        temperature: of the sampling, and of all log-probabilities.
        kl_coef: weight of the KL divergence from the reference model in the reward.
        kl_estimator: "k1" or "k3".
        missing_eos_penalty: subtracted from the score of a completion that did not end by itself.
        whiten_rewards: scale the rewards of a rollout to variance 1.
        whiten_advantages: scale and shift the advantages of a rollout to variance 1 and mean 0.
        gamma: discount per token.
        lam: lambda of the generalised advantage estimation.
        cliprange: by how much the probability ratio may leave 1.
        cliprange_value: by how much a value may leave what it was when the rollout was sampled.
        vf_coef: weight of the value loss.
        value_model: a reward model that the critic is a copy of at first (a stage, a directory, or a Hub id);
            None puts a new head on the policy.
        reward_weights: one weight for each reward function; None weighs them all with 1.
        rollout_batch_size: the most rows of one forward pass without gradient.
    """

    learning_rate: float = field(default=3e-6)
    num_train_epochs: float = field(default=1.0)
    logging_steps: float | None = field(default=None)  # None: one log for each update
    save_steps: float | None = field(default=None)  # None: at the first end of an update after 500 steps
    remove_unused_columns: bool = field(default=False)  # reward functions read the other columns
    ddp_find_unused_parameters: bool | None = field(default=False)
    report_to: str | list[str] | None = field(default="none")
    total_episodes: int | None = None
    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    max_completion_length: int = 53
    temperature: float = 0.7
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    missing_eos_penalty: float | None = None
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    value_model: str | None = None
    reward_weights: list[float] | None = None
    rollout_batch_size: int = 256

    @property
    def steps_per_update(self) -> int:
        """Optimizer steps between two rollouts."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def mini_batch_rows(self) -> int:
        """Completions of one optimizer step on each process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def rollout_rows(self) -> int:
        """Completions of one rollout on each process."""
        return self.mini_batch_rows * self.num_mini_batches

    def steps_for(self, prompts: int) -> int:
        """Return the optimizer steps of a training on so many prompts whose `max_steps` is not set."""
        episodes = self.total_episodes or math.ceil(self.num_train_epochs * prompts)
        return math.ceil(episodes / (self.rollout_rows * self.world_size)) * self.steps_per_update

    def __post_init__(self) -> None:
        self._check()
        if self.logging_steps is None:
            self.logging_steps = self.steps_per_update
        if self.save_steps is None:
            self.save_steps = math.ceil(_USUAL_SAVE_STEPS / self.steps_per_update) * self.steps_per_update
        super().__post_init__()
        if self.save_strategy == "steps" and self.save_steps % self.steps_per_update:
            raise CourseError(
                f"save_steps={self.save_steps} would save in the middle of an update, whose rollout is not "
                f"saved; choose a multiple of {self.steps_per_update} (num_ppo_epochs x num_mini_batches)."
            )

    def _check(self) -> None:
        for name in ("num_ppo_epochs", "num_mini_batches", "max_completion_length", "rollout_batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CourseError(f"{name} must be a whole number of at least 1, but it is {value!r}.")
        if self.total_episodes is not None and self.total_episodes < 1:
            raise CourseError(f"total_episodes must be at least 1, but it is {self.total_episodes!r}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CourseError(
                f"temperature must be above 0, but it is {self.temperature!r}: PPO needs the probabilities "
                "of what was sampled, and greedy choices have none."
            )
        if self.kl_estimator not in ("k1", "k3"):
            raise CourseError(f"kl_estimator must be 'k1' or 'k3', but it is {self.kl_estimator!r}.")
        checks = {
            "at least 0": (("kl_coef", "vf_coef"), lambda value: value >= 0),
            "between 0 and 1": (("gamma", "lam"), lambda value: 0 <= value <= 1),
            "above 0": (("cliprange", "cliprange_value"), lambda value: value > 0),
        }
        for limits, (names, keeps) in checks.items():
            for name in names:
                if not keeps(value := getattr(self, name)):
                    raise CourseError(f"{name} must be {limits}, but it is {value!r}.")
