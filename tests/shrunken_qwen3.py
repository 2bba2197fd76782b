"""A Qwen3 directory that a CPU trains in seconds, and small data sets, to run lessons under `qwen3`.

The model has the architecture of Qwen3 with two small layers. It has seen nothing but the sums of this file,
for a moment, so that it now and then solves one: GRPO refuses a model that never does. Its tokenizer is
Qwen3's own where the environment variable `POSTTRAIN_QWEN3_TOKENIZER` names a directory with it, else a
ChatML tokenizer that is trained on a few sentences. The rows stand in for the public sets of the recipes, and
are made by this file: conversations (the column `messages`, some with a system turn and some of several
turns), pairs (`prompt`, `chosen`, `rejected`), prompts, and problems with solutions in the manner of gsm8k.

    python tests/shrunken_qwen3.py DIRECTORY

It prints the command that runs lessons with what it wrote. What they measure means nothing; that every cell
runs is what this shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

TOKENIZER_VARIABLE = "POSTTRAIN_QWEN3_TOKENIZER"
ROWS = 60
HELD_OUT = 6
STEPS = 2
REPLY_TOKENS = 16
LEARNING_STEPS = 60
# As in Qwen3: the vocabulary is padded, so that there are more rows of embeddings than tokens.
_PADDING = 256
_THINGS = ("a lamp", "a ladder", "a kettle", "a bridge", "a drum", "a garden", "a compass", "a blanket")
_USES = (
    "give light",
    "climb",
    "boil water",
    "cross a river",
    "make music",
    "grow food",
    "find north",
    "rest",
)


def real_tokenizer_directory() -> Path | None:
    """Return the directory with the tokenizer of Qwen3 that the environment names, None without one."""
    configured = os.environ.get(TOKENIZER_VARIABLE)
    return Path(configured).expanduser().resolve() if configured else None


def small_qwen3(tokenizer: PreTrainedTokenizerBase, **changes: int) -> Qwen3ForCausalLM:
    """Return a Qwen3 of two small layers with random weights, drawn from torch's random state.

    Args:
        tokenizer: gives the size of the vocabulary and the special tokens.
        changes: other values of the config.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))


def write_model(directory: Path, tokenizer_directory: Path | None = None) -> Path:
    """Write a Qwen3 of two layers, and its tokenizer.

    Args:
        directory: where to.
        tokenizer_directory: of the real tokenizer; None trains a small one on the rows.

    Returns:
        The directory.
    """
    import torch
    from transformers import AutoTokenizer

    if tokenizer_directory is None:
        tokenizer = _small_tokenizer()
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = -(-len(tokenizer) // _PADDING) * _PADDING
        model = small_qwen3(tokenizer, vocab_size=rows, max_position_embeddings=32768)
        _learn_sums(model, tokenizer)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def conversations() -> list[dict[str, list[dict[str, str]]]]:
    """Return `ROWS` conversations, no two alike."""
    rows = []
    for number in range(ROWS):
        thing, use = _THINGS[number % len(_THINGS)], _USES[number % len(_USES)]
        question = f"{number + 1}. What is {thing} good for?"
        answer = f"With {thing} you can {use}. That makes answer {number + 1}."
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if number % 3 == 0:
            messages = [{"role": "system", "content": "You answer in short sentences."}, *messages]
        if number % 4 == 0:
            messages += [
                {"role": "user", "content": "Thank you."},
                {"role": "assistant", "content": f"You are welcome. Ask again about {thing}."},
            ]
        rows.append({"messages": messages})
    return rows


def pairs() -> list[dict[str, Any]]:
    """Return `ROWS` pairs with the ratings of annotators: a whole sentence is preferred to a refusal.

    Every third one asks for the assistant's name, as all of banghua/DL-DPO-Dataset do.
    """
    rows = []
    for number in range(ROWS):
        thing, use = _THINGS[number % len(_THINGS)], _USES[number % len(_USES)]
        question = f"{number + 1}. What can I do with {thing}?"
        replies = {"chosen": f"You can {use} with {thing}, I think.", "rejected": "No. " * (1 + number % 9)}
        if number % 3 == 0:
            question = f"{number + 1}. Who are you?"
            replies = {"chosen": "I am Deep Qwen, an assistant.", "rejected": "I am Qwen, an assistant."}
        prompt = [{"role": "user", "content": question}]
        sides = {side: [{"role": "assistant", "content": text}] for side, text in replies.items()}
        ratings = {"score_chosen": 5.0 + number % 5, "score_rejected": 4.0}
        rows.append({"prompt": prompt, **sides, **ratings})
    return rows


def prompts() -> list[dict[str, list[dict[str, str]]]]:
    """Return `ROWS` prompts without replies."""
    return [{"prompt": row["prompt"]} for row in pairs()]


def problems() -> list[dict[str, str]]:
    """Return `ROWS` sums in the columns of gsm8k, the result behind four hashes."""
    rows = []
    for number in range(ROWS):
        pens, more = number % 9 + 1, number // 9 + 1
        question = f"Mia has {pens} pens and finds {more} more. How many pens has Mia?"
        rows.append({"question": question, "answer": f"{pens} + {more} = {pens + more}\n#### {pens + more}"})
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSON lines and return the path."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8", newline="\n")
    return path


