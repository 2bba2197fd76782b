"""How many tokens a second the lessons make of a real model on a CPU, against bare PyTorch loops.

    python tests/benchmarks/bench_real_model.py [--model DIR] [--steps 6] [--rounds 3] [--threads N]
        [--only sft generation grpo]

It needs the base model of the profile `smollm2`, on this machine or in the directory of `--model`. There are
three jobs, each done by the course and by a loop that does the same work and nothing else:
- sft: the first steps of recipes/sft.yaml. Bare: the same rows in random order, as many to a batch and to an
  optimizer step, the same adapter and precision, the loss of transformers, fused AdamW. Useful tokens are
  those of the conversations, without padding.
- generation: greedy replies to 32 held-out questions, by `generate`. Bare: a forward pass for each token of
  the batch, with a cache, until the last reply ends. Tokens are those of all rows, ended ones included.
- grpo: one optimizer step of recipes/grpo.yaml with 32 replies. Bare: the same number of replies to the same
  prompts, sampled by the loop above from the softmax, then one forward and backward pass with the probability
  of each token weighted by an advantage, and fused AdamW. Tokens are those of the replies.

The arms take turns, and each ratio is the median over rounds of the course by bare in the same round, so that
a machine that slows down midway slows both. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import torch

GOAL = 0.9
ROWS = 32
NEW_TOKENS = 32
JOBS = ("sft", "generation", "grpo")

Model = Any
Arm = Callable[[], int]  # does the work and returns how many tokens it made


def sampled(model: Model, tokenizer: Any, prompts: list[list[int]], most: int, temperature: float) -> Any:
    """Continue prompts token by token until all have ended; return the tokens, shape (rows, steps)."""
    from posttrain_helpers.generation.decoding import left_padded, stop_token_ids

    stops = torch.tensor(stop_token_ids(model, tokenizer))
    batch = left_padded(prompts, tokenizer.pad_token_id)
    inputs, mask, cache, tokens = batch["input_ids"], batch["attention_mask"], None, []
    positions = mask.cumsum(1).sub(1).clamp(min=0)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    model.eval()
    with torch.no_grad():
        while len(tokens) < most and not ended.all():
            out = model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits, cache = out.logits[:, -1].float(), out.past_key_values
            if temperature:
                inputs = torch.multinomial((logits / temperature).softmax(-1), 1)
            else:
                inputs = logits.argmax(-1, keepdim=True)
            inputs[ended] = tokenizer.pad_token_id
            tokens.append(inputs)
            ended |= torch.isin(inputs.squeeze(1), stops)
            positions, mask = positions[:, -1:] + 1, torch.cat([mask, torch.ones_like(inputs)], 1)
    return torch.cat(tokens, 1)


def optimizer_of(model: Model, args: dict[str, Any]) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=args["learning_rate"], fused=True)


def autocast(args: dict[str, Any]) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=args["bf16"])


class Jobs:
    """The course's arm and the bare one of each job, on fresh models."""

    def __init__(self, steps: int) -> None:
        from posttrain_helpers import load_recipe

        limits = {"args.logging_steps": 1000}
        sft = load_recipe("sft", "smollm2", {"args.max_steps": steps, **limits})
        rows = steps * sft.args["per_device_train_batch_size"] * sft.args["gradient_accumulation_steps"]
        self.sft = load_recipe("sft", "smollm2", {"data.n_train": rows, "args.max_steps": steps, **limits})
        one_step = {"args.max_steps": 1, "args.steps_per_generation": 1, "args.num_iterations": 1}
        one_step |= {"args.per_device_train_batch_size": ROWS, "args.gradient_accumulation_steps": 1}
        self.grpo = load_recipe(
            "grpo", "smollm2", {**one_step, **limits, "data.n_train": ROWS, "model": "base"}
        )

    def trainer(self, recipe: Any, **rewards: Any) -> Any:
        from posttrain_helpers import load_data, make_trainer

        model, tokenizer = self.model(recipe.lora)
        rows, _ = load_data(recipe, verbose=False)
        return make_trainer(recipe, model, tokenizer, rows, verbose=False, **rewards)

    def model(self, lora: dict[str, Any] | None = None) -> tuple[Model, Any]:
        from posttrain_helpers import load_model_and_tokenizer

        return load_model_and_tokenizer("base", lora=lora, profile="smollm2", verbose=False)

    def course_sft(self) -> Arm:
        trainer = self.trainer(self.sft)
        useful = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        return lambda: trainer.train() and useful

    def bare_sft(self) -> Arm:
        from posttrain_helpers.generation.decoding import right_padded

        args, trainer = self.sft.args, self.trainer(self.sft)
        model, pad = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class.pad_token_id
        for module in (model, model.get_base_model()):
            module.__dict__.pop("forward", None)  # TRL's
        rows = random.Random(0).sample(list(trainer.train_dataset), len(trainer.train_dataset))
        size, accumulated = args["per_device_train_batch_size"], args["gradient_accumulation_steps"]

        def run() -> int:
            optimizer = optimizer_of(model.train(), args)
            for number, start in enumerate(range(0, len(rows), size), 1):
                batch = rows[start : start + size]
                padded = right_padded([row["input_ids"] for row in batch], pad)
                labels = right_padded([row["labels"] for row in batch], -100)["input_ids"]
                with autocast(args):
                    loss = model(**padded, labels=labels, use_cache=False).loss / accumulated
                loss.backward()
                if number % accumulated == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            return sum(len(row["input_ids"]) for row in rows)

        return run

    def questions(self, tokenizer: Any) -> tuple[list[Any], list[list[int]]]:
        from posttrain_helpers.generation.decoding import encode_prompts
        from posttrain_helpers.tinyworld.tasks import held_out_suite

        prompts = [item["prompt"] for item in held_out_suite("entities", split="dev")[:ROWS]]
        return prompts, encode_prompts(tokenizer, prompts)

    def course_generation(self) -> Arm:
        from posttrain_helpers import generate

        model, tokenizer = self.model()
        prompts, _ = self.questions(tokenizer)

        def run() -> int:
            replies = generate(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=ROWS)
            return ROWS * max(len(reply.token_ids) for reply in replies)

        return run

    def bare_generation(self) -> Arm:
        model, tokenizer = self.model()
        _, ids = self.questions(tokenizer)
        return lambda: sampled(model, tokenizer, ids, NEW_TOKENS, 0).numel()

    def course_grpo(self) -> Arm:
        lengths: list[int] = []

        def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
            lengths.extend(map(len, completion_ids))
            return [float(number % 2) for number in range(len(completion_ids))]

        trainer = self.trainer(self.grpo, reward_funcs=[reward])
        lengths.clear()  # of the replies that are looked at before training
        return lambda: trainer.train() and sum(lengths)

    def bare_grpo(self) -> Arm:
        from posttrain_helpers import load_data
        from posttrain_helpers.generation.decoding import encode_prompts, stop_token_ids
        from posttrain_helpers.generation.rollouts import token_batch

        args = self.grpo.args
        model, tokenizer = self.model(self.grpo.lora)
        rows, _ = load_data(self.grpo, verbose=False)
        chosen = [row["prompt"] for row in rows][: ROWS // args["num_generations"]]
        prompts = [ids for ids in encode_prompts(tokenizer, chosen) for _ in range(args["num_generations"])]

        def run() -> int:
            optimizer = optimizer_of(model, args)
            with autocast(args):
                tokens = sampled(
                    model, tokenizer, prompts, args["max_completion_length"], args["temperature"]
                )
            stops = set(stop_token_ids(model, tokenizer))
            replies = [cut(row, stops) for row in tokens.tolist()]
            batch = token_batch(prompts, replies, tokenizer.pad_token_id)
            ids = torch.cat([batch.prompts, batch.completions], 1)
            mask = torch.cat([batch.prompt_mask, batch.completion_mask], 1)
            kept = batch.completions.shape[1]
            with autocast(args):
                logits = model.train()(
                    input_ids=ids, attention_mask=mask, logits_to_keep=kept + 1, use_cache=False
                ).logits
            logits = logits[:, :-1].float() / args["temperature"]
            log_probs = logits.log_softmax(-1).gather(2, batch.completions.unsqueeze(2)).squeeze(2)
            advantages = torch.tensor([1.0, -1.0] * (ROWS // 2)).unsqueeze(1)
            weights = batch.completion_mask / batch.completion_mask.sum()
            (-advantages * (log_probs - log_probs.detach()).exp() * weights).sum().backward()
            optimizer.step()
            return sum(map(len, replies))

        return run


def cut(tokens: list[int], stops: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]


@contextlib.contextmanager
def own_output(folder: str, model: str | None) -> Iterator[None]:
    """Name the model and an output directory in the environment, which the profile reads."""
    os.environ["POSTTRAIN_OUTPUT"] = folder
    if model:
        os.environ["POSTTRAIN_MODEL"] = str(Path(model).resolve())
    yield


def measure(names: list[str], steps: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Return tokens per second of every arm, and the ratios."""
    from posttrain_helpers import setup

    with contextlib.redirect_stdout(io.StringIO()):
        runtime = setup("smollm2", threads=threads)
    jobs = Jobs(steps)
    rates: dict[str, dict[str, list[float]]] = {name: {"course": [], "bare": []} for name in names}
    for number in range(rounds + 1):  # the first one pays lazy imports and does not count
        for name in names:
            for side in ("course", "bare"):
                arm = getattr(jobs, f"{side}_{name}")()
                torch.manual_seed(number)
                wall, cpu = time.perf_counter(), time.process_time()
                tokens = arm()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if number:
                    rates[name][side].append(tokens / wall)
                    print(
                        f"round {number}, {name}, {side}: {tokens / wall:,.0f} tokens/s "
                        f"({tokens / cpu:,.0f} in CPU seconds)",
                        file=sys.stderr,
                        flush=True,
                    )
    ratios = {
        name: statistics.median(c / b for c, b in zip(rate["course"], rate["bare"], strict=True))
        for name, rate in rates.items()
    }
    return {
        "benchmark": "real_model",
        "model": runtime.profile.base_model,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "matmul_gflops": round(runtime.matmul_gflops),
        "rounds": rounds,
        "tokens_per_second": {
            name: {side: round(statistics.median(values), 1) for side, values in rate.items()}
            for name, rate in rates.items()
        },
        "ratio": {name: round(value, 3) for name, value in ratios.items()},
        "goal": GOAL,
        "goal_met": all(value >= GOAL for value in ratios.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory of the model; default: the profile's own")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of the job sft")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: the cores that this process may use")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, own_output(folder, options.model):
        print(json.dumps(measure(options.only, options.steps, options.rounds, options.threads)))


if __name__ == "__main__":
    main()
