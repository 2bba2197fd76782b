from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import loading as models
from posttrain_helpers.recipes.checks import check_rewards
from posttrain_helpers.rewards import verifiers
from posttrain_helpers.rewards.functions import load_reward_model, reward_functions, reward_model_function
from posttrain_helpers.rewards.reward_model import score_replies
from posttrain_helpers.stages.loading import load_model_and_tokenizer

pytestmark = pytest.mark.usefixtures("output_root")

PROMPTS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "What says a cow?"}],
    [{"role": "user", "content": "Moo?"}],
]
REPLIES = ["The capital of France is Paris.", "A cow says moo.", ""]
MESSAGES = [[{"role": "assistant", "content": reply}] for reply in REPLIES]


@pytest.fixture(scope="module")
def reward_model_dir(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model, tokenizer = load_model_and_tokenizer(random_model_dir, head="reward", verbose=False)
    with torch.no_grad():  # freshly drawn weights would give scores near zero
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    directory = tmp_path_factory.mktemp("rewards") / "judge"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_names_of_verifiers_and_of_reward_models(reward_model_dir: Path) -> None:
    exact, judge = reward_functions(["exact_answer", str(reward_model_dir)], "tiny")
    assert exact is verifiers.exact_answer
    assert judge.__name__ == "judge"
    assert reward_model_function(reward_model_dir).__name__ == reward_model_dir.name
    assert verifiers.reward_models(["exact_answer", "reward_model", "a/b"]) == ["reward_model", "a/b"]


def test_a_reward_model_scores_as_score_replies_does(reward_model_dir: Path) -> None:
    function = reward_model_function(reward_model_dir)
    columns = {"completion_ids": [[1]] * 3, "answer": [None] * 3, "trainer_state": None}
    scores = function(prompts=PROMPTS, completions=MESSAGES, **columns)
    model, tokenizer = load_model_and_tokenizer(reward_model_dir, verbose=False)
    assert all(isinstance(score, float) for score in scores)
    assert len(set(scores)) == 3
    np.testing.assert_allclose(scores, score_replies(model, tokenizer, PROMPTS, REPLIES), atol=1e-6)
    assert function(prompts=PROMPTS, completions=REPLIES) == scores


def test_a_reply_is_scored_at_the_token_that_training_looks_at(reward_model_dir: Path) -> None:
    score = reward_model_function(reward_model_dir)(prompts=PROMPTS[:1], completions=MESSAGES[:1])[0]
    model, tokenizer = load_model_and_tokenizer(reward_model_dir, verbose=False)
    ids = tokenizer.apply_chat_template(PROMPTS[0] + MESSAGES[0], return_dict=False)
    with torch.no_grad():
        everywhere = model.score(model.model(input_ids=torch.tensor([ids])).last_hidden_state)[0, :, 0]
    assert tokenizer.decode(ids[-1:]) == "\n"
    assert score == pytest.approx(float(everywhere[-1]), abs=1e-5)
    assert abs(score - float(everywhere[-2])) > 0.01


def test_the_model_is_loaded_once_and_not_before_it_is_needed(
    reward_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    original = models.load_repaired

    def load(place: str, device: str, **options: object):
        loads.append((place, options["profile"]))
        torch.rand(3)  # whatever loading draws
        return original(place, device, **options)

    monkeypatch.setattr(models, "load_repaired", load)
    profile = replace(get_profile("tiny"), name="mine")  # another one than that in use
    (function,) = reward_functions([str(reward_model_dir)], profile)
    assert loads == []
    torch.manual_seed(5)
    function(prompts=PROMPTS, completions=MESSAGES)
    function(prompts=PROMPTS, completions=MESSAGES)
    assert loads == [(str(reward_model_dir), profile)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)


def test_a_reward_model_that_is_not_there_is_missed_before_a_trainer_is_made(output_root: Path) -> None:
    with pytest.raises(CourseError, match=r"'reward_model' is not there yet; load_stage\('reward_model'\)"):
        reward_functions(["exact_answer", "reward_model"])
    with pytest.raises(CourseError, match=r"'reward_model' is not there yet; load_stage\('reward_model'\)"):
        load_reward_model("reward_model")


def test_a_language_model_is_no_reward_model(random_model_dir: Path) -> None:
    function = reward_model_function(random_model_dir)
    with pytest.raises(CourseError, match="cannot rate replies: a Qwen3ForCausalLM has no score head"):
        function(prompts=PROMPTS, completions=MESSAGES)
    with pytest.raises(CourseError, match="cannot rate replies: a Qwen3ForCausalLM has no score head"):
        load_reward_model(random_model_dir)


def test_a_reward_model_can_be_loaded_to_begin_a_critic(reward_model_dir: Path) -> None:
    model = load_reward_model(reward_model_dir)
    expected, _ = load_model_and_tokenizer(reward_model_dir, head="reward", use_gpu=False, verbose=False)
    assert torch.equal(model.score.weight, expected.score.weight)


def checked(names: object) -> tuple[str, ...]:
    return check_rewards(names, "grpo", get_profile("tiny"), "recipe 'mine'")


def test_names_that_a_recipe_may_have(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.recipes import checks

    known = ["exact_answer", "reward_model", "some/model", "dir\\model"]
    assert checked(known) == tuple(known)
    assert checked("boxed_format") == ("boxed_format",)
    monkeypatch.setattr(checks, "saved_stages", lambda profile: ["my_judge"])
    assert checked(["my_judge"]) == ("my_judge",)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (None, r"'grpo' learns from rewards, but the recipe names none; set rewards, for example \[exact_"),
        ([], "names none"),
        (["exact_anser"], "reward 'exact_anser' does not exist; did you mean 'exact_answer'"),
        (["reward"], "did you mean 'reward_"),
        (["base"], "the reward 'base' does not exist"),
        (["exact_answer", "exact_answer"], "names one reward twice"),
        ([1], r"rewards must be a list of names, but it is \[1\]"),
        ({"exact_answer": 1.0}, "rewards must be a list of names"),
    ],
)
def test_names_that_it_may_not_have(names: object, sentence: str) -> None:
    with pytest.raises(CourseError, match=f"recipe 'mine': .*{sentence}"):
        checked(names)
