"""`train` under torchrun and accelerate launch: two processes over gloo make what one makes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from launched import same_replies_on_every_process
from safetensors.torch import load_file

from posttrain_helpers import cli
from posttrain_helpers.generation import rollouts
from posttrain_helpers.lessons import commands
from posttrain_helpers.training.ppo import rollouts as ppo_rollouts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"),
]
HERE = Path(__file__).parent
ON_REQUEST = "POSTTRAIN_EVERY_LAUNCH"
on_request = pytest.mark.skipif(
    not os.environ.get(ON_REQUEST), reason=f"starts several processes once more; set {ON_REQUEST}=1"
)
STEPS = "args.logging_steps=1 args.learning_rate=3e-3 args.lr_scheduler_type=constant"
SAMPLED = f"args.max_completion_length=6 {STEPS}"


def torchrun(*arguments: object) -> list[str]:
    return [*commands.torchrun(2), *map(str, arguments)]


def run(command: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POSTTRAIN_OUTPUT": str(output), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=environment)


def lines(reader_files: dict[str, Path]) -> dict[str, str]:
    """Return a short training of each method."""
    model = f"model={reader_files['model']}"
    prompts = f"data.source={reader_files['prompts']} rewards=[{reader_files['scorer']}]"
    return {
        "sft": f"train sft {model} data.source={reader_files['sft']} {STEPS} args.max_steps=4",
        "dpo": f"train dpo {model} data.source={reader_files['dpo']} {STEPS} args.max_steps=3",
        # Its reference model is another one, of which each process holds a copy.
        "dpo-reference": f"train dpo {model} data.source={reader_files['dpo']} {STEPS} args.max_steps=3 "
        f"reference={reader_files['teacher']}",
        "grpo": f"train grpo {model} {prompts} {SAMPLED} args.max_steps=3 args.steps_per_generation=1 "
        "args.per_device_train_batch_size=16 args.num_generations=4",
        # It whitens the advantages of each process by themselves, and deals each its own mini-batches.
        "ppo": f"train ppo {model} {prompts} {SAMPLED} args.value_model=null args.total_episodes=96 "
        "args.num_mini_batches=1 args.num_ppo_epochs=1 args.whiten_advantages=false",
    }


def train_here(
    commands: list[str], output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run the commands in this process, as `launched.py` does in others, and return what they print."""
    for module, name in ((rollouts, "sample_completions"), (ppo_rollouts, "sample_completions")):
        monkeypatch.setattr(module, name, getattr(module, name))  # undone after the test
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(output))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    same_replies_on_every_process()
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        for line in commands:
            assert cli.main(shlex.split(line)) == 0, capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


