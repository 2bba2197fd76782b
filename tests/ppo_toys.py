"""What the tests of PPO share: a toy task, and the update once more, written slowly and without any padding.

As a program it trains in a process of its own, which a test kills or which torchrun starts:

    python tests/ppo_toys.py MODEL_DIRECTORY OUTPUT [name=value ...]

`name=value` are arguments of `PPOConfig`, as JSON. It prints one line for each checkpoint, and each process
saves what the tests compare to OUTPUT/process_<n>.pt.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rounding import ADAM_EPSILON
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.ppo.rollouts import Rollout
from posttrain_helpers.training.ppo.trainer import PPOConfig, PPOTrainer

SMALL = {
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_completion_length": 8,
    "temperature": 1.0,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "adam_epsilon": ADAM_EPSILON,
    "lr_scheduler_type": "constant",
    "total_episodes": 32,
}
# Rows and steps enough to earn the reward whatever the luck: the last scores of six trainings are above 0.9.
LEARNING = {
    "total_episodes": 384,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-2,
    "kl_coef": 0.01,
}


def prompts(count: int = 24) -> Dataset:
    questions = [f"What is {number} + 1{'0' * (number % 4)}?" for number in range(count)]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions])


def share_of_even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward the share of tokens with an even id: half at first, and there is much to gain."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def sharpen(model: Any, scale: float = 2.0) -> Any:
    """Give a model an output layer of its own, whose logits have a standard deviation of about `scale`.

    Those of random weights with tied embeddings are all alike, and the last token is the most likely one.
    """
    width = model.config.hidden_size
    weight = torch.randn(model.config.vocab_size, width, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight = torch.nn.Parameter(weight * scale / width**0.5)
    return model


def new_trainer(
    directory: str | Path,
    output: str | Path,
    reward: Any = share_of_even,
    model: Any = None,
    data: Dataset | None = None,
    parts: dict[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **args: Any,
) -> PPOTrainer:
    """Build a trainer on random weights; `parts` are more arguments of the trainer itself."""
    loaded, tokenizer = load_model_and_tokenizer(directory, use_gpu=False, verbose=False)
    trainer = PPOTrainer(
        loaded if model is None else model,
        reward,
        PPOConfig(str(output), **{**SMALL, **args}),
        prompts() if data is None else data,
        tokenizer,
        callbacks=list(callbacks),
        **(parts or {}),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def logs(trainer: PPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def unpadded(rollout: Rollout) -> list[dict[str, torch.Tensor]]:
    """Return the rows of a rollout, each without padding."""
    rows = []
    for row in range(len(rollout.kl)):
        tokens, length = rollout.tokens, int(rollout.tokens.completion_mask[row].sum())
        first = int((tokens.prompt_mask[row] == 0).sum())
        rows.append(
            {
                "prompt": tokens.prompts[row, first:],
                "completion": tokens.completions[row, :length],
                **{
                    name: getattr(rollout, name)[row, :length]
                    for name in ("log_probs", "values", "advantages", "returns")
                },
            }
        )
    return rows


def slow_update(
    policy: torch.nn.Module,
    critic: torch.nn.Module,
    mini_batches: list[list[dict[str, torch.Tensor]]],
    args: PPOConfig,
) -> dict[str, float]:
    """Take one optimizer step for each mini-batch, row by row; return what the trainer should log of them.

    `critic` is a linear head on the policy's hidden states, or a model with a score head.
    """
    parameters = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
    )
    means: dict[str, list[float]] = defaultdict(list)
    for batch in mini_batches:
        notes: dict[str, list[torch.Tensor]] = defaultdict(list)
        for row in batch:
            ids = torch.cat([row["prompt"], row["completion"]])[None]
            start = len(row["prompt"]) - 1
            outputs = policy(input_ids=ids, output_hidden_states=True, use_cache=False)
            if isinstance(critic, torch.nn.Linear):
                values = critic(outputs.hidden_states[-1])[0, start:-1, 0]
            else:
                values = critic.score(critic.model(input_ids=ids).last_hidden_state)[0, start:-1, 0]
            all_log_probs = (outputs.logits[0, start:-1] / args.temperature).log_softmax(-1)
            for t, token in enumerate(row["completion"]):
                ratio = (all_log_probs[t, token] - row["log_probs"][t]).exp()
                bounded = min(max(ratio, 1 - args.cliprange), 1 + args.cliprange)
                advantage = row["advantages"][t]
                policy_loss = -min(ratio * advantage, bounded * advantage)
                old, goal = row["values"][t], row["returns"][t]
                near = min(max(values[t], old - args.cliprange_value), old + args.cliprange_value)
                error, near_error = (values[t] - goal) ** 2, (near - goal) ** 2
                value_loss = max(error, near_error) / 2
                notes["loss"].append(policy_loss + args.vf_coef * value_loss)
                notes["loss/policy_avg"].append(policy_loss)
                notes["loss/value_avg"].append(value_loss)
                notes["policy/approxkl_avg"].append(ratio.log() ** 2 / 2)
                notes["policy/clipfrac_avg"].append(bounded * advantage < ratio * advantage)
                notes["policy/entropy_avg"].append(-(all_log_probs[t].exp() * all_log_probs[t]).sum())
                notes["val/clipfrac_avg"].append(near_error > error)
                notes["val/ratio"].append(ratio)
        loss = torch.stack(notes["loss"]).mean()
        optimizer.zero_grad()
        loss.backward()
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.step()
        for name, values_of_tokens in notes.items():
            means[name].append(torch.stack(values_of_tokens).float().mean().item())
    logged = {name: sum(of_steps) / len(of_steps) for name, of_steps in means.items()}
    return {**logged, "val/ratio_var": torch.tensor(means["val/ratio"]).var(correction=0).item()}


def mini_batches(
    trainer: PPOTrainer, rows: list[Any], orders: list[torch.Tensor] | None = None
) -> list[list[Any]]:
    """Deal the rows of the first rollout as the trainer does it."""
    args = trainer.args
    orders = orders or epoch_orders(trainer)
    return [[rows[index] for index in part] for order in orders for part in order.split(args.mini_batch_rows)]


def epoch_orders(trainer: PPOTrainer) -> list[torch.Tensor]:
    args = trainer.args
    return [
        torch.randperm(args.rollout_rows, generator=trainer.rollouts.generator("cpu", 0, "epoch", epoch))
        for epoch in range(args.num_ppo_epochs)
    ]


class Notes(TrainerCallback):
    """Keep the weights after the first update, and report checkpoints."""

    def __init__(self, steps_per_update: int) -> None:
        self.steps_per_update = steps_per_update
        self.first: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.steps_per_update:
            self.first = weights(model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        print(f"SAVED {state.global_step}", flush=True)


def main(directory: str, output: str, *pairs: str) -> None:
    args = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    scores: list[float] = []
    rollouts: list[Rollout] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        values = share_of_even(completion_ids)
        scores.append(sum(values) / len(values))
        return values

    notes = Notes(steps_per_update=4)
    trainer = new_trainer(directory, output, reward, callbacks=[notes], **args)
    sample = trainer.rollouts.sample

    def noted_sample(*arguments: Any) -> Rollout:
        rollouts.append(sample(*arguments))
        return rollouts[-1]

    trainer.rollouts.sample = noted_sample
    trainer.train()
    torch.save(
        {
            "scores": scores,
            "log_history": trainer.state.log_history,
            "weights": weights(trainer.actor_critic),
            "after_first_update": {name.removeprefix("module."): v for name, v in notes.first.items()},
            "rows": unpadded(rollouts[0]),
            "orders": epoch_orders(trainer),
            "world_size": trainer.args.world_size,
        },
        Path(output) / f"process_{trainer.args.process_index}.pt",
    )
    trainer.accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
