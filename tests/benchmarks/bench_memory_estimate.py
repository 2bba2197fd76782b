"""How near `estimate_memory` comes to the peak that a training run really has.

    python tests/benchmarks/bench_memory_estimate.py [--cases sft dpo grpo] [--device cpu]

Each case trains a random Qwen3 for two steps on rows of the greatest length; `MemoryMonitor` measures how far
the memory grows from just before the model is loaded. A run of a small model comes first, so that code and
thread stacks of the libraries are in memory already. On a GPU the peak of what torch has allocated counts.
The last line is JSON: planned and measured bytes of each case.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# The C library gives freed memory back at once, so that no run lives on what the one before it has left.
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
POSITIONS = 128
# 20 million parameters with a vocabulary that is large for them.
LARGE = {
    "vocab_size": 24_000,
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
}
SMALL = {**LARGE, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
# A method, arguments of its config, and those of `peft.LoraConfig`.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "sft": ("sft", {"per_device_train_batch_size": 4}, None),
    "lora": ("sft", {"per_device_train_batch_size": 4}, {"r": 16, "target_modules": "all-linear"}),
    "dpo": ("dpo", {"per_device_train_batch_size": 2}, None),
    "grpo": (
        "grpo",
        {"per_device_train_batch_size": 8, "num_generations": 8, "max_completion_length": 48},
        None,
    ),
    "checkpointing": ("sft", {"per_device_train_batch_size": 4, "activation_checkpointing": True}, None),
    "accumulation": ("sft", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, None),
    "grpo_reference": (
        "grpo",
        {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 48, "beta": 0.1},
        None,
    ),
}


def save_model(shape: dict[str, Any], directory: Path) -> None:
    """Save a random model and a tokenizer whose words are w2, w3, ...: so many words, so many tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    torch.manual_seed(0)
    Qwen3ForCausalLM(model_config(shape)).save_pretrained(directory)
    words = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, 400)}
    tokenizer = Tokenizer(models.WordLevel(words | {"<unk>": 400}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(directory)


def model_config(shape: dict[str, Any]) -> Any:
    """Return the config of a model of one of the two shapes."""
    from transformers import Qwen3Config

    return Qwen3Config(
        **shape, max_position_embeddings=POSITIONS, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0
    )


def rows(method: str, completion: int) -> Any:
    """Return a data set whose rows have as many tokens as the model has positions."""
    from datasets import Dataset

    def text(tokens: int, row: int) -> str:
        return " ".join(f"w{2 + (row * 31 + position * 7) % 390}" for position in range(tokens))

    numbers = range(32)
    if method == "sft":
        return Dataset.from_dict({"text": [text(POSITIONS - 1, row) for row in numbers]})
    prompts = [text(POSITIONS - completion, row) for row in numbers]
    if method == "grpo":
        return Dataset.from_dict({"prompt": prompts})
    replies = {
        name: [" " + text(completion - 1, row + 5) for row in numbers] for name in ("chosen", "rejected")
    }
    return Dataset.from_dict({"prompt": prompts, **replies})


def train(case: str, model_dir: str, output: str, device: str) -> int:
    """Train for two steps, as the course does, and return the estimate in bytes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain_helpers.environment.runtime import prepare_trainers
    from posttrain_helpers.generation.rollouts import grpo_rollouts
    from posttrain_helpers.recipes.methods import config_class, trainer_class
    from posttrain_helpers.training.out_of_memory import plan_trainer

    prepare_trainers()
    method, changes, lora = CASES[case]
    arguments = {
        "output_dir": output,
        "max_steps": 2,
        "activation_checkpointing": False,
        "learning_rate": 1e-5,
        "use_cpu": device == "cpu",
        "bf16": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    more: dict[str, Any] = {}
    if method == "grpo":
        more = {"reward_funcs": _reward, "rollout_func": grpo_rollouts}
    else:
        arguments["max_length"] = POSITIONS
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).to(device)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    trainer = trainer_class(method)(
        model=model,
        args=config_class(method)(**arguments),
        train_dataset=rows(method, arguments.get("max_completion_length", POSITIONS - 16)),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        **more,
    )
    estimate = plan_trainer(trainer, method)
    trainer.train()
    # What torch has allocated on a GPU has no overhead in it.
    return estimate.total - (estimate.moments[estimate.peak]["overhead"] if device == "cuda" else 0)


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[0] % 7) for ids in completion_ids]


def measure(case: str, small: str, large: str, device: str) -> dict[str, float]:
    """Return the estimate of a run and the growth of this process's memory over it, in bytes."""
    from posttrain_helpers.memory.monitor import MB, MemoryMonitor

    output = str(Path(large).parent)
    train(case, small, output, device)
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    with MemoryMonitor(case) as memory:
        planned = train(case, large, output, device)
    figures = memory.summary()
    grown = figures["cpu_peak_mb"] - figures["cpu_before_mb"]
    if device == "cuda":
        gpu = figures["gpus"][0]
        grown = gpu["allocated_peak_mb"] - gpu["allocated_before_mb"]
    return {"planned": planned, "measured": grown * MB}


def compare(cases: list[str], device: str = "cpu") -> dict[str, dict[str, float]]:
    """Run cases in a process of their own and return planned and measured bytes of each."""
    command = [sys.executable, __file__, "--here", "--device", device, "--cases", *cases]
    environment = {**os.environ, **OFFLINE, **GIVING_BACK}
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True
    )
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Print a table and, last, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            small, large = f"{folder}/small", f"{folder}/large"
            save_model(SMALL, Path(small))
            save_model(LARGE, Path(large))
            results = {case: measure(case, small, large, arguments.device) for case in arguments.cases}
    else:
        results = compare(arguments.cases, arguments.device)
        for case, result in results.items():
            planned, measured = result["planned"], result["measured"]
            print(
                f"{case:<16} planned {planned / 2**20:6.0f} MB, measured {measured / 2**20:6.0f} MB, "
                f"ratio {planned / measured:.2f}"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
