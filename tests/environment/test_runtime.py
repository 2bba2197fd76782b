from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain_helpers.environment import runtime
from posttrain_helpers.environment.limits import available_cores
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.environment.runtime import (
    current_runtime,
    display_path,
    preserved_random_state,
    setup,
    trainer_defaults,
)
from posttrain_helpers.errors import CourseError


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch):
    """Undo what `setup` does to the process."""
    for name in (
        "POSTTRAIN_PROFILE",
        "HF_HUB_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "TRL_EXPERIMENTAL_SILENCE",
        "TOKENIZERS_PARALLELISM",
        "OMP_NUM_THREADS",
    ):
        value = os.environ.get(name)
        monkeypatch.setenv(name, "")  # recorded, so that the old state comes back
        if value is None or name in ("POSTTRAIN_PROFILE", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    from datasets import config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setattr(config, name, getattr(config, name))
    monkeypatch.setattr(runtime, "_current", None)
    monkeypatch.setattr(runtime, "_offline_by_setup", False)
    threads = torch.get_num_threads()
    with preserved_random_state(), warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


def test_every_trainer_after_setup_is_prepared() -> None:
    from transformers import trainer
    from trl.trainer import utils

    utils._use_triton = getattr(utils._use_triton, "without_cpu", utils._use_triton)
    trainer.DEFAULT_CALLBACKS[:] = [
        callback for callback in trainer.DEFAULT_CALLBACKS if callback.__name__ != "TrainingWatch"
    ]
    setup("tiny")
    assert utils._use_triton(torch.device("cpu"))
    assert [callback.__name__ for callback in trainer.DEFAULT_CALLBACKS].count("TrainingWatch") == 1


def test_card_has_seven_lines_and_says_what_was_decided(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    result = setup("tiny", seed=3, threads=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "profile",
        "model",
        "device",
        "memory",
        "seed",
        "split",
        "versions",
    ]
    assert re.search(r"CPU · float32 · 1 CPU thread · [\d,]+ GFLOP/s \(float32 matrix products\)$", lines[2])
    assert result.matmul_gflops > 0
    release = torch.__version__.split("+")[0]  # not every wheel's metadata names its build, such as +cpu
    assert f"torch {release}" in lines[6]
    assert (result.profile.name, result.seed, result.device, result.threads) == ("tiny", 3, "cpu", 1)
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("output_root")
def test_card_shows_another_base_model_and_every_change_of_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("POSTTRAIN_MODEL", str(tmp_path))
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", "args.max_steps=2  sft.data.source=rows.jsonl")
    setup("qwen3", threads=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "profile   qwen3: another base model (POSTTRAIN_MODEL) with the recipes of qwen3"
    assert lines[1] == f"model     {tmp_path} · see its card · download: nothing"
    assert lines[2].endswith("no GPU found: training on a CPU may take hours")
    assert lines[7:] == ["changes   args.max_steps=2 · sft.data.source=rows.jsonl"]


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ("", "split     test: what lessons report"),
        ("test", "split     test: what lessons report"),
        ("dev", "split     dev: settings are chosen on it"),
    ],
)
def test_card_says_which_split_is_measured_on(
    split: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTTRAIN_SPLIT", split)
    assert setup("tiny").split == (split or "test")
    assert line in capsys.readouterr().out.splitlines()


def test_a_split_that_is_not_held_out_stops_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_SPLIT", "train")
    with pytest.raises(CourseError, match="'train' is no held-out split"):
        setup("tiny")


def test_seed_makes_python_numpy_and_torch_repeat() -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        setup("tiny", seed=seed, threads=1)
        return random.random(), np.random.random(), torch.rand(1).item()

    first, other, again = draw(0), draw(1), draw(0)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_setup_chooses_the_profile_of_the_process() -> None:
    setup("qwen3", threads=1)
    assert current_runtime().profile.name == "qwen3"
    assert os.environ["POSTTRAIN_PROFILE"] == "qwen3"
    assert current_runtime("tiny").profile.name == "tiny"


def test_recipes_take_the_seed_of_setup() -> None:
    setup("tiny", seed=7, threads=1)
    assert trainer_defaults("tiny")["seed"] == 7
    assert trainer_defaults("qwen3")["seed"] == 0


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "0"])
def test_bad_seed(seed: object) -> None:
    with pytest.raises(CourseError, match="seed must be a whole number"):
        setup("tiny", seed=seed)


