"""Speed and memory of training on a GPU, setting by setting, each in a process of its own.

    python tests/benchmarks/bench_gpu.py MODEL [--cases sft_source sft_packed] [--steps 12] [--set KEY=VALUE]
    python tests/benchmarks/bench_gpu.py MODEL --cap 16 --cases sft dpo grpo ppo

MODEL is a directory with a model of the shape of Qwen3-0.6B and its tokenizer; random weights do, as neither
speed nor memory depends on them. Every case is a recipe of the profile `qwen3` with changes, trained on
invented rows of realistic lengths. For each it prints

- tokens per second and model FLOPs utilisation (MFU), without warm-up;
- the peak of what torch has allocated, by MemoryMonitor and by torch, and what NVML says of the device;
- the estimate of `plan_recipe` as a multiple of the measured peak;
- tokens per second as a multiple of the first case of the same method in the list.

`sft_source` is the setting of a well-known course: one row at a time, eight of them to a step.
`sft_trl` is what TRL does when it is asked for nothing. `--cap` lets the process have so many GB of the
card. `--set` changes every case. Without a GPU the cases run as well, for tests. The last line is JSON.

MFU counts the arithmetic that the model needs, not what was done: activations that are computed a second
time, and padding, count for nothing (Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

ROWS = 512
LORA = {"lora.r": 16, "lora.target_modules": "all-linear"}
# Where a recipe of the course recomputes activations to fit a small card, a large one need not.
LARGE = {"args.activation_checkpointing": False}
SFT = {"args.per_device_train_batch_size": 8, "args.gradient_accumulation_steps": 1}
# The recipes on public data have the lengths of real rows.
RECIPES = {"sft": "sft_dl", "dpo": "dpo_dl", "grpo": "grpo_gsm8k", "ppo": "ppo_ultrafeedback"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft_source": (
        "sft",
        {"args.per_device_train_batch_size": 1, "args.gradient_accumulation_steps": 8, **LARGE},
    ),
    "sft_trl": ("sft", {**SFT, "args.activation_checkpointing": True, "args.packing": False}),
    "sft": ("sft", {}),
    "sft_large": ("sft", {**SFT, **LARGE}),
    "sft_packed": ("sft", {**SFT, **LARGE, "args.packing": True}),
    "sft_packed_32": ("sft", {**LARGE, "args.packing": True, "args.per_device_train_batch_size": 32}),
    "sft_packed_compiled": ("sft", {**SFT, **LARGE, "args.packing": True, "args.torch_compile": True}),
    "sft_packed_liger": ("sft", {**SFT, **LARGE, "args.packing": True, "args.use_liger_kernel": True}),
    "sft_packed_flex": ("sft", {**SFT, **LARGE, "args.packing": True, "attention": "flex_attention"}),
    "sft_padding_free": ("sft", {**SFT, **LARGE, "args.padding_free": True, "args.max_length": None}),
    "sft_lora": ("sft", {**LORA, "args.learning_rate": 2e-4}),
    "sft_lora_small": ("sft", {**LORA, "args.per_device_train_batch_size": 1}),
    "sft_lora_packed": ("sft", {**SFT, **LARGE, **LORA, "args.packing": True}),
    "dpo": ("dpo", {}),
    "dpo_large": ("dpo", {**SFT, **LARGE}),
    "grpo": ("grpo", {}),
    "grpo_large": (
        "grpo",
        {**LARGE, "args.per_device_train_batch_size": 32, "args.gradient_accumulation_steps": 1},
    ),
    "ppo": ("ppo", {}),
    "ppo_large": (
        "ppo",
        {**LARGE, "args.per_device_train_batch_size": 16, "args.gradient_accumulation_steps": 2},
    ),
}
# Optimizer steps that do not count: memory is reserved in them, and kernels are compiled.
WARMUP_STEPS = 2
# Dense bfloat16 tensor-core rates from the makers' data sheets, in FLOP/s (float16 where a card has no
# bfloat16). The first name whose words occur in the device's own counts, so the longer names come first.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L4": 121e12,
    "T4": 65e12,
    "V100": 125e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Forms of a card, and parts of one, that are slower than its name says.
SLOWER = {"Laptop", "Mobile", "MIG"}
# Logarithm of a reply's length in words: the median has about 150, one in ten has more than 400.
_LENGTH = (5.0, 0.8)
_WORDS = (
    "the",
    "model",
    "reads",
    "text",
    "and",
    "writes",
    "what",
    "comes",
    "next",
    "while",
    "nobody",
    "knows",
    "it",
)


def text(rng: random.Random, words: int) -> str:
    """Return invented text of so many words."""
    return " ".join(rng.choice(_WORDS) for _ in range(max(words, 1)))


def write_rows(method: str, path: Path, longest: int) -> float:
    """Write rows in the form that a method needs; return the mean number of words in a sequence."""
    rng = random.Random(0)
    lines, words = [], 0
    for number in range(ROWS):
        lengths = [min(round(rng.lognormvariate(*_LENGTH)), longest) for _ in range(2)]
        question = {"role": "user", "content": f"{number}: {text(rng, 40)}?"}
        replies = [{"role": "assistant", "content": f"{text(rng, length)}."} for length in lengths]
        row: dict[str, Any] = {"prompt": [question]}
        if method == "sft":
            row = {"messages": [question, replies[0]]}
        elif method == "dpo":
            row |= {"chosen": [replies[0]], "rejected": [replies[1]]}
        elif method == "grpo":
            row |= {"answer": str(number % 10)}
        words += 41 + (sum(lengths) / 2 if method in ("sft", "dpo") else 0)
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return words / ROWS


def varied_reward(completions: list[Any], **_: Any) -> list[float]:
    """Reward the length of a reply, so that no group is all alike."""
    return [float(len(str(completion))) for completion in completions]


class StepTimer:
    """Time and tokens between the first log after the warm-up and the last log of a run."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float | None]] = []

    def callback(self) -> TrainerCallback:
        """Return a callback that notes the time and the tokens so far at every log."""
        from transformers import TrainerCallback

        points = self.points

        class StepTimerCallback(TrainerCallback):
            def on_log(
                self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
            ) -> None:
                # The last entry of a run sums it up, and comes long after its last step.
                if state.global_step >= WARMUP_STEPS and "train_runtime" not in logs:
                    points.append((state.global_step, now(), logs.get("num_tokens")))

        return StepTimerCallback()

    def figures(self) -> dict[str, Any]:
        """Return the steps that count, and seconds and tokens of them; a trainer may count no tokens."""
        (first, start, before), (last, end, after) = self.points[0], self.points[-1]
        tokens_per_second = None if before is None else (after - before) / (end - start)
        return {
            "steps": last - first,
            "seconds_per_step": (end - start) / (last - first),
            "tokens_per_second": tokens_per_second,
        }


