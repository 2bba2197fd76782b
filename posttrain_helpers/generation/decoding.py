"""Batched generation that is the same for every model compared.

The batches depend on the prompts, the tokenizer and the batch size only, never on the model: even the greedy
replies of one model can differ between batch shapes, and that must not pass for an effect of training. The
model's own sampling settings are overruled, so that two models always decode alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.progress_bars import ProgressBar
from posttrain_helpers.environment.runtime import preserved_random_state, sampling_precision
from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]
SHORTEN = "shorten the prompt or lower max_new_tokens"

# Many shipped generation configs set these, and `generate` takes over whatever is left unset.
_NEUTRAL_DECODING = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
# So many tokens at the start of all prompts, as a template's own system turn has, are worth a forward pass of
# their own; the few that open a user's turn are not.
_LONG_OPENING = 16
# transformers keeps 50 tokens when `top_k` is unset; a policy gradient or a KL needs the full distribution.
_FULL_DISTRIBUTION = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        text: the completion without special tokens.
        token_ids: its tokens, the stop token included, padding excluded.
        stop_reason: "stop" when the model ended by itself, "length" when it was cut at `max_new_tokens`.
    """

    text: str
    token_ids: tuple[int, ...]
    stop_reason: str


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    num_return_sequences: int = 1,
) -> list[Generation] | list[list[Generation]]:
    """Complete prompts in left-padded batches of one constant size.

    The model is in eval mode while it generates and gets its previous mode back. The random state of the
    caller stays as it is. A long opening that all prompts share, such as a system turn, is read only once.
    What takes more than a few seconds shows a progress bar, which vanishes at the end.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with a padding token.
        prompts: N prompts. A string is continued as it is; a list of messages goes through the chat template,
            and the model writes the assistant's reply.
        max_new_tokens: the most tokens to generate for a prompt.
        temperature: 0 is greedy; above 0 tokens are sampled from the full softmax (no top-k, no top-p).
        seed: seed of the sampling; unused when greedy.
        batch_size: sequences in a batch. The last batch is filled up with repeated prompts.
        num_return_sequences: samples for each prompt; more than one needs a temperature above 0.

    Returns:
        N generations in the order of the prompts; N lists of generations when `num_return_sequences` is more
        than one.

    Raises:
        CourseError: a reward model, no prompts, a prompt of an unknown form, a missing chat template or
            padding token, a prompt that leaves no room for `max_new_tokens`, or settings that contradict each
            other.
    """
    import torch

    check_sampling(temperature, num_return_sequences, max_new_tokens=max_new_tokens, batch_size=batch_size)
    if not model.can_generate():
        raise CourseError(
            f"a {type(model).__name__} has a score head and cannot write text; pass a language model, or "
            "score finished replies with rewards.score_replies()."
        )
    encoded = encode_prompts(tokenizer, prompts)
    check_fits(model, tokenizer, encoded, max_new_tokens)

    rows = [ids for ids in encoded for _ in range(num_return_sequences)]
    size = min(batch_size, len(rows))
    opening = _shared_opening(encoded) if size > 1 else []
    generations: list[Generation] = []
    progress = ProgressBar(len(rows), "prompt" if num_return_sequences == 1 else "sample")
    precision = sampling_precision(model) if temperature > 0 else nullcontext()
    with evaluation_mode(model), preserved_random_state(), precision, progress:
        torch.manual_seed(seed)
        read = _read_opening(model, opening) if opening else None
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            filled = [batch[i % len(batch)] for i in range(size)]
            completed = _generate_batch(
                model, tokenizer, filled, max_new_tokens, float(temperature), opening, read
            )
            generations += completed[: len(batch)]
            progress.update(len(batch))
    if num_return_sequences == 1:
        return generations
    return [generations[i : i + num_return_sequences] for i in range(0, len(rows), num_return_sequences)]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Turn prompts into token ids, ready to be continued.

    Args:
        tokenizer: the tokenizer; message lists need its chat template.
        prompts: N strings or message lists, as for `generate`.

    Returns:
        N lists of token ids, without padding. Message lists end with the opening of the assistant's turn, and
        with an empty thought where the template, as that of Qwen3, lets a model think first.

    Raises:
        CourseError: no prompts, a prompt of an unknown form or without tokens, or a missing chat template.
    """
    if isinstance(prompts, str):
        raise CourseError("prompts must be a list, but one string was found; write [prompt].")
    prompts = list(prompts)
    if not prompts:
        raise CourseError("There are no prompts to complete: the list is empty; pass at least one prompt.")
    if all(isinstance(prompt, dict) and "role" in prompt for prompt in prompts):
        raise CourseError(
            "prompts must be a list of conversations, but the messages of one conversation were found; "
            "write [messages]."
        )
    encoded = [_encode(tokenizer, prompt, index) for index, prompt in enumerate(prompts)]
    for index, ids in enumerate(encoded):
        if not ids:
            raise CourseError(f"Prompt {index} has no tokens; give the model at least one word to continue.")
    return encoded


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of rows of token ids, shape (rows, longest row), to be read."""
    return _padded(rows, pad, "right")


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Return the same with padding on the left: all rows end at one column, where they are continued."""
    return _padded(rows, pad, "left")


def _padded(rows: Sequence[Sequence[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad, padding_side=side),
        "attention_mask": pad_sequence(masks, batch_first=True, padding_side=side),
    }


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, index: int) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    _check_messages(prompt, index)
    if not tokenizer.chat_template:
        raise CourseError(
            f"Prompt {index} is a conversation, but the tokenizer has no chat template; load the model with "
            "load_model_and_tokenizer, which adds one, or pass the prompt as a string."
        )
    text = tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # a template without this switch ignores it; a thought would fill the reply
    )
    # The template has written the special tokens; the tokenizer must not add a second set.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_messages(prompt: Any, index: int) -> None:
    if isinstance(prompt, dict) and "prompt" in prompt:
        raise CourseError(f"Prompt {index} is a whole item (a dict); pass its prompt: item['prompt'].")
    if not isinstance(prompt, (list, tuple)):
        raise CourseError(
            f"Prompt {index} must be a string or a list of messages, but a {type(prompt).__name__} was found."
        )
    if not prompt:
        raise CourseError(f"Prompt {index} is an empty conversation; give it at least one user message.")
    for message in prompt:
        well_formed = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not well_formed or not isinstance(message.get("content"), str):
            raise CourseError(
                f"Prompt {index} holds {message!r}, which is no message; "
                'a message looks like {"role": "user", "content": "Hello."}.'
            )
    if prompt[-1]["role"] == "assistant":
        raise CourseError(
            f"Prompt {index} ends with the assistant's reply, so the answer is already in it; "
            "drop the last message and let the model write it."
        )


def check_sampling(temperature: float, num_return_sequences: int, **counts: int) -> None:
    """Check that all numbers of a sampling are at least 1 and that the temperature is one.

    Raises:
        CourseError: a number below 1, a temperature below 0 or not finite, or several greedy samples.
    """
    for name, value in {"num_return_sequences": num_return_sequences, **counts}.items():
        if value < 1:
            raise CourseError(f"{name} must be at least 1, but {value} was found.")
    if not math.isfinite(temperature) or temperature < 0:
        raise CourseError(f"temperature must be 0 (greedy) or a positive number, but it is {temperature}.")
    if num_return_sequences > 1 and temperature == 0:
        raise CourseError(
            f"{num_return_sequences} greedy completions of a prompt would all be equal; "
            "set a temperature above 0 or num_return_sequences=1."
        )


def positions(model: PreTrainedModel) -> float:
    """Return how many tokens a model can read, infinity where its config sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def check_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that texts of several lengths can share a batch.

    Raises:
        CourseError: there is no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise CourseError(
            "The tokenizer has no padding token, so texts cannot share a batch; load the model with "
            "load_model_and_tokenizer, which picks one, or set tokenizer.pad_token."
        )


