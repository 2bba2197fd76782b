from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ppo_toys import sharpen
from scipy.stats import chisquare

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation import rollouts
from posttrain_helpers.generation.decoding import encode_prompts, stop_token_ids
from posttrain_helpers.generation.rollouts import (
    grpo_rollouts,
    sample_completions,
    sample_groups,
    sample_rewards,
    token_batch,
)
from posttrain_helpers.stages.loading import load_model_and_tokenizer

PROMPTS = [[5, 9, 33], [17], [40, 41, 42, 43, 44, 45, 46], [8, 8], [99, 7, 12, 250, 3]]
ALMOST_GREEDY = 1e-4


@pytest.fixture
def policy(random_model_dir: Path) -> Any:
    return sharpen(load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0])


@pytest.fixture
def head(policy: Any) -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(policy.config.hidden_size, 1)


def sample(policy: Any, prompts: list = PROMPTS, seed: int = 0, **kwargs: Any) -> list:
    settings = {"max_new_tokens": 12, "temperature": 1.0, "stop_ids": [], "pad": 0, **kwargs}
    return sample_completions(policy, prompts, generator=torch.Generator().manual_seed(seed), **settings)


def greedy(policy: Any, prompt: list[int], stop_ids: list[int], length: int = 12) -> list[int]:
    """Continue one prompt with transformers; without stop tokens up to the length."""
    ids = policy.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=stop_ids or [-1],
        pad_token_id=0,
    )
    return ids[0, len(prompt) :].tolist()


# --- TokenBatch


def test_prompts_end_and_completions_begin_at_one_column() -> None:
    batch = token_batch([[1, 2, 3], [4]], [[5], [6, 7]], pad=0)
    assert batch.prompts.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch.prompt_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.completions.tolist() == [[5, 0], [6, 7]]
    assert batch.completion_mask.tolist() == [[1, 0], [1, 1]]
    assert batch.lengths.tolist() == [4, 3]


def test_the_padding_token_counts_where_it_is_text() -> None:
    batch = token_batch([[0, 2], [4, 4, 4]], [[0], [6, 0]], pad=0)
    assert batch.prompt_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert batch.completion_mask.tolist() == [[1, 0], [1, 1]]


def test_rows_drop_the_columns_that_nobody_needs() -> None:
    batch = token_batch([[1, 2, 3], [4], [5, 6]], [[7], [8, 9], [10, 11, 12]], pad=0)
    part = batch.rows(torch.tensor([2, 1]))
    assert part.prompts.tolist() == [[5, 6], [0, 4]]
    assert part.prompt_mask.tolist() == [[1, 1], [0, 1]]
    assert part.completions.tolist() == [[10, 11, 12], [8, 9, 0]]
    assert part.completion_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    single = batch.rows(torch.tensor([0]))
    assert (single.prompts.tolist(), single.completions.tolist()) == ([[1, 2, 3]], [[7]])


# --- what is sampled


def test_it_agrees_with_generate_where_rows_end_at_different_steps(policy: Any) -> None:
    free = [greedy(policy, prompt, []) for prompt in PROMPTS]
    stop_ids = [free[0][2], free[2][6]]
    expected = [greedy(policy, prompt, stop_ids) for prompt in PROMPTS]
    assert len({len(ids) for ids in expected}) >= 3, "the rows of this test should end at different steps"
    found = sample(policy, temperature=ALMOST_GREEDY, stop_ids=stop_ids)
    assert [completion.ids for completion in found] == expected


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_greedy_completions_do_not_depend_on_the_batch_size(policy: Any, batch_size: int) -> None:
    stop_ids = [greedy(policy, PROMPTS[0], [])[2]]
    whole, parts = (
        sample(policy, temperature=ALMOST_GREEDY, stop_ids=stop_ids, batch_size=size)
        for size in (256, batch_size)
    )
    assert [completion.ids for completion in parts] == [completion.ids for completion in whole]