def now() -> float:
    """Return the time when all that was asked of the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def training_flops_per_token(model: PreTrainedModel, context_length: float, references: int = 0) -> float:
    """Return how many floating-point operations a model needs for one token of training.

    A weight that a token is multiplied with costs 2 operations forward, 2 for the gradient of its input, and
    2 for its own gradient, which frozen weights do not need. Attention costs 4 for each layer, each dimension
    of all its heads and each token looked at, of which there are half the context on average, because a token
    sees only those before it; backward twice as many. The input embedding is looked up and costs nothing,
    unless it is the output layer as well. References look at the same tokens, forward only.
    """
    config = model.config.get_text_config()
    looked_up = None if config.tie_word_embeddings else model.get_input_embeddings().weight
    multiplied = [parameter for parameter in model.parameters() if parameter is not looked_up]
    weights = sum(parameter.numel() for parameter in multiplied)
    trained = sum(parameter.numel() for parameter in multiplied if parameter.requires_grad)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    attention = 4 * config.num_hidden_layers * width * context_length / 2
    forward = 2 * weights + attention
    backward = 2 * weights + 2 * trained + 2 * attention
    return forward * (1 + references) + backward


def peak_flops(device_name: str) -> float | None:
    """Return the highest rate of a GPU's dense bfloat16 arithmetic in FLOP/s, None where it is not known."""
    words = set(device_name.replace("-", " ").split())
    if words & SLOWER:
        return None
    return next((flops for name, flops in PEAK_FLOPS.items() if set(name.split()) <= words), None)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case in this process and return its figures."""
    import torch

    if arguments.cap and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap * 1e9 / whole))
    method, changes = CASES[name]
    attention = changes.get("attention")
    changes = {key: value for key, value in changes.items() if key != "attention"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(POSTTRAIN_MODEL=arguments.model, POSTTRAIN_OUTPUT=f"{folder}/output")
        rows = Path(folder) / "rows.jsonl"
        mean_words = write_rows(method, rows, arguments.longest)
        changes |= {
            "model": arguments.model,
            "data.source": str(rows),
            "args.logging_steps": 1,
            "args.max_steps": arguments.steps,
        }
        if method == "grpo":
            changes["args.reward_weights"] = None  # one reward, that of this file
        with contextlib.redirect_stdout(io.StringIO()):
            return run(method, changes, arguments, attention, mean_words)


def run(
    method: str,
    changes: dict[str, Any],
    arguments: argparse.Namespace,
    attention: str | None,
    mean_words: float,
) -> dict[str, Any]:
    """Train with a recipe's changes and return the figures."""
    import torch

    from posttrain_helpers import (
        MemoryMonitor,
        load_data,
        load_model_and_tokenizer,
        load_recipe,
        make_trainer,
        setup,
        train,
    )
    from posttrain_helpers.errors import CourseError
    from posttrain_helpers.recipes.methods import trainer_class
    from posttrain_helpers.recipes.overrides import parsed_overrides
    from posttrain_helpers.stages.planning import plan_recipe

    setup("qwen3")
    recipe = load_recipe(RECIPES.get(method, method), "qwen3", {**changes, **parsed_overrides(arguments.set)})
    try:
        planned = plan_recipe(recipe).total / 1e9
    except CourseError:  # rows of any length cannot be planned
        planned = None
    trainer_class(method)  # and the libraries behind it, whose code is no part of the plan
    speed, memory = StepTimer(), MemoryMonitor(method)
    online = {"reward_funcs": [varied_reward]} if recipe.rewards else {}
    with memory:  # from the loading on: a CPU's peak is counted from what was there before
        model, tokenizer = load_model_and_tokenizer(recipe.model, lora=recipe.lora, profile="qwen3")
        if attention:
            model.set_attn_implementation(attention)
        data, _ = load_data(recipe)
        trainer = make_trainer(
            recipe, model, tokenizer, data, [speed.callback(), memory.callback()], **online
        )
        train(trainer)
    figures: dict[str, Any] = {**speed.figures(), "planned_gb": planned}
    if torch.cuda.is_available():
        peak = peak_flops(torch.cuda.get_device_name())
        if peak and figures["tokens_per_second"]:
            # A word of these rows is a token of Qwen3, near enough for the share that attention has.
            needed = training_flops_per_token(model, mean_words, references=int(method == "dpo"))
            figures["mfu"] = figures["tokens_per_second"] * needed / peak
        gpu = memory.summary()["gpus"][0]
        figures |= {
            "peak_gb": gpu["allocated_peak_mb"] * 2**20 / 1e9,
            "peak_torch_gb": torch.cuda.max_memory_allocated() / 1e9,
            "reserved_gb": gpu["reserved_peak_mb"] * 2**20 / 1e9,
            "device_nvml_gb": None
            if gpu["device_after_mb"] is None
            else gpu["device_after_mb"] * 2**20 / 1e9,
        }
    else:
        summary = memory.summary()
        figures["peak_gb"] = (summary["cpu_peak_mb"] - summary["cpu_before_mb"]) * 2**20 / 1e9
    figures["planned_over_peak"] = planned / figures["peak_gb"] if planned and figures["peak_gb"] else None
    return figures


