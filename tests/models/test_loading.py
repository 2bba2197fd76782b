from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import small_qwen3
from transformers import AutoTokenizer

from posttrain_helpers.environment import profiles
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.chatml import chat_template
from posttrain_helpers.models.loading import with_all_weights_trained
from posttrain_helpers.stages.loading import load_model_and_tokenizer

pytestmark = pytest.mark.usefixtures("output_root")


@pytest.fixture
def model_dir(random_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model_dir, tmp_path / "model"))


@pytest.fixture
def adapter_dir(model_dir: Path, tmp_path: Path) -> Path:
    model, tokenizer = load_model_and_tokenizer(
        model_dir, lora={"r": 2, "target_modules": "all-linear"}, verbose=False
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[5, 6, 7]])).logits


def test_a_directory(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_model_and_tokenizer(model_dir)
    assert not model.training
    assert model.device.type == "cpu"
    assert model.dtype == torch.float32
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    parameters = sum(p.numel() for p in model.parameters())
    assert f"{parameters:,} parameters, float32, cpu" in capsys.readouterr().out


def test_verbose_false_prints_nothing(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_dir / "chat_template.jinja").unlink()
    load_model_and_tokenizer(model_dir, verbose=False)
    assert capsys.readouterr().out == ""


def test_base_is_the_model_of_the_profile(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(profiles.PROFILES["tiny"], base_model=str(model_dir))
    monkeypatch.setitem(profiles.PROFILES, "tiny", own)
    model, _ = load_model_and_tokenizer("base", verbose=False)
    assert torch.equal(logits(model), logits(load_model_and_tokenizer(model_dir, verbose=False)[0]))


def test_the_shipped_base_needs_no_repair(capsys: pytest.CaptureFixture[str]) -> None:
    load_model_and_tokenizer("base")
    assert "repaired" not in capsys.readouterr().out


def test_dtype(model_dir: Path) -> None:
    assert load_model_and_tokenizer(model_dir, dtype="bfloat16", verbose=False)[0].dtype == torch.bfloat16


def test_repairs_are_printed(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_dir / "chat_template.jinja").unlink()
    edit_json(model_dir / "tokenizer_config.json", pad_token=None, chat_template=None)
    edit_json(model_dir / "generation_config.json", temperature=0.6)
    model, tokenizer = load_model_and_tokenizer(model_dir)
    printed = capsys.readouterr().out
    assert printed.count("repaired:") == 3
    assert tokenizer.chat_template == chat_template()
    assert tokenizer.pad_token == "<|endoftext|>"
    model.save_pretrained(model_dir.parent / "saved")


def test_the_profile_replaces_the_template_of_its_own_base_only(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = (model_dir / "chat_template.jinja").read_text(encoding="utf-8") + "{# thinks #}"
    (model_dir / "chat_template.jinja").write_text(foreign, encoding="utf-8")
    other = Path(shutil.copytree(model_dir, model_dir.parent / "other"))
    own = replace(profiles.PROFILES["qwen3"], base_model=str(model_dir))
    monkeypatch.setitem(profiles.PROFILES, "qwen3", own)
    assert (
        load_model_and_tokenizer("base", profile="qwen3", verbose=False)[1].chat_template == chat_template()
    )
    assert "thinks" in load_model_and_tokenizer(other, profile="qwen3", verbose=False)[1].chat_template


def test_fallback_to_the_cpu_is_said_once_where_a_gpu_was_wanted(
    model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, _ = load_model_and_tokenizer(model_dir, profile="qwen3")
    assert model.device.type == "cpu"
    assert capsys.readouterr().out.count("no GPU was found") == 1
    load_model_and_tokenizer(model_dir, profile="tiny")
    load_model_and_tokenizer(model_dir, use_gpu=False, profile="qwen3")
    assert "GPU" not in capsys.readouterr().out


def test_a_gpu_that_is_too_small(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    def refuse(self: PreTrainedModel, device: str) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(PreTrainedModel, "to", refuse)
    with pytest.raises(CourseError, match=r"too little free memory for the 0\.0 GB.*use_gpu=False"):
        load_model_and_tokenizer(model_dir, profile="qwen3", verbose=False)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/no/such/model", "model directory .* does not exist"),
        ("./missing", "directory missing does not exist"),
        ("someone/some-model", "'someone/some-model' is not in the cache .*offline profile 'tiny'"),
        ("not a name", "no stage, no existing directory and no possible Hub id"),
    ],
)
def test_nothing_there(name: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_model_and_tokenizer(name)


def test_a_file_instead_of_a_directory(model_dir: Path) -> None:
    with pytest.raises(CourseError, match="is a file; give the directory"):
        load_model_and_tokenizer(model_dir / "model.safetensors")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(CourseError, match=r"no model directory: expected config\.json .* found .*notes\.txt"):
        load_model_and_tokenizer(tmp_path)


def test_a_model_without_tokenizer(model_dir: Path) -> None:
    for path in model_dir.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CourseError, match="weights but no tokenizer"):
        load_model_and_tokenizer(model_dir)


def test_a_damaged_tokenizer(model_dir: Path) -> None:
    (model_dir / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CourseError, match=r"tokenizer in .* could not be loaded"):
        load_model_and_tokenizer(model_dir)


def test_half_a_weights_file(model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CourseError, match="corrupt or cut off"):
        load_model_and_tokenizer(model_dir)


def test_pickled_weights(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    with pytest.raises(CourseError, match="a pickle that can run code"):
        load_model_and_tokenizer(model_dir)


def test_missing_parameters_are_not_filled_with_random_numbers(model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model_dir / "model.safetensors")
    removed = next(name for name in tensors if "mlp" in name)
    del tensors[removed]
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CourseError, match=f"lack 1 parameters .*the first is {removed}"):
        load_model_and_tokenizer(model_dir)


@pytest.mark.parametrize(
    "config",
    ["{", '{"model_type": "nonsense"}', '{"model_type": "bert", "hidden_size": 32}'],
    ids=["not JSON", "unknown architecture", "another architecture"],
)
def test_a_config_that_does_not_fit(model_dir: Path, config: str) -> None:
    (model_dir / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(
        CourseError, match=r"could not be loaded as a language model|would be random|is damaged"
    ):
        load_model_and_tokenizer(model_dir)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "null"),
        ("config.json", "[" * 100_000),
        ("config.json", '"text"'),
        ("model.safetensors.index.json", "garbage"),
        ("model.safetensors.index.json", "[]"),
        ("model.safetensors.index.json", '{"weight_map": ["a"]}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": 5}}'),
        ("adapter_config.json", "garbage"),
        ("adapter_config.json", "[1, 2]"),
        ("adapter_config.json", "[" * 100_000),
    ],
)
def test_a_json_file_of_garbage_is_one_sentence(model_dir: Path, file: str, content: str) -> None:
    (model_dir / file).write_text(content, encoding="utf-8")
    if file.endswith("index.json"):
        (model_dir / "model.safetensors").unlink()
    with pytest.raises(
        CourseError, match=rf"{file} is damaged: .*; save or download the model again\."
    ) as caught:
        load_model_and_tokenizer(model_dir)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", ["garbage", "[1]", "[" * 100_000])
def test_a_tokenizer_config_of_garbage_is_one_sentence(model_dir: Path, content: str) -> None:
    (model_dir / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=r"the tokenizer in .* could not be loaded: ") as caught:
        load_model_and_tokenizer(model_dir)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": "four"},
        {"hidden_size": [64]},
        {"vocab_size": -1},
        {"architectures": 5},
        {"model_type": 5},
    ],
)
def test_a_config_with_values_of_another_kind_is_one_sentence(model_dir: Path, change: dict) -> None:
    edit_json(model_dir / "config.json", **change)
    with pytest.raises(CourseError, match=r"could not be loaded as a language model|is damaged"):
        load_model_and_tokenizer(model_dir)


