"""How many episodes per second the lesson's PPO trains on, against TRL's last PPO trainer.

    python tests/benchmarks/bench_ppo.py [--updates 4] [--rounds 3] [--threads N]
        [--override args.lam=0.9 ...]

It needs the stages "sft" and "reward_model" of the profile tiny, and builds what is missing. An episode is
one sampled and trained completion. The arms make the same updates of 128 episodes on the same prompts with
the same reward model, with as many epochs and mini-batches as the recipe says (2 epochs of 4):
- ours: PPOTrainer with the arguments of recipes/ppo.yaml, a value head on the policy;
- ours_separate_critic: the same with a critic that starts as a copy of the reward model;
- trl_1_12: the PPOTrainer of TRL 1.12, which always has such a critic, with whole mini-batches at a time. It
  runs in a process of its own, which imports and loads before the clock starts, and only if the variable
  POSTTRAIN_TRL_1_12 names a directory with it: pip install --no-deps --target DIR trl==1.12.0
- bare: what the forward and backward passes alone cost: for the first rollout of `ours`, forward and
  backward over its padded micro-batches as often as there are epochs, and one forward pass each of the
  reference and the reward model, without sampling, optimizer or metrics; as many times as there are updates.

The arms take turns, and each ratio is the median over rounds of an arm's episodes per second by those of
ours in the same round, so that a machine that slows down midway slows all. The breakdown says where ours
spends its time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
)

import torch
from transformers.trainer_callback import PrinterCallback

ORACLE = "POSTTRAIN_TRL_1_12"
ROLLOUT = 128
# TRL's only mode: complete mini-batches, and a response that may be as long as ours.
LENGTH = 64


def trl_arm(settings: dict[str, Any]) -> None:
    """Train with TRL 1.12 each time a line comes in, and answer with the seconds."""
    sys.path.insert(0, os.environ[ORACLE])
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["sft"], padding_side="left")
    data = Dataset.from_list([{"input_ids": ids} for ids in settings["prompt_ids"]])
    scorer = partial(
        AutoModelForSequenceClassification.from_pretrained, settings["reward_model"], num_labels=1
    )
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            policy, reference = (AutoModelForCausalLM.from_pretrained(settings["sft"]) for _ in range(2))
            trainer = PPOTrainer(
                args=PPOConfig(
                    output_dir=folder,
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    save_strategy="no",
                    disable_tqdm=True,
                    report_to="none",
                    lr_scheduler_type="constant",
                    per_device_train_batch_size=ROLLOUT,
                    gradient_accumulation_steps=1,
                    total_episodes=int(line) * ROLLOUT,
                    response_length=LENGTH,
                    stop_token="eos",
                    num_sample_generations=0,
                    **settings["args"],
                ),
                processing_class=tokenizer,
                model=policy,
                ref_model=reference,
                reward_model=scorer(),
                value_model=scorer(),
                train_dataset=data,
            )
            trainer.remove_callback(PrinterCallback)
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
        print(f"SECONDS {seconds}", flush=True)


class Stopwatch:
    """Add up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, attribute: str, name: str) -> Callable[[], None]:
        """Time each call of a function from now on; return what puts the function back."""
        original = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, attribute, timed)
        return partial(setattr, owner, attribute, original)