def in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one case, or the last line of its error."""
    command = [sys.executable, __file__, arguments.model, "--case", name, "--steps", str(arguments.steps)]
    command += ["--longest", str(arguments.longest), "--cap", str(arguments.cap)]
    command += [word for pair in arguments.set for word in ("--set", pair)]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if finished.returncode:
        return {"failed": (finished.stderr.strip().splitlines() or ["without a word"])[-1]}
    return json.loads(finished.stdout.splitlines()[-1])


def shown(name: str, figures: dict[str, Any], base: dict[str, Any] | None) -> str:
    """Return a case as one line."""
    if "failed" in figures:
        return f"{name:<20} FAILED: {figures['failed'][:200]}"
    parts = [f"{name:<20} {figures['seconds_per_step']:7.2f} s/step"]
    if figures["tokens_per_second"]:
        parts.append(f"{figures['tokens_per_second']:10,.0f} tokens/s")
        if base and base.get("tokens_per_second"):
            parts.append(f"x {figures['tokens_per_second'] / base['tokens_per_second']:.2f}")
    if "mfu" in figures:
        parts.append(f"MFU {figures['mfu']:.1%}")
    parts.append(f"peak {figures['peak_gb']:.1f} GB")
    if figures["planned_over_peak"]:
        parts.append(f"planned x {figures['planned_over_peak']:.2f}")
    return "  ".join(parts)


def main(words: list[str] | None = None) -> None:
    """Print a line for each case and, last, JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--longest", type=int, default=900, help="most words of a reply")
    parser.add_argument("--cap", type=float, default=0, help="GB of the card that the process may have")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    arguments.model = str(Path(arguments.model).expanduser().resolve())
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments)))
        return
    results: dict[str, Any] = {}
    bases: dict[str, dict[str, Any]] = {}
    for name in arguments.cases:
        results[name] = figures = in_own_process(name, arguments)
        base = bases.setdefault(CASES[name][0], figures)
        print(shown(name, figures, base if base is not figures else None), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
