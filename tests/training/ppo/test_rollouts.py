from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ppo_toys import SMALL, prompts, share_of_even, sharpen
from transformers import AutoModelForSequenceClassification

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import encode_prompts
from posttrain_helpers.rewards.reward_model import as_reward_function, score_replies
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.ppo import rollouts as ppo_rollouts
from posttrain_helpers.training.ppo.actor_critic import ActorCritic
from posttrain_helpers.training.ppo.config import PPOConfig
from posttrain_helpers.training.ppo.metrics import PPOMetrics
from posttrain_helpers.training.ppo.rollouts import Rollout, RolloutSampler


class OfAProcess:
    """The arguments as one of several processes sees them."""

    def __init__(self, args: PPOConfig, process_index: int, world_size: int) -> None:
        self._args, self.process_index, self.world_size = args, process_index, world_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)


class Metrics(PPOMetrics):
    def __init__(self) -> None:
        super().__init__(None)

    def means(self) -> dict[str, list[float]]:
        return dict(self._rollouts)


@pytest.fixture
def tokenizer(random_model_dir: Path) -> Any:
    return load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[1]


@pytest.fixture
def policy(random_model_dir: Path) -> Any:
    return sharpen(load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0])


@pytest.fixture
def reference(random_model_dir: Path) -> Any:
    return load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0]


@pytest.fixture
def reward_model(random_model_dir: Path) -> Any:
    return new_reward_model(random_model_dir)


def new_reward_model(directory: Path) -> Any:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1).eval()
    torch.nn.init.normal_(model.score.weight)  # far from 0, so that two positions get different scores
    return model


@pytest.fixture
def sampler_for(policy: Any, reference: Any, tokenizer: Any, tmp_path: Path):
    """Build a sampler; about one token in ten ends a completion, so that lengths differ."""

    def build(
        *rewards: Any,
        data: Dataset | None = None,
        process: tuple[int, int] | None = None,
        actor_critic: ActorCritic | None = None,
        ref_model: Any = reference,
        stop: bool = True,
        **args: Any,
    ) -> RolloutSampler:
        config = PPOConfig(str(tmp_path), **{**SMALL, **args})
        sampler = RolloutSampler(
            actor_critic or ActorCritic(policy),
            ref_model,
            list(rewards) or [share_of_even],
            prompts() if data is None else data,
            tokenizer,
            config if process is None else OfAProcess(config, *process),
            Metrics(),
        )
        if stop:
            sampler.stop_ids = list(range(2, 332, 10))
        return sampler

    return build


# --- which prompts


def test_every_pass_meets_each_row_once_in_another_order(sampler_for) -> None:
    sampler = sampler_for()  # 16 prompts in a rollout, 24 rows
    drawn = [index for update in range(6) for index in sampler.prompt_indices(update)]
    passes = [drawn[start : start + 24] for start in range(0, 96, 24)]
    for order in passes:
        assert sorted(order) == list(range(24))
    assert len({tuple(order) for order in passes}) == 4
    assert passes[0] != list(range(24))


def test_a_rollout_may_be_longer_than_the_data(sampler_for) -> None:
    sampler = sampler_for(data=prompts(5))
    drawn = [index for update in range(5) for index in sampler.prompt_indices(update)]
    assert all(sorted(drawn[start : start + 5]) == list(range(5)) for start in range(0, 80, 5))


