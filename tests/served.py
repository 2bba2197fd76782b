"""Commands that listen on a port until they are stopped, and stages for them to answer with."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage

LORA = {"r": 4, "target_modules": ["q_proj", "gate_proj"]}


MARKUP = '<img src="http://tracker.example/x.png"><b>&lt;</b>\n  a < b\n\n'


def save(name: str, lora: dict | None = None, endless: bool = False, markup: bool = False) -> None:
    """Save the base model of the known world as a stage, with an adapter, or with replies that never end.

    With `markup` each "e" of a reply is `MARKUP`.
    """
    import torch
    from tokenizers import decoders

    model, tokenizer = load_model_and_tokenizer("base", lora=lora, verbose=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
        if endless:
            model.get_output_embeddings().weight[tokenizer.eos_token_id] *= -1
    if markup:
        backend = tokenizer.backend_tokenizer
        backend.decoder = decoders.Sequence([backend.decoder, decoders.Replace("e", MARKUP)])
    save_stage(model, name, load_recipe("sft", "tiny"), tokenizer=tokenizer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a command that listens on a port, wait until it does, and end it."""
    port = free_port()
    command = [sys.executable, "-u", "-m", "posttrain_helpers", *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    printed: list[str] = []
    try:
        for line in process.stdout:
            printed.append(line)
            if "running on http" in line:
                break
        assert process.poll() is None, "".join(printed)
        # What it prints from now on must not fill the pipe.
        threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
        yield process, port
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