def bare_passes(trainer: Any, rollout: Any, reward_model: Any, updates: int) -> float:
    """Return the seconds of the forward and backward passes of so many updates."""
    from posttrain_helpers.training.ppo.actor_critic import completion_logits, model_inputs

    args, tokens, module = trainer.args, rollout.tokens, trainer.actor_critic.train()
    parts = [tokens.rows(r) for r in tokens.lengths.argsort().split(args.per_device_train_batch_size)]
    start = time.perf_counter()
    for _ in range(updates):
        with torch.no_grad():
            for part in parts:
                completion_logits(trainer.ref_model, part)
                inputs = model_inputs(part)
                reward_model.model(
                    **{key: inputs[key] for key in ("input_ids", "attention_mask", "use_cache")}
                )
        for _ in range(args.num_ppo_epochs):
            for part in parts:
                logits, values = module(
                    part.prompts, part.prompt_mask, part.completions, part.completion_mask
                )
                chosen = logits.float().log_softmax(-1).gather(-1, part.completions[..., None]).sum()
                (chosen + values.sum()).backward()
    module.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=4, help="of 128 episodes, per arm and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: the cores that this process may use")
    parser.add_argument("--override", action="append", default=[], help="of the recipe; may be repeated")
    options = parser.parse_args()

    from posttrain_helpers import load_data, load_recipe, load_stage, setup
    from posttrain_helpers.generation.decoding import encode_prompts
    from posttrain_helpers.recipes.methods import config_class, trainer_class
    from posttrain_helpers.rewards.reward_model import as_reward_function
    from posttrain_helpers.stages.loading import load_model_and_tokenizer
    from posttrain_helpers.training.ppo import rollouts as ppo_rollouts

    episodes = options.updates * ROLLOUT
    sizes = [f"args.total_episodes={episodes}", f"args.max_completion_length={LENGTH}"]
    sizes.append("args.value_model=null")  # each trainer is told which critic it gets
    with contextlib.redirect_stdout(io.StringIO()):
        runtime = setup("tiny", threads=options.threads)
        recipe = load_recipe("ppo", "tiny", [*sizes, *options.override])
        data, _ = load_data(recipe)
        sft, reward_stage = load_stage("sft"), load_stage("reward_model")
    load = partial(load_model_and_tokenizer, use_gpu=False, verbose=False)
    reward_model, tokenizer = load(reward_stage, head="reward")

    def new_trainer(folder: str, separate: bool) -> Any:
        args = config_class("ppo")(
            **{**recipe.args, "output_dir": folder, "use_cpu": True, "save_strategy": "no"}
        )
        trainer = trainer_class("ppo")(
            load(sft)[0],
            as_reward_function(reward_model, tokenizer),
            args,
            data,
            tokenizer,
            value_model=load(reward_stage, head="reward")[0] if separate else None,
        )
        trainer.remove_callback(PrinterCallback)
        if trainer.args.rollout_rows != ROLLOUT:
            parser.error(f"the recipe must have rollouts of {ROLLOUT}, not {trainer.args.rollout_rows}")
        return trainer

    watch = Stopwatch()

    def ours(folder: str, separate: bool) -> float:
        trainer = new_trainer(folder, separate)
        undo = []
        if not separate:
            undo.append(watch.wrap(ppo_rollouts, "sample_completions", "sampling"))
            watch.wrap(trainer.rollouts, "_scores", "scoring")
            watch.wrap(trainer.rollouts, "_evaluate", "reference")
            watch.wrap(trainer.rollouts, "sample", "rollout")
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        for put_back in undo:
            put_back()
        if not separate:
            watch.seconds["total"] = watch.seconds.get("total", 0.0) + seconds
        return seconds

    def bare(folder: str) -> float:
        trainer = new_trainer(folder, False)
        rollout = trainer.rollouts.sample(0, trainer.args.kl_coef)
        return bare_passes(trainer, rollout, reward_model, options.updates)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        arms = {
            "ours": partial(ours, folder, False),
            "ours_separate_critic": partial(ours, folder, True),
            "bare": partial(bare, folder),
        }
        names = ("learning_rate", "kl_coef", "num_ppo_epochs", "num_mini_batches", "temperature")
        shared = {name: recipe.args[name] for name in (*names, "missing_eos_penalty")}
        if os.environ.get(ORACLE):
            settings = {
                "threads": runtime.threads,
                "sft": str(sft),
                "reward_model": str(reward_stage),
                "prompt_ids": encode_prompts(tokenizer, list(data["prompt"])),
                "args": shared,
            }
            file = Path(folder) / "settings.json"
            file.write_text(json.dumps(settings), encoding="utf-8")
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--trl-arm", str(file)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                )
            )
            stack.callback(process.stdin.close)

            def trl(updates: int = options.updates) -> float:
                print(updates, file=process.stdin, flush=True)
                for line in process.stdout:
                    if line.startswith("SECONDS "):
                        return float(line.split()[1])
                raise RuntimeError("the process with TRL 1.12 has ended")

            arms["trl_1_12"] = trl
            trl(1)  # what only the first training of a process pays: lazy imports, memory
        else:
            print(f"without trl_1_12: {ORACLE} is not set")
        ours(folder, False)
        watch.seconds.clear()
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.rounds):
            for name, measure in arms.items():
                seconds[name].append(measure())
                print(
                    f"round {number + 1}, {name}: {episodes / seconds[name][-1]:.1f} episodes/s", flush=True
                )

    ratios = {
        name: [mine / own for mine, own in zip(seconds["ours"], measured, strict=True)]
        for name, measured in seconds.items()
    }
    total = watch.seconds
    inside = ("sampling", "scoring", "reference")
    shares = {name: total[name] / total["total"] for name in inside}
    shares["advantages"] = (total["rollout"] - sum(total[name] for name in inside)) / total["total"]
    shares["update"] = 1 - total["rollout"] / total["total"]
    result = {
        "benchmark": "ppo_throughput",
        "threads": runtime.threads,
        "updates": options.updates,
        "rounds": options.rounds,
        "overrides": options.override,
        "episodes_per_second": {
            name: round(episodes / statistics.median(measured), 1) for name, measured in seconds.items()
        },
        "ratio_to_ours": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratio_range": {name: [round(min(v), 3), round(max(v), 3)] for name, v in ratios.items()},
        "percent_of_ours": {name: round(100 * share, 1) for name, share in shares.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl-arm"]:
        trl_arm(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    else:
        main()
