"""Directories of small models that a CPU trains in seconds, to run lessons under another one.

- `qwen3`: the architecture of Qwen3 with two small layers. Its tokenizer is Qwen3's own where the environment
  variable `POSTTRAIN_QWEN3_TOKENIZER` names a directory with it, else a ChatML tokenizer of the known world.
- `llama`: a Llama of two small layers whose tokenizer is foreign: it splits at words, begins every text with
  `<s>`, ends a turn with `</s>`, has no padding token, and its chat template has [INST] and no markers.

Both have seen a few word problems, for a moment, so that they now and then solve one: GRPO refuses a model
that never does.

    python tests/small_models.py qwen3 DIRECTORY

It prints the command that runs lessons with the model, on little data and for a few steps. What they measure
means nothing; that every cell runs is what this shows.
"""

from __future__ import annotations

import argparse
import os
import shlex
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3ForCausalLM

KINDS = ("qwen3", "llama")
TOKENIZER_VARIABLE = "POSTTRAIN_QWEN3_TOKENIZER"
PROBLEMS = 240
STEPS = 2
REPLY_TOKENS = 16
LEARNING_STEPS = 60
# Recipes of lesson 14 and the shipped rows that they read.
PUBLIC = {
    "sft_ultrachat": "ultrachat",
    "reward_ultrafeedback": "ultrafeedback",
    "dpo_ultrafeedback": "ultrafeedback",
    "grpo_gsm8k": "gsm8k",
}
_WIDTH = 64  # of the models that run lessons: bitsandbytes reads rows of 64 weights
# As in Qwen3: the vocabulary is padded, so that there are more rows of embeddings than tokens.
_PADDING = 256
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
_INST_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)


def small_qwen3(tokenizer: PreTrainedTokenizerBase, **changes: int) -> Qwen3ForCausalLM:
    """Return a Qwen3 of two small layers with random weights, drawn from torch's random state.

    Args:
        tokenizer: gives the size of the vocabulary and the special tokens.
        changes: other values of the config.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    settings = {"vocab_size": len(tokenizer), **_SIZES, **special, "bos_token_id": None}
    return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))


def write_qwen3(directory: Path, tokenizer_directory: Path | None = None) -> Path:
    """Write a Qwen3 of two layers, and its tokenizer.

    Args:
        directory: where to.
        tokenizer_directory: of the real tokenizer; None trains a small one.

    Returns:
        The directory.
    """
    from transformers import AutoTokenizer

    from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

    if tokenizer_directory is None:
        tokenizer = train_tokenizer(_texts(), vocab_size=600)
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory, local_files_only=True)
    rows = -(-len(tokenizer) // _PADDING) * _PADDING
    sizes = {"vocab_size": rows, "hidden_size": _WIDTH, "max_position_embeddings": 32768}
    return _written(directory, tokenizer, lambda: small_qwen3(tokenizer, **sizes))


def write_llama(directory: Path) -> Path:
    """Write a Llama of two layers with a tokenizer unlike that of Qwen3, and return the directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = foreign_tokenizer()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {**_SIZES, "hidden_size": _WIDTH, "max_position_embeddings": 2048}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)
    return _written(directory, tokenizer, lambda: LlamaForCausalLM(config))


