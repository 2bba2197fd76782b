"""Every family of models that the course names goes the whole way: load, repair, generate, train, save, load.

The models have random weights and are made here; what they share with the published ones are architecture,
tokenizer habits and what their files lack.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain_helpers.environment import profiles
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import generate
from posttrain_helpers.generation.likelihood import text_losses
from posttrain_helpers.generation.rollouts import sample_completions
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.rewards.reward_model import score_replies
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

# A folder with the files of the tokenizer that all Qwen3 models share, for whoever has it.
QWEN3_TOKENIZER = os.environ.get("POSTTRAIN_QWEN3_TOKENIZER")
POSITIONS = 192
TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "A cow says moo. An owl can fly. 3 + 4 = 7.",
] * 4
END_OF_TEXT = "<|endoftext|>"
# SmolLM2's and Qwen's base vocabularies hold ChatML's tokens before any model has seen them.
CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|eot_id|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GROUPED = {**SHAPE, "num_key_value_heads": 1}


@dataclass(frozen=True)
class Family:
    """How the files of a family look.

    Attributes:
        model_type: of transformers.
        shape: arguments of its config.
        special: tokens that the vocabulary holds from the start.
        end, pad, begin: what the tokenizer names; None as published.
        writes_begin: whether the tokenizer puts the beginning token before every text.
        template: chat template of the family, None for base models.
        spare_rows: rows of the embeddings beyond the tokenizer.
    """

    model_type: str
    shape: dict[str, Any]
    special: tuple[str, ...] = (END_OF_TEXT,)
    end: str = END_OF_TEXT
    pad: str | None = None
    begin: str | None = None
    writes_begin: bool = False
    template: str | None = None
    spare_rows: int = 0
    repairs: tuple[str, ...] = ()


FAMILIES = {
    "gpt2": Family(
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
        begin=END_OF_TEXT,
        repairs=("had no chat template", "the padding token is <|endoftext|>", "2 more rows"),
    ),
    "gpt_neox (Pythia), untied, padded vocabulary": Family(
        "gpt_neox",
        {**SHAPE, "tie_word_embeddings": False},
        begin=END_OF_TEXT,
        spare_rows=50,
        repairs=("had no chat template", "the padding token is <|endoftext|>"),
    ),
    "llama (SmolLM2)": Family(
        "llama",
        {**GROUPED, "tie_word_embeddings": True},
        special=(END_OF_TEXT, *CHATML),
        begin=END_OF_TEXT,
        repairs=("had no chat template", "the end token is <|im_end|>", "the padding token is <|endoftext|>"),
    ),
    "llama (Llama 3), untied, own template": Family(
        "llama",
        {**GROUPED, "tie_word_embeddings": False},
        special=(
            "<|begin_of_text|>",
            "<|eot_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|end_of_text|>",
        ),
        begin="<|begin_of_text|>",
        end="<|end_of_text|>",
        writes_begin=True,
        template=LLAMA_TEMPLATE,
        repairs=("the end token is <|eot_id|>", "the padding token is <|pad|>", "1 more rows"),
    ),
    "qwen2 (Qwen2.5), padded vocabulary": Family(
        "qwen2",
        {**GROUPED, "tie_word_embeddings": True},
        special=(END_OF_TEXT, *CHATML),
        pad=END_OF_TEXT,
        spare_rows=40,
        repairs=("had no chat template", "the end token is <|im_end|>"),
    ),
    "qwen3, untied": Family(
        "qwen3",
        {**GROUPED, "head_dim": 16, "tie_word_embeddings": False},
        special=(END_OF_TEXT, *CHATML),
        pad=END_OF_TEXT,
        repairs=("had no chat template", "the end token is <|im_end|>"),
    ),
}


def saved(family: Family, directory: Path) -> Path:
    """Write a model and a tokenizer as the family publishes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=list(family.special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if family.writes_begin:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{family.begin} $A",
            pair=f"{family.begin} $A {family.begin} $B",
            special_tokens=[(family.begin, bpe.token_to_id(family.begin))],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=family.end,
        pad_token=family.pad,
        bos_token=family.begin,
        chat_template=family.template,
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family.model_type, **{**family.shape, "vocab_size": len(tokenizer) + family.spare_rows}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda name: name)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path]:
    family = FAMILIES[request.param]
    return family, saved(family, tmp_path_factory.mktemp("family"))


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[5, 6, 7]])).logits


def conversations(n: int = 8):
    from datasets import Dataset

    turns = [("user", "What is the capital of France?"), ("assistant", "The capital of France is Paris.")]
    return Dataset.from_list(
        [{"messages": [{"role": role, "content": content} for role, content in turns]}] * n
    )


def small_recipe(directory: Path, name: str = "sft", *more: str):
    sizes = ["args.per_device_train_batch_size=4", "args.gradient_accumulation_steps=1", "args.max_steps=2"]
    return load_recipe(name, "tiny", [f"model={directory}", "args.warmup_steps=0", *sizes, *more])


