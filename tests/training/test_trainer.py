from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.recipes.methods import METHODS, config_class, trainer_class
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training import trainer as training
from posttrain_helpers.training.checks import check_supervision
from posttrain_helpers.training.trainer import checked_config, make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

WITHOUT_MARKERS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OUTSIDE = WITHOUT_MARKERS.replace(
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}",
    "{% if message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message.content "
    "}}{% endgeneration %}{{ '<|im_end|>\n' }}{% else %}{{ '<|im_start|>user\n' + message.content + "
    "'<|im_end|>\n' }}"
    "{% endif %}",
)


def rows(n: int = 8, reply: str = "The capital of France is Paris.") -> Dataset:
    question = {"role": "user", "content": "What is the capital of France?"}
    return Dataset.from_list([{"messages": [question, {"role": "assistant", "content": reply}]}] * n)


def recipe(**overrides: Any) -> Recipe:
    small = {"args.per_device_train_batch_size": 4, "args.gradient_accumulation_steps": 1}
    changed = {**small, "args.logging_steps": 1, **overrides}
    return load_recipe("sft", "tiny", {key.replace("__", "."): value for key, value in changed.items()})


@pytest.fixture
def pair(random_model_dir: Path):
    return load_model_and_tokenizer(random_model_dir, verbose=False)


def test_registry() -> None:
    from trl import SFTConfig, SFTTrainer

    assert config_class("sft") is SFTConfig
    assert issubclass(trainer_class("sft"), SFTTrainer)
    with pytest.raises(CourseError, match=r"'stf' does not exist; did you mean 'sft'\?"):
        config_class("stf")


def test_training_learns_logs_and_leaves_the_model_ready(pair, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = pair
    fast = recipe(args__num_train_epochs=10, args__learning_rate=1e-2)
    trainer = make_trainer(fast, model, tokenizer, rows())
    metrics = train(trainer)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0] / 2
    assert metrics["train_runtime"] > 0
    assert not trainer.model.training
    assert capsys.readouterr().out == ""


def test_exactly_the_reply_and_its_end_are_supervised(pair) -> None:
    model, tokenizer = pair
    row = make_trainer(recipe(), model, tokenizer, rows(1, "Paris.")).train_dataset[0]
    supervised = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(supervised) == "Paris.<|im_end|>"


def test_padding_does_not_hide_the_end_token(pair) -> None:
    model, tokenizer = pair
    trainer = make_trainer(recipe(), model, tokenizer, rows(2))
    short = [trainer.train_dataset[0], {key: value[:-3] for key, value in trainer.train_dataset[1].items()}]
    labels = trainer.data_collator(short)["labels"]
    assert (labels[0] == tokenizer.eos_token_id).sum() == 1


def test_callbacks_are_called(pair) -> None:
    from transformers import TrainerCallback

    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    train(make_trainer(recipe(), *pair, rows(), callbacks=[Count()]))
    assert steps == [1, 2]


def test_the_rows_to_evaluate_on_reach_the_trainer(pair) -> None:
    trainer = make_trainer(recipe(), *pair, rows(), eval_dataset=rows(2))
    assert len(trainer.eval_dataset) == 2