def check_fits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: list[list[int]], max_new_tokens: int
) -> None:
    """Check that rows of prompts can be padded, and fit into the model with what it will write.

    Raises:
        CourseError: no padding token, too long a prompt, or a token that the model does not have.
    """
    check_padding(tokenizer)
    limit = positions(model)
    longest = max(range(len(encoded)), key=lambda index: len(encoded[index]))
    if len(encoded[longest]) + max_new_tokens > limit:
        prompt = f"Prompt {longest}" if len(encoded) > 1 else "The prompt"
        raise CourseError(
            f"{prompt} has {len(encoded[longest])} tokens and {max_new_tokens} new ones are asked "
            f"for, but the model has {limit} positions in all; {SHORTEN}."
        )
    vocabulary = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.pad_token_id, *(token for ids in encoded for token in ids))
    if largest >= vocabulary:
        raise CourseError(
            f"The tokenizer gives the token id {largest}, but the model's last one is {vocabulary - 1}; "
            "pass the model's own tokenizer, or resize the model's embeddings."
        )


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a completion: those of the generation config and the tokenizer's.

    Args:
        model: the model whose `generation_config` is read.
        tokenizer: the tokenizer whose end token is added.

    Returns:
        Sorted token ids; empty when neither names an end token.
    """
    configured = model.generation_config.eos_token_id
    ids = set(configured) if isinstance(configured, (list, tuple)) else {configured}
    return sorted((ids | {tokenizer.eos_token_id}) - {None})


def _shared_opening(encoded: list[list[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, if they are many; each prompt keeps one of its own."""
    first, *others = {tuple(ids) for ids in encoded}
    length = len(first) - 1
    for ids in others:
        length = min(length, len(ids) - 1)
        length = next((place for place in range(length) if ids[place] != first[place]), length)
    return list(first[:length]) if length >= _LONG_OPENING else []


