"""Sample completions for online RL: fast, from the full softmax, and reproducible.

`generation.generate` compares models and keeps every batch at one shape. Training needs speed instead: here a
row leaves the batch, and the key-value cache, as soon as it has ended, so that no time goes into tokens that
nobody reads. Nothing cuts the distribution (no top-k, no top-p): the policy gradient and the KL divergence
are those of the distribution that was sampled from, or they are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.runtime import sampling_precision
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import (
    Generation,
    Prompt,
    check_fits,
    check_sampling,
    encode_prompts,
    evaluation_mode,
    left_padded,
    right_padded,
    stop_token_ids,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import GRPOTrainer


@dataclass(frozen=True)
class TokenBatch:
    """Prompts and completions side by side: prompts end, and completions begin, at one column.

    Attributes:
        prompts: token ids padded on the left, shape (B, P).
        prompt_mask: 1 on tokens, 0 on padding, shape (B, P).
        completions: token ids padded on the right, shape (B, T).
        completion_mask: 1 on tokens, the end token included, 0 on padding, shape (B, T).
    """

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    completions: torch.Tensor
    completion_mask: torch.Tensor

    def rows(self, index: torch.Tensor) -> TokenBatch:
        """Return some rows, without the columns in which all of them have padding.

        Args:
            index: row numbers, shape (b,).
        """
        prompt_mask, completion_mask = self.prompt_mask[index], self.completion_mask[index]
        first = self.prompts.shape[1] - int(prompt_mask.sum(1).max())
        last = int(completion_mask.sum(1).max())
        return TokenBatch(
            self.prompts[index, first:],
            prompt_mask[:, first:],
            self.completions[index, :last],
            completion_mask[:, :last],
        )

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each row, shape (B,)."""
        return self.prompt_mask.sum(1) + self.completion_mask.sum(1)


