"""Two processes train as one does: the KL term is computed outside of the pass that DDP wraps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json
import sys

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_helpers.training import RegularizedSFTConfig, RegularizedSFTTrainer

model, output, rows, adapter = sys.argv[1:]
replies = ("Paris.", "The capital of France is Paris.", "A cow says moo.", "3 + 4 = 7.")
turns = [("What is " * (1 + number % 3), replies[number % 4]) for number in range(24)]
data = [[{"role": "user", "content": one}, {"role": "assistant", "content": two}] for one, two in turns]
trainer = RegularizedSFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model),
    args=RegularizedSFTConfig(
        output, kl_beta=0.5, max_steps=3, learning_rate=1e-2, adam_epsilon=1e-5, logging_steps=1,
        use_cpu=True, bf16=False, activation_checkpointing=False, save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=int(rows), train_sampling_strategy="sequential", max_length=64,
        assistant_only_loss=True, ddp_find_unused_parameters=False,
    ),
    train_dataset=Dataset.from_list([{"messages": messages} for messages in data]),
    processing_class=AutoTokenizer.from_pretrained(model),
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=4) if adapter == "adapter" else None,
)
trainer.train()
if trainer.is_world_process_zero():
    logs = [[log[name] for name in ("loss", "kl", "sft_loss")] for log in trainer.state.log_history[:3]]
    weights = [weight.double().norm().item() for weight in trainer.model.parameters() if weight.requires_grad]
    with open(output + ".json", "w", encoding="utf-8") as file:
        json.dump({"logs": logs, "weights": weights}, file)
trainer.end()
"""


def trained(tmp_path: Path, model: Path, processes: int, adapter: str) -> dict[str, list]:
    script, output = tmp_path / "train.py", tmp_path / f"run{processes}"
    script.write_text(SCRIPT, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", processes),
        *("--master_addr", "127.0.0.1", "--master_port", port),
        *(script, model, output, 8 // processes, adapter),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(Path(f"{output}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize("adapter", ["adapter", "full"])
def test_two_processes_train_as_one(tmp_path: Path, random_model_dir: Path, adapter: str) -> None:
    one, two = (trained(tmp_path, random_model_dir, processes, adapter) for processes in (1, 2))
    assert one["logs"][-1][1] > 0
    for log, other in zip(one["logs"], two["logs"], strict=True):
        assert other == pytest.approx(log, rel=1e-4, abs=1e-6)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-5)
