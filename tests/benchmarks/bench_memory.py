"""What `MemoryMonitor.callback()` costs a training step of TRL's SFTTrainer.

    python tests/benchmarks/bench_memory.py [--pairs 20] [--block 8]

One training run of a random Qwen3 of about 2 million parameters on the CPU. Its steps are cut into blocks; in
every pair of blocks one has the callback and one has not, in random order, so that a machine that slows down
midway slows both. The figure is the ratio of the median times of a step, with its 95 % bootstrap interval
over pairs, which is wide on a busy machine. The share of the time spent inside the callback is measured too:
it is steadier, but it does not see what the callback slows down elsewhere. The last line is JSON.
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
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import numpy
import torch
from datasets import Dataset
from scipy.stats import bootstrap
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from posttrain_helpers.memory.monitor import OVERHEAD_SHARE, MemoryMonitor
from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "A cow says moo, an owl can fly, and 3 + 4 = 7. The user asks and the assistant answers.",
]
WARM_UP_STEPS = 5


class SwitchedCallback(TrainerCallback):
    """Times blocks of steps, and passes the steps of every other block on to the callback under test."""

    def __init__(self, callback: TrainerCallback, pairs: int, block: int) -> None:
        self.callback, self.block = callback, block
        order = random.Random(0)
        self.plan = [on for _ in range(pairs) for on in order.sample([True, False], 2)]
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.inside = 0.0
        self.begun = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.callback.on_train_begin(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step - WARM_UP_STEPS
        if step > 0:
            on = self.plan[(step - 1) // self.block]
            if on:
                begun = time.perf_counter()
                self.callback.on_step_end(args, state, control)
                self.inside += time.perf_counter() - begun
            if step % self.block == 0:
                self.seconds[on].append((time.perf_counter() - self.begun) / self.block)
        if step >= 0 and step % self.block == 0:
            self.begun = time.perf_counter()


def small_model(vocabulary: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20, help="pairs of blocks, one with and one without")
    parser.add_argument("--block", type=int, default=8, help="training steps in a block")
    options = parser.parse_args()

    tokenizer = train_tokenizer(TEXTS * 4, vocab_size=400)
    model = small_model(len(tokenizer))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        args = SFTConfig(
            folder,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
            max_steps=WARM_UP_STEPS + 2 * options.pairs * options.block,
            per_device_train_batch_size=16,
            logging_strategy="no",
        )
        with MemoryMonitor("bench", csv_path=Path(folder) / "bench.csv") as memory:
            switch = SwitchedCallback(memory.callback(), options.pairs, options.block)
            trainer = SFTTrainer(
                model,
                args,
                train_dataset=Dataset.from_list([{"text": text} for text in TEXTS * 64]),
                processing_class=tokenizer,
                callbacks=[switch],
            )
            trainer.train()
    step = {on: statistics.median(seconds) for on, seconds in switch.seconds.items()}
    interval = bootstrap(
        (switch.seconds[True], switch.seconds[False]),
        lambda on, off, axis: numpy.median(on, axis=axis) / numpy.median(off, axis=axis),
        paired=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    rows = int((memory.history()["event"] == "step").sum())
    measured_steps = options.pairs * options.block
    share = switch.inside / (sum(switch.seconds[True]) * options.block)
    print(f"a step takes {step[False] * 1e3:.2f} ms, with the callback {step[True] * 1e3:.2f} ms")
    print(f"{rows} rows in {measured_steps} steps; inside the callback {share:.3%} of the time")
    result = {
        "benchmark": "memory_callback",
        "pairs": options.pairs,
        "steps_per_block": options.block,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_ms_without": round(step[False] * 1e3, 3),
        "step_ms_with": round(step[True] * 1e3, 3),
        "ratio_of_medians": round(step[True] / step[False], 4),
        "ratio_low": round(float(interval.low), 4),
        "ratio_high": round(float(interval.high), 4),
        "share_inside_callback": round(share, 5),
        "rows_per_step": round(rows / measured_steps, 3),
        "bar": OVERHEAD_SHARE,
        "ratio_within_bar": step[True] / step[False] <= 1 + OVERHEAD_SHARE,
        "share_within_bar": share <= OVERHEAD_SHARE,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
