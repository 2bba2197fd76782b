"""A Qwen3 directory that a CPU trains in seconds, and a small data set, to run lessons under `qwen3`.

The model has the architecture of Qwen3 with two small layers and random weights. Its tokenizer is Qwen3's own
where the environment variable `POSTTRAIN_QWEN3_TOKENIZER` names a directory with it, else a ChatML tokenizer
that is trained on a few sentences. The rows stand in for banghua/DL-SFT-Dataset: the column `messages`, some
rows with a system turn and some of several turns, all made by this file.

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_VARIABLE = "POSTTRAIN_QWEN3_TOKENIZER"
ROWS = 60
STEPS = 2
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


def write_model(directory: Path, tokenizer_directory: Path | None = None) -> Path:
    """Write a Qwen3 of two layers with random weights, and its tokenizer.

    Args:
        directory: where to.
        tokenizer_directory: of the real tokenizer; None trains a small one on the rows.

    Returns:
        The directory.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    if tokenizer_directory is None:
        tokenizer = _small_tokenizer()
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=-(-len(tokenizer) // _PADDING) * _PADDING,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                max_position_embeddings=32768,
                tie_word_embeddings=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
            )
        )
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


def write_rows(path: Path) -> Path:
    """Write the conversations as JSON lines and return the path."""
    lines = "".join(json.dumps(row) + "\n" for row in conversations())
    path.write_text(lines, encoding="utf-8", newline="\n")
    return path


def environment(directory: Path) -> dict[str, str]:
    """Write model and rows into a directory and return the variables that make lessons use them.

    Args:
        directory: for the model, the rows and everything that a lesson writes.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    rows = write_rows(directory / "rows.jsonl")
    overrides = [
        f"sft.data.source={rows}",
        "sft.data.held_out_samples=6",
        f"args.max_steps={STEPS}",
        "args.logging_steps=1",
        "args.per_device_train_batch_size=2",
    ]
    return {
        "POSTTRAIN_MODEL": str(write_model(directory / "model", real_tokenizer_directory())),
        "POSTTRAIN_OVERRIDES": shlex.join(overrides),
        "POSTTRAIN_OUTPUT": str(directory / "output"),
    }


def _small_tokenizer() -> PreTrainedTokenizerBase:
    from posttrain_helpers.tinyworld.tokenizer import train_tokenizer

    texts = [message["content"] for row in conversations() for message in row["messages"]]
    return train_tokenizer(texts, vocab_size=500)


def main() -> None:
    """Write model and rows, and print how to run lessons with them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    variables = environment(parser.parse_args().directory)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    print(f"{settings} python -m posttrain_helpers run 00 01 --profile qwen3")


if __name__ == "__main__":
    main()