def test_the_seed_decides_the_order(sampler_for) -> None:
    orders = [sampler_for(seed=seed).prompt_indices(0) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_processes_take_the_parts_of_one_order(sampler_for) -> None:
    single = sampler_for()
    halves = [sampler_for(process=(rank, 2), gradient_accumulation_steps=1) for rank in (0, 1)]
    for update in range(3):
        parts = [half.prompt_indices(update) for half in halves]
        assert parts[0] + parts[1] == single.prompt_indices(update)
        assert not set(parts[0]) & set(parts[1]) or update == 1  # update 1 reaches into the next pass


def test_processes_sample_differently(sampler_for) -> None:
    data = Dataset.from_list([prompts(1)[0]] * 24)
    found = [
        sampler_for(process=(rank, 2), data=data).sample(0, 0.1).tokens.completions.tolist()
        for rank in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


def test_a_rollout_depends_on_its_number_only(sampler_for) -> None:
    sampler = sampler_for()
    first = sampler.sample(0, 0.1)
    second = sampler.sample(1, 0.1)
    torch.rand(7)
    again = sampler_for().sample(1, 0.1)
    assert torch.equal(again.tokens.completions, second.tokens.completions)
    assert torch.equal(again.advantages, second.advantages)
    assert not torch.equal(first.log_probs[:, :1], second.log_probs[:, :1])


def test_the_seed_and_the_number_decide_what_is_drawn(sampler_for) -> None:
    data = Dataset.from_list([prompts(1)[0]] * 24)  # so that no other prompt makes the difference
    found = [
        sampler_for(data=data, seed=seed).sample(update, 0.1).tokens.completions.tolist()
        for seed, update in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert found[0] == found[1]
    assert len({str(completions) for completions in found}) == 3


def test_no_pass_has_more_rows_than_the_arguments_say(sampler_for, policy: Any, reference: Any) -> None:
    rows: dict[str, list[int]] = {"policy": [], "reference": []}
    for name, model in (("policy", policy), ("reference", reference)):
        model.register_forward_pre_hook(
            lambda module, arguments, inputs, name=name: rows[name].append(len(inputs["input_ids"])),
            with_kwargs=True,
        )
    sampler_for(rollout_batch_size=5, per_device_train_batch_size=2, gradient_accumulation_steps=4).sample(
        0, 0.1
    )
    assert max(rows["policy"]) == 5
    assert rows["reference"] == [2] * 8


# --- what a rollout holds


def rows_of(rollout: Rollout) -> list[tuple[list[int], list[int]]]:
    tokens = rollout.tokens
    return [
        (p[m.bool()].tolist(), c[k.bool()].tolist())
        for p, m, c, k in zip(
            tokens.prompts, tokens.prompt_mask, tokens.completions, tokens.completion_mask, strict=True
        )
    ]


def log_probs_of(model: Any, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize(("separate", "estimator"), [(False, "k1"), (True, "k3")])
def test_advantages_and_returns_by_hand(
    separate: bool,
    estimator: str,
    sampler_for,
    policy: Any,
    reference: Any,
    reward_model: Any,
    tokenizer: Any,
) -> None:
    settings = {
        "kl_estimator": estimator,
        "temperature": 0.8,
        "gamma": 0.97,
        "lam": 0.9,
        "missing_eos_penalty": 1.5,
        "whiten_advantages": False,
    }
    module = ActorCritic(policy, reward_model if separate else None)
    if not separate:
        torch.nn.init.normal_(module.value_head.weight, std=0.3)
    sampler = sampler_for(actor_critic=module, **settings)
    rollout, kl_coef = sampler.sample(0, 0.3), 0.3
    rows = rows_of(rollout)
    assert [prompt for prompt, _ in rows] == encode_prompts(
        tokenizer, [prompts()[index]["prompt"] for index in sampler.prompt_indices(0)]
    )
    assert len({len(completion) for _, completion in rows}) > 3
    ended = [completion[-1] in sampler.stop_ids for _, completion in rows]
    assert set(ended) == {True, False}
    for row, (prompt, completion) in enumerate(rows):
        own = log_probs_of(policy, prompt, completion, 0.8)
        other = log_probs_of(reference, prompt, completion, 0.8)
        score = share_of_even([completion])[0] - (0 if ended[row] else 1.5)
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            backbone, head = (
                (reward_model.model, reward_model.score) if separate else (policy.model, module.value_head)
            )
            values = head(backbone(input_ids=ids).last_hidden_state)[0, len(prompt) - 1 : -1, 0].tolist()
        kl = own - other if estimator == "k1" else (other - own).exp() - 1 - (other - own)
        rewards = (-kl_coef * kl).tolist()
        rewards[-1] += score  # at the end token, or the last one
        advantage, advantages = 0.0, []
        for t in reversed(range(len(completion))):
            following = values[t + 1] if t + 1 < len(completion) else 0.0
            advantage = rewards[t] + 0.97 * following - values[t] + 0.97 * 0.9 * advantage
            advantages.insert(0, advantage)
        length = len(completion)
        close = {"atol": 2e-4, "rtol": 1e-4}  # of sums of up to 50 in float32
        torch.testing.assert_close(rollout.log_probs[row, :length], own, **close)
        torch.testing.assert_close(rollout.values[row, :length], torch.tensor(values), **close)
        torch.testing.assert_close(rollout.advantages[row, :length], torch.tensor(advantages), **close)
        torch.testing.assert_close(
            rollout.returns[row, :length], torch.tensor(advantages) + torch.tensor(values), **close
        )
        assert not rollout.advantages[row, length:].any()
        assert rollout.kl[row].item() == pytest.approx(kl.sum().item(), rel=1e-4, abs=1e-3)


def test_the_penalty_of_a_completion_that_did_not_end(sampler_for) -> None:
    settings = {"whiten_advantages": False, "lam": 1.0}
    plain, punished = (
        sampler_for(missing_eos_penalty=penalty, **settings).sample(0, 0.0) for penalty in (None, 2.0)
    )
    stop_ids = sampler_for().stop_ids
    ended = torch.tensor([completion[-1] in stop_ids for _, completion in rows_of(plain)])
    assert 0 < ended.sum() < len(ended)
    difference = (plain.returns - punished.returns)[:, 0]
    torch.testing.assert_close(difference, 2.0 * (~ended).float())


def test_an_epoch_uses_every_row_once_in_an_order_of_its_own(sampler_for) -> None:
    sampler = sampler_for()
    orders = [sampler.order(update, epoch).tolist() for update in (0, 1) for epoch in (0, 1)]
    rows = list(range(sampler.args.rollout_rows))
    assert [sorted(order) for order in orders] == [rows] * 4
    assert len({tuple(order) for order in orders}) == 4
    assert sampler.order(1, 1).tolist() == orders[3]


def test_whitening(sampler_for) -> None:
    rollout = sampler_for().sample(0, 0.1)
    mask = rollout.tokens.completion_mask.bool()
    assert rollout.advantages[mask].mean().item() == pytest.approx(0, abs=1e-5)
    assert rollout.advantages[mask].std().item() == pytest.approx(1, abs=1e-4)
    assert not rollout.advantages[~mask].any()
    plain = sampler_for(whiten_advantages=False).sample(0, 0.1)
    assert plain.advantages[mask].std().item() != pytest.approx(1, abs=0.01)
    torch.testing.assert_close(plain.returns, rollout.returns)


def test_whitened_rewards_have_variance_1(sampler_for) -> None:
    # With lam 0 and no values an advantage is the reward of its token.
    settings = {"whiten_advantages": False, "lam": 0.0}
    plain = sampler_for(**settings).sample(0, 0.1)
    whitened = sampler_for(whiten_rewards=True, **settings).sample(0, 0.1)
    mask = plain.tokens.completion_mask.bool()
    rewards, scaled = plain.advantages[mask], whitened.advantages[mask]
    assert scaled.std().item() == pytest.approx(1, abs=1e-4)
    assert scaled.mean().item() == pytest.approx(rewards.mean().item(), abs=1e-5)
    torch.testing.assert_close(scaled - scaled.mean(), (rewards - rewards.mean()) / rewards.std())


def test_rewards_are_weighted_and_logged_one_by_one(sampler_for) -> None:
    def one(completion_ids: list, **_: Any) -> list[float]:
        return [1.0] * len(completion_ids)

    sampler = sampler_for(share_of_even, one, reward_weights=[2.0, -0.5])
    rollout = sampler.sample(0, 0.1)
    means = sampler.metrics.means()
    even = sum(share_of_even([completion])[0] for _, completion in rows_of(rollout)) / 16
    assert means["rewards/share_of_even/mean"] == [pytest.approx(even)]
    assert means["rewards/one/mean"] == [1.0]
    assert means["objective/scores"] == [pytest.approx(2 * even - 0.5)]


def test_what_a_rollout_reports(sampler_for) -> None:
    sampler = sampler_for(process=(0, 2))
    torch.nn.init.normal_(sampler.actor_critic.value_head.weight, std=0.3)
    rollout = sampler.sample(0, 0.25)
    means = {name: value[0] for name, value in sampler.metrics.means().items()}
    kl, entropy = rollout.kl.mean().item(), -rollout.log_probs.sum(1).mean().item()
    ended = sum(completion[-1] in sampler.stop_ids for _, completion in rows_of(rollout))
    assert means["objective/kl"] == pytest.approx(kl)
    assert means["objective/kl_coef"] == 0.25
    assert means["objective/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert means["objective/non_score_reward"] == pytest.approx(-0.25 * kl, rel=1e-5)
    assert means["objective/rlhf_reward"] == pytest.approx(means["objective/scores"] - 0.25 * kl, rel=1e-5)
    assert means["val/num_eos_tokens"] == 2 * ended  # the mean over two processes is the sum
    inside = rollout.tokens.completion_mask.bool()
    left = (rollout.returns - rollout.values)[inside].var() / rollout.returns[inside].var()
    assert means["val/explained_variance"] == pytest.approx(1 - left.item(), rel=1e-5)
    assert means["completions/mean_length"] == rollout.tokens.completion_mask.sum(1).float().mean().item()


def test_an_adapter_switched_off_is_the_reference(
    sampler_for, policy: Any, reference: Any, random_model_dir: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(reference, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapter_off, explicit = (
        sampler_for(actor_critic=ActorCritic(adapted), ref_model=ref).sample(0, 0.1)
        for ref in (
            None,
            load_model_and_tokenizer(random_model_dir, use_gpu=False, verbose=False)[0],
        )
    )
    assert adapter_off.kl.abs().max() > 0.01
    torch.testing.assert_close(adapter_off.kl, explicit.kl, atol=1e-4, rtol=0)
    torch.testing.assert_close(adapter_off.advantages, explicit.advantages, atol=1e-3, rtol=0)


def test_dropout_does_not_reach_the_values_of_a_rollout(sampler_for, policy: Any, reward_model: Any) -> None:
    reward_model.score = torch.nn.Sequential(torch.nn.Dropout(0.5), reward_model.score)
    reward_model.score.weight = reward_model.score[1].weight
    module = ActorCritic(policy, reward_model)
    sampler = sampler_for(actor_critic=module)
    expected = sampler.sample(0, 0.1).values
    module.train()  # as it is when the second rollout is sampled
    torch.testing.assert_close(sampler.sample(0, 0.1).values, expected)
    assert module.training


def test_values_of_a_policy_in_bfloat16(sampler_for, policy: Any, reference: Any) -> None:
    module = ActorCritic(policy.bfloat16())
    torch.nn.init.normal_(module.value_head.weight, std=0.3)
    sampler = sampler_for(actor_critic=module, ref_model=reference.bfloat16())
    rollout = sampler.sample(0, 0.1)
    mask = rollout.tokens.completion_mask.bool()
    with torch.no_grad():
        expected = module.values(rollout.tokens)
    torch.testing.assert_close(rollout.values[mask], expected[mask], atol=0.1, rtol=0)


def test_a_rollout_of_one_token_is_not_whitened(sampler_for) -> None:
    one = {"max_completion_length": 1, "num_mini_batches": 1, "gradient_accumulation_steps": 1}
    sampler = sampler_for(per_device_train_batch_size=1, whiten_rewards=True, **one)
    assert sampler.sample(0, 0.1).advantages.isfinite().all()


# --- rewards


def test_what_a_reward_function_logs_is_noted(sampler_for) -> None:
    def logging(completions: list, log_metric: Any, log_extra: Any, **kwargs: Any) -> list[float]:
        log_metric("length", len(completions))
        log_extra("reply", completions)
        return share_of_even(completions=completions, **kwargs)

    sampler = sampler_for(logging)
    sampler.sample(0, 0.1)
    assert sampler.metrics.means()["length"] == [16]


# --- the position at which a reward model scores


def test_a_reward_model_scores_where_it_was_trained(
    sampler_for, reward_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[torch.Tensor] = []
    original = ppo_rollouts.score_completions
    monkeypatch.setattr(
        ppo_rollouts, "score_completions", lambda *args: captured.append(original(*args)) or captured[-1]
    )
    sampler = sampler_for(as_reward_function(reward_model, tokenizer), stop=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert sampler.stop_ids == [end]
    rollout = sampler.sample(0, 0.1)
    questions = [prompts()[index]["prompt"] for index in sampler.prompt_indices(0)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for _, ids in rows_of(rollout)]
    scores, differences = captured[0][0], []
    expected = torch.tensor(score_replies(reward_model, tokenizer, questions, texts)).float()
    close = 1e-4  # far above the rounding, 1e-6, and far below the least difference of two positions
    torch.testing.assert_close(scores, expected, atol=close, rtol=0)
    for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
        conversation = [*question, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        assert ids[-2] == end
        assert tokenizer.decode(ids[-1:]) == "\n"
        with torch.no_grad():
            trained = reward_model(input_ids=torch.tensor([ids])).logits.item()
            cut = reward_model(input_ids=torch.tensor([ids[:-1]])).logits.item()
        assert scores[row].item() == pytest.approx(trained, abs=close)
        differences.append(abs(trained - cut))
    # A text that ends at <|im_end|> gets a number that means nothing.
    assert min(differences) > 0.001
    assert sum(differences) / len(differences) > 0.3 * scores.std().item()


# --- guards


def test_there_must_be_a_reward(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    args = PPOConfig(str(tmp_path), **SMALL)
    with pytest.raises(CourseError, match="nothing to learn from: pass reward_funcs or reward_model"):
        RolloutSampler(ActorCritic(policy), None, [], prompts(), tokenizer, args, Metrics())


def test_one_weight_for_each_reward(sampler_for) -> None:
    with pytest.raises(CourseError, match="reward_weights has 2 numbers for 1 reward functions"):
        sampler_for(reward_weights=[1.0, 2.0])


def test_prompts_must_leave_room(sampler_for) -> None:
    longest = max(len(ids) for ids in sampler_for().prompt_ids)
    assert sampler_for(max_completion_length=256 - longest)
    sentence = f"has {longest} tokens and max_completion_length is {257 - longest}, but the model has 256"
    with pytest.raises(CourseError, match=sentence):
        sampler_for(max_completion_length=257 - longest)


def test_prompts_must_be_prompts(sampler_for) -> None:
    answered = [*prompts(1)[0]["prompt"], {"role": "assistant", "content": "2"}]
    with pytest.raises(CourseError, match="ends with the assistant's reply"):
        sampler_for(data=Dataset.from_list([{"prompt": answered}]))