def test_log_probs_and_values_are_those_of_a_forward_pass_over_the_row(policy: Any, head: Any) -> None:
    # A third of all tokens end a completion, so rows leave the cache at every step.
    found = sample(policy, PROMPTS * 4, temperature=0.7, stop_ids=list(range(0, 332, 10)), value_head=head)
    assert len({len(completion.ids) for completion in found}) >= 4
    for prompt, completion in zip(PROMPTS * 4, found, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            outputs = policy(input_ids=ids, output_hidden_states=True)
        start = len(prompt) - 1
        log_probs = (outputs.logits[0, start:-1] / 0.7).log_softmax(-1)
        expected = log_probs.gather(1, ids[0, start + 1 :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=1e-4, rtol=0)
        values = head(outputs.hidden_states[-1][0, start:-1])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.values), values.detach(), atol=1e-4, rtol=0)


def test_log_probs_of_a_policy_in_half_precision_are_single_precision(policy: Any) -> None:
    policy.to(torch.bfloat16)
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor(PROMPTS[:1]), logits_to_keep=1).logits[0, -1]
    assert logits.dtype == torch.bfloat16
    expected = (logits.float() / 0.7).log_softmax(-1)
    (found,) = sample(policy, PROMPTS[:1], temperature=0.7, max_new_tokens=1)
    assert found.log_probs == [pytest.approx(expected[found.ids[0]].item(), abs=1e-5)]


