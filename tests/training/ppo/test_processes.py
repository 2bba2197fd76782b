"""PPO across processes: against TRL's last PPO trainer, after a kill, and with two processes at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_toys import (
    LEARNING,
    epoch_orders,
    largest_difference,
    logs,
    mini_batches,
    new_trainer,
    prompts,
    slow_update,
    unpadded,
    weights,
)
from rounding import ADAM_EPSILON, SAME_WEIGHTS
from transformers import AutoModelForSequenceClassification

from posttrain_helpers.generation.decoding import encode_prompts
from posttrain_helpers.stages.loading import load_model_and_tokenizer

HERE = Path(__file__).parents[2]
ORACLE = "POSTTRAIN_TRL_1_12"


def pairs(arguments: dict[str, Any]) -> list[str]:
    """Return arguments of PPOConfig as `ppo_toys.py` takes them."""
    return [f"{name}={json.dumps(value)}" for name, value in arguments.items()]


def run(*command: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


# --- TRL 1.12


COMMON = {
    "num_mini_batches": 2,
    "temperature": 0.7,
    "learning_rate": 1e-3,
    "adam_epsilon": ADAM_EPSILON,
    "vf_coef": 0.5,
    "kl_coef": 0.3,
}
CASES = [
    {**COMMON, "num_ppo_epochs": 1, "gamma": 1.0, "lam": 0.95, "kl_estimator": "k1"},
    {
        **COMMON,
        "num_ppo_epochs": 3,
        "gamma": 0.97,
        "lam": 0.9,
        "kl_estimator": "k3",
        "whiten_rewards": True,
        "cliprange": 0.02,
        "cliprange_value": 0.03,
        "missing_eos_penalty": 0.7,
    },
]


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get(ORACLE),
    reason=f"set {ORACLE} to a directory with trl 1.12.0, whose PPO is the oracle: "
    "pip install --no-deps --target DIR trl==1.12.0",
)
def test_the_update_is_that_of_trl_1_12(random_model_dir: Path, tmp_path: Path) -> None:
    cases, trainers = [], []
    for number, args in enumerate(CASES):
        folders = save_models(random_model_dir, tmp_path / f"models_{number}")
        reward_model, critic = (
            AutoModelForSequenceClassification.from_pretrained(folders[name], num_labels=1).eval()
            for name in ("reward_model", "critic")
        )
        policy, tokenizer = load_model_and_tokenizer(folders["policy"], use_gpu=False, verbose=False)

        def score(
            prompts: list,
            completion_ids: list,
            reward_model: Any = reward_model,
            tokenizer: Any = tokenizer,
            **_: Any,
        ) -> list[float]:
            """Score prompt and completion as they are, without a newline: so did TRL's PPO."""
            texts = zip(encode_prompts(tokenizer, prompts), completion_ids, strict=True)
            with torch.no_grad():
                return [reward_model(input_ids=torch.tensor([p + c])).logits.item() for p, c in texts]

        trainer = new_trainer(
            folders["policy"],
            tmp_path,
            score,
            model=policy,
            data=prompts(16),
            parts={
                "value_model": critic,
                "ref_model": load_model_and_tokenizer(folders["reference"], use_gpu=False, verbose=False)[0],
            },
            total_episodes=16,
            max_grad_norm=0.0,  # TRL did not clip
            **args,
        )
        trainer.rollouts.stop_ids = []
        special = {tokenizer.pad_token_id, tokenizer.eos_token_id}
        # Completions of full length: otherwise TRL gave the score to a position behind the end token.
        for seed in range(50):
            trainer.args.seed = seed
            rollout = trainer.rollouts.sample(0, trainer.args.kl_coef)
            rows = unpadded(rollout)
            if not any(special & set(row["completion"].tolist()) for row in rows):
                break
        else:
            raise AssertionError("every rollout has an end token or padding in it")
        trainer.metrics.clear()
        cases.append({**folders, "args": args, "rows": rows, "orders": epoch_orders(trainer)})
        trainers.append((trainer, rollout, weights(trainer.actor_critic)))
    torch.save(cases, tmp_path / "cases.pt")
    run(
        sys.executable,
        HERE / "ppo_oracle.py",
        os.environ[ORACLE],
        tmp_path / "cases.pt",
        tmp_path / "results.pt",
    )
    results = torch.load(tmp_path / "results.pt", weights_only=False)
    for (trainer, rollout, before), result in zip(trainers, results, strict=True):
        trainer.train()
        assert (rollout.advantages - result["advantages"]).abs().max() < 1e-4
        returns = result["raw_advantages"] + rollout.values
        assert (rollout.returns - returns).abs().max() < 1e-4
        theirs = {f"policy.{name}": value for name, value in result["policy"].items()}
        theirs |= {f"value_model.{name}": value for name, value in result["critic"].items()}
        ours = weights(trainer.actor_critic)
        difference = largest_difference(ours, theirs)
        print(
            f"largest difference of the weights: {difference:.1e}; they moved by up to "
            f"{largest_difference(ours, before):.1e}"
        )
        assert difference < 10 * SAME_WEIGHTS  # TRL pads its batches in another way: 2e-6
        assert largest_difference(ours, before) > 1e-3
        for name, value in result["log"].items():
            # TRL's variance of the ratios is the unbiased one, over all micro-batches of all epochs.
            if (
                name.startswith(("objective", "policy", "loss", "val/ratio", "val/clipfrac"))
                and "var" not in name
            ):
                assert logs(trainer, name)[0] == pytest.approx(value, abs=2e-4), name


