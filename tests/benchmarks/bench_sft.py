"""How many useful tokens per second the lesson's SFT trainer learns from, against a bare PyTorch loop.

    python tests/benchmarks/bench_sft.py [--model DIR] [--steps 60] [--rounds 5] [--threads N] [--ablation]
        [--override args.train_sampling_strategy=random ...]

Useful tokens are those of the conversations, without padding. Three arms train one epoch on the same rows,
with as many rows per optimizer step as the recipe says:
- bare: random order, padded batches, plain Qwen3ForCausalLM in float32, fused AdamW, nothing else;
- trl_defaults: SFTTrainer as TRL configures it, but on the CPU (`use_cpu=True`) and without a checkpoint;
- lesson: SFTTrainer with the arguments of recipes/sft.yaml, profile tiny, and `skip_untrained_positions()`.
`--ablation` adds the lesson without each of its two economies, and with TRL's other grouping.

The arms take turns, and each ratio is the median over rounds of arm / bare in the same round, so that a
machine that slows down midway slows all. The ratio of CPU seconds is steadier on a busy machine; read it at
one thread, because waiting threads count as busy. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import torch
import trl.trainer.utils as trl_utils
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from posttrain_helpers import load_data, load_recipe, setup
from posttrain_helpers.environment.trl_on_cpu import skip_untrained_positions
from posttrain_helpers.tinyworld.pretraining.pretrain import PretrainConfig, build_model
from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

GOAL = 1.0
VOCABULARY = 2048


def new_model(directory: str | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load the model in float32, or make one with random weights in the shape of the shipped base."""
    if directory:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return build_model(PretrainConfig(), tokenizer)


def new_trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, args: dict[str, Any]
) -> SFTTrainer:
    trainer = SFTTrainer(model, args=SFTConfig(**args), train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def bare_loop(model: PreTrainedModel, rows: list[dict[str, Any]], batch_size: int, pad: int) -> float:
    """Train one epoch on padded batches in random order; return the share of padding."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
    order = random.Random(0).sample(rows, len(rows))
    positions = 0
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        lengths = [len(row["input_ids"]) for row in batch]
        width = max(lengths)
        ids = torch.tensor([row["input_ids"] + [pad] * (width - len(row["input_ids"])) for row in batch])
        labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in batch])
        mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
        model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        positions += ids.numel()
    return 1 - sum(len(row["input_ids"]) for row in rows) / positions


def timed(prepare: Callable[[], Callable[[], Any]]) -> tuple[float, float]:
    """Return wall and CPU seconds of what `prepare` returns."""
    train = prepare()
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory of a model and its tokenizer; default: random weights")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps per arm and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: the cores that this process may use")
    parser.add_argument("--ablation", action="store_true", help="add the lesson without its economies")
    parser.add_argument("--override", action="append", default=[], help="of the recipe; may be repeated")
    options = parser.parse_args()

    recipe = load_recipe("sft", "tiny", options.override)
    batch_size = recipe.args["per_device_train_batch_size"] * recipe.args.get(
        "gradient_accumulation_steps", 1
    )
    recipe = load_recipe("sft", "tiny", [*options.override, f"data.n_train={options.steps * batch_size}"])
    with contextlib.redirect_stdout(io.StringIO()):
        runtime = setup("tiny", threads=options.threads)
        conversations, _ = load_data(recipe)
    if options.model:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    else:
        texts = [message["content"] for row in conversations for message in row["messages"]]
        tokenizer = train_tokenizer(texts, VOCABULARY)

    with tempfile.TemporaryDirectory() as folder:
        lesson = {**recipe.args, "output_dir": folder}
        defaults = {
            "output_dir": folder,
            "use_cpu": True,
            "save_strategy": "no",
            "disable_tqdm": True,
            "assistant_only_loss": True,
            "num_train_epochs": recipe.args["num_train_epochs"],
            "per_device_train_batch_size": batch_size,
        }
        whole = {**lesson, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 1}
        make = partial(new_model, options.model, tokenizer)
        tokenized = new_trainer(make(), tokenizer, conversations, lesson).train_dataset
        rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in tokenized]
        padding: list[float] = []

        def bare() -> Callable[[], Any]:
            model = make()
            return lambda: padding.append(bare_loop(model, rows, batch_size, tokenizer.pad_token_id))

        def trl(args: dict[str, Any], skip: bool) -> Callable[[], Any]:
            trainer = new_trainer(make(), tokenizer, conversations, args)
            skip_untrained_positions()
            if not skip:
                trl_utils._use_triton = trl_utils._use_triton.without_cpu
            return trainer.train

        arms = {
            "bare": bare,
            "trl_defaults": partial(trl, defaults, False),
            "lesson": partial(trl, lesson, True),
        }
        if options.ablation:
            random_order = {**whole, "train_sampling_strategy": "random"}
            arms |= {
                "lesson_scoring_every_position": partial(trl, lesson, False),
                "lesson_in_random_order": partial(trl, random_order, True),
                "lesson_with_neither": partial(trl, random_order, False),
                "lesson_grouped_by_length": partial(
                    trl, {**whole, "train_sampling_strategy": "group_by_length"}, True
                ),
            }
        for prepare in (bare, partial(trl, {**lesson, "max_steps": 3}, True)):
            timed(prepare)  # what only the first training of a process pays: lazy imports, memory
        useful = sum(len(row["input_ids"]) for row in rows)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for number in range(options.rounds):
            for name, prepare in arms.items():
                seconds[name].append(timed(prepare))
                print(
                    f"round {number + 1}, {name}: {useful / seconds[name][-1][0]:,.0f} tokens/s", flush=True
                )

    ratios = {
        name: [bare[0] / own[0] for bare, own in zip(seconds["bare"], measured, strict=True)]
        for name, measured in seconds.items()
    }
    result = {
        "benchmark": "sft_throughput",
        "model": options.model or "random weights",
        "threads": runtime.threads,
        "steps": options.steps,
        "rounds": options.rounds,
        "overrides": options.override,
        "rows": len(rows),
        "mean_length": round(useful / len(rows), 1),
        "trained_share": round(sum(t != -100 for row in rows for t in row["labels"]) / useful, 3),
        "padding_share_bare": round(padding[-1], 3),
        "useful_tokens_per_second": {
            name: round(useful / statistics.median(wall for wall, _ in measured))
            for name, measured in seconds.items()
        },
        "ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratio_range": {name: [round(min(v), 3), round(max(v), 3)] for name, v in ratios.items()},
        "cpu_ratio": {
            name: round(min(cpu for _, cpu in seconds["bare"]) / min(cpu for _, cpu in measured), 3)
            for name, measured in seconds.items()
        },
        "goal": GOAL,
        "goal_met": statistics.median(ratios["lesson"]) >= GOAL,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