def test_repeated_prompts_are_read_once_and_continued_apart(policy: Any, head: Any) -> None:
    lengths = []

    def note(module: Any, args: tuple, kwargs: dict) -> None:
        lengths.append(tuple(kwargs["input_ids"].shape))

    handle = policy.register_forward_pre_hook(note, with_kwargs=True)
    repeated = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[2], PROMPTS[0]]
    sampled = sample(policy, repeated, value_head=head)
    handle.remove()
    assert lengths[0] == (2, len(PROMPTS[2]))
    assert len({tuple(completion.ids) for completion in sampled}) == len(repeated)
    for prompt, completion in zip(repeated, sampled, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            outputs = policy(ids, output_hidden_states=True)
            values = head(outputs.hidden_states[-1])[0, len(prompt) - 1 : -1, 0]
        log_probs = outputs.logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = log_probs.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert completion.log_probs == pytest.approx(expected.tolist(), abs=1e-4)
        assert completion.values == pytest.approx(values.tolist(), abs=1e-4)


def test_without_a_value_head_there_are_no_values(policy: Any) -> None:
    assert all(completion.values == [] for completion in sample(policy))


def test_a_completion_ends_with_its_first_end_token(policy: Any) -> None:
    stop_ids = list(range(0, 332, 10))
    found = sample(policy, PROMPTS * 10, stop_ids=stop_ids)
    for completion in found:
        assert not set(completion.ids[:-1]) & set(stop_ids)
        assert completion.ids[-1] in stop_ids or len(completion.ids) == 12
        assert len(completion.log_probs) == len(completion.ids)
    assert {completion.ids[-1] in stop_ids for completion in found} == {True, False}


def next_token_distribution(policy: Any, prompt: list[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    return (logits / temperature).softmax(-1)


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Return the p-value of the chi-square test; tokens expected less than 5 times are one class."""
    expected = probabilities * counts.sum()
    often = expected >= 5
    observed = torch.cat([counts[often].double(), counts[~often].sum()[None].double()])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    return chisquare(observed.numpy(), (wanted * observed.sum() / wanted.sum()).numpy()).pvalue


def test_the_sampling_distribution_is_the_full_softmax(policy: Any) -> None:
    prompt, temperature, n = PROMPTS[0], 1.3, 20_000
    found = sample(policy, [prompt] * n, max_new_tokens=1, temperature=temperature, batch_size=n)
    counts = torch.bincount(torch.tensor([completion.ids[0] for completion in found]), minlength=332)
    exact = next_token_distribution(policy, prompt, temperature)
    assert p_value(counts, exact) > 0.01
    # The test has the power to see a wrong temperature and a cut at the 50 most likely tokens.
    assert p_value(counts, next_token_distribution(policy, prompt, 1.25)) < 1e-3
    top = torch.full_like(exact, 1e-12).scatter(0, exact.topk(50).indices, exact.topk(50).values)
    assert p_value(counts, top / top.sum()) < 1e-6


def test_top_k_would_bias_the_divergence_and_is_not_there(policy: Any, random_model_dir: Path) -> None:
    prompt, n = PROMPTS[0], 20_000
    reference = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0]
    exact, other = (next_token_distribution(model, prompt, 1.0) for model in (policy, reference))
    divergence = (exact * (exact.log() - other.log())).sum().item()
    found = sample(policy, [prompt] * n, max_new_tokens=1, batch_size=n)
    drawn = torch.tensor([completion.ids[0] for completion in found])
    own = torch.tensor([completion.log_probs[0] for completion in found]).double()
    k1 = own - other.log()[drawn]
    error = k1.std().item() / n**0.5
    assert abs(k1.mean().item() - divergence) < 4 * error
    beyond = ~torch.isin(drawn, exact.topk(50).indices)
    assert beyond.double().mean().item() == pytest.approx(1 - exact.topk(50).values.sum().item(), abs=0.02)
    # What a cut at 50 tokens, scored with the full softmax, would have given:
    assert abs(k1[~beyond].mean().item() - divergence) > 10 * error
    # The policy against itself: exactly no divergence, not just on average.
    assert (own - exact.log()[drawn]).mean().item() == pytest.approx(0, abs=1e-5)


def test_a_token_of_probability_zero_is_never_drawn(policy: Any) -> None:
    forbidden = torch.arange(332) % 3 != 1  # the first and the last token are among them
    policy.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.masked_fill(forbidden, float("-inf"))
    )
    drawn = {token for completion in sample(policy, PROMPTS * 100) for token in completion.ids}
    assert drawn
    assert all(token % 3 == 1 for token in drawn)


@pytest.mark.parametrize(("level", "expected"), [(0.0, 1), (0.25, 3), (0.9999999, 3), (1 - 2**-24, 3)])
def test_the_ends_of_the_distribution_function(
    level: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor([[level]], dtype=torch.float32))
    for total in (1.0, 1 + 2**-22, 1 - 2**-22):  # sums of float probabilities are not exactly 1
        assert rollouts._draw(probabilities * total, None).tolist() == [[expected]]


def test_the_seed_decides(policy: Any) -> None:
    first, again, other = (sample(policy, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [c.ids for c in first] != [c.ids for c in other]


def test_the_global_generator_is_the_default(policy: Any) -> None:
    settings = {"max_new_tokens": 4, "temperature": 1.0, "stop_ids": [], "pad": 0}
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(sample_completions(policy, PROMPTS, **settings))
    assert found[0] == found[1]
    assert found[0] != sample_completions(policy, PROMPTS, **settings)


def sample_texts(*arguments: Any, **options: Any) -> list[list[str]]:
    return [[reply.text for reply in group] for group in sample_groups(*arguments, **options)]


def test_texts_are_those_of_the_sampled_completions(random_model_dir: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)
    asked = ["The cow", [{"role": "user", "content": "Can an owl fly?"}]]
    texts = sample_texts(model, tokenizer, asked, samples=3, max_new_tokens=5, seed=7)
    drawn = sample(
        model,
        [ids for ids in encode_prompts(tokenizer, asked) for _ in range(3)],
        seed=7,
        max_new_tokens=5,
        stop_ids=stop_token_ids(model, tokenizer),
        pad=tokenizer.pad_token_id,
    )
    flat = [tokenizer.decode(completion.ids, skip_special_tokens=True) for completion in drawn]
    assert texts == [flat[:3], flat[3:]]
    assert len(set(flat)) > 3
    options = {"samples": 3, "max_new_tokens": 5, "temperature": ALMOST_GREEDY}
    (almost_greedy,) = sample_texts(model, tokenizer, asked[:1], **options)
    assert len(set(almost_greedy)) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 0}, "samples must be at least 1, but 0 was found"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, but 0 was found"),
        ({"batch_size": 0}, "batch_size must be at least 1, but 0 was found"),
        ({"temperature": float("nan")}, "temperature must be 0 .greedy. or a positive number, but it is nan"),
        ({"max_new_tokens": 10_000}, "and 10000 new ones are asked for, but the model has"),
    ],
)
def test_a_sampling_that_cannot_be_is_refused(
    random_model_dir: Path, settings: dict[str, Any], sentence: str
) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)
    with pytest.raises(CourseError, match=sentence):
        sample_texts(model, tokenizer, ["one"], **{"samples": 1, "max_new_tokens": 2, **settings})


def test_a_reply_has_ended_if_its_last_token_says_so(
    random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)
    stop_ids = list(range(0, 332, 3))
    monkeypatch.setattr(rollouts, "stop_token_ids", lambda *_: stop_ids)
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda module, arguments, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    options = {"samples": 20, "max_new_tokens": 2, "batch_size": 8}
    (drawn,) = sample_groups(model, tokenizer, ["The cow"], **options)
    for reply in drawn:
        assert reply.stop_reason == ("stop" if reply.token_ids[-1] in stop_ids else "length")
    # One that ends at the last token that it may have was not cut.
    assert {(len(reply.token_ids), reply.stop_reason) for reply in drawn} == {
        (1, "stop"),
        (2, "stop"),
        (2, "length"),
    }
    assert max(rows) <= 8


def test_rewards_are_those_of_the_replies(random_model_dir: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)
    items = [{"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "2"}]

    def reward(completions: list[str], answer: list[str]) -> list[float]:
        return [len(text) + float(number) for text, number in zip(completions, answer, strict=True)]

    options = {"samples": 3, "max_new_tokens": 5, "seed": 7}
    texts, rewards = sample_rewards(model, tokenizer, items, reward, **options)
    assert texts == sample_texts(model, tokenizer, ["one", "two"], **options)
    assert rewards == [[len(text) + n for text in replies] for n, replies in enumerate(texts, 1)]


def test_grpo_gets_completions_of_its_own_temperature_and_length(policy: Any, random_model_dir: Path) -> None:
    tokenizer = load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[1]
    trainer = SimpleNamespace(
        processing_class=tokenizer,
        args=SimpleNamespace(max_completion_length=5, temperature=ALMOST_GREEDY),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        model_wrapped=policy,
    )
    found = grpo_rollouts(["The cow"] * 6, trainer)
    (prompt,) = encode_prompts(tokenizer, ["The cow"])
    assert found["prompt_ids"] == [list(prompt)] * 6
    expected = greedy(policy, list(prompt), stop_token_ids(policy, tokenizer), length=5)
    assert found["completion_ids"] == [expected] * 6


# --- the model is left as it was


def test_train_mode_with_checkpointing_does_no_harm(policy: Any) -> None:
    expected = sample(policy)
    policy.activation_checkpointing_enable()
    policy.train()
    policy.model.layers[0].eval()
    assert sample(policy) == expected
    assert policy.training
    assert policy.model.layers[1].training
    assert not policy.model.layers[0].training
    assert not any(parameter.grad is not None for parameter in policy.parameters())


# --- guards


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_greedy_is_no_sampling(policy: Any, temperature: float) -> None:
    with pytest.raises(CourseError, match=r"needs a temperature above 0, but it is"):
        sample(policy, temperature=temperature)


def test_weights_that_have_overflowed(policy: Any) -> None:
    with torch.no_grad():
        policy.model.norm.weight[0] = float("nan")
    with pytest.raises(CourseError, match=r"probabilities are no numbers.*lower learning_rate"):
        sample(policy)
