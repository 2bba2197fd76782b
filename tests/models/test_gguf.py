"""GGUF files are dequantized once, and load like any other model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_gguf import TEMPLATE, TEXTS, small_llama, write_gguf

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import gguf
from posttrain_helpers.models.gguf import dequantize, dequantized_directory, is_gguf_file
from posttrain_helpers.models.manifest import model_identity
from posttrain_helpers.stages.loading import load_model_and_tokenizer

pytestmark = pytest.mark.usefixtures("output_root")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="module")
def directory(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dequantized")
    assert dequantize(file, directory) == []
    return directory


def test_weights_come_back_as_they_were(directory: Path) -> None:
    written, (model, _) = load_file(directory / "model.safetensors"), small_llama()
    expected = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(written[name], value), name
        assert written[name].dtype == torch.float32


def test_the_config_is_that_of_an_ordinary_model(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_parameters"]["rope_theta"] == 50000.0
    assert config["max_position_embeddings"] == 128
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config


def test_the_tokenizer_gives_the_same_tokens(directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, (_, expected) = AutoTokenizer.from_pretrained(directory), small_llama()
    special = "<|im_start|>user\nIs it 12?<|im_end|>\n"
    # Two blanks before a digit are one token where digits are split off first, and two otherwise.
    hard = ["  12 apples", "a\n\n5", "\r\n 7", "é 東京 🙂", "½ ² ٣٤", "", " ", "1234567", special]
    for text in [*TEXTS[:3], *hard]:
        ids = tokenizer(text)["input_ids"]
        assert ids == expected(text)["input_ids"], text
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("123")["input_ids"]) == 3
    assert tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id
    assert tokenizer.special_tokens_map == expected.special_tokens_map
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 128


def test_quantized_weights_are_near_and_said_to_be_floats(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    dequantize(write_gguf(tmp_path / "q.gguf", quantization="Q4_1"), tmp_path / "directory")
    written, (model, _) = load_file(tmp_path / "directory" / "model.safetensors"), small_llama()
    name = "model.layers.0.self_attn.q_proj.weight"
    error = (written[name] - model.state_dict()[name]).abs().max()
    assert 0 < error < 0.1
    assert written[name].dtype == torch.float32


def test_values_that_the_file_lacks_can_be_given(file: Path, tmp_path: Path) -> None:
    dequantize(file, tmp_path, {"initializer_range": 0.04})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["initializer_range"] == 0.04


def test_a_file_loads_by_its_path_and_is_dequantized_once(
    file: Path, output_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = load_model_and_tokenizer(file)
    printed = capsys.readouterr().out
    assert "dequantizing" in printed
    assert "the padding token is <|endoftext|>" in printed
    expected, _ = small_llama()
    ids = torch.tensor([tokenizer("What is 3 + 4?")["input_ids"]])
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, expected(ids).logits, atol=1e-5)
    # Its trainers load the reference model again from where it lies.
    assert Path(model.config._name_or_path).parent == output_root / "models"
    copy = Path(shutil.copy(file, tmp_path / "small.gguf"))
    load_model_and_tokenizer(str(copy), verbose=False)
    assert capsys.readouterr().out == ""
    assert model_identity(str(copy)) == model_identity(str(file))


def test_files_beside_it_are_not_read(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path / "small.gguf"))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "nonsense"}', encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("nonsense", encoding="utf-8")
    _, tokenizer = load_model_and_tokenizer(copy, verbose=False)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "im_start" in tokenizer.chat_template


def test_it_can_be_the_base_model_of_a_profile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("POSTTRAIN_MODEL", file.name)
    profile = get_profile("tiny")
    assert profile.base_model == str(file)
    assert (profile.offline, profile.download) == (True, "nothing")
    model, _ = load_model_and_tokenizer("base", profile=profile, verbose=False)
    assert model.config.model_type == "llama"


def test_a_recipe_can_be_planned_with_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.stages.planning import plan_recipe

    monkeypatch.chdir(file.parent)
    assert "GB" in plan_recipe(load_recipe("sft", "tiny", {"model": file.name})).sentence()


def test_its_label_on_the_board_is_its_name(file: Path) -> None:
    from posttrain_helpers.evaluation.targets import label_of

    assert label_of(file) == "small.gguf"


def test_an_adapter_stands_on_it(file: Path, tmp_path: Path) -> None:
    model, _ = load_model_and_tokenizer(file, lora={"r": 2}, verbose=False)
    model.save_pretrained(tmp_path / "adapter")
    load_model_and_tokenizer(tmp_path / "adapter", verbose=False)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


@pytest.mark.parametrize(
    "damage",
    [cut, lambda content: content[:100], lambda content: b"", lambda content: b"text" * 1000],
    ids=["cut off", "a piece of the header", "empty", "another format"],
)
def test_a_damaged_file_is_one_sentence(file: Path, tmp_path: Path, output_root: Path, damage) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CourseError, match=r"bad\.gguf could not be read as a GGUF model") as caught:
        load_model_and_tokenizer(path)
    assert len(str(caught.value)) < 600
    assert list((output_root / "models").iterdir()) == []


def test_an_architecture_that_is_not_supported_is_one_sentence(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "own.gguf", architecture="rwkv7")
    with pytest.raises(CourseError, match=r"own\.gguf could not be read .*rwkv7 is not supported"):
        load_model_and_tokenizer(path)


def test_without_its_package_it_is_one_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "is_installed", lambda package: False)
    with pytest.raises(CourseError, match="with the package gguf, which is missing; run `python -m pip"):
        load_model_and_tokenizer(file)


def test_a_way_of_splitting_that_is_not_known_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dequantized_directory(write_gguf(tmp_path / "own.gguf", splitting="bailingmoe"))
    assert "note: its way of splitting texts ('bailingmoe') is not known here" in capsys.readouterr().out


def test_missing_weights_are_not_filled_with_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import small_gguf

    own = small_gguf._gguf_name
    monkeypatch.setattr(
        small_gguf, "_gguf_name", lambda name: own(name).replace("blk.1.ffn_up", "blk.1.none")
    )
    path = write_gguf(tmp_path / "small.gguf")
    with pytest.raises(CourseError, match=r"lacks 1 parameters, the first is model\.layers\.1\.mlp\.up_proj"):
        load_model_and_tokenizer(path)


def test_only_files_with_the_right_name_count(file: Path, tmp_path: Path) -> None:
    assert is_gguf_file(file)
    assert not is_gguf_file(tmp_path / "missing.gguf")
    (tmp_path / "directory.gguf").mkdir()
    assert not is_gguf_file(tmp_path / "directory.gguf")
    with pytest.raises(
        CourseError, match=r"is a file; give the directory .* or a file that ends with \.gguf"
    ):
        load_model_and_tokenizer(shutil.copy(file, tmp_path / "small.bin"))


def test_numbers_of_32_bits_are_written_shortly() -> None:
    from types import SimpleNamespace

    config = SimpleNamespace(eps=float(np.float32(1e-5)), range=0.02, layers=2, name="x")
    gguf._clean(config, {"extra": 1})
    assert vars(config) == {"eps": 1e-5, "range": 0.02, "layers": 2, "name": "x", "extra": 1}