def test_two_processes_give_the_curve_of_one(
    reader_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = [f"{line} --name my-{name}" for name, line in lines(reader_files).items()]
    outputs = {label: tmp_path / label for label in ("one", "two")}
    done = run(torchrun(HERE / "launched.py", *commands), outputs["two"])
    assert done.returncode == 0, done.stderr[-3000:]
    printed = {
        "one": train_here(commands, outputs["one"], monkeypatch, capsys),
        "two": done.stdout,
    }
    for label, text in printed.items():
        assert text.count("stage: ") == len(commands), "the main process alone speaks"
        assert not list(outputs[label].glob("*/stages/.*.tmp"))
    for name in lines(reader_files):
        one, two = (output / "tiny" / "stages" / f"my-{name}" for output in outputs.values())
        curves = [
            json.loads((stage / "training_log.json").read_text(encoding="utf-8")) for stage in (one, two)
        ]
        measures = ["loss/policy_avg", "objective/scores"] if name == "ppo" else ["loss", "grad_norm"]
        for measure in measures:
            first, second = ([log[measure] for log in curve if measure in log] for curve in curves)
            assert len(first) >= 3
            assert second == pytest.approx(first, abs=2e-4), (name, measure)
        weights = [load_file(stage / "model.safetensors") for stage in (one, two)]
        start = load_file(reader_files["model"] / "model.safetensors")
        moved = max((weights[0][key] - start[key]).abs().max() for key in start)
        apart = max((weights[0][key] - weights[1][key]).abs().max() for key in start)
        assert moved > 1e-3
        assert apart < moved / 50, (name, apart, moved)


@on_request
def test_two_processes_stop_early_where_one_does(reader_files: dict[str, Path], tmp_path: Path) -> None:
    watched = "args.eval_strategy=steps args.eval_steps=2 data.dev=12 early_stopping=2 --name watched"
    # The trainer takes the mean over batches, whose sizes depend on the number of processes.
    line = f"{lines(reader_files)['sft']} args.per_device_eval_batch_size=1 {watched}"
    command = ["-m", "posttrain_helpers", *shlex.split(line.replace("=4", "=60").replace("3e-3", "2e-2"))]
    curves = []
    for label, start in (("one", [sys.executable]), ("two", torchrun())):
        done = run([*start, *command], tmp_path / label)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("the best on dev") == 1
        stage = tmp_path / label / "tiny" / "stages" / "watched"
        log = json.loads((stage / "training_log.json").read_text(encoding="utf-8"))
        curves.append({entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry})
    one, two = curves
    assert max(one) < 60
    assert list(one) == list(two)
    assert list(two.values()) == pytest.approx(list(one.values()), abs=2e-3)


@on_request
def test_a_missing_parent_is_asked_for_once(tmp_path: Path) -> None:
    done = run(torchrun("-m", "posttrain_helpers", "train", "dpo"), tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("build it first: python -m posttrain_helpers train sft") == 1
    assert not list(tmp_path.glob("tiny/stages/[a-z]*"))


@on_request
def test_accelerate_that_starts_one_process_of_two_is_refused(tmp_path: Path) -> None:
    launcher = "-m accelerate.commands.launch --cpu --num_processes 2 -m posttrain_helpers train sft"
    done = run([sys.executable, *launcher.split()], tmp_path)
    assert done.returncode != 0
    assert "error: accelerate launch was asked for several processes and has started one" in done.stderr


@on_request
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_dies_ends_the_other_within_a_minute(
    reader_files: dict[str, Path], tmp_path: Path
) -> None:
    line = lines(reader_files)["sft"].replace("args.max_steps=4", "args.max_steps=100000")
    environment = {**os.environ, "POSTTRAIN_OUTPUT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = torchrun("-m", "posttrain_helpers", *shlex.split(line), "--name", "long")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=environment
    ) as launcher:
        import psutil

        try:
            for printed in launcher.stdout:
                if " step " in printed:
                    break
            children = psutil.Process(launcher.pid).children()
            workers = [child for child in children if "posttrain_helpers" in child.cmdline()]
            assert len(workers) == 2
            workers[1].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            launcher.communicate(timeout=60)
            assert launcher.returncode != 0
            assert time.monotonic() - killed < 60
            assert not any(child.is_running() for child in workers)
        finally:
            launcher.kill()
    assert not list(tmp_path.glob("tiny/stages/long")), "a training that was cut short leaves no stage"


def readme_lines() -> list[str]:
    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("## From the notebook to eight GPUs")[2]
    block = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [line.partition("#")[0].strip() for line in block[1].splitlines()]


def on_two_cpus(line: str, reader_files: dict[str, Path]) -> list[str]:
    """Return a line of the README as two processes on CPUs can run it."""
    line = line.replace("--profile qwen3", lines(reader_files)["sft"].removeprefix("train sft "))
    line = line.replace("--nproc_per_node 8", "--nproc_per_node 2").replace("processes 8", "processes 2")
    line = line.replace("python -m", f"{sys.executable} -m").replace("torchrun", f"{sys.executable} -m {RUN}")
    return shlex.split(line.replace("accelerate launch", f"{sys.executable} -m {ACCELERATE} --multi_gpu"))


RUN, ACCELERATE = "torch.distributed.run", "accelerate.commands.launch"


def test_the_five_lines_of_the_readme_are_commands() -> None:
    found = readme_lines()
    assert len(found) == 5
    for line in found:
        cli._parse(cli.build_parser(), shlex.split("train" + line.partition("posttrain_helpers train")[2]))


@on_request
def test_the_five_lines_of_the_readme_run(reader_files: dict[str, Path], tmp_path: Path) -> None:
    plan, alone, eight, sharded, nodes = (on_two_cpus(line, reader_files) for line in readme_lines())
    assert "steps: 4, 16 rows" in run(plan, tmp_path).stdout
    for number, command in enumerate((alone, eight)):
        done = run([*command, "--name", f"line-{number}"], tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    # accelerate leaves FSDP out on CPUs: that is said, and DDP runs.
    sharded.remove("--multi_gpu")
    assert "asks for FSDP, but on CPUs" in run(sharded, tmp_path).stderr
    ddp = [part.replace("fsdp2.yaml", "ddp.yaml") for part in sharded]
    done = run([*ddp, "--name", "line-2"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    # Two "machines" of one process each.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [part.replace("first-node:29500", f"127.0.0.1:{port}") for part in nodes]
    nodes[nodes.index("--nproc_per_node") + 1] = "1"
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: run([*nodes, "--name", "line-3"], tmp_path), range(2)))
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    weights = [load_file(tmp_path / f"tiny/stages/line-{n}/model.safetensors") for n in range(4)]
    for other in weights[1:]:
        assert max((weights[0][key] - other[key]).abs().max() for key in other) < 1e-5
