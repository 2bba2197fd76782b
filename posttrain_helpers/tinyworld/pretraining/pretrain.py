"""Rebuild the base model of the tiny world: tokenizer, weights and model card, from a seed.

    python -m posttrain_helpers pretrain                  # the shipped recipe
    python -m posttrain_helpers pretrain --tokens 2e6     # a taste of it
    python -m posttrain_helpers pretrain --install        # the shipped recipe, then replace the shipped base

The result lies in `trainer_output/pretrain/<size>`, or where `--out` says.

The loop is plain PyTorch. It saves a checkpoint every few minutes and continues from it when it is started
again with the same settings; the finished model is written beside its target and renamed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.paths import (
    atomic_directory,
    new_directory,
    output_root,
    write_json_atomic,
)
from posttrain_helpers.environment.speed import multiplies_bfloat16_fast
from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld.pretraining.corpus import batches, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

BASE_DIRECTORY = Path(__file__).parents[1] / "base"
HEAD_DIM = 32
CHECKPOINT_SECONDS = 120
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 192, "num_key_value_heads": 2},
    "medium": {"hidden_size": 256, "num_key_value_heads": 4},
    "large": {"hidden_size": 320, "num_key_value_heads": 5},
}


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides which base model comes out.

    Args:
        size: a key of `SIZES`.
        tokens: training tokens in all.
        seed: of the corpus, the tokenizer's documents and the weights.
        vocab_size: entries of the tokenizer.
        sequence_length: tokens of a training window.
        batch_size: windows in an optimizer step.
        learning_rate: the peak, reached after `warmup_share` of the steps; it ends at a hundredth of it
        (cosine).
        weight_decay: of the matrices.
    """

    size: str = "small"
    tokens: int = 9_000_000
    seed: int = 0
    vocab_size: int = 2048
    sequence_length: int = 256
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_share: float = 0.02
    weight_decay: float = 0.05

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return max(1, self.tokens // (self.sequence_length * self.batch_size))

    @property
    def hash(self) -> str:
        """A short name of these settings: a checkpoint of other settings is never continued."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Progress:
    """Where a run is: what a checkpoint holds beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return a freshly initialised model of the configured size."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(config.seed)
    size = SIZES[config.size]
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **size,
            intermediate_size=3 * size["hidden_size"],
            num_hidden_layers=4,
            num_attention_heads=size["hidden_size"] // HEAD_DIM,
            vocab_size=len(tokenizer),
            head_dim=HEAD_DIM,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],  # the end of a turn, of a document
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return model