def environment(directory: Path, kind: str = "qwen3") -> dict[str, str]:
    """Write a model into a directory and return the variables that make lessons use it, shortly.

    Args:
        directory: for the model and everything that a lesson writes.
        kind: one of `KINDS`.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    place = directory / "model"
    configured = os.environ.get(TOKENIZER_VARIABLE)
    tokenizer = Path(configured).expanduser().resolve() if configured else None
    model = write_llama(place) if kind == "llama" else write_qwen3(place, tokenizer)
    overrides = [
        f"args.max_steps={STEPS}",
        "args.logging_steps=1",
        "args.per_device_train_batch_size=2",
        "sft.data.n_train=64",
        "templates.data.n_train=64",
        # What the recipes of other methods take over with `same_as` is that of `dpo`.
        "dpo.data.n_prompts=40",
        "dpo_identity.data.identity=24",
        "judge.data.n_prompts=20",
        "best_of_k.data.n_prompts=24",
        "star.data.n_prompts=24",
        "ai_feedback_dpo.data.n_prompts=40",
        "grpo.data.n_train=64",
        "distill_on_policy.data.n_prompts=24",
        "grpo.args.per_device_train_batch_size=8",
        # One step uses up a rollout, and changes the replies.
        "ppo.args.num_mini_batches=1",
        "ppo.args.num_ppo_epochs=1",
        "ppo.args.learning_rate=2e-3",
    ]
    # Rows that need no network, whatever the profile.
    samples = "posttrain_helpers/data/public/samples"
    for recipe, name in PUBLIC.items():
        overrides += [
            f"{recipe}.data.source={samples}/{name}.jsonl",
            f"{recipe}.data.adapter={name}",
            f"{recipe}.data.held_out_samples=20",
        ]
    overrides += [
        "grpo_gsm8k.args.per_device_train_batch_size=8",
        f"grpo_gsm8k.args.max_completion_length={REPLY_TOKENS}",
        "grpo_gsm8k.args.temperature=1.0",  # what it says at random is right now and then
    ]
    for recipe in ("ppo", "rloo", "grpo_reward_model"):
        overrides += [f"{recipe}.data.n_prompts=40", f"{recipe}.args.per_device_train_batch_size=4"]
    for recipe in ("ppo", "rloo", "grpo_reward_model", "grpo", "distill_on_policy"):
        overrides.append(f"{recipe}.args.max_completion_length={REPLY_TOKENS}")
    return {
        "POSTTRAIN_MODEL": str(model),
        "POSTTRAIN_OVERRIDES": shlex.join(overrides),
        "POSTTRAIN_OUTPUT": str(directory / "output"),
    }


def _written(directory: Path, tokenizer: PreTrainedTokenizerBase, make: Any) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        _learn_problems(model, tokenizer)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _problems() -> list[dict[str, Any]]:
    from posttrain_helpers.tinyworld.training_data.prompts import build_word_problem_data

    problems, _ = build_word_problem_data(PROBLEMS, 2, 16, 0)
    return problems


def _learn_problems(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train the model on the results of word problems, behind the prompts that ask for them."""
    import torch

    from posttrain_helpers.models.chatml import chat_template

    template = tokenizer.chat_template or chat_template()
    texts = []
    for problem in _problems():
        reply = {"role": "assistant", "content": f"{problem['answer']}."}
        turns = [*problem["prompt"], reply]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template))
    batch = tokenizer(texts, padding=tokenizer.pad_token is not None, add_special_tokens=False)["input_ids"]
    length, pad = max(map(len, batch)), tokenizer.eos_token_id
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in batch])
    seen = torch.tensor([[place < len(row) for place in range(length)] for row in batch])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(LEARNING_STEPS):
        rows = slice(step % 4, None, 4)
        labels = ids[rows].masked_fill(~seen[rows], -100)
        model(input_ids=ids[rows], attention_mask=seen[rows].long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _texts() -> list[str]:
    from posttrain_helpers.tinyworld.tasks import build_sft_data

    rows, _ = build_sft_data(400, 0)
    texts = [message["content"] for row in rows for message in row["messages"]]
    return texts + [problem["prompt"][-1]["content"] for problem in _problems()]


def foreign_tokenizer() -> PreTrainedTokenizerBase:
    """Return a BPE tokenizer with the markers and the habits of Llama 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    bpe.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=list(string.printable),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=_INST_TEMPLATE,
    )


def main() -> None:
    """Write a model, and print how to run lessons with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    variables = environment(arguments.directory, arguments.kind)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    print(f"{settings} python -m posttrain_helpers run --profile qwen3")


if __name__ == "__main__":
    main()
