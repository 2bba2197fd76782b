"""`serve`: OpenAI's own client gets the replies that the course generates, and nothing is left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from served import LORA, free_port, save, served

from posttrain_helpers import cli
from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.generation import generate
from posttrain_helpers.serving import server
from posttrain_helpers.stages.loading import load_model_and_tokenizer

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_openais_client_gets_the_reply_of_the_course(kind: str, output_root: Path) -> None:
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f'{package} is not installed: pip install -e ".[serve]"')
    import httpx
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
        here = f"http://127.0.0.1:{port}"
        for path, body, status in (
            ("load_model", {"model": "Qwen/Qwen3-0.6B"}, 403),
            ("reset", {}, 403),
            ("v1/chat/completions", {"model": kind, "messages": []}, 400),
            ("v1/chat/completions", {"model": kind}, 400),
            ("v1/chat/completions", asked | {"temperature": -1}, 400),
        ):
            refused = httpx.post(f"{here}/{path}", json=body)
            assert refused.status_code == status
            assert refused.json()["error"]["message"]
        assert httpx.get(f"{here}/v1/models", headers={"Host": "evil.example"}).status_code == 400
        connections = psutil.Process(process.pid).net_connections()
        assert {entry.laddr.ip for entry in connections if entry.status == "LISTEN"} == {"127.0.0.1"}
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(getattr(signal, "SIGHUP" if kind == "adapter" else "SIGTERM", signal.SIGTERM))
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

    monkeypatch.setattr(server, "is_installed", lambda package: package != "openai")
    sentence = refused("serve sft")
    assert "serve needs openai, which is not part of the plain installation" in sentence
    assert sentence.endswith('python -m pip install -e ".[serve]"')
    monkeypatch.setattr(server, "is_installed", lambda package: True)
    free = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sentence = refused(f"serve sft --port {taken.getsockname()[1]}")
    assert "nothing can listen on 127.0.0.1, port" in sentence
    assert "--port" in sentence
    assert "port 70000" in refused("serve sft --port 70000")
    assert "the stage 'sft' is not there. Finished are none; make it with" in refused(
        f"serve sft --port {free}"
    )
    assert "does not exist" in refused(f"serve ./nothing --port {free}")


def test_routes_whose_requests_nobody_checks_are_refused() -> None:
    fastapi = pytest.importorskip("fastapi", reason='fastapi is not installed: pip install -e ".[serve]"')
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/completions"):
        app.post(path)(lambda: "reached")
    app.get("/v1/models")(lambda: "reached")
    client = TestClient(server._restricted(app, ["testserver"], lambda asked: None))
    assert client.post("/v1/chat/completions", json={}).json() == "reached"
    assert client.get("/v1/models").json() == "reached"
    for path in ("/v1/responses", "/v1/completions"):
        refused = client.post(path, json={})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == "this server answers /v1/chat/completions only"


def test_the_working_directory_is_served_under_its_name(
    output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("mine")
    directory = output_root / "tiny" / "stages" / "mine"
    monkeypatch.chdir(directory)
    with server.servable(".", get_profile("tiny")) as served_directory:
        assert served_directory == directory


def test_copies_of_killed_servers_are_removed(tmp_path: Path) -> None:
    start = f"""
import sys, time
from pathlib import Path
from posttrain_helpers.serving.server import _own_directory
with _own_directory(Path({str(tmp_path)!r})) as own:
    (own / "weights").touch()
    print("begun", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE)
    process.stdout.readline()
    with server._own_directory(tmp_path) as own:
        assert len([*tmp_path.glob("*/weights")]) == 1, "another server still needs its copy"
        process.kill()
        process.communicate()
        with server._own_directory(tmp_path) as other:
            assert {path for path in tmp_path.iterdir() if path.is_dir()} == {own, other}
    assert not [*tmp_path.iterdir()]


def test_a_terminal_that_is_closed_ends_as_ctrl_c_does_unless_nohup_said_otherwise() -> None:
    with pytest.raises(KeyboardInterrupt), server.ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not hasattr(signal, "SIGHUP"):
        return
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with server.ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_who_can_reach_an_address_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "127.0.0.1" in server.check_address("127.0.0.1", free_port())
    assert "localhost" in server.check_address("localhost", free_port())
    assert not capsys.readouterr().out
    assert server.check_address("0.0.0.0", free_port()) == ["*"]
    assert "anyone who reaches this machine as 0.0.0.0 can use" in capsys.readouterr().out
