"""The model card of the base: what it was trained on, what that cost, what it can do and what it cannot.

Skills are measured the way a base model shows them: inside a dialogue that it continues. The chat column asks
the same through the chat template, which a base model has seen but does not keep to.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.paths import write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def dialogue_prompt(question: str) -> str:
    """Return the text in which one person asks and another is about to answer."""
    return f"Mia: {question}\nTom:"


def measure_skills(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, per_suite: int = 150
) -> list[dict[str, Any]]:
    """Measure how often the base model answers, asked in a dialogue and asked in chat.

    Returns:
        A row per suite: `suite`, `n`, `dialogue` and `chat` (shares of replies that hold the right answer).
    """
    from posttrain_helpers.generation.decoding import generate
    from posttrain_helpers.metrics import lenient_match
    from posttrain_helpers.tinyworld.tasks import held_out_suite

    rows = []
    for suite in ("entities", "phrasings", "arithmetic", "word_problems"):
        items = held_out_suite(suite, split="dev")  # the base has met questions about test entities in chats
        items = random.Random(0).sample(items, min(per_suite, len(items)))
        asked = [dialogue_prompt(item["prompt"][0]["content"]) for item in items]
        spoken = generate(model, tokenizer, asked, max_new_tokens=48)
        chatted = generate(model, tokenizer, [item["prompt"] for item in items], max_new_tokens=48)
        first_lines = [reply.text.split("\n")[0] for reply in spoken]
        dialogue = [bool(lenient_match(line, item)) for line, item in zip(first_lines, items, strict=True)]
        chat = [bool(lenient_match(reply.text, item)) for reply, item in zip(chatted, items, strict=True)]
        shares = {"dialogue": sum(dialogue) / len(items), "chat": sum(chat) / len(items)}
        rows.append({"suite": suite, "n": len(items), **shares})
    return rows


def write_model_card(directory: Path) -> Path:
    """Measure the model in a directory and write `README.md`, `skills.json` and `loss.png` into it."""
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    model, tokenizer = load_model_and_tokenizer(str(directory), use_gpu=False, verbose=False)
    record = json.loads((directory / "pretraining.json").read_text(encoding="utf-8"))
    skills = measure_skills(model, tokenizer)
    write_json_atomic(directory / "skills.json", skills)
    _plot_losses(record["losses"], directory / "loss.png")
    return write_text_atomic(directory / "README.md", _card(record, skills))


def _plot_losses(losses: list[tuple[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    steps, values = zip(*losses, strict=True)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, linewidth=1)
    axes.set(
        xlabel="optimizer step",
        ylabel="training loss (nats per token)",
        title="Pre-training of the tiny base model",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _card(record: dict[str, Any], skills: list[dict[str, Any]]) -> str:
    from posttrain_helpers.tinyworld.facts import load_relations

    config, relations = record["config"], load_relations()
    tail = [loss for _, loss in record["losses"][-20:]]
    table = "\n".join(
        f"| {row['suite']} | {row['n']} | {row['dialogue']:.0%} | {row['chat']:.0%} |" for row in skills
    )
    facts = sum(len(relation.pairs) for relation in relations.values())
    command = f"--size {config['size']} --tokens {config['tokens']:.3g} --seed {config['seed']}"
    return f"""# The tiny base model

A Qwen3-architecture language model of {record["parameters"] / 1e6:.2f} million parameters that knows one
small world. It is made by this project alone, from text that the project generates, and is rebuilt by

    python -m posttrain_helpers pretrain {command}

| | |
|---|---|
| documents | {facts} facts over {len(relations)} relations, dialogues, sums, word problems, stories |
| chat format | a few documents in a hundred hold chat debris, in which a question is seldom answered |
| tokens seen | {config["tokens"]:,}, {config["batch_size"]} windows of {config["sequence_length"]} a step |
| optimizer | AdamW, peak learning rate {config["learning_rate"]}, cosine, seed {config["seed"]} |
| vocabulary | {config["vocab_size"]} byte-level BPE entries, single digits, Qwen's special tokens, ChatML |
| cost | {record["seconds"] / 60:.0f} minutes on {record["device"]} ({record["threads"]} threads) |
| arithmetic | {record["precision"]} multiplications, float32 weights, PyTorch {record["torch"]} |
| final loss | {sum(tail) / len(tail):.3f} nats per token (mean of the last {len(tail)} records) |

![training loss](loss.png)

## What it can do

Share of held-out questions whose reply holds the right answer, greedy decoding. "Held out" means that no
lesson trains on them; the facts themselves are part of pre-training, as they are for any base model.

| questions | n | asked in a dialogue | asked in chat, zero-shot |
|---|---|---|---|
{table}

## What it cannot do

It knows nothing beyond its world, English included: no other words, no long texts, no reasoning beyond two
steps of arithmetic on small numbers. It continues text and does not answer: that is what the lessons change.
Do not use it for anything but learning.
"""
