"""`serve`: OpenAI's own client gets the replies that the course generates, and nothing is left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from posttrain_helpers import cli
from posttrain_helpers.generation import generate
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.serving import server
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
LORA = {"r": 4, "target_modules": ["q_proj", "gate_proj"]}


def save(name: str, lora: dict | None = None) -> None:
    """Save the base model of the known world as a stage, changed by an adapter if one is asked for."""
    import torch

    model, tokenizer = load_model_and_tokenizer("base", lora=lora, verbose=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_openais_client_gets_the_reply_of_the_course(kind: str, output_root: Path) -> None:
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f'{package} is not installed: pip install -e ".[serve]"')
    import openai
    import psutil

    save(kind, LORA if kind == "adapter" else None)
    model, tokenizer = load_model_and_tokenizer(kind, verbose=False)
    (expected,) = generate(model, tokenizer, [QUESTION], max_new_tokens=12)
    assert expected.text.strip()
    with served("serve", kind, "--profile", "tiny") as (process, port):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        assert [entry.id for entry in client.models.list()] == [kind]
        asked = {"model": kind, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
        reply = client.chat.completions.create(**asked)
        assert reply.choices[0].message.content == expected.text
        assert reply.usage.completion_tokens == len(expected.token_ids)
        parts = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**asked, stream=True)
        ]
        assert "".join(parts) == expected.text
        connections = psutil.Process(process.pid).net_connections()
        assert {entry.laddr.ip for entry in connections if entry.status == "LISTEN"} == {"127.0.0.1"}
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not any(child.is_running() for child in children)
    assert not [*(output_root / "tiny").glob("serving/*")]


def test_what_cannot_be_served_is_one_sentence(
    output_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(line: str) -> str:
        assert cli.main([*line.split(), "--profile", "tiny"]) == cli.EXIT_MISTAKE
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence

    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "openai" else object())
    sentence = refused("serve sft")
    assert "serve needs openai, which is not part of the plain installation" in sentence
    assert sentence.endswith('python -m pip install -e ".[serve]"')
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    free = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sentence = refused(f"serve sft --port {taken.getsockname()[1]}")
    assert "nothing can listen on 127.0.0.1, port" in sentence
    assert "--port" in sentence
    assert "port 70000" in refused("serve sft --port 70000")
    assert "the stage 'sft' is not there; Finished are none; make it with" in refused(
        f"serve sft --port {free}"
    )
    assert "does not exist" in refused(f"serve ./nothing --port {free}")
