from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from ppo_toys import (
    LEARNING,
    SMALL,
    largest_difference,
    logs,
    mini_batches,
    new_trainer,
    prompts,
    share_of_even,
    sharpen,
    slow_update,
    unpadded,
    weights,
)
from rounding import SAME_WEIGHTS
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import generate
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import _follows, save_stage
from posttrain_helpers.training.ppo import trainer as ppo
from posttrain_helpers.training.ppo.trainer import PPOConfig, PPOTrainer
from posttrain_helpers.training.trainer import make_trainer, train

# The metrics of trl 1.12.0's PPOTrainer.
TRL_METRICS = {
    "eps",
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "policy/entropy_avg",
    "val/ratio",
    "val/ratio_var",
    "val/num_eos_tokens",
    "lr",
    "episode",
}
OWN_METRICS = {
    "objective/kl_coef",
    "completions/mean_length",
    "rewards/share_of_even/mean",
    "val/explained_variance",
}
OF_TRANSFORMERS = {"loss", "grad_norm", "learning_rate", "epoch", "step"}


def loaded(directory: Path) -> tuple[Any, Any]:
    return load_model_and_tokenizer(directory, use_gpu=False, verbose=False)


def new_critic(directory: Path) -> Any:
    torch.manual_seed(4)
    critic = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1).eval()
    torch.nn.init.normal_(critic.score.weight, std=0.2)
    return critic


# --- the update


@pytest.mark.parametrize(("critic", "max_grad_norm"), [("shared", 0.0), ("separate", 0.5)])
def test_the_update_equals_a_slow_one_without_padding(
    critic: str, max_grad_norm: float, random_model_dir: Path, tmp_path: Path
) -> None:
    def build() -> PPOTrainer:
        return new_trainer(
            random_model_dir,
            tmp_path,
            model=sharpen(loaded(random_model_dir)[0]),
            parts={"value_model": new_critic(random_model_dir)} if critic == "separate" else {},
            max_steps=4,
            learning_rate=1e-3,
            cliprange=0.05,
            cliprange_value=0.02,
            vf_coef=0.5,
            temperature=0.8,
            max_grad_norm=max_grad_norm,
        )

    slow, fast = build(), build()
    for trainer in (slow, fast):
        trainer.rollouts.stop_ids = list(range(2, 332, 10))
        if critic == "shared":
            torch.manual_seed(6)
            torch.nn.init.normal_(trainer.actor_critic.value_head.weight, std=0.2)
    before = weights(slow.actor_critic)
    rows = unpadded(slow.rollouts.sample(0, slow.args.kl_coef))
    assert len({len(row["completion"]) for row in rows}) > 3
    head = slow.actor_critic.value_head or slow.value_model
    expected = slow_update(slow.policy, head, mini_batches(slow, rows), slow.args)
    fast.train()
    assert largest_difference(weights(fast.actor_critic), weights(slow.actor_critic)) < SAME_WEIGHTS
    assert largest_difference(weights(fast.actor_critic), before) > 1e-3
    # One log for the four steps, with the means over them.
    found = {name: logs(fast, name) for name in expected}
    assert found == {name: [pytest.approx(value, abs=1e-4)] for name, value in expected.items()}
    assert expected["policy/clipfrac_avg"] > 0.01
    assert expected["val/clipfrac_avg"] > 0.01
    if max_grad_norm:
        assert logs(fast, "grad_norm")[0] > max_grad_norm, "the clipping should matter here"


def test_the_arguments_may_name_what_the_critic_starts_from(random_model_dir: Path, tmp_path: Path) -> None:
    critic, place = new_critic(random_model_dir), tmp_path / "critic"
    critic.save_pretrained(place)
    loaded(random_model_dir)[1].save_pretrained(place)
    trainer = new_trainer(random_model_dir, tmp_path, value_model=str(place), max_steps=4)
    assert trainer.actor_critic.value_head is None
    before = weights(critic)
    assert largest_difference(weights(trainer.value_model), before) == 0
    trainer.train()
    assert largest_difference(weights(trainer.value_model), before) > 1e-3


def test_a_critic_that_is_given_wins_over_the_one_that_is_named(
    random_model_dir: Path, tmp_path: Path
) -> None:
    critic = new_critic(random_model_dir)
    trainer = new_trainer(random_model_dir, tmp_path, parts={"value_model": critic}, value_model="nowhere")
    assert trainer.value_model is critic


