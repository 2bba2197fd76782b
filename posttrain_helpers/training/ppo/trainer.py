"""Proximal policy optimisation (PPO) for language models: small, on today's transformers.

TRL removed its PPO trainer in version 1.13. This one keeps its names and metrics. It runs in the training
loop of `transformers.Trainer`, which brings checkpoints, resuming, gradient clipping, schedulers, callbacks
and, started with torchrun, several processes. What makes it PPO is in three places: `RolloutSampler` samples
completions and turns their scores into advantages, `_prepare_inputs` deals out the mini-batches between two
rollouts, and `compute_loss` is the clipped loss.

Source: Schulman et al. 2017 (PPO), Ziegler et al. 2019 (PPO with a KL penalty for language models), Huang et
al. 2024 ("The N+ Implementation Details of RLHF with PPO").

The state after the end token is no decision, so it has no value, and the score belongs to the end token
itself; TRL gave the score to one position more, whose value its critic had to learn.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer
from trl.trainer.utils import disable_dropout_in_model

from posttrain_helpers.errors import CourseError
from posttrain_helpers.losses.policy import (
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    token_entropy,
    token_log_probs,
)
from posttrain_helpers.rewards.functions import load_reward_model
from posttrain_helpers.rewards.guard import guarded
from posttrain_helpers.rewards.reward_model import as_reward_function
from posttrain_helpers.rewards.scoring import RewardFunction
from posttrain_helpers.training.checkpoints import newest_checkpoint
from posttrain_helpers.training.checks import check_unpatched
from posttrain_helpers.training.ppo.actor_critic import ActorCritic
from posttrain_helpers.training.ppo.config import PPOConfig
from posttrain_helpers.training.ppo.metrics import PPOMetrics
from posttrain_helpers.training.ppo.rollouts import Rollout, RolloutSampler

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

__all__ = ["PPOConfig", "PPOTrainer"]

_VALUE_FILE = "value.safetensors"


class PPOTrainer(Trainer):
    """Train a policy to earn reward, near a reference model.

    Args:
        model: the policy, as `load_model_and_tokenizer` returns it, or a PEFT model.
        reward_funcs: one or several rewards: a function `f(prompts, completions, completion_ids, **columns)`
            that returns a number for each completion, as for `trl.GRPOTrainer`, or a reward model with the
            policy's tokenizer.
        args: the arguments.
        train_dataset: a column `prompt` (messages or texts); the other columns go to the reward functions.
        processing_class: the tokenizer.
        ref_model: the reference model; None takes a copy of the policy as it is now, or with an adapter the
            policy without it.
        reward_model: the same as one entry of `reward_funcs`.
        value_model: a critic of its own with a score head, such as a copy of the reward model; None takes the
            one that `args.value_model` names, or puts a value head on the policy.
        callbacks: more callbacks.

    Raises:
        CourseError: no reward, prompts that cannot be tokenized or leave no room, a model that another
            trainer has patched, or a setting that contradicts another.
    """

    loss_is_scaled_for_ga = True  # `compute_loss` divides by the tokens of the whole mini-batch

    def __init__(
        self,
        model: PreTrainedModel,
        reward_funcs: RewardFunction | PreTrainedModel | Sequence[RewardFunction | PreTrainedModel] = (),
        args: PPOConfig | None = None,
        train_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        ref_model: PreTrainedModel | None = None,
        reward_model: PreTrainedModel | None = None,
        value_model: PreTrainedModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        # A copy: the number of steps is set below, and the arguments may serve another trainer.
        args = PPOConfig("trainer_output") if args is None else copy.copy(args)
        if processing_class is None or train_dataset is None:
            raise CourseError("PPOTrainer needs processing_class (the tokenizer) and train_dataset.")
        check_unpatched(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            data_collator=list,
            callbacks=callbacks,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise CourseError(
                "PPOTrainer runs in one process or with DDP (torchrun); FSDP and DeepSpeed shard the weights "
                "that it samples with."
            )
        self.policy = model
        self.ref_model = self._reference(ref_model)
        if value_model is None and args.value_model is not None:
            value_model = load_reward_model(args.value_model)
        self.value_model = value_model
        self.actor_critic = ActorCritic(model, value_model).to(args.device)
        disable_dropout_in_model(self.actor_critic)
        given = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        given += [] if reward_model is None else [reward_model]
        self.reward_funcs = guarded(
            [
                as_reward_function(reward.to(args.device), processing_class)
                if isinstance(reward, torch.nn.Module)
                else reward
                for reward in given
            ]
        )
        self.metrics = PPOMetrics(self.accelerator)
        self.rollouts = RolloutSampler(
            self.actor_critic,
            self.ref_model,
            self.reward_funcs,
            train_dataset,
            processing_class,
            args,
            self.metrics,
        )
        if args.max_steps <= 0:
            args.max_steps = args.steps_for(len(train_dataset))
        self._rollout: Rollout | None = None
        self._micro_batches: list[torch.Tensor] = []

    # --- the training loop of transformers, fed with mini-batches of rollouts

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; afterwards `model` is the policy again, in eval mode.

        Args:
            resume_from_checkpoint: a checkpoint's directory, or True for the last complete one in
                `output_dir`: a run that was killed while it saved leaves a directory that is none.
            kwargs: as for `transformers.Trainer.train`.

        Raises:
            CourseError: nothing to resume from, or a loss or score that is not a number.
        """
        directory, checkpoint = Path(self.args.output_dir), resume_from_checkpoint or None
        if checkpoint is True and (checkpoint := newest_checkpoint(directory)) is None:
            raise CourseError(
                f"there is no complete checkpoint in {directory} to resume from; set save_strategy='steps' "
                "and save_steps, or start without resume_from_checkpoint."
            )
        self.model = self.model_wrapped = self.actor_critic
        self._started, self._first_update = time.perf_counter(), None
        try:
            return super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        finally:
            self.model = self.model_wrapped = self.policy.eval()
            # What an interrupted training leaves behind must not get into the next one.
            self._rollout, self._micro_batches = None, []
            self.metrics.clear()

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of step numbers: `_prepare_inputs` chooses the rows itself."""
        return DataLoader(range(self.args.max_steps * self.args.gradient_accumulation_steps), collate_fn=list)

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """Return the next micro-batch; sample a new rollout after `steps_per_update` steps."""
        step = self.state.global_step % self.args.steps_per_update
        if not self._micro_batches:
            if step == 0 or self._rollout is None:
                update = self.state.global_step // self.args.steps_per_update
                self._first_update = update if self._first_update is None else self._first_update
                self.rollouts.trainer_state = self.state
                with self.accelerator.autocast():  # as in the update, or the first ratio is not 1
                    self._rollout = self.rollouts.sample(update, self.args.kl_coef)
            self._deal(step)
        rows = self._micro_batches.pop()
        data = self._rollout
        tokens = data.tokens.rows(rows)
        length = tokens.completions.shape[1]
        names = ("old_log_probs", "old_values", "advantages", "returns")
        parts = (data.log_probs, data.values, data.advantages, data.returns)
        cut = {name: part[rows, :length] for name, part in zip(names, parts, strict=True)}
        return {"tokens": tokens, **cut}

    def _deal(self, step: int) -> None:
        """Cut one mini-batch into micro-batches of rows of similar length, and count its tokens."""
        args, tokens = self.args, self._rollout.tokens
        update, epoch = self.state.global_step // args.steps_per_update, step // args.num_mini_batches
        mini_batches = self.rollouts.order(update, epoch).split(args.mini_batch_rows)
        mini_batch = mini_batches[step % args.num_mini_batches]
        by_length = mini_batch[tokens.lengths[mini_batch].argsort()]
        self._micro_batches = list(by_length.split(args.per_device_train_batch_size))
        count = tokens.completion_mask[mini_batch].sum()
        self._tokens = self.accelerator.reduce(count, reduction="sum").item()
        self.metrics.begin_mini_batch()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the loss: its sum over tokens, by those of the mini-batch."""
        args, tokens = self.args, inputs["tokens"]
        mask = tokens.completion_mask.bool()
        logits, values = model(tokens.prompts, tokens.prompt_mask, tokens.completions, tokens.completion_mask)
        log_probs = token_log_probs(logits, tokens.completions, args.temperature)
        policy_loss, clipped = clipped_policy_loss(
            log_probs, inputs["old_log_probs"], inputs["advantages"], args.cliprange
        )
        value_loss, value_clipped = clipped_value_loss(
            values, inputs["old_values"], inputs["returns"], args.cliprange_value
        )
        # DDP averages the gradients of the processes, but the tokens are those of all of them.
        share = self.args.world_size / self._tokens
        loss = (policy_loss + args.vf_coef * value_loss)[mask].sum() * share
        if not torch.isfinite(loss):
            raise CourseError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; lower learning_rate or "
                "raise kl_coef, and look at objective/kl and the texts before this step."
            )
        with torch.no_grad():
            ratio = (log_probs - inputs["old_log_probs"]).exp()
            self.metrics.add_micro_batch(
                {
                    "loss/policy_avg": policy_loss,
                    "loss/value_avg": value_loss,
                    "policy/approxkl_avg": approximate_kl(log_probs, inputs["old_log_probs"]),
                    "policy/clipfrac_avg": clipped,
                    "policy/entropy_avg": token_entropy(logits, args.temperature),
                    "val/clipfrac_avg": value_clipped,
                    "val/ratio": ratio,
                },
                mask,
                share,
            )
        return loss

    # --- logs and checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the metrics since the last log."""
        if metrics := self.metrics.collect():
            updates = math.ceil(self.state.global_step / self.args.steps_per_update)
            episode = updates * self.args.rollout_rows * self.args.world_size
            new_episodes = episode - self._first_update * self.args.rollout_rows * self.args.world_size
            logs |= metrics | {
                "episode": episode,
                "eps": new_episodes / (time.perf_counter() - self._started),
                "lr": logs.get("learning_rate", self._get_learning_rate()),
            }
            self.state.epoch = episode / len(self.train_dataset)
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy; a checkpoint holds the critic as well, in a file of its own."""
        with self._policy_as_model():
            super().save_model(output_dir, _internal_call)
        if _internal_call and self.args.should_save:
            state = self.actor_critic.state_dict()
            critic = {name: value.contiguous() for name, value in state.items() if not _is_policy(name)}
            save_file(critic, Path(output_dir) / _VALUE_FILE)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        with self._policy_as_model():
            super()._load_from_checkpoint(resume_from_checkpoint, self.policy)
        path = Path(resume_from_checkpoint) / _VALUE_FILE
        missing, unexpected = self.actor_critic.load_state_dict(load_file(path), strict=False)
        if unexpected or any(not _is_policy(name) for name in missing):
            raise CourseError(
                f"{path} holds another critic than this trainer's; give PPOTrainer the value_model that the "
                "checkpoint was trained with."
            )

    @contextmanager
    def _policy_as_model(self) -> Iterator[None]:
        """Let transformers save and load the policy alone, as a model that others can load."""
        model, self.model = self.model, self.policy
        try:
            yield
        finally:
            self.model = model

    # --- checks before the training

    def _reference(self, ref_model: PreTrainedModel | None) -> PreTrainedModel | None:
        if ref_model is self.policy:
            raise CourseError(
                "ref_model is the policy itself and would be trained along; leave it out, and a copy is made."
            )
        if ref_model is None and hasattr(self.policy, "peft_config"):
            return None
        reference = copy.deepcopy(self.policy) if ref_model is None else ref_model
        return reference.requires_grad_(False).eval().to(self.args.device)


def _is_policy(name: str) -> bool:
    return name.startswith("policy.")