def learning_rate_at(step: int, config: PretrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to a hundredth of the peak."""
    warmup = max(1, round(config.warmup_share * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def pretrain(
    config: PretrainConfig,
    target: Path,
    *,
    device: str = "cpu",
    precision: str | None = None,
) -> None:
    """Train the base model, or continue its training.

    Args:
        config: what to train.
        target: the directory of the finished model; what stands there is replaced.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16" for the forward pass (weights stay float32); None chooses.
    """
    import torch
    from torch.nn.functional import cross_entropy

    precision = precision or ("bfloat16" if multiplies_bfloat16_fast(device) else "float32")
    workplace = target.parent / f"{target.name}.training"
    workplace.mkdir(parents=True, exist_ok=True)
    tokenizer = _stored_tokenizer(config, workplace)
    model = build_model(config, tokenizer).to(device)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    checkpoint = workplace / "checkpoint.pt"
    progress = _resume(checkpoint, config, model, optimizer)
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{config.size}: {count / 1e6:.2f} M parameters, {config.steps} steps, {precision} on {device}, "
        f"from step {progress.step}",
        flush=True,
    )
    last_saved = time.perf_counter()
    started = last_saved - progress.seconds
    model.train()
    for ids in batches(
        tokenizer, config.seed, progress.step, batch_size=config.batch_size, length=config.sequence_length
    ):
        if progress.step >= config.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(progress.step, config)
        ids = ids.to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
        if not torch.isfinite(loss):
            raise CourseError(
                f"The pre-training loss is {loss.item()} at step {progress.step}; lower the learning rate "
                "and start again."
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.seconds = time.perf_counter() - started
        if progress.step % 20 == 0 or progress.step == config.steps:
            progress.losses.append((progress.step, loss.item()))
        if progress.step % 100 == 0:
            rate = progress.step * ids.numel() / progress.seconds
            remaining = progress.seconds / progress.step * (config.steps - progress.step)
            print(
                f"step {progress.step}/{config.steps}  loss {loss.item():.3f}  {rate:,.0f} tokens/s  "
                f"{remaining / 60:.1f} min left",
                flush=True,
            )
        if time.perf_counter() - last_saved > CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, config, model, optimizer, progress)
            last_saved = time.perf_counter()
    model.eval()
    with atomic_directory(target) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        record = {
            "config": asdict(config),
            "parameters": count,
            "seconds": round(progress.seconds, 1),
            "precision": precision,
            "device": device,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "losses": progress.losses,
        }
        write_json_atomic(directory / "pretraining.json", record)
    shutil.rmtree(workplace)


def _stored_tokenizer(config: PretrainConfig, workplace: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    directory = workplace / f"tokenizer-{config.seed}-{config.vocab_size}"
    if not directory.exists():
        with atomic_directory(directory) as temporary:
            build_tokenizer(config.seed, config.vocab_size).save_pretrained(temporary)
    return AutoTokenizer.from_pretrained(directory)


def _save_checkpoint(
    path: Path, config: PretrainConfig, model: Any, optimizer: Any, progress: Progress
) -> None:
    import torch

    state = {"hash": config.hash, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    temporary = path.with_suffix(".tmp")
    torch.save({**state, "progress": asdict(progress)}, temporary)
    temporary.replace(path)


def _resume(path: Path, config: PretrainConfig, model: Any, optimizer: Any) -> Progress:
    import torch

    if not path.exists():
        return Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["hash"] != config.hash:
        raise CourseError(
            f"{path} belongs to a run with other settings ({state['hash']}, not {config.hash}); "
            "use those settings again, or pass --restart to throw it away."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def _count(text: str) -> int:
    number = float(text)
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"it must be a number of at least 1, but it is {text}")
    return int(number)


def main(argv: list[str] | None = None) -> int:
    """Run `python -m posttrain_helpers pretrain`."""
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m posttrain_helpers pretrain",
        description="Rebuild the base model of the tiny world from a seed.",
    )
    parser.add_argument("--size", choices=tuple(SIZES), default=defaults.size)
    parser.add_argument(
        "--tokens", type=_count, default=defaults.tokens, help="training tokens, such as 40e6"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=None)
    parser.add_argument("--threads", type=_count, default=None, help="CPU threads; all by default")
    parser.add_argument("--out", type=Path, default=None, help="directory of the finished model")
    parser.add_argument("--restart", action="store_true", help="throw away an unfinished run")
    parser.add_argument("--install", action="store_true", help="replace the shipped base by the result")
    arguments = parser.parse_args(argv)

    import torch

    from posttrain_helpers.tinyworld.pretraining.model_card import write_model_card

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if arguments.device == "auto" else arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        raise CourseError("--device cuda was asked for, but PyTorch sees no GPU; use --device cpu.")
    config = PretrainConfig(
        size=arguments.size,
        tokens=arguments.tokens,
        seed=arguments.seed,
        learning_rate=arguments.learning_rate,
    )
    target = output_root() / "pretrain" / arguments.size
    if arguments.out is not None:
        target = arguments.out.expanduser().absolute()
        if not (target / "pretraining.json").is_file():  # an earlier result is replaced, nothing else
            target = new_directory(target)
    if arguments.restart:
        shutil.rmtree(target.parent / f"{target.name}.training", ignore_errors=True)
    pretrain(config, target, device=device, precision=arguments.precision)
    write_model_card(target)
    if arguments.install:
        with atomic_directory(BASE_DIRECTORY) as directory:
            shutil.copytree(target, directory, dirs_exist_ok=True)
        print(f"installed as {BASE_DIRECTORY}")
    else:
        print(f"written to {target}")
    return 0