def test_same_seed_same_weights(random_model_dir: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        data = Dataset.from_list([row for n in range(8) for row in rows(1, f"Reply {n}.")])
        train(make_trainer(recipe(seed=seed, args__learning_rate=1e-2), model, tokenizer, data))
        return model.get_input_embeddings().weight.detach().clone()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_missing_columns(pair) -> None:
    with pytest.raises(CourseError, match=r"needs: messages or prompt\+completion .*found answer, question"):
        make_trainer(recipe(), *pair, Dataset.from_list([{"question": "q", "answer": "a"}]))


def test_empty_training_set(pair) -> None:
    with pytest.raises(CourseError, match="no rows"):
        make_trainer(recipe(), *pair, rows().select([]))


def test_a_value_that_the_config_refuses(pair) -> None:
    with pytest.raises(CourseError, match=r"recipe 'sft': SFTConfig refuses its arguments: .*non-zero"):
        make_trainer(recipe(args__logging_strategy="steps", args__logging_steps=0), *pair, rows())


@pytest.mark.parametrize(
    ("argument", "value", "sentence"),
    [
        ("lr_scheduler_type", "cosine_with_min_lr", "SFTConfig refuses its arguments: .*min_lr_rate"),
        ("lr_scheduler_kwargs", {"a": 1}, "SFTConfig refuses its arguments: .*'a'"),
        ("dataloader_num_workers", -1, "SFTConfig refuses its arguments: num_workers"),
        ("eval_on_start", True, "SFTConfig refuses its arguments: .*eval_dataset"),
    ],
)
def test_a_value_that_only_the_beginning_of_the_training_refuses(
    pair, argument: str, value: Any, sentence: str
) -> None:
    trainer = make_trainer(recipe(**{f"args__{argument}": value}), *pair, rows())
    with pytest.raises(CourseError, match=sentence):
        train(trainer)


def test_nothing_can_be_offloaded_without_a_gpu(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(CourseError, match=r"args\.activation_offloading .* there is no GPU"):
        make_trainer(recipe(args__activation_offloading=True), *pair, rows())


def test_a_defect_in_the_training_is_not_called_an_argument(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(recipe(), *pair, rows())
    monkeypatch.setattr(trainer, "training_step", lambda *_, **__: int("a defect"))
    with pytest.raises(ValueError, match="invalid literal") as raised:
        train(trainer)
    assert not isinstance(raised.value, CourseError)


def test_what_a_trainer_cannot_fetch(pair) -> None:
    with pytest.raises(CourseError, match=r"SFTTrainer refuses its arguments or data: .*huggingface\.co"):
        make_trainer(recipe(args__chat_template_path="nobody/nothing"), *pair, rows())


def test_a_refusal_of_the_machine_is_not_called_an_argument(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trl.SFTTrainer.__init__", full)
    with pytest.raises(OSError, match="No space left"):
        make_trainer(recipe(), *pair, rows())


def test_template_without_markers(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = WITHOUT_MARKERS
    trainer = make_trainer(recipe(), model, tokenizer, rows())
    labels = trainer.train_dataset[0]["labels"]
    assert {-100, tokenizer.eos_token_id} < set(labels)
    # Earlier replies look otherwise than the last one.
    tokenizer.chat_template = "{{ messages|length }}" + WITHOUT_MARKERS
    with pytest.raises(CourseError, match=r"cannot be told from the questions: .* asks for a reply"):
        make_trainer(recipe(), model, tokenizer, rows())
    make_trainer(recipe(args__assistant_only_loss=False), model, tokenizer, rows())


def test_no_template(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = None
    with pytest.raises(CourseError, match="has no chat template"):
        make_trainer(recipe(), model, tokenizer, rows())


def test_template_that_hides_the_end_token(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = END_OUTSIDE
    with pytest.raises(CourseError, match=r"end token '<\|im_end\|>' is supervised in none of 8 rows"):
        make_trainer(recipe(), model, tokenizer, rows())


def test_replies_cut_off_before_their_end(pair) -> None:
    model, tokenizer = pair
    length = len(make_trainer(recipe(), model, tokenizer, rows(1)).train_dataset[0]["input_ids"])
    with pytest.raises(CourseError, match="raise max_length if replies are cut off"):
        make_trainer(recipe(args__max_length=length - 3), model, tokenizer, rows())


def test_replies_that_begin_after_max_length(pair) -> None:
    with pytest.raises(CourseError, match="no row has a supervised token within max_length=5"):
        make_trainer(recipe(args__max_length=5), *pair, rows())


def labelled(pair, *labels: list[int], **overrides: Any):
    data = Dataset.from_list([{"input_ids": list(range(len(row))), "labels": row} for row in labels])
    return make_trainer(
        recipe(args__assistant_only_loss=False, args__max_length=None, **overrides), *pair, data
    )


def test_rows_without_a_supervised_token(pair) -> None:
    end = pair[1].eos_token_id
    labelled(pair, [-100, 5, end], [-100, end])
    with pytest.raises(CourseError, match=r"1 of 2 rows have no supervised token \(the first is row 1\)"):
        labelled(pair, [-100, 5, end], [-100, -100])
    with pytest.raises(CourseError, match="2 of 2 rows"):
        labelled(pair, [-100, -100], [-100, -100])


def test_packing_may_cut_a_question_into_a_row_of_its_own(pair) -> None:
    end = pair[1].eos_token_id
    trainer = labelled(pair, [-100, 5, end], [-100, end])
    trainer.train_dataset = Dataset.from_list([{"labels": [-100, -100]}, {"labels": [5, end]}])
    trainer.args.packing = True
    check_supervision(trainer)
    trainer.train_dataset = trainer.train_dataset.select([0])
    with pytest.raises(CourseError, match="1 of 1 rows"):
        check_supervision(trainer)


def test_gpu_out_of_memory_is_one_sentence(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(recipe(), *pair, rows())

    def explode(*args: object, **kwargs: object) -> None:
        trainer.model.train()
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(trainer, "train", explode)
    with pytest.raises(
        CourseError,
        match=r"^the GPU is out of memory at per_device_train_batch_size=4 \(20\.00 GiB more were asked",
    ):
        train(trainer)
    assert not trainer.model.training


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 16384000 bytes. Error code 12 (Cannot allocate memory)\nC++ frames"
            ),
            r" \(16384000 bytes more were asked for\)",
        ),
        (MemoryError(), ""),
    ],
)
def test_memory_that_runs_out_without_a_gpu_is_one_sentence(
    error: Exception, asked: str, pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(recipe(), *pair, rows())
    trainer.train()
    assert trainer.optimizer.state

    def explode(*args: object, **kwargs: object) -> None:
        trainer.model.train()
        raise error

    monkeypatch.setattr(trainer, "train", explode)
    with pytest.raises(
        CourseError, match=f"^memory ran out at per_device_train_batch_size=4{asked}; .* are freed"
    ):
        train(trainer)
    assert trainer.optimizer is None
    assert not trainer.model.training


def test_another_trainer_class_is_one_entry(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    class Quiet(trl.SFTTrainer):
        pass

    monkeypatch.setattr(training, "Quiet", Quiet, raising=False)
    method = replace(
        METHODS["sft"], trainer="posttrain_helpers.training.trainer:Quiet", own_config="trl:SFTConfig"
    )
    monkeypatch.setitem(METHODS, "sft", method)
    assert type(make_trainer(recipe(), *pair, rows())) is Quiet


# --- preference methods ---

PREFERENCE_RECIPE = """
method: {method}
parent: base
args: {{max_steps: 6, logging_steps: 1, per_device_train_batch_size: 4, learning_rate: 3e-3, max_length: 64}}
data: {{source: tinyworld/sft, n_train: 8}}
"""
PREFERENCE_METHODS = [name for name, method in METHODS.items() if method.data in ("pairs", "labels")]
POLICY_METHODS = ["grpo", "rloo"]
WITH_REWARDS = [name for name, method in METHODS.items() if method.rewards]


@pytest.fixture
def preference(tmp_path: Path, random_model_dir: Path):
    """Return recipe, model, tokenizer and rows of a preference method."""

    def preference(method: str, **overrides: Any):
        path = tmp_path / f"{method}.yaml"
        path.write_text(PREFERENCE_RECIPE.format(method=method), encoding="utf-8")
        changed = {key.replace("__", "."): value for key, value in overrides.items()}
        model, tokenizer = load_model_and_tokenizer(
            random_model_dir, head=METHODS[method].head, verbose=False
        )
        pairs = [
            {
                "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
                "chosen": [{"role": "assistant", "content": "The capital is Paris."}],
                "rejected": [{"role": "assistant", "content": "A cow says moo."}],
            }
            for number in range(8)
        ]
        if METHODS[method].data == "labels":
            labels = [True, False, False, True, False, True, True, False]
            pairs = [
                {
                    "prompt": pair["prompt"],
                    "completion": pair["chosen" if label else "rejected"],
                    "label": label,
                }
                for pair, label in zip(pairs, labels, strict=True)
            ]
        return load_recipe(path, "tiny", changed), model, tokenizer, Dataset.from_list(pairs)

    return preference


def test_registry_of_preference_methods() -> None:
    import trl

    assert config_class("reward") is trl.RewardConfig
    assert trainer_class("dpo") is trl.DPOTrainer
    assert trainer_class("kto") is trl.KTOTrainer
    assert config_class("cpo").__name__ == "CPOConfig"
    assert trainer_class("orpo").__name__ == "ORPOTrainer"
    assert trainer_class("grpo") is trl.GRPOTrainer
    assert config_class("rloo") is trl.RLOOConfig
    assert {name: method.data for name, method in METHODS.items()} == {
        "sft": "conversations",
        "kl_sft": "conversations",
        "distill_offline": "conversations",
        "distill_on_policy": "prompts",
        "reward": "pairs",
        "dpo": "pairs",
        "kto": "labels",
        "orpo": "pairs",
        "cpo": "pairs",
        **dict.fromkeys(WITH_REWARDS, "prompts"),
    }
    assert [name for name, method in METHODS.items() if method.head == "reward"] == ["reward"]


@pytest.mark.slow
def test_experimental_trainers_are_imported_in_silence() -> None:
    code = "from posttrain_helpers.recipes.methods import config_class; config_class('orpo'); print('done')"
    environment = {key: value for key, value in os.environ.items() if key != "TRL_EXPERIMENTAL_SILENCE"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout == "done\n"
    assert "experimental" not in run.stderr.lower()


@pytest.mark.parametrize("method", PREFERENCE_METHODS)
def test_a_preference_method_learns_and_leaves_the_model_ready(
    method: str, preference, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(*preference(method))
    train(trainer)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    assert not trainer.model.training
    assert capsys.readouterr().out == ""
    assert "remove_unused_columns" not in caplog.text


def test_a_recipe_overrules_the_arguments_of_a_method(preference) -> None:
    assert make_trainer(*preference("orpo")).args.remove_unused_columns is False
    assert METHODS["orpo"].arguments == {"remove_unused_columns": False}
    own = preference("orpo", args__remove_unused_columns=True)[0]
    assert checked_config(own).remove_unused_columns is True
    parts = preference("cpo", args__loss_type="simpo", args__cpo_alpha=0.0, args__beta=2.0)
    trainer = make_trainer(*parts)
    assert (trainer.args.loss_type, trainer.args.cpo_alpha, trainer.args.beta) == ("simpo", 0.0, 2.0)


def test_the_first_loss_of_dpo_is_that_of_no_preference(preference) -> None:
    trainer = make_trainer(*preference("dpo"))
    train(trainer)
    first = next(log for log in trainer.state.log_history if "loss" in log)
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["rewards/margins"] == 0


@pytest.mark.parametrize("method", PREFERENCE_METHODS)
def test_a_model_with_the_wrong_head(method: str, preference, random_model_dir: Path) -> None:
    recipe, _, tokenizer, rows = preference(method)
    wrong = "language" if METHODS[method].head == "reward" else "reward"
    model, _ = load_model_and_tokenizer(random_model_dir, head=wrong, verbose=False)
    with pytest.raises(CourseError, match=rf"{method!r} trains a model with a {METHODS[method].head} head"):
        make_trainer(recipe, model, tokenizer, rows)


@pytest.mark.parametrize("method", PREFERENCE_METHODS)
def test_preference_columns(method: str, preference) -> None:
    recipe, model, tokenizer, data = preference(method)
    removed = "label" if method == "kto" else "rejected"
    with pytest.raises(CourseError, match=rf"needs: prompt\+.*{removed}.*; found"):
        make_trainer(recipe, model, tokenizer, data.remove_columns(removed))


def test_pairs_are_refused_by_kto(preference) -> None:
    recipe, model, tokenizer, _ = preference("kto")
    with pytest.raises(
        CourseError, match=r"needs: prompt\+completion\+label; found chosen, prompt, rejected"
    ):
        make_trainer(recipe, model, tokenizer, preference("dpo")[3])


def test_what_a_trainer_refuses_is_one_sentence(preference) -> None:
    for method, overrides, sentence in (
        ("kto", {"args__per_device_train_batch_size": 1}, "KTOTrainer refuses .*batch size must be > 1"),
        ("dpo", {"args__loss_type": "exo_pair"}, "DPOTrainer refuses .*Label smoothing"),
    ):
        with pytest.raises(CourseError, match=f"recipe '{method}': {sentence}"):
            make_trainer(*preference(method, **overrides))


def test_no_template_for_preferences(preference) -> None:
    recipe, model, tokenizer, rows = preference("reward")
    tokenizer.chat_template = None
    with pytest.raises(CourseError, match=r"RewardTrainer refuses its arguments or data: .*chat.template"):
        make_trainer(recipe, model, tokenizer, rows)


# --- methods that learn from rewards ---


def many_words(completions: list, **kwargs: Any) -> list[float]:
    return [float(len(completion[0]["content"].split())) for completion in completions]


@pytest.fixture
def policy(random_model_dir: Path):
    """Return recipe, model, tokenizer and prompts of a method that learns from rewards."""

    def policy(method: str, **overrides: Any):
        small = {
            "args.max_completion_length": 8,
            "args.num_generations": 4,
            "args.steps_per_generation": 1,
            "args.num_iterations": 1,
            "args.per_device_train_batch_size": 8,
            "args.max_steps": 2,
            "args.learning_rate": 1e-3,
            "args.logging_steps": 1,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        question = [{"role": "user", "content": "What is 3 + 4?"}]
        rows = Dataset.from_list([{"prompt": question, "answer": "7"}] * 8)
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        return load_recipe(method, "tiny", small), model, tokenizer, rows

    return policy


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("method", POLICY_METHODS)
def test_a_policy_learns_from_a_reward(
    method: str, beta: float, policy, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, model, tokenizer, rows = policy(method, args__beta=beta)
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = make_trainer(recipe, model, tokenizer, rows, reward_funcs=[many_words])
    assert (trainer.ref_model is None) == (beta == 0)
    train(trainer)
    logs = [log for log in trainer.state.log_history if "reward" in log]
    assert len(logs) == 2
    assert all(log["rewards/many_words/mean"] > 0 and log["grad_norm"] > 0 for log in logs)
    assert all(("kl" in log) == (beta > 0) for log in logs)
    assert not torch.equal(before, model.get_input_embeddings().weight)
    assert not trainer.model.training
    line = capsys.readouterr().out
    assert line.startswith("rewards before training (8 prompts, 4 replies each): many_words ")


@pytest.mark.parametrize("method", POLICY_METHODS)
def test_an_adapter_learns_from_a_reward(method: str, policy, random_model_dir: Path) -> None:
    recipe, _, _, rows = policy(method, args__beta=0.1)
    model, tokenizer = load_model_and_tokenizer(
        random_model_dir, lora={"r": 2, "target_modules": "all-linear"}, verbose=False
    )
    trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False, reward_funcs=[many_words])
    assert trainer.ref_model is None
    train(trainer)
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_the_rewards_of_the_recipe_are_taken(policy, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe_, model, tokenizer, data = policy("grpo")
    impossible = Dataset.from_list([{**row, "answer": "1234567"} for row in data])
    with pytest.raises(CourseError, match="get the same reward, exact_answer is 0: every advantage is zero"):
        make_trainer(recipe_, model, tokenizer, impossible)
    monkeypatch.setattr(training, "reward_functions", lambda names, profile: [many_words])
    trainer = make_trainer(*policy("grpo"), verbose=False)
    assert [inspect.unwrap(function) for function in trainer.reward_funcs] == [many_words]


def test_rewards_where_they_do_not_belong(pair, policy) -> None:
    with pytest.raises(CourseError, match="'sft' does not learn from rewards; leave out reward_funcs"):
        make_trainer(recipe(), *pair, rows(), reward_funcs=[many_words])
    without = replace(policy("grpo")[0], rewards=())
    with pytest.raises(CourseError, match="'grpo' learns from rewards, but there are none; set rewards"):
        make_trainer(without, *policy("grpo")[1:])


def test_prompts_are_needed(policy) -> None:
    made = policy("rloo")
    with pytest.raises(CourseError, match="needs: prompt; found messages"):
        make_trainer(*made[:3], rows(), reward_funcs=[many_words])


def test_weights_that_do_not_fit_the_rewards(policy) -> None:
    with pytest.raises(CourseError, match=r"recipe 'grpo': GRPOTrainer refuses .*reward weights"):
        make_trainer(*policy("grpo", args__reward_weights=[1.0, 2.0]), reward_funcs=[many_words])


def test_the_reference_is_looked_for_only_where_there_is_a_penalty(policy) -> None:
    for method in POLICY_METHODS:
        recipe_, model, tokenizer, data = policy(method, args__beta=0.1)
        model.config._name_or_path = ""
        with pytest.raises(CourseError, match="TRL reads the reference model from where the policy was"):
            make_trainer(recipe_, model, tokenizer, data, reward_funcs=[many_words])
        without = policy(method, args__beta=0.0)[0]
        make_trainer(without, model, tokenizer, data, verbose=False, reward_funcs=[many_words])


def test_out_of_memory_plans_a_policy_or_names_the_length_that_it_has(
    policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(*policy("grpo"), verbose=False, reward_funcs=[many_words])

    def explode(*args: object, **kwargs: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(trainer, "train", explode)
    with pytest.raises(CourseError, match=r"by the estimate this run takes .*set args\.activation_check"):
        train(trainer)
    monkeypatch.setattr(training, "_method_of", lambda trainer: None)
    with pytest.raises(CourseError, match="or lower max_completion_length"):
        train(trainer)


def test_grpo_samples_with_the_course_sampler_unless_an_engine_is_named(policy) -> None:
    from types import SimpleNamespace

    from posttrain_helpers.generation.rollouts import grpo_rollouts
    from posttrain_helpers.training.trainer import _sampler

    recipe, model, tokenizer, rows = policy("grpo")
    trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False, reward_funcs=[many_words])
    assert trainer.rollout_func is grpo_rollouts
    prompts = [row["prompt"] for row in rows]
    sampled = grpo_rollouts(prompts, trainer)
    assert sampled["prompt_ids"] == trainer._tokenize_prompts(prompts)[0]  # as TRL's own sampling would
    assert all(0 < len(ids) <= recipe.args["max_completion_length"] for ids in sampled["completion_ids"])
    assert sampled["logprobs"] is None
    for other in (
        {"use_vllm": True},
        {"top_p": 0.9},
        {"top_k": 50},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"generation_kwargs": {"num_beams": 2}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ):
        arguments = SimpleNamespace(**{**vars(trainer.args), **other})
        assert _sampler(METHODS["grpo"], arguments) == {}, other
    assert _sampler(METHODS["rloo"], trainer.args) == {}