@pytest.mark.parametrize("threads", [0, -2, 1.5])
def test_bad_threads(threads: object) -> None:
    with pytest.raises(CourseError, match="threads must be a whole number"):
        setup("tiny", threads=threads)


def test_threads_follow_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert current_runtime("tiny").threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert current_runtime("tiny").threads == min(available_cores(), runtime.MOST_THREADS)


def test_threads_that_are_no_number_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "²")
    assert current_runtime("tiny").threads == 3


def test_threads_have_a_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 96)
    assert current_runtime("tiny").threads == runtime.MOST_THREADS


def test_offline_profile_switches_the_hub_off_and_an_online_one_on_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets
    from huggingface_hub import constants, is_offline_mode

    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = False
    setup("tiny", threads=1)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert is_offline_mode()
    assert datasets.config.HF_HUB_OFFLINE
    setup("qwen3", threads=1)
    assert "HF_HUB_OFFLINE" not in os.environ
    assert not is_offline_mode()
    assert not datasets.config.HF_HUB_OFFLINE
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    setup("qwen3", threads=1)
    assert datasets.config.HF_HUB_OFFLINE, "the reader's own choice"


@pytest.mark.parametrize(("value", "profile", "offline"), [("0", "tiny", False), ("1", "qwen3", True)])
def test_the_readers_own_choice_about_the_network_stays(
    monkeypatch: pytest.MonkeyPatch, value: str, profile: str, offline: bool
) -> None:
    from huggingface_hub import is_offline_mode

    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    setup(profile, threads=1)
    assert os.environ["HF_HUB_OFFLINE"] == value
    assert is_offline_mode() is offline


def test_telemetry_is_off() -> None:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "0"
    setup("tiny", threads=1)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.slow
def test_quiet_setup_prints_nothing_but_the_card() -> None:
    code = "from posttrain_helpers import setup; setup('tiny', threads=1); import trl"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 7
    assert result.stderr == ""


def test_a_gpu_profile_without_a_gpu_says_so_on_the_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    setup("qwen3", threads=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert "no GPU found" in lines[2]


def test_cpu_defaults_make_a_config_that_trl_accepts(tmp_path: Path) -> None:
    from trl import SFTConfig

    config = SFTConfig(str(tmp_path), **trainer_defaults("tiny"))
    assert config.use_cpu
    assert not config.bf16
    assert not config.gradient_checkpointing
    assert config.save_strategy == "no"


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_trains_a_real_model_in_bfloat16_where_it_multiplies_that_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(runtime, "multiplies_bfloat16_fast", lambda device: fast)
    assert trainer_defaults("smollm2")["bf16"] is fast
    expected = "float32, bfloat16 in training and sampling" if fast else "float32"
    assert current_runtime("smollm2").precision == expected
    assert f"CPU · {expected} · " in str(current_runtime("smollm2"))


def test_the_numbers_of_the_tiny_profile_are_float32_on_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "multiplies_bfloat16_fast", lambda device: True)
    assert trainer_defaults("tiny")["bf16"] is False
    assert current_runtime("tiny").precision == "float32"


@pytest.mark.parametrize("native", [True, False])
def test_gpu_defaults_use_bfloat16_where_the_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    defaults = trainer_defaults("qwen3")
    assert (defaults["bf16"], defaults["fp16"]) == (native, not native)
    assert "use_cpu" not in defaults


def test_the_tiny_profile_stays_on_the_cpu_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert current_runtime("tiny").device == "cpu"
    assert current_runtime("qwen3").device == "cuda"


def test_random_state_is_preserved_also_after_an_error() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.Random(1).random()

    def disturb() -> None:
        with preserved_random_state():
            random.seed(99)
            np.random.seed(99)
            torch.manual_seed(99)
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert random.random() == expected
    assert np.random.random() == np.random.RandomState(1).random_sample()
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(1)))


def test_paths_are_shown_relative_to_the_repository(tmp_path: Path) -> None:
    inside = repository_root() / "posttrain_helpers" / "recipes"
    assert display_path(inside) == "posttrain_helpers/recipes"
    assert display_path(tmp_path) == str(tmp_path)
    assert display_path("Qwen/Qwen3-0.6B-Base") == "Qwen/Qwen3-0.6B-Base"


def test_the_card_names_a_profile_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = replace(PROFILES["tiny"], base_model=str(tmp_path))
    setup(profile, threads=1)
    assert str(tmp_path) in capsys.readouterr().out