def test_the_first_step_is_on_policy(random_model_dir: Path, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, tmp_path, max_steps=2, logging_steps=1, num_mini_batches=1)
    trainer.train()
    assert logs(trainer, "val/ratio")[0] == pytest.approx(1, abs=1e-5)
    assert logs(trainer, "policy/approxkl_avg")[0] == pytest.approx(0, abs=1e-9)
    assert logs(trainer, "policy/clipfrac_avg")[0] == 0
    assert logs(trainer, "objective/kl")[0] == pytest.approx(0, abs=1e-4)
    assert logs(trainer, "policy/approxkl_avg")[1] > 1e-5


def test_sampling_has_the_precision_of_the_update(random_model_dir: Path, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, tmp_path, max_steps=1, bf16=True)
    found: list[tuple[bool, torch.dtype]] = []
    trainer.policy.register_forward_hook(
        lambda module, arguments, outputs: found.append((torch.is_grad_enabled(), outputs.logits.dtype))
    )
    trainer.train()
    assert set(found) == {(False, torch.bfloat16), (True, torch.bfloat16)}


def test_activation_checkpointing_changes_nothing(random_model_dir: Path, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        trainer = new_trainer(random_model_dir, tmp_path, activation_checkpointing=checkpointing, max_steps=4)
        trainer.train()
        assert trainer.policy.is_activation_checkpointing is checkpointing
        found.append(weights(trainer.actor_critic))
    assert largest_difference(*found) < SAME_WEIGHTS


# --- it learns


def test_it_earns_the_reward_and_logs_what_trl_did(random_model_dir: Path, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, tmp_path, **LEARNING)
    trainer.train()
    scores = logs(trainer, "objective/scores")
    assert len(scores) == 12
    assert scores[0] < 0.65
    assert sum(scores[-4:]) / 4 > 0.8
    assert logs(trainer, "rewards/share_of_even/mean") == scores
    assert logs(trainer, "objective/kl")[0] == pytest.approx(0, abs=1e-4)
    assert logs(trainer, "episode") == [32 * (update + 1) for update in range(12)]
    assert logs(trainer, "epoch")[-1] == pytest.approx(384 / 24)
    entry = trainer.state.log_history[0]
    assert set(entry) == TRL_METRICS | OWN_METRICS | OF_TRANSFORMERS
    assert all(isinstance(value, int | float) for value in entry.values())
    assert entry["eps"] > 0
    assert logs(trainer, "lr") == logs(trainer, "learning_rate")
    total = logs(trainer, "objective/non_score_reward")[-1] + scores[-1]
    assert logs(trainer, "objective/rlhf_reward")[-1] == pytest.approx(total, abs=1e-5)


def test_the_penalty_holds_the_policy_near_the_reference(random_model_dir: Path, tmp_path: Path) -> None:
    divergence = {}
    for kl_coef in (0.0, 1.0):
        trainer = new_trainer(
            random_model_dir, tmp_path, kl_coef=kl_coef, total_episodes=112, learning_rate=3e-2
        )
        trainer.train()
        divergence[kl_coef] = sum(logs(trainer, "objective/kl")[-3:]) / 3
    assert divergence[0.0] > 2
    assert divergence[1.0] < 0.3 * divergence[0.0]


def small_recipe(**overrides: Any) -> Any:
    args = {
        **{name: value for name, value in SMALL.items() if name != "use_cpu"},
        "value_model": None,
        **overrides,
    }
    return load_recipe("ppo", "tiny", {f"args.{name}": value for name, value in args.items()})


def test_a_constant_reward_is_refused(random_model_dir: Path, output_root: Path) -> None:
    def half(completions: list, **_: Any) -> list[float]:
        return [0.5] * len(completions)

    model, tokenizer = loaded(random_model_dir)
    with pytest.raises(CourseError, match=r"get the same reward, half is 0\.5: every advantage is zero"):
        make_trainer(small_recipe(), model, tokenizer, prompts(), verbose=False, reward_funcs=[half])


def test_the_recipe_trains_and_the_stage_generates_the_same(
    random_model_dir: Path, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = loaded(random_model_dir)
    recipe = small_recipe(total_episodes=32, activation_checkpointing=True)
    trainer = make_trainer(recipe, model, tokenizer, prompts(), reward_funcs=[share_of_even])
    assert "rewards before training (8 prompts, 8 replies each): share_of_even 0." in capsys.readouterr().out
    assert not trainer.ref_model.training
    train(trainer)
    again, its_tokenizer = loaded(save_stage(trainer, "ppo", recipe))
    assert largest_difference(weights(again), weights(trainer.model)) == 0
    questions = list(prompts(4)["prompt"])
    expected = generate(trainer.model, tokenizer, questions, max_new_tokens=8)
    assert generate(again, its_tokenizer, questions, max_new_tokens=8) == expected
    # The number of steps, which it computes itself, is no change by hand.
    assert _follows(trainer, recipe)
    trainer.args.kl_coef = 0.123
    assert not _follows(trainer, recipe)


# --- adapters


def adapted(directory: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(loaded(directory)[0], config)


def test_an_adapter_learns_and_the_rest_stays(random_model_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    trainer = new_trainer(random_model_dir, tmp_path, model=adapted(random_model_dir), total_episodes=48)
    assert trainer.ref_model is None
    before = weights(trainer.actor_critic)
    trainer.train()
    after = weights(trainer.actor_critic)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("lora_A" in name for name in changed)
    assert {"value_head.weight", "value_head.bias"} <= changed
    assert all("lora_" in name or name.startswith("value_head") for name in changed)
    kl = logs(trainer, "objective/kl")
    assert kl[0] == pytest.approx(0, abs=1e-4)
    assert abs(kl[-1]) > 1e-3
    assert isinstance(trainer.model, PeftModel)

    trainer.save_model(str(tmp_path / "saved"))
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not {"model.safetensors", "value.safetensors"} & names
    again = PeftModel.from_pretrained(loaded(random_model_dir)[0], tmp_path / "saved").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, trainer.model(input_ids=ids).logits)


# --- checkpoints


def comparable(trainer: PPOTrainer) -> list[dict[str, float]]:
    """Return the log without times."""
    times = ("eps", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")
    return [
        {name: value for name, value in entry.items() if name not in times}
        for entry in trainer.state.log_history
    ]


def check_same_training(first: PPOTrainer, second: PPOTrainer) -> None:
    assert largest_difference(weights(first.actor_critic), weights(second.actor_critic)) < SAME_WEIGHTS
    assert len(first.state.log_history) == len(second.state.log_history)
    for one, other in zip(comparable(first), comparable(second), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


SAVING = {
    "save_strategy": "steps",
    "save_steps": 4,
    "total_episodes": 64,
    "lr_scheduler_type": "linear",
}


@pytest.mark.parametrize("variant", ["shared", "separate", "adapter"])
def test_resuming_goes_on_as_if_nothing_had_happened(
    variant: str, random_model_dir: Path, tmp_path: Path
) -> None:
    def build() -> PPOTrainer:
        torch.manual_seed(0)  # of the adapter
        parts = {"value_model": new_critic(random_model_dir)} if variant == "separate" else {}
        model = adapted(random_model_dir) if variant == "adapter" else None
        return new_trainer(random_model_dir, tmp_path, model=model, parts=parts, **SAVING)

    whole = build()
    whole.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {
        f"checkpoint-{n}" for n in (4, 8, 12, 16)
    }
    (tmp_path / "checkpoint-16" / TRAINER_STATE_NAME).unlink()  # half written
    resumed = build()
    updates: list[int] = []
    sample = resumed.rollouts.sample
    resumed.rollouts.sample = lambda update, kl_coef: updates.append(update) or sample(update, kl_coef)
    resumed.train(resume_from_checkpoint=True)
    # Step 12 is the newest, though not by its name: one of four updates is left to do.
    assert updates == [3]
    check_same_training(whole, resumed)


def test_a_checkpoint_by_its_name(
    random_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new_trainer(random_model_dir, tmp_path, **SAVING)
    whole.train()
    resumed = new_trainer(random_model_dir, tmp_path, **SAVING)
    # A clock that advances by a second each time it is read: at the start, and for each log.
    monkeypatch.setattr(ppo, "time", SimpleNamespace(perf_counter=count().__next__))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    check_same_training(whole, resumed)
    # Episodes per second: those before the checkpoint were not sampled in this time.
    assert logs(resumed, "eps")[2:] == [16 / 1, 32 / 2]


def test_nothing_to_resume_from(random_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    sentence = re.escape(f"there is no complete checkpoint in {tmp_path} to resume from; set save_strategy")
    with pytest.raises(CourseError, match=sentence):
        new_trainer(random_model_dir, tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_with_another_critic(random_model_dir: Path, tmp_path: Path) -> None:
    new_trainer(random_model_dir, tmp_path, **{**SAVING, "total_episodes": 16}).train()
    other = new_trainer(
        random_model_dir, tmp_path, parts={"value_model": new_critic(random_model_dir)}, **SAVING
    )
    with pytest.raises(CourseError, match=r"value\.safetensors holds another critic than this trainer's"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_a_checkpoint_with_a_critic_of_another_size(
    sizes: tuple[int, int], random_model_dir: Path, tmp_path: Path
) -> None:
    saved, other = (new_critic(random_model_dir) for _ in sizes)
    for critic, layers in zip((saved, other), sizes, strict=True):
        del critic.model.layers[layers:]
    first, second = (
        new_trainer(random_model_dir, tmp_path, parts={"value_model": critic}, **SAVING, max_steps=4)
        for critic in (saved, other)
    )
    first.train()
    with pytest.raises(CourseError, match=r"value\.safetensors holds another critic than this trainer's"):
        second.train(resume_from_checkpoint=True)


# --- what can go wrong


class Interrupt(TrainerCallback):
    """Press the stop button in the middle of a mini-batch, once."""

    def __init__(self) -> None:
        self.substeps = 0

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        self.substeps += 1
        if self.substeps == 2:
            raise KeyboardInterrupt


def check_usable(trainer: PPOTrainer, directory: Path) -> None:
    """Check that the policy is there, and generates as a fresh copy of it does."""
    assert trainer.model is trainer.model_wrapped is trainer.policy
    fresh, _ = loaded(directory)
    fresh.load_state_dict(trainer.model.state_dict())
    ids = torch.tensor([[5, 6, 7]])
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8}
    found, expected = (
        m.generate(**arguments, do_sample=False, pad_token_id=0) for m in (trainer.model, fresh)
    )
    assert found.tolist() == expected.tolist()


def test_afterwards_the_model_generates(random_model_dir: Path, tmp_path: Path) -> None:
    # In train mode with checkpointing, transformers drops the cache and generates garbage.
    trainer = new_trainer(random_model_dir, tmp_path, activation_checkpointing=True, max_steps=4)
    trainer.train()
    check_usable(trainer, random_model_dir)


def test_an_interrupted_training_can_be_started_again(random_model_dir: Path, tmp_path: Path) -> None:
    arguments = {"activation_checkpointing": True, "learning_rate": 0.0, "max_steps": 4}
    trainer = new_trainer(random_model_dir, tmp_path, callbacks=[Interrupt()], **arguments)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    check_usable(trainer, random_model_dir)
    trainer.train()
    # With a learning rate of 0 the second start does what an untouched one does, metrics included.
    untouched = new_trainer(random_model_dir, tmp_path, **arguments)
    untouched.train()
    for name in ("objective/scores", "val/ratio", "loss/policy_avg", "policy/entropy_avg"):
        assert logs(trainer, name) == pytest.approx(logs(untouched, name), abs=1e-5)


def test_a_score_that_is_no_number(random_model_dir: Path, tmp_path: Path) -> None:
    calls = []

    def breaks(completion_ids: list, **_: Any) -> list[float]:
        calls.append(len(completion_ids))
        return share_of_even(completion_ids) if len(calls) < 2 else [float("nan")] * len(completion_ids)

    trainer = new_trainer(random_model_dir, tmp_path, breaks)
    with pytest.raises(CourseError, match=r"'breaks' returned nan for .* in step 5; a reward must be finite"):
        trainer.train()
    assert trainer.state.global_step == 4
    check_usable(trainer, random_model_dir)


@pytest.mark.parametrize(("learning_rate", "mini_batches"), [(1e20, 2), (1e38, 1)])
def test_a_learning_rate_that_explodes(
    learning_rate: float, mini_batches: int, random_model_dir: Path, tmp_path: Path
) -> None:
    # With a single step for each update, the next thing to fail is the sampling.
    trainer = new_trainer(
        random_model_dir,
        tmp_path,
        learning_rate=learning_rate,
        num_mini_batches=mini_batches,
        num_ppo_epochs=mini_batches,
    )
    with pytest.raises(CourseError, match=r"lower (a )?learning_rate|a lower learning_rate"):
        trainer.train()


def test_a_loss_without_end_is_refused(random_model_dir: Path, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, tmp_path)
    sample = trainer.rollouts.sample

    def enormous(*arguments: Any) -> Any:
        rollout = sample(*arguments)
        return replace(rollout, advantages=torch.full_like(rollout.advantages, -3e38))

    trainer.rollouts.sample = enormous
    with pytest.raises(CourseError, match=r"the loss of step 1 is inf; lower learning_rate"):
        trainer.train()


def test_the_reference_is_a_model_of_its_own(random_model_dir: Path, tmp_path: Path) -> None:
    model, _ = loaded(random_model_dir)
    with pytest.raises(CourseError, match="ref_model is the policy itself"):
        new_trainer(random_model_dir, tmp_path, model=model, parts={"ref_model": model})
    trainer = new_trainer(random_model_dir, tmp_path, model=model)
    before = weights(trainer.ref_model)
    trainer.train()
    assert largest_difference(before, weights(trainer.ref_model)) == 0
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


def test_a_reference_of_ones_own(random_model_dir: Path, tmp_path: Path) -> None:
    reference = sharpen(loaded(random_model_dir)[0])
    trainer = new_trainer(random_model_dir, tmp_path, parts={"ref_model": reference}, max_steps=4)
    trainer.train()
    assert logs(trainer, "objective/kl")[0] > 1


@pytest.mark.parametrize("given", [False, True])
def test_the_reference_is_without_dropout_whatever_the_policy_is(
    given: bool, random_model_dir: Path, tmp_path: Path
) -> None:
    policy, reference = (loaded(random_model_dir)[0].train() for _ in range(2))
    parts = {"ref_model": reference} if given else {}
    trainer = new_trainer(random_model_dir, tmp_path, model=policy, parts=parts)
    assert not any(module.training for module in trainer.ref_model.modules())
    assert policy.training


def test_a_model_that_another_trainer_has_patched(random_model_dir: Path, tmp_path: Path) -> None:
    model, _ = loaded(random_model_dir)
    model.forward = model.forward
    with pytest.raises(
        CourseError, match=r"forward was replaced by another trainer.*save the model as a stage"
    ):
        new_trainer(random_model_dir, tmp_path, model=model)


@pytest.mark.parametrize("missing", ["processing_class", "train_dataset"])
def test_tokenizer_and_prompts_are_needed(missing: str, random_model_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(random_model_dir)
    parts = {"processing_class": tokenizer, "train_dataset": prompts()}
    args = PPOConfig(str(tmp_path), **SMALL)
    with pytest.raises(CourseError, match=r"needs processing_class \(the tokenizer\) and train_dataset"):
        PPOTrainer(model, share_of_even, args, **{**parts, missing: None})


def test_there_must_be_a_reward(random_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="nothing to learn from"):
        new_trainer(random_model_dir, tmp_path, ())


def test_dropout_is_off(random_model_dir: Path, tmp_path: Path) -> None:
    critic = new_critic(random_model_dir)
    critic.score = torch.nn.Sequential(torch.nn.Dropout(0.3), critic.score)
    trainer = new_trainer(random_model_dir, tmp_path, parts={"value_model": critic})
    assert trainer.value_model.score[0].p == 0.0


def test_a_reward_model_and_columns_are_passed_on(random_model_dir: Path, tmp_path: Path) -> None:
    found: list[list[int]] = []

    def number(completions: list, number: list[int], **_: Any) -> list[float]:
        found.append(number)
        return [float(len(text[0]["content"])) for text in completions]

    data = Dataset.from_list([{**row, "number": n} for n, row in enumerate(prompts())])
    trainer = new_trainer(
        random_model_dir,
        tmp_path,
        number,
        data=data,
        parts={"reward_model": new_critic(random_model_dir)},
        max_steps=4,
    )
    trainer.train()
    assert found[0] == trainer.rollouts.prompt_indices(0)
    entry = trainer.state.log_history[0]
    total = entry["rewards/number/mean"] + entry["rewards/reward_model/mean"]
    assert entry["objective/scores"] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("args", "steps"),
    [({"total_episodes": 40}, 12), ({"total_episodes": None}, 8), ({"max_steps": 5}, 5)],
)
def test_how_many_steps_it_takes(
    args: dict[str, Any], steps: int, random_model_dir: Path, tmp_path: Path
) -> None:
    # 24 prompts, 16 of them in an update of 4 steps.
    assert new_trainer(random_model_dir, tmp_path, **args).args.max_steps == steps


def test_it_may_end_within_an_update(random_model_dir: Path, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, tmp_path, max_steps=5)
    trainer.train()
    assert trainer.state.global_step == 5
    assert logs(trainer, "episode")[-1] == 2 * 16


def test_the_arguments_may_serve_a_second_trainer(random_model_dir: Path, tmp_path: Path) -> None:
    args = PPOConfig(
        str(tmp_path), use_cpu=True, save_strategy="no", total_episodes=8, per_device_train_batch_size=4
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "What is 3 + 4?"}]}] * 8)
    steps = []
    for episodes in (8, 16):
        args.total_episodes = episodes
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        trainer = PPOTrainer(
            model,
            lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        steps.append(trainer.args.max_steps)
    assert steps[1] == 2 * steps[0]