def token_batch(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad: int,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Pad prompts and completions into one batch.

    Args:
        prompts: B lists of token ids.
        completions: B lists of token ids, the end token included.
        pad: the padding token.
        device: where the batch is to be.
    """
    left, right = left_padded(prompts, pad), right_padded(completions, pad)
    return TokenBatch(
        left["input_ids"].to(device),
        left["attention_mask"].to(device),
        right["input_ids"].to(device),
        right["attention_mask"].to(device),
    )


@dataclass(frozen=True)
class SampledTokens:
    """One completion and what the policy thought at each of its tokens."""

    ids: list[int]  # if it ended by itself, its end token is the last one
    log_probs: list[float]  # in nats, under the distribution that the tokens were drawn from
    values: list[float]  # what the value head predicted before each token; empty without one


def sample_completions(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad: int,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    value_head: torch.nn.Module | None = None,
) -> list[SampledTokens]:
    """Sample one completion for each prompt from the full softmax.

    Args:
        policy: a causal language model with a key-value cache.
        prompts: N lists of token ids.
        max_new_tokens: the most tokens of a completion, the end token included.
        temperature: above 0.
        stop_ids: tokens that end a completion.
        pad: the padding token.
        generator: source of chance on the policy's device; None takes the global one.
        batch_size: the most rows at a time; rows of similar length share a batch.
        value_head: maps last hidden states to one value each.

    Returns:
        N completions, in the order of the prompts.

    Raises:
        CourseError: a temperature that is not above 0, or a policy whose probabilities are no numbers.
    """
    if not temperature > 0:
        raise CourseError(
            f"sampling needs a temperature above 0, but it is {temperature}; 1 samples from the policy as it "
            "is."
        )
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    completions: list[SampledTokens | None] = [None] * len(prompts)
    with evaluation_mode(policy):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            sampled = _sample_batch(
                policy,
                [prompts[index] for index in batch],
                max_new_tokens,
                temperature,
                stop_ids,
                pad,
                generator,
                value_head,
            )
            for index, completion in zip(batch, sampled, strict=True):
                completions[index] = completion
    return completions


def sample_groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
) -> list[list[Generation]]:
    """Sample several replies to each prompt as GRPO does, from the whole distribution.

    Args:
        model: a causal language model with a key-value cache.
        tokenizer: its tokenizer.
        prompts: N prompts, as `generate` takes them.
        samples: replies to each prompt.
        max_new_tokens: the most tokens of a reply.
        temperature: above 0.
        seed: of the sampling.
        batch_size: the most rows at a time.

    Returns:
        For each prompt its replies.

    Raises:
        CourseError: what `sample_completions` raises.
    """
    import torch

    check_sampling(temperature, 1, samples=samples, max_new_tokens=max_new_tokens, batch_size=batch_size)
    encoded = encode_prompts(tokenizer, prompts)
    check_fits(model, tokenizer, encoded, max_new_tokens)
    stop_ids = stop_token_ids(model, tokenizer)
    with sampling_precision(model):
        completions = sample_completions(
            model,
            [ids for ids in encoded for _ in range(samples)],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            stop_ids=stop_ids,
            pad=tokenizer.pad_token_id,
            generator=torch.Generator(model.device).manual_seed(seed),
            batch_size=batch_size,
        )
    texts = tokenizer.batch_decode([done.ids for done in completions], skip_special_tokens=True)
    drawn = [
        Generation(text, tuple(done.ids), "stop" if done.ids[-1] in stop_ids else "length")
        for text, done in zip(texts, completions, strict=True)
    ]
    return [drawn[start : start + samples] for start in range(0, len(drawn), samples)]


def sample_rewards(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[dict[str, Any]],
    reward: Callable[..., list[float | None]],
    **options: Any,
) -> tuple[list[list[str]], list[list[float | None]]]:
    """Sample several replies to each item and reward them.

    Args:
        model, tokenizer: as for `sample_groups`.
        items: N items with a "prompt" and the columns that the reward reads, such as "answer".
        reward: a reward function as TRL takes it, called with the replies of one item.
        **options: `samples`, `max_new_tokens` and the others of `sample_groups`.

    Returns:
        For each item the texts of its replies, and their rewards.
    """
    groups = sample_groups(model, tokenizer, [item["prompt"] for item in items], **options)
    texts = [[reply.text for reply in group] for group in groups]
    rewards = []
    for item, replies in zip(items, texts, strict=True):
        columns = {key: [value] * len(replies) for key, value in item.items() if key != "prompt"}
        rewards.append(reward(completions=replies, **columns))
    return texts, rewards


def grpo_rollouts(prompts: list[Prompt], trainer: GRPOTrainer) -> dict[str, Any]:
    """Sample for `trl.GRPOTrainer(..., rollout_func=grpo_rollouts)`, with this module's speed.

    Args:
        prompts: N prompts, each as often as it gets completions.
        trainer: the trainer, whose policy, tokenizer and arguments are used.

    Returns:
        `prompt_ids` and `completion_ids`, each N lists of token ids. `logprobs` is None, so that the trainer
        computes what it needs as it does after its own sampling.
    """
    tokenizer, args = trainer.processing_class, trainer.args
    policy = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    prompt_ids = encode_prompts(tokenizer, prompts)
    with sampling_precision(policy):
        sampled = sample_completions(
            policy,
            prompt_ids,
            max_new_tokens=args.max_completion_length,
            temperature=args.temperature,
            stop_ids=stop_token_ids(policy, tokenizer),
            pad=tokenizer.pad_token_id,
        )
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": [completion.ids for completion in sampled],
        "logprobs": None,
    }


def _sample_batch(
    policy: PreTrainedModel,
    prompts: list[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad: int,
    generator: torch.Generator | None,
    value_head: torch.nn.Module | None,
) -> list[SampledTokens]:
    import torch
    from transformers import DynamicCache

    device = next(policy.parameters()).device
    # The completions of a group share their prompt, which is longer than they are: it is read once for all.
    different = {tuple(ids): place for place, ids in enumerate(dict.fromkeys(map(tuple, prompts)))}
    prompt_of = torch.tensor([different[tuple(ids)] for ids in prompts], device=device)
    batch = token_batch(list(different), [[pad]] * len(different), pad, device)
    inputs, mask = batch.prompts, batch.prompt_mask
    stops = torch.tensor(list(stop_ids), device=device)
    tokens = torch.full((len(prompts), max_new_tokens), pad, device=device)
    log_probs = torch.zeros(tokens.shape, device=device)
    values = torch.zeros(tokens.shape, device=device)
    lengths = torch.full((len(prompts),), max_new_tokens, device=device)
    running = torch.arange(len(prompts), device=device)  # rows that have not ended
    cache = DynamicCache(config=policy.config)
    positions = mask.cumsum(1).sub(1).clamp(min=0)
    with torch.no_grad():
        for step in range(max_new_tokens):
            outputs = policy(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                output_hidden_states=value_head is not None,
            )
            logits = outputs.logits[:, -1]
            state = outputs.hidden_states[-1][:, -1] if value_head is not None else None
            if step == 0:
                cache.batch_select_indices(prompt_of)
                mask, positions, logits = mask[prompt_of], positions[prompt_of], logits[prompt_of]
                state = state[prompt_of] if state is not None else None
            distribution = (logits.float() / temperature).log_softmax(-1)
            inputs = _draw(distribution.exp(), generator)
            tokens[running, step] = inputs.squeeze(1)
            log_probs[running, step] = distribution.gather(1, inputs).squeeze(1)
            if state is not None:
                state = state.to(next(value_head.parameters()).dtype)
                values[running, step] = value_head(state).squeeze(1).float()
            positions, mask = positions[:, -1:] + 1, torch.cat([mask, torch.ones_like(inputs)], 1)
            ended = torch.isin(inputs.squeeze(1), stops)
            if ended.any():
                lengths[running[ended]] = step + 1
                going = (~ended).nonzero().squeeze(1)
                running = running[going]
                if not len(running):
                    break
                cache.batch_select_indices(going)
                inputs, mask, positions = inputs[going], mask[going], positions[going]
    if not torch.isfinite(log_probs).all():
        raise CourseError(
            "the policy's probabilities are no numbers, so nothing can be sampled from it: its weights have "
            "overflowed; load it again and train with a lower learning_rate."
        )
    columns = (tokens.tolist(), log_probs.tolist(), values.tolist() if value_head else [[]] * len(prompts))
    return [
        SampledTokens(*(column[row][:length] for column in columns))
        for row, length in enumerate(lengths.tolist())
    ]


def _draw(probabilities: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Draw one index from each row by inverting its distribution function, shape (B, 1)."""
    import torch

    # One random number per row; `torch.multinomial` draws one for every entry of the vocabulary, which took a
    # sixth of the sampling time on a CPU.
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    uniform = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype)
    # Rounding may lift the product to the total itself, which lies behind the last entry.
    level = (uniform * total).minimum(total * (1 - 2**-23))
    # Without the clamp, probabilities that are NaN would give an index behind the vocabulary.
    return torch.searchsorted(cumulative, level, right=True).clamp(max=probabilities.shape[-1] - 1)