def save_models(directory: Path, target: Path) -> dict[str, Path]:
    """Save a policy, a reference, a reward model and a critic, all different."""
    folders = {}
    for seed, name in enumerate(("policy", "reference", "reward_model", "critic")):
        model, tokenizer = load_model_and_tokenizer(directory, use_gpu=False, verbose=False)
        torch.manual_seed(seed)
        if name in ("reward_model", "critic"):
            model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
            torch.nn.init.normal_(model.score.weight, std=0.3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.02)
        folders[name] = target / name
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


# --- a kill


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(random_model_dir: Path, tmp_path: Path) -> None:
    arguments = {
        "save_strategy": "steps",
        "save_steps": 4,
        "total_episodes": 128,
        "lr_scheduler_type": "linear",
    }
    whole = new_trainer(random_model_dir, tmp_path / "whole", **{**arguments, "save_strategy": "no"})
    whole.train()
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "ppo_toys.py"), str(random_model_dir), str(killed), *pairs(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert any("SAVED 8" in line for line in process.stdout), "it ended before its second checkpoint"
        process.kill()
        if os.name == "posix":
            assert process.wait() == -signal.SIGKILL
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    resumed = new_trainer(random_model_dir, killed, **arguments)
    resumed.train(resume_from_checkpoint=True)
    # Room for 32 steps, some of which ran in a process with another number of threads.
    difference = largest_difference(weights(resumed.actor_critic), weights(whole.actor_critic))
    assert difference < 10 * SAME_WEIGHTS
    for name in ("objective/scores", "objective/kl", "policy/entropy_avg", "loss/value_avg", "learning_rate"):
        assert logs(resumed, name) == pytest.approx(logs(whole, name), abs=1e-3)


# --- two processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_make_the_update_of_one(random_model_dir: Path, tmp_path: Path) -> None:
    arguments = {**LEARNING, "total_episodes": 128}
    run(
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2),
        *("--master_addr", "127.0.0.1", "--master_port", free_port()),
        *(HERE / "ppo_toys.py", random_model_dir, tmp_path),
        *pairs({**arguments, "gradient_accumulation_steps": 1}),
    )
    first, second = (torch.load(tmp_path / f"process_{n}.pt", weights_only=False) for n in (0, 1))
    assert first["world_size"] == second["world_size"] == 2
    assert largest_difference(first["weights"], second["weights"]) == 0
    assert first["scores"] != second["scores"], "each process has completions of its own"
    logged = [entry for entry in first["log_history"] if "objective/scores" in entry]
    means = [(one + other) / 2 for one, other in zip(first["scores"], second["scores"], strict=True)]
    assert [entry["objective/scores"] for entry in logged] == pytest.approx(means, abs=1e-5)
    assert [entry["episode"] for entry in logged] == [32, 64, 96, 128]
    assert logged[0]["objective/kl"] == pytest.approx(0, abs=1e-4)

    # The first update is that of one process with the mini-batches of both.
    slow = new_trainer(random_model_dir, tmp_path, gradient_accumulation_steps=1, **arguments)
    dealt = [mini_batches(slow, process["rows"], process["orders"]) for process in (first, second)]
    union = [one + other for one, other in zip(*dealt, strict=True)]
    assert [len(batch) for batch in union] == [16] * 4
    slow_update(slow.policy, slow.actor_critic.value_head, union, slow.args)
    # Rounding makes 3e-5 of it; gradients that are not averaged as they should be, 7e-2.
    assert largest_difference(first["after_first_update"], weights(slow.actor_critic)) < 1e-3