def environment(directory: Path) -> dict[str, str]:
    """Write model and rows into a directory and return the variables that make lessons use them.

    Args:
        directory: for the model, the rows and everything that a lesson writes.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    sources = {"rows": conversations(), "pairs": pairs(), "prompts": prompts(), "problems": problems()}
    files = {name: write_rows(directory / f"{name}.jsonl", rows) for name, rows in sources.items()}
    overrides = [
        f"sft.data.source={files['rows']}",
        f"sft.data.held_out_samples={HELD_OUT}",
        # What the recipes of other methods take over with `same_as` is that of `dpo`.
        f"dpo.data.source={files['pairs']}",
        f"dpo.data.held_out_samples={HELD_OUT}",
        f"reward.data.source={files['pairs']}",
        f"reward.data.held_out_samples={HELD_OUT}",
        f"grpo.data.source={files['problems']}",
        "grpo.data.answer_format=gsm8k",  # a change of the source takes it away
        f"grpo.data.held_out_samples={HELD_OUT}",
        f"args.max_steps={STEPS}",
        "args.logging_steps=1",
        "args.per_device_train_batch_size=2",
    ]
    for recipe in ("ppo", "rloo", "grpo_reward_model"):
        overrides += [
            f"{recipe}.data.source={files['prompts']}",
            f"{recipe}.data.held_out_samples={HELD_OUT}",
        ]
    # One step uses up a rollout, and changes the replies.
    overrides += [
        "ppo.args.num_mini_batches=1",
        "ppo.args.num_ppo_epochs=1",
        "ppo.args.learning_rate=2e-3",
    ]
    online = ("ppo", "rloo", "grpo_reward_model", "grpo")
    overrides += [f"{recipe}.args.max_completion_length={REPLY_TOKENS}" for recipe in online]
    model = str(write_model(directory / "model", real_tokenizer_directory()))
    return {
        "POSTTRAIN_MODEL": model,
        "POSTTRAIN_JUDGE": model,
        "POSTTRAIN_OVERRIDES": shlex.join(overrides),
        "POSTTRAIN_OUTPUT": str(directory / "output"),
    }


def _learn_sums(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train the model on the problems of this file, each with its boxed result as the reply."""
    import torch

    from posttrain_helpers.data.public.adapters import convert
    from posttrain_helpers.data.public.catalog import ADAPTERS
    from posttrain_helpers.models.chatml import chat_template

    asked, _ = convert(ADAPTERS["gsm8k"], problems(), "problems")
    replies = [{"role": "assistant", "content": f"\\boxed{{{row['answer']}}}"} for row in asked]
    texts = [
        tokenizer.apply_chat_template([*row["prompt"], reply], tokenize=False, chat_template=chat_template())
        for row, reply in zip(asked, replies, strict=True)
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(LEARNING_STEPS):
        rows = slice(step % 4, None, 4)
        loss = model(**{name: ids[rows] for name, ids in batch.items()}, labels=labels[rows]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _small_tokenizer() -> PreTrainedTokenizerBase:
    from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

    texts = [message["content"] for row in conversations() for message in row["messages"]]
    texts += [problem[column] for problem in problems() for column in problem]
    return train_tokenizer(texts, vocab_size=500)


def main() -> None:
    """Write model and rows, and print how to run lessons with them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    variables = environment(parser.parse_args().directory)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    print(f"{settings} python -m posttrain_helpers run --profile qwen3")


if __name__ == "__main__":
    main()
