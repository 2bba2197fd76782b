"""Pre-training is reproducible, resumes, and never leaves a model that is half made."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld.pretraining import corpus
from posttrain_helpers.tinyworld.pretraining import pretrain as module
from posttrain_helpers.tinyworld.pretraining.corpus import batches, build_tokenizer, shard
from posttrain_helpers.tinyworld.pretraining.pretrain import (
    BASE_DIRECTORY,
    PretrainConfig,
    build_model,
    learning_rate_at,
    pretrain,
)

CONFIG = PretrainConfig(size="small", tokens=4 * 64 * 12, vocab_size=320, sequence_length=64, batch_size=4)
SHRUNKEN = {"hidden_size": 32, "num_key_value_heads": 1}


@pytest.fixture
def shrunken(monkeypatch):
    """Make every part of a run small enough for a test."""
    monkeypatch.setitem(module.SIZES, "small", SHRUNKEN)
    monkeypatch.setattr(corpus, "TOKENIZER_DOCUMENTS", 60)
    monkeypatch.setattr(corpus, "SHARD_TOKENS", 4 * 64 * 5)


def run(target: Path) -> None:
    pretrain(CONFIG, target, precision="float32")


def run_interrupted(monkeypatch, target: Path, steps: int) -> None:
    """Run until an interruption after so many steps, each of which writes a checkpoint."""

    def few(*args, **kwargs):
        yield from islice(batches(*args, **kwargs), steps)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "CHECKPOINT_SECONDS", -1)
        patched.setattr(module, "batches", few)
        with pytest.raises(KeyboardInterrupt):
            run(target)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.usefixtures("shrunken")
def test_a_seed_reproduces_the_model_and_resuming_changes_nothing(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    run_interrupted(monkeypatch, tmp_path / "pieces", 5)
    assert not (tmp_path / "pieces").exists()
    run_interrupted(monkeypatch, tmp_path / "pieces", 4)
    run(tmp_path / "pieces")
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], pieces[name], rtol=0, atol=1e-6)
    assert not (tmp_path / "pieces.training").exists()


@pytest.mark.usefixtures("shrunken")
def test_another_seed_gives_another_model(tmp_path):
    run(tmp_path / "a")
    other = PretrainConfig(**{**CONFIG.__dict__, "seed": 1})
    pretrain(other, tmp_path / "b", precision="float32")
    assert not torch.equal(
        weights(tmp_path / "a")["model.norm.weight"], weights(tmp_path / "b")["model.norm.weight"]
    )


@pytest.mark.usefixtures("shrunken")
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    run_interrupted(monkeypatch, tmp_path / "model", 2)
    other = PretrainConfig(**{**CONFIG.__dict__, "learning_rate": 1e-4})
    with pytest.raises(CourseError, match=r"belongs to a run with other settings.*--restart"):
        pretrain(other, tmp_path / "model", precision="float32")


@pytest.mark.usefixtures("shrunken")
def test_a_diverging_run_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "learning_rate_at", lambda *_: float("inf"))
    with pytest.raises(CourseError, match=r"loss is nan at step 1.*lower the learning rate"):
        run(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("shrunken")
def test_finished_model_loads_and_says_how_it_was_made(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.model_type == "qwen3"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert set(model.generation_config.eos_token_id) == {tokenizer.eos_token_id, tokenizer.pad_token_id}
    record = json.loads((tmp_path / "model" / "pretraining.json").read_text(encoding="utf-8"))
    assert record["config"]["seed"] == 0
    assert record["losses"][-1][0] == CONFIG.steps


SCRIPT = """
import sys
from pathlib import Path
from posttrain_helpers.tinyworld.pretraining import corpus
from posttrain_helpers.tinyworld.pretraining import pretrain as module
from posttrain_helpers.tinyworld.pretraining.corpus import batches, build_tokenizer, shard
module.SIZES["small"] = {shrunken!r}
module.CHECKPOINT_SECONDS = 0.2
corpus.TOKENIZER_DOCUMENTS, corpus.SHARD_TOKENS = 60, 4 * 64 * 5
sizes = dict(tokens=4 * 64 * 4000, vocab_size=320, sequence_length=64, batch_size=4)
config = module.PretrainConfig(size="small", **sizes)
module.pretrain(config, Path(sys.argv[1]), precision="float32")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_leaves_no_model_and_a_rerun_continues(tmp_path):
    target, script = tmp_path / "model", tmp_path / "run.py"
    script.write_text(SCRIPT.format(shrunken=SHRUNKEN), encoding="utf-8")
    process = subprocess.Popen([sys.executable, script, target], stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "model.training" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not target.exists()
    step = torch.load(checkpoint, weights_only=True)["progress"]["step"]
    assert step > 0
    process = subprocess.Popen([sys.executable, "-u", script, target], stdout=subprocess.PIPE, text=True)
    first_line = process.stdout.readline()
    process.kill()
    process.wait()
    assert f"from step {step}" in first_line


def test_learning_rate_warms_up_and_falls_to_a_hundredth():
    config = PretrainConfig(tokens=256 * 16 * 1000)
    rates = [learning_rate_at(step, config) for step in range(config.steps)]
    assert rates[0] < rates[10] < max(rates) == pytest.approx(config.learning_rate)
    assert rates[-1] == pytest.approx(config.learning_rate / 100, rel=0.01)
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.usefixtures("shrunken")
def test_shards_are_reproducible_and_windows_cover_them_once(tmp_path):
    tokenizer = build_tokenizer(0, 320)
    first = shard(tokenizer, 0, 0)
    assert (first == shard(tokenizer, 0, 0)).all()
    assert (first != shard(tokenizer, 0, 1)).any()
    drawn = batches(tokenizer, 0, 0, batch_size=4, length=64)
    seen = torch.cat([next(drawn) for _ in range(5)]).flatten().sort().values
    expected = torch.from_numpy(first).sort().values
    assert torch.equal(seen, expected)


def test_every_size_is_within_the_promise():
    from types import SimpleNamespace

    class Vocabulary(SimpleNamespace):
        def __len__(self) -> int:
            return 2048

    for size in module.SIZES:
        model = build_model(PretrainConfig(size=size), Vocabulary(pad_token_id=0, eos_token_id=2))
        assert 2e6 <= model.num_parameters() <= 8e6, size


def test_shipped_base_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in BASE_DIRECTORY.iterdir()}
    assert sum(files.values()) <= 20 * 2**20
    assert {
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "skills.json",
        "loss.png",
        "pretraining.json",
    } <= set(files)


@pytest.mark.parametrize("out", ["papers", "papers/thesis.tex", "."])
def test_only_an_earlier_result_is_replaced(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    thesis = tmp_path / "papers" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work", encoding="utf-8")
    trained = []
    monkeypatch.setattr(module, "pretrain", lambda _, target, **__: trained.append(target))
    monkeypatch.setattr("posttrain_helpers.tinyworld.pretraining.model_card.write_model_card", lambda _: None)
    with pytest.raises(CourseError, match="is there already and nothing is written over it"):
        module.main(["--out", out])
    assert thesis.read_text("utf-8") == "years of work"
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "pretraining.json").touch()
    assert module.main(["--out", "earlier"]) == module.main(["--out", "new"]) == 0
    assert trained == [tmp_path / "earlier", tmp_path / "new"]


def test_unknown_device_and_missing_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CourseError, match="sees no GPU"):
        module.main(["--device", "cuda"])
    for words in ("--size huge", "--tokens nan", "--tokens inf", "--tokens 0", "--threads -1"):
        with pytest.raises(SystemExit):
            module.main(words.split())