def _read_opening(model: PreTrainedModel, opening: list[int]) -> Cache:
    """Return the key-value cache of one row that holds the opening."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=torch.tensor([opening], device=_device(model)), past_key_values=cache, use_cache=True)
    return cache


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    opening: list[int],
    read: Cache | None,
) -> list[Generation]:
    import torch

    stop_ids = stop_token_ids(model, tokenizer)
    # The padding of a row stands between the shared opening and the rest.
    padded = left_padded([ids[len(opening) :] for ids in batch], tokenizer.pad_token_id)
    cache = {}
    if read is not None:
        first = torch.tensor([opening] * len(batch))
        before = {"input_ids": first, "attention_mask": torch.ones_like(first)}
        padded = {name: torch.cat([before[name], rest], 1) for name, rest in padded.items()}
        cache["past_key_values"] = copy.deepcopy(read)
        cache["past_key_values"].batch_repeat_interleave(len(batch))
    # `generate` turns gradients off itself. inference_mode is no faster, and what a module keeps from a first
    # forward in it (8-bit layers keep tensors) cannot be trained with afterwards.
    sequences = model.generate(
        **{name: tensor.to(_device(model)) for name, tensor in padded.items()},
        **cache,
        generation_config=_decoding(tokenizer, stop_ids, max_new_tokens, temperature),
    )
    generations = []
    for tokens in sequences[:, padded["input_ids"].shape[1] :].tolist():
        # Cut at the first stop token and nowhere else: a model may write the padding token in mid-text.
        end = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        written = tokens if end is None else tokens[: end + 1]
        generations.append(Generation(text, tuple(written), "length" if end is None else "stop"))
    return generations


def _decoding(
    tokenizer: PreTrainedTokenizerBase, stop_ids: list[int], max_new_tokens: int, temperature: float
) -> GenerationConfig:
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, **_FULL_DISTRIBUTION} if temperature > 0 else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_new_tokens,
        use_cache=True,  # trainers switch the cache off in the config of a model with checkpointing
        eos_token_id=stop_ids or None,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=False,
        **_NEUTRAL_DECODING,
        **sampling,
    )


class StreamedReply:
    """One reply that a model writes in a thread of its own, so that it can be read meanwhile and stopped.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        messages: the conversation so far.
        max_new_tokens, temperature: as for `generate`.

    Attributes:
        text: what is written by now.
        error: what went wrong, None as long as nothing did.

    Raises:
        CourseError: as `generate`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        messages: list[dict[str, str]],
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        check_sampling(temperature, 1, max_new_tokens=max_new_tokens)
        encoded = encode_prompts(tokenizer, [messages])
        check_fits(model, tokenizer, encoded, max_new_tokens)
        self.text, self.error = "", None
        self._stopped = False
        self._stop_ids = stop_token_ids(model, tokenizer)
        self._tokenizer, self._tokens, self._prompt_is_read = tokenizer, [], False
        config = _decoding(tokenizer, self._stop_ids, max_new_tokens, float(temperature))
        self._thread = Thread(target=self._write, args=(model, encoded, config), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the model still writes."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Let the model write no further token."""
        self._stopped = True

    def _write(self, model: PreTrainedModel, encoded: list[list[int]], config: GenerationConfig) -> None:
        inputs = left_padded(encoded, config.pad_token_id)
        try:
            model.generate(
                **{name: tensor.to(_device(model)) for name, tensor in inputs.items()},
                generation_config=config,
                streamer=self,
                stopping_criteria=[lambda ids, *_, **__: ids.new_full(ids.shape[:1], self._stopped).bool()],
            )
        except Exception as error:  # said by whoever reads the reply
            self.error = error

    def put(self, tokens: torch.Tensor) -> None:
        """Take the prompt first, then each token, from `generate`."""
        if self._prompt_is_read:
            self._tokens += [token for token in tokens.tolist() if token not in self._stop_ids]
            self.text = self._tokenizer.decode(
                self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        self._prompt_is_read = True

    def end(self) -> None:
        """Take from `generate` that it is done."""


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and checkpointing off, and give each module its own mode back.

    In train mode the layers of a checkpointed model drop the key-value cache, and generation is garbage.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
