"""The first half of PPO: sample completions, score them, and turn the scores into advantages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import (
    encode_prompts,
    evaluation_mode,
    positions,
    stop_token_ids,
)
from posttrain_helpers.generation.rollouts import TokenBatch, sample_completions, token_batch
from posttrain_helpers.losses.advantages import (
    explained_variance,
    generalized_advantages,
    masked_whiten,
    shaped_rewards,
)
from posttrain_helpers.losses.policy import token_log_probs
from posttrain_helpers.rewards.scoring import RewardFunction, reward_name, score_completions
from posttrain_helpers.training.ppo.actor_critic import ActorCritic, completion_logits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain_helpers.training.ppo.config import PPOConfig
    from posttrain_helpers.training.ppo.metrics import PPOMetrics


@dataclass(frozen=True)
class Rollout:
    """Completions with everything that the loss needs; tensors have shape (B, T).

    Attributes:
        tokens: prompts and completions.
        log_probs: of the completions' tokens, under the policy that sampled them.
        values: of the states in which the tokens were chosen.
        advantages: of the tokens, whitened if the config says so.
        returns: what the critic should have predicted.
        kl: for each completion its estimated KL divergence from the reference model in nats, shape (B,).
    """

    tokens: TokenBatch
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    kl: torch.Tensor


class RolloutSampler:
    """Sample rollouts that depend on the weights, the seed, the process and the number of the update only.

    So a resumed training goes on as it would have without the interruption.

    Args:
        ref_model: the reference model; None takes the policy with its adapter switched off.
        dataset: rows with a `prompt`; the other columns go to the reward functions.

    Raises:
        CourseError: no reward function or a wrong number of weights; prompts that cannot be tokenized or
            leave no room for a completion.
    """

    def __init__(
        self,
        actor_critic: ActorCritic,
        ref_model: PreTrainedModel | None,
        reward_funcs: Sequence[RewardFunction],
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: PPOConfig,
        metrics: PPOMetrics,
    ) -> None:
        self.actor_critic, self.policy, self.ref_model = actor_critic, actor_critic.policy, ref_model
        self.reward_funcs, self.dataset, self.tokenizer = list(reward_funcs), dataset, tokenizer
        self.args, self.metrics = args, metrics
        self.trainer_state: Any = None  # for rewards that change during the training
        self.weights = self._checked_weights()
        self.stop_ids = stop_token_ids(self.policy, tokenizer)
        self.prompt_ids = encode_prompts(tokenizer, list(dataset["prompt"]))
        self._check_room()

    def sample(self, update: int, kl_coef: float) -> Rollout:
        """Return the rollout of one update; `kl_coef` weighs the KL divergence in the reward."""
        args, pad = self.args, self.tokenizer.pad_token_id
        indices = self.prompt_indices(update)
        prompts = [self.prompt_ids[index] for index in indices]
        sampled = sample_completions(
            self.policy,
            prompts,
            max_new_tokens=args.max_completion_length,
            temperature=args.temperature,
            stop_ids=self.stop_ids,
            pad=pad,
            generator=self.generator(args.device, update, "sampling"),
            batch_size=args.rollout_batch_size,
            value_head=self.actor_critic.value_head,
        )
        completions = [completion.ids for completion in sampled]
        ended = torch.tensor([ids[-1] in self.stop_ids for ids in completions], device=args.device)
        scores = self._scores(indices, completions)
        if args.missing_eos_penalty is not None:
            scores = scores - args.missing_eos_penalty * ~ended
        tokens = token_batch(prompts, completions, pad, args.device)
        mask = tokens.completion_mask
        log_probs = self._padded([completion.log_probs for completion in sampled])
        ref_log_probs, values = self._evaluate(tokens)
        if self.actor_critic.value_head is not None:
            values = self._padded([completion.values for completion in sampled])
        rewards, kl = shaped_rewards(scores, log_probs, ref_log_probs, mask, kl_coef, args.kl_estimator)
        several = mask.sum() > 1  # one number has no variance to divide by
        if args.whiten_rewards and several:
            rewards = masked_whiten(rewards, mask, shift_mean=False)
        advantages, returns = generalized_advantages(rewards, values, mask, args.gamma, args.lam)
        if args.whiten_advantages and several:
            advantages = masked_whiten(advantages, mask)
        penalty = -kl_coef * kl.sum(1)
        self.metrics.add_rollout(
            {
                "objective/kl": kl.sum(1),
                "objective/kl_coef": kl_coef,
                "objective/entropy": -log_probs.sum(1),
                "objective/non_score_reward": penalty,
                "objective/rlhf_reward": penalty + scores,
                "objective/scores": scores,
                "val/explained_variance": explained_variance(values, returns, mask),
                "val/num_eos_tokens": ended.sum() * args.world_size,
                "completions/mean_length": mask.sum(1),
            }
        )
        return Rollout(tokens, log_probs, values, advantages, returns, kl.sum(1))

    def prompt_indices(self, update: int) -> list[int]:
        """Return the rows of the data set that this process uses: pass after pass, each in another order."""
        local, size = self.args.rollout_rows, len(self.prompt_ids)
        first = (update * self.args.world_size + self.args.process_index) * local
        orders: dict[int, list[int]] = {}
        indices = []
        for position in range(first, first + local):
            number, place = divmod(position, size)
            if number not in orders:
                shuffle = torch.Generator().manual_seed(_seed(self.args.seed, "prompts", number))
                orders[number] = torch.randperm(size, generator=shuffle).tolist()
            indices.append(orders[number][place])
        return indices

    def order(self, update: int, epoch: int) -> torch.Tensor:
        """Return the order in which an epoch of an update uses the rows of its rollout, shape (rows,)."""
        shuffle = self.generator("cpu", update, "epoch", epoch)
        return torch.randperm(self.args.rollout_rows, generator=shuffle).to(self.args.device)

    def generator(self, device: Any, *purpose: int | str) -> torch.Generator:
        """Return a source of chance for this process and a purpose."""
        seed = _seed(self.args.seed, self.args.process_index, *purpose)
        return torch.Generator(device).manual_seed(seed)

    def _evaluate(self, tokens: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities under the reference, and values of a separate critic, each (B, T)."""
        ref_log_probs, values = torch.zeros(2, *tokens.completions.shape, device=self.args.device)
        critic = self.actor_critic.value_model
        with evaluation_mode(self.actor_critic), torch.no_grad():
            # As many rows as in training: the memory is there, and similar lengths need little padding.
            for rows in tokens.lengths.argsort().split(self.args.per_device_train_batch_size):
                part = tokens.rows(rows)
                length = part.completions.shape[1]
                log_probs = token_log_probs(
                    self._reference_logits(part), part.completions, self.args.temperature
                )
                ref_log_probs[rows, :length] = log_probs * part.completion_mask
                if critic is not None:
                    values[rows, :length] = self.actor_critic.values(part) * part.completion_mask
        return ref_log_probs, values

    def _reference_logits(self, tokens: TokenBatch) -> torch.Tensor:
        if self.ref_model is not None:
            return completion_logits(self.ref_model, tokens)
        with self.policy.disable_adapter():
            return completion_logits(self.policy, tokens)

    def _scores(self, indices: list[int], completions: list[list[int]]) -> torch.Tensor:
        """Return the weighted sum of all rewards, shape (B,)."""
        rows = [self.dataset[index] for index in indices]
        scores = score_completions(
            self.reward_funcs,
            self.tokenizer,
            rows,
            completions,
            self.trainer_state,
            lambda name, value: self.metrics.add_rollout({name: value}),
        )
        self.metrics.add_rollout(
            {f"rewards/{reward_name(f)}/mean": s for f, s in zip(self.reward_funcs, scores, strict=True)}
        )
        return (scores * self.weights[:, None]).sum(0).to(self.args.device)

    def _padded(self, rows: list[list[float]]) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.args.device)

    def _checked_weights(self) -> torch.Tensor:
        if not self.reward_funcs:
            raise CourseError("there is nothing to learn from: pass reward_funcs or reward_model.")
        weights = self.args.reward_weights or [1.0] * len(self.reward_funcs)
        if len(weights) != len(self.reward_funcs):
            raise CourseError(
                f"reward_weights has {len(weights)} numbers for {len(self.reward_funcs)} reward functions; "
                "give one for each."
            )
        return torch.tensor(weights)

    def _check_room(self) -> None:
        limit = positions(self.policy)
        longest, room = max(map(len, self.prompt_ids)), self.args.max_completion_length
        if longest + room > limit:
            raise CourseError(
                f"the longest prompt has {longest} tokens and max_completion_length is {room}, but the model "
                f"has {limit} positions; shorten one of them."
            )


def _seed(*parts: int | str) -> int:
    return random.Random("/".join(map(str, parts))).getrandbits(63)
