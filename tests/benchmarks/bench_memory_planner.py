"""How near `plan_memory` comes to the peak that a training run really has.

    python tests/benchmarks/bench_memory_planner.py [--cases sft dpo grpo] [--device cpu] [--steps 2]

Each case trains a random Qwen3 for a few steps in a process of its own, on rows that fill the planned length,
and measures with `MemoryMonitor` how far the memory grows from just before the model is loaded. A small run
comes first, so that code and thread stacks of the libraries are in memory already. On a GPU the peak of
what torch has allocated is compared. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

# A model of 40 million parameters with a large vocabulary, in the proportions of Qwen3-0.6B.
LARGE = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
SMALL = {**LARGE, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
# What `plan_memory` is told; a row of the data has just this length.
CASES: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft", "batch_size": 4, "sequence_length": 256},
    # The loss counts few tokens, so activations are most of it.
    "sft_replies": {"method": "sft", "batch_size": 4, "sequence_length": 384, "completion_length": 32},
    "sft_accumulation": {
        "method": "sft",
        "batch_size": 2,
        "sequence_length": 256,
        "gradient_accumulation_steps": 2,
    },
    "sft_checkpointing": {
        "method": "sft",
        "batch_size": 8,
        "sequence_length": 256,
        "activation_checkpointing": True,
    },
    "sft_lora": {
        "method": "sft",
        "batch_size": 4,
        "sequence_length": 256,
        "training": "lora",
        "lora": {"r": 16, "target_modules": "all-linear"},
    },
    "dpo": {"method": "dpo", "batch_size": 2, "sequence_length": 192, "completion_length": 128},
    "grpo": {"method": "grpo", "batch_size": 8, "sequence_length": 160, "completion_length": 96},
    "grpo_reference": {
        "method": "grpo",
        "batch_size": 4,
        "sequence_length": 160,
        "completion_length": 96,
        "gradient_accumulation_steps": 2,
        "reference": True,
    },
}


def model_config(shape: dict[str, Any]) -> Any:
    """Return the config of a model of one of the two shapes."""
    from transformers import Qwen3Config

    return Qwen3Config(
        **shape,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )


def saved_model(shape: dict[str, Any], directory: Path) -> str:
    """Save a random model and a tokenizer whose words are w2, w3, ...: so many words, so many tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    torch.manual_seed(0)
    Qwen3ForCausalLM(model_config(shape)).save_pretrained(directory)
    words = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, 400)}
    words["<unk>"] = 400
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(directory)
    return str(directory)


def rows(case: dict[str, Any], count: int) -> Any:
    """Return a data set whose rows have the case's lengths."""
    from datasets import Dataset

    length = case["sequence_length"]
    completion = case.get("completion_length") or length

    def text(tokens: int, row: int) -> str:
        return " ".join(f"w{2 + (row * 31 + position * 7) % 390}" for position in range(tokens))

    if case["method"] == "sft":
        ids = [[2 + (row * 31 + position) % 390 for position in range(length)] for row in range(count)]
        labels = [[-100] * (length - completion) + row[length - completion :] for row in ids]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})
    prompts = [text(length - completion, row) for row in range(count)]
    if case["method"] == "grpo":
        return Dataset.from_dict({"prompt": prompts})
    # The trainer ends a reply with the end token.
    chosen = [" " + text(completion - 1, row + 5) for row in range(count)]
    rejected = [" " + text(completion - 1, row + 9) for row in range(count)]
    return Dataset.from_dict({"prompt": prompts, "chosen": chosen, "rejected": rejected})


def run(case: dict[str, Any], model_dir: str, output: str, device: str, steps: int) -> None:
    """Train for a few steps, as the course does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain_helpers.recipes.methods import config_class, trainer_class
    from posttrain_helpers.rollouts import grpo_rollouts

    method = case["method"]
    accumulation = case.get("gradient_accumulation_steps", 1)
    arguments: dict[str, Any] = {
        "output_dir": output,
        "max_steps": steps,
        "per_device_train_batch_size": case["batch_size"],
        "gradient_accumulation_steps": accumulation,
        "activation_checkpointing": case.get("activation_checkpointing", False),
        "learning_rate": 1e-5,
        "use_cpu": device == "cpu",
        "bf16": case.get("autocast") == "bfloat16",
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    more: dict[str, Any] = {}
    if method == "grpo":
        arguments |= {
            "num_generations": case["batch_size"],
            "max_completion_length": case["completion_length"],
            "beta": 0.1 if case.get("reference") else 0.0,
        }
        more = {"reward_funcs": _reward, "rollout_func": grpo_rollouts}
    else:
        arguments["max_length"] = case["sequence_length"]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).to(device)
    if case.get("lora"):
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **case["lora"]))
    trainer = trainer_class(method)(
        model=model,
        args=config_class(method)(**arguments),
        train_dataset=rows(case, 4 * case["batch_size"] * accumulation),
        processing_class=tokenizer,
        **more,
    )
    trainer.train()


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[0] % 7) for ids in completion_ids]


def measure(case: dict[str, Any], device: str = "cpu", steps: int = 2) -> dict[str, float]:
    """Return the growth of this process's memory over a run, in bytes; call it in a fresh process."""
    from posttrain_helpers.memory import MB, MemoryMonitor

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        small = saved_model(SMALL, Path(folder) / "small")
        large = saved_model(LARGE, Path(folder) / "large")
        run({**case, "batch_size": 2, "gradient_accumulation_steps": 1}, small, folder, device, steps)
        _give_back_heap()
        with MemoryMonitor("run", device=None if device != "cpu" else "cpu") as memory:
            run(case, large, folder, device, steps)
        figures = memory.summary()
        if device == "cpu":
            grown = figures["cpu_peak_mb"] - figures["cpu_before_mb"]
        else:
            gpu = figures["gpus"][0]
            grown = gpu["allocated_peak_mb"] - gpu["allocated_before_mb"]
    return {"measured": float(grown) * MB}


def _give_back_heap() -> None:
    """Return freed memory to the system, so that the measured run cannot take it without being seen."""
    import ctypes
    import gc

    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def compared(name: str, device: str = "cpu", steps: int = 2) -> dict[str, float]:
    """Run one case in a process of its own and return plan and measurement, in bytes."""
    from posttrain_helpers.memory_planner import plan_memory

    command = [sys.executable, __file__, "--case", name, "--device", device, "--steps", str(steps)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    measured = json.loads(output.splitlines()[-1])["measured"]
    plan = plan_memory(model_config(LARGE), device=device, **CASES[name])
    # What torch has allocated on a GPU has no overhead in it.
    planned = plan.total - (plan["overhead"] if device == "cuda" else 0)
    return {"planned": planned, "measured": measured, "ratio": planned / measured}


def main() -> None:
    """Print a table and, last, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(CASES[arguments.case], arguments.device, arguments.steps)))
        return
    results = {}
    for name in arguments.cases:
        results[name] = result = compared(name, arguments.device, arguments.steps)
        print(
            f"{name:<20} planned {result['planned'] / 2**20:6.0f} MB, measured "
            f"{result['measured'] / 2**20:6.0f} MB, ratio {result['ratio']:.2f}",
            flush=True,
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