def test_load_repairs_what_the_family_lacks(family: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    kind, directory = family
    model, tokenizer = load_model_and_tokenizer(directory)
    printed = capsys.readouterr().out
    for repair in kind.repairs:
        assert repair in printed
    assert "more rows" not in printed or any("more rows" in repair for repair in kind.repairs)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (kind.shape.get("tie_word_embeddings", True))


def test_two_loads_are_the_same_model(family: tuple) -> None:
    """Rows for new tokens are drawn, but not anew each time."""
    torch.manual_seed(1)
    first, _ = load_model_and_tokenizer(family[1], verbose=False)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, _ = load_model_and_tokenizer(family[1], verbose=False)
    assert torch.equal(state, torch.get_rng_state())
    for name, weights in first.named_parameters():
        assert torch.equal(weights, second.get_parameter(name)), name


def test_generate_and_measure(family: tuple) -> None:
    model, tokenizer = load_model_and_tokenizer(family[1], verbose=False)
    prompts = ["What is the capital of France?", "A cow"]
    replies = generate(model, tokenizer, prompts, max_new_tokens=6)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert [reply.text for reply in replies] == [reply.text for reply in alone]
    assert all(loss > 0 for loss, _ in text_losses(model, tokenizer, TEXTS[:2]))
    with pytest.raises(CourseError, match=f"the model has {POSITIONS} positions in all"):
        generate(model, tokenizer, prompts, max_new_tokens=POSITIONS)
    with pytest.raises(CourseError, match=f"from 2 to {POSITIONS} tokens"):
        text_losses(model, tokenizer, ["A cow says moo. " * POSITIONS])


def test_train_save_and_load_again(family: tuple) -> None:
    recipe = small_recipe(family[1])
    model, tokenizer = load_model_and_tokenizer(family[1], verbose=False)
    before = logits(model)
    trainer = make_trainer(recipe, model, tokenizer, conversations(), verbose=False)
    assert train(trainer)["train_loss"] > 0
    stage = save_stage(trainer, "own", recipe)
    again, other = load_model_and_tokenizer("own", profile="tiny", verbose=False)
    torch.testing.assert_close(logits(again), logits(trainer.model))
    assert (logits(again) - before).abs().max() > 1e-3
    assert other.get_vocab() == tokenizer.get_vocab()
    assert (other.eos_token, other.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert again.generation_config.pad_token_id == other.pad_token_id
    assert str(family[1]) in (stage / "manifest.json").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:Setting `save_embedding_layers`")
def test_an_adapter_over_grown_embeddings_is_the_same_when_loaded(family: tuple) -> None:
    more = ["lora.r=2", "lora.target_modules=all-linear"]
    recipe = small_recipe(family[1], "sft", *more)
    model, tokenizer = load_model_and_tokenizer(family[1], lora=recipe.lora, verbose=False)
    trainer = make_trainer(recipe, model, tokenizer, conversations(), verbose=False)
    train(trainer)
    save_stage(trainer, "own", recipe)
    torch.manual_seed(3)
    again, _ = load_model_and_tokenizer("own", profile="tiny", verbose=False)
    torch.testing.assert_close(logits(again), logits(trainer.model))
    with again.disable_adapter():
        assert (logits(again) - logits(trainer.model)).abs().max() > 1e-3


EMBEDDINGS = {"gpt2": ["wte", "lm_head"], "llama": ["embed_tokens", "lm_head"]}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:Setting `save_embedding_layers`")
def test_an_adapter_says_how_to_train_the_rows_for_new_tokens(
    family: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, directory = family
    lora = {"r": 2, "target_modules": "all-linear"}
    load_model_and_tokenizer(directory, lora=lora)
    printed = capsys.readouterr().out
    if not any("more rows" in repair for repair in kind.repairs):
        assert "modules_to_save" not in printed
        return
    layers = f"[{', '.join(EMBEDDINGS[kind.model_type])}]"
    assert f"the adapter does not train them; set lora.modules_to_save={layers}" in printed
    more = ["lora.r=2", "lora.target_modules=all-linear", f"lora.modules_to_save={layers}"]
    recipe = small_recipe(directory, "sft", *more)
    model, tokenizer = load_model_and_tokenizer(directory, lora=recipe.lora)
    assert "modules_to_save" not in capsys.readouterr().out
    before = model.get_output_embeddings().weight[-1].clone()
    trainer = make_trainer(recipe, model, tokenizer, conversations(), verbose=False)
    train(trainer)
    save_stage(trainer, "own", recipe)
    again, _ = load_model_and_tokenizer("own", profile="tiny", verbose=False)
    torch.testing.assert_close(logits(again), logits(trainer.model))
    # The last row is that of the padding token, which only the output layer is asked about.
    assert not torch.equal(again.get_output_embeddings().weight[-1], before)


def test_the_sampler_of_online_methods_knows_what_it_sampled(family: tuple) -> None:
    """Prompts of two lengths: positions must count from the first token, not from the padding."""
    model, tokenizer = load_model_and_tokenizer(family[1], verbose=False)
    prompts = [tokenizer(text)["input_ids"] for text in ("What is the capital of France?", "A cow")]
    sampled = sample_completions(
        model,
        prompts,
        max_new_tokens=5,
        temperature=1.0,
        stop_ids=[tokenizer.eos_token_id],
        pad=tokenizer.pad_token_id,
        generator=torch.Generator().manual_seed(0),
    )
    for prompt, completion in zip(prompts, sampled, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.inference_mode():
            log_probs = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = log_probs.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(completion.log_probs), expected, atol=1e-5)


def test_preferences_are_compared_with_the_model_as_it_was_loaded(family: tuple) -> None:
    """TRL reads the reference from disk; where rows for new tokens were added, it is another model."""
    from datasets import Dataset

    recipe = small_recipe(family[1], "dpo", "args.logging_steps=1")
    model, tokenizer = load_model_and_tokenizer(family[1], verbose=False)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("Paris.", "A cow says moo."))
    pairs = Dataset.from_list([{"prompt": question, "chosen": chosen, "rejected": rejected}] * 8)
    if any("more rows" in repair for repair in family[0].repairs):
        with pytest.raises(CourseError, match=r"differ in memory; save the model as a stage"):
            make_trainer(recipe, model, tokenizer, pairs, verbose=False)
        return
    trainer = make_trainer(recipe, model, tokenizer, pairs, verbose=False)
    train(trainer)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_a_reward_model_of_every_family(family: tuple) -> None:
    model, tokenizer = load_model_and_tokenizer(family[1], head="reward", verbose=False)
    replies = ["Paris.", "A cow says moo. An owl can fly."]
    prompts = [[{"role": "user", "content": "What is the capital of France?"}]] * 2
    together = score_replies(model, tokenizer, prompts, replies)
    alone = [score_replies(model, tokenizer, prompts[:1], [reply])[0] for reply in replies]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3, untied"])
def test_a_reward_adapter_of_a_family(kind: str, tmp_path: Path) -> None:
    """A reward model has no output layer to name or to grow."""
    directory = saved(FAMILIES[kind], tmp_path / "model")
    lora = {"r": 2, "target_modules": "all-linear", "fan_in_fan_out": kind == "gpt2"}
    model, tokenizer = load_model_and_tokenizer(directory, head="reward", lora=lora, verbose=False)
    prompts = [[{"role": "user", "content": "What is the capital of France?"}]]
    assert len(score_replies(model, tokenizer, prompts, ["Paris."])) == 1


@pytest.mark.skipif(not QWEN3_TOKENIZER, reason="POSTTRAIN_QWEN3_TOKENIZER names no folder")
def test_a_narrow_qwen3_with_the_tokenizer_of_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As published: end and padding are one token, the template thinks, the vocabulary is padded."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(QWEN3_TOKENIZER)
    tokenizer.eos_token = END_OF_TEXT
    torch.manual_seed(0)
    shape = {**GROUPED, "max_position_embeddings": 1024, "head_dim": 16, "tie_word_embeddings": True}
    Qwen3ForCausalLM(Qwen3Config(**{**shape, "vocab_size": 151_936})).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    own = replace(profiles.PROFILES["qwen3"], base_model=str(tmp_path / "base"), device="cpu")
    monkeypatch.setitem(profiles.PROFILES, "qwen3", own)
    model, tokenizer = load_model_and_tokenizer("base", profile="qwen3")
    printed = capsys.readouterr().out
    for repair in ("the profile replaces its chat template", "the end token is <|im_end|>"):
        assert repair in printed
    assert "more rows" not in printed
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("<|im_end|>", END_OF_TEXT, 151_669)
    question = [{"role": "user", "content": "Hello, world!"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello, world!<|im_end|>\n<|im_start|>assistant\n"
    # Rows beyond the tokenizer can be drawn and must not stop anything.
    generate(model, tokenizer, [question], max_new_tokens=8, temperature=1.0)
    sizes = ["args.max_steps=1", "args.per_device_train_batch_size=2", "args.gradient_accumulation_steps=1"]
    recipe = load_recipe("sft", "qwen3", sizes)
    trainer = make_trainer(recipe, model, tokenizer, conversations(), verbose=False)
    assert train(trainer)["train_loss"] == pytest.approx(math.log(151_936), abs=0.5)
    save_stage(trainer, "own", recipe)
    again, _ = load_model_and_tokenizer("own", profile="qwen3", verbose=False)
    torch.testing.assert_close(logits(again), logits(trainer.model))