@pytest.mark.parametrize(
    "change", [{"base_model_name_or_path": 5}, {"r": "four"}, {"peft_type": "NONE"}, {"target_modules": 5}]
)
def test_an_adapter_config_with_values_of_another_kind(adapter_dir: Path, change: dict) -> None:
    edit_json(adapter_dir / "adapter_config.json", **change)
    with pytest.raises(CourseError, match=r"does not name its base model|does not fit its base model"):
        load_model_and_tokenizer(adapter_dir)


def test_code_of_a_model_repository_does_not_run(model_dir: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = (
        f"open({str(trap)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig\n"
        "class C(PretrainedConfig): pass\n"
    )
    (model_dir / "modeling_own.py").write_text(code, encoding="utf-8")
    edit_json(model_dir / "config.json", model_type="own", auto_map={"AutoConfig": "modeling_own.C"})
    with pytest.raises(CourseError, match="could not be loaded"):
        load_model_and_tokenizer(model_dir)
    assert not trap.exists()


def test_a_fresh_adapter_trains_few_parameters(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = load_model_and_tokenizer(model_dir, lora={"r": 2})
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not any(module.training for module in model.modules())
    assert "of them trained" in capsys.readouterr().out


def test_lora_settings_that_do_not_fit(model_dir: Path) -> None:
    for settings in ({"rank": 2}, {"target_modules": ["no_such_layer"]}):
        with pytest.raises(CourseError, match=r"LoRA settings .* do not fit Qwen3ForCausalLM"):
            load_model_and_tokenizer(model_dir, lora=settings, verbose=False)


def test_an_adapter_directory_loads_base_and_adapter(adapter_dir: Path, model_dir: Path) -> None:
    adapted, tokenizer = load_model_and_tokenizer(adapter_dir, verbose=False)
    base, _ = load_model_and_tokenizer(model_dir, verbose=False)
    assert not adapted.training
    assert not torch.allclose(logits(adapted), logits(base))
    with adapted.disable_adapter():
        assert torch.allclose(logits(adapted), logits(base))
    assert tokenizer.chat_template == chat_template()


def test_every_weight_is_trained_once_an_adapter_is_merged(adapter_dir: Path, model_dir: Path) -> None:
    base, _ = load_model_and_tokenizer(model_dir, verbose=False)
    assert with_all_weights_trained(base) is base
    adapted, _ = load_model_and_tokenizer(adapter_dir, verbose=False)
    expected = logits(adapted)
    merged = with_all_weights_trained(adapted)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not hasattr(merged, "peft_config")
    assert torch.allclose(logits(merged), expected, atol=1e-5)


def test_an_adapter_whose_base_is_gone(adapter_dir: Path, model_dir: Path) -> None:
    shutil.rmtree(model_dir)
    with pytest.raises(CourseError, match=r"model directory .* does not exist"):
        load_model_and_tokenizer(adapter_dir)


def test_an_adapter_that_names_no_base(adapter_dir: Path) -> None:
    edit_json(adapter_dir / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(CourseError, match="does not name its base model"):
        load_model_and_tokenizer(adapter_dir)


def test_an_adapter_of_another_shape(adapter_dir: Path) -> None:
    edit_json(adapter_dir / "adapter_config.json", r=3)
    with pytest.raises(CourseError, match="does not fit its base model"):
        load_model_and_tokenizer(adapter_dir)


def test_an_adapter_on_an_adapter(adapter_dir: Path, tmp_path: Path) -> None:
    parent, tokenizer = load_model_and_tokenizer(adapter_dir, verbose=False)
    child, _ = load_model_and_tokenizer(adapter_dir, lora={"r": 2}, verbose=False)
    assert torch.allclose(logits(child), logits(parent), atol=1e-4)
    trained = [name for name, parameter in child.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    directory = tmp_path / "child"
    child.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    # A stage knows its parent by name; here the file says it.
    edit_json(directory / "adapter_config.json", base_model_name_or_path=str(adapter_dir))
    again, _ = load_model_and_tokenizer(directory, verbose=False)
    assert torch.allclose(logits(again), logits(child), atol=1e-5)
    assert not torch.allclose(logits(again), logits(parent), atol=1e-3)


def test_quantization_without_its_library(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain_helpers.models.loading.is_installed", lambda package: False)
    with pytest.raises(CourseError, match="needs bitsandbytes"):
        load_model_and_tokenizer(model_dir, quantization="4bit")
    with pytest.raises(CourseError, match="'4bit' or '8bit', but it is '2bit'"):
        load_model_and_tokenizer(model_dir, quantization="2bit")


def test_a_module_to_save_that_is_not_there(model_dir: Path) -> None:
    lora = {"r": 2, "target_modules": "all-linear", "modules_to_save": ["embed_token"]}
    with pytest.raises(CourseError, match=r"names 'embed_token', .* did you mean 'embed_tokens'\? correct"):
        load_model_and_tokenizer(model_dir, lora=lora, verbose=False)


@pytest.mark.parametrize(("width", "refused"), [(64, False), (96, True)])
def test_rows_that_bitsandbytes_reads_wrongly_on_a_cpu(
    random_model_dir: Path, tmp_path: Path, width: int, refused: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    small_qwen3(tokenizer, hidden_size=width, intermediate_size=64).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refusal = pytest.raises(CourseError, match=f"rows of {width}; load it without quantization")
    with refusal if refused else nullcontext():
        load_model_and_tokenizer(tmp_path, use_gpu=False, quantization="4bit", verbose=False)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("is_adapter", [True, False])
def test_a_quantized_reward_model(
    random_model_dir: Path, tmp_path: Path, quantization: str, is_adapter: bool
) -> None:
    bnb = pytest.importorskip("peft.tuners.lora.bnb")
    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    small_qwen3(tokenizer, hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    place, lora = tmp_path, {"r": 2, "target_modules": "all-linear"}
    if is_adapter:
        place = tmp_path / "adapter"
        adapter, _ = load_model_and_tokenizer(tmp_path, lora=lora, verbose=False)
        adapter.save_pretrained(place)
        tokenizer.save_pretrained(place)
    model, _ = load_model_and_tokenizer(
        place, head="reward", quantization=quantization, lora=lora, use_gpu=False, verbose=False
    )
    layer = {"4bit": bnb.Linear4bit, "8bit": bnb.Linear8bitLt}[quantization]
    assert any(isinstance(module, layer) for module in model.modules())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("score" in name for name in trained)
    assert all("lora_" in name or "score" in name for name in trained)
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    learning = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learning)


# --- reward models ---


def scores(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]])).logits


@pytest.fixture
def reward_dir(model_dir: Path, tmp_path: Path) -> Path:
    torch.manual_seed(7)
    model, tokenizer = load_model_and_tokenizer(model_dir, head="reward", verbose=False)
    model.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


def test_a_fresh_score_head_is_said_and_comes_from_the_random_state(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model, tokenizer = load_model_and_tokenizer(model_dir, head="reward")
        assert type(model).__name__ == "Qwen3ForSequenceClassification"
        assert model.config.pad_token_id == tokenizer.pad_token_id
        assert not model.training
        return model.score.weight

    first = head(0)
    assert first.shape == (1, 32)
    assert torch.equal(first, head(0))
    assert not torch.equal(first, head(1))
    assert "repaired: a fresh score head was added; its scores mean nothing" in capsys.readouterr().out


def test_only_the_score_head_is_fresh(model_dir: Path) -> None:
    reward, _ = load_model_and_tokenizer(model_dir, head="reward", verbose=False)
    language, _ = load_model_and_tokenizer(model_dir, verbose=False)
    for name, weights in language.model.named_parameters():
        assert torch.equal(weights, reward.model.get_parameter(name))


def test_missing_parameters_of_a_new_reward_model_are_not_filled(model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model_dir / "model.safetensors")
    removed = next(name for name in tensors if "mlp" in name)
    del tensors[removed]
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CourseError, match=f"lack 1 parameters .*the first is {removed}"):
        load_model_and_tokenizer(model_dir, head="reward")


@pytest.mark.parametrize("head", [None, "reward"])
def test_a_reward_directory_keeps_its_score_head(
    reward_dir: Path, model_dir: Path, head: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(7)
    expected = scores(load_model_and_tokenizer(model_dir, head="reward", verbose=False)[0])
    torch.manual_seed(8)
    model, _ = load_model_and_tokenizer(reward_dir, head=head)
    assert torch.equal(scores(model), expected)
    assert expected.shape == (2, 1)
    assert "repaired" not in capsys.readouterr().out


def test_a_reward_directory_that_lost_its_score_head(reward_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(reward_dir / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, reward_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CourseError, match=r"lack 1 parameters .*the first is score\.weight"):
        load_model_and_tokenizer(reward_dir)


def test_a_reward_model_is_no_language_model(reward_dir: Path) -> None:
    with pytest.raises(CourseError, match=r"is a reward model: it has a score head and cannot write text"):
        load_model_and_tokenizer(reward_dir, head="language")


def test_a_classifier_is_no_reward_model(reward_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(reward_dir / "model.safetensors")
    tensors["score.weight"] = torch.zeros(3, 32)
    save_file(tensors, reward_dir / "model.safetensors", metadata={"format": "pt"})
    labels = {str(number): f"LABEL_{number}" for number in range(3)}
    edit_json(reward_dir / "config.json", id2label=labels, label2id={v: int(k) for k, v in labels.items()})
    with pytest.raises(
        CourseError, match="is a classifier with 3 labels, but a reward model gives one score"
    ):
        load_model_and_tokenizer(reward_dir)


def test_unknown_head(model_dir: Path) -> None:
    with pytest.raises(CourseError, match=r"head must be 'language' or 'reward', .* but it is 'value'"):
        load_model_and_tokenizer(model_dir, head="value")


def test_head_language_on_a_language_model_changes_nothing(model_dir: Path) -> None:
    model, _ = load_model_and_tokenizer(model_dir, head="language", verbose=False)
    assert torch.equal(logits(model), logits(load_model_and_tokenizer(model_dir, verbose=False)[0]))


def test_new_tokens_in_a_reward_model(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, tokenizer = load_model_and_tokenizer(model_dir, verbose=False)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(model_dir)
    model, tokenizer = load_model_and_tokenizer(model_dir, head="reward")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert "more rows" in capsys.readouterr().out
    assert scores(model).shape == (2, 1)


@pytest.fixture
def reward_adapter_dir(model_dir: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    model, tokenizer = load_model_and_tokenizer(
        model_dir, head="reward", lora={"r": 2, "target_modules": "all-linear"}, verbose=False
    )
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in trainable)
    assert any("lora_A" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", scores(model)


@pytest.mark.parametrize("head", [None, "reward"])
def test_the_adapter_of_a_reward_model_brings_its_score_head(
    reward_adapter_dir: tuple, head: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, expected = reward_adapter_dir
    model, _ = load_model_and_tokenizer(directory, head=head)
    assert torch.allclose(scores(model), expected, atol=1e-6)
    assert "fresh" not in capsys.readouterr().out


def test_the_adapter_of_a_reward_model_is_no_language_model(reward_adapter_dir: tuple) -> None:
    with pytest.raises(CourseError, match="is a reward model"):
        load_model_and_tokenizer(reward_adapter_dir[0], head="language")


def test_the_adapter_of_a_reward_model_without_score_head(reward_adapter_dir: tuple) -> None:
    from safetensors.torch import load_file, save_file

    path = reward_adapter_dir[0] / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if "score" not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CourseError, match="lacks its score head, which would be random"):
        load_model_and_tokenizer(reward_adapter_dir[0])


def test_the_adapter_of_a_language_model_is_merged_below_a_score_head(
    adapter_dir: Path, tmp_path: Path
) -> None:
    adapted, tokenizer = load_model_and_tokenizer(adapter_dir, verbose=False)
    scoring, _ = load_model_and_tokenizer(adapter_dir, head="reward", verbose=False)
    assert not hasattr(scoring, "peft_config")
    assert not any(module.training for module in scoring.modules())
    assert all(parameter.requires_grad for parameter in scoring.parameters())
    ids = torch.tensor([tokenizer("A cow says moo.")["input_ids"]])
    with torch.no_grad():
        expected = adapted.get_base_model().model(ids).last_hidden_state
        torch.testing.assert_close(scoring.model(ids).last_hidden_state, expected, atol=1e-4, rtol=0)
        assert scoring(ids).logits.shape == (1, 1)


def test_lora_settings_of_a_language_model_do_not_fit_a_reward_model(model_dir: Path) -> None:
    with pytest.raises(CourseError, match=r"LoRA settings .*CAUSAL_LM.* do not fit Qwen3ForSequence"):
        load_model_and_tokenizer(
            model_dir, head="reward", lora={"task_type": "CAUSAL_LM", "r": 2}, verbose=False
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(random_model_dir: Path, tmp_path: Path, value: float) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    with torch.no_grad():
        model.model.norm.weight[2] = value
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CourseError, match=r"are damaged: model\.norm\.weight holds the number (nan|inf)"):
        load_model_and_tokenizer(tmp_path, verbose=False)
