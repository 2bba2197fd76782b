"""The identity of every shipped recipe under every profile: stages on disk record it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.recipes import load_recipe, recipe_names

pytestmark = pytest.mark.usefixtures("output_root")

# A recipe whose settings change gets another line here. A change of the code that reads recipes changes none:
# it would make every stage that a reader has trained out of date.
HASHES = {
    "ai_feedback_dpo": {
        "tiny": "6b8c55647a8e7766",
        "smollm2": "b49d27a8027630d9",
        "qwen3": "44ed5f4e9134972c",
    },
    "best_of_k": {"tiny": "76d2e61034e67603", "smollm2": "737343f6022f42ab", "qwen3": "8d040f436f86477c"},
    "distill_offline": {
        "tiny": "320902e4bc16b12c",
        "smollm2": "103f02f5a48e8cd0",
        "qwen3": "033f494b94c77133",
    },
    "distill_on_policy": {
        "tiny": "104a84d2d3c468de",
        "smollm2": "077e6c7831403940",
        "qwen3": "f340a298991daeaa",
    },
    "dpo": {"tiny": "4bfbc52bf1a89ae9", "smollm2": "cb9dc0208ed0b5f6", "qwen3": "327453a2e7a8b45e"},
    "dpo_dl": {"tiny": "6d599f41a7c69644", "smollm2": "936c0d73510e15d2", "qwen3": "d8d69b073380d697"},
    "dpo_identity": {"tiny": "94d3a9ce623716ba", "smollm2": "82e83c555bdf289d", "qwen3": "99f02c4866af251c"},
    "dpo_ultrafeedback": {
        "tiny": "201524260acdd1ff",
        "smollm2": "c6d6e32255c7d407",
        "qwen3": "7be51de2ca06fde6",
    },
    "expert_iteration": {
        "tiny": "675bb6b9bfe064d5",
        "smollm2": "8c7c4504bb967713",
        "qwen3": "8d88e7ef644a253b",
    },
    "grpo": {"tiny": "1871ced79f754ef7", "smollm2": "1e6a8927886276d3", "qwen3": "5232a6d9a8d2db61"},
    "grpo_gsm8k": {"tiny": "1ce8c53a067a43e3", "smollm2": "cda0834dc0d6e087", "qwen3": "d5839a102045ae82"},
    "grpo_reward_model": {
        "tiny": "0c51f5b5bb36a494",
        "smollm2": "ec109292d4f6d031",
        "qwen3": "3bcc222abc31afd3",
    },
    "ipo": {"tiny": "ccfe93af29560434", "smollm2": "8b167b9a0e5d7d4c", "qwen3": "5df7370e9b98c504"},
    "judge": {"tiny": "5c3de33ba35d443c", "smollm2": "a010fddd110d7b85", "qwen3": "9f3759eeaa352b32"},
    "kl_sft": {"tiny": "c21324b4a33dcc08", "smollm2": "8b00254894636330", "qwen3": "bb3dd993fe3684aa"},
    "kto": {"tiny": "61a4c0ba3af21d83", "smollm2": "c267a96d485987f2", "qwen3": "8558a8b7e1c3461b"},
    "kto_mix": {"tiny": "8877ea164d83d6a7", "smollm2": "7a4434c730df8de7", "qwen3": "7341741daca03e1b"},
    "lora": {"tiny": "5f1a3e2a724e7ebc", "smollm2": "d47e3e24dc159a58", "qwen3": "27cae6019e4802e2"},
    "orpo": {"tiny": "c1b37d12c002785e", "smollm2": "06d643497bda3974", "qwen3": "9ffe1592845a5594"},
    "ppo": {"tiny": "671ea3f0174ec156", "smollm2": "e9bc953d864dbe83", "qwen3": "3221965c0efa76f8"},
    "ppo_ultrafeedback": {
        "tiny": "277dfcf41a042915",
        "smollm2": "589494acfecc76de",
        "qwen3": "1647bf3f6c625c4b",
    },
    "qlora": {"tiny": "cfcf75e517bd7ade", "smollm2": "f4e6e88634edb6e8", "qwen3": "5e7a54226065a573"},
    "replay_sft": {"tiny": "470d93f9fb248f17", "smollm2": "f71021525de07238", "qwen3": "1ee85db7c09de17f"},
    "reward": {"tiny": "be52d3ecfadf2949", "smollm2": "6d1dda0c1467067c", "qwen3": "5765dfd798cea654"},
    "reward_hh": {"tiny": "295fac0f6db67838", "smollm2": "e3fccdf617239d13", "qwen3": "b5011c857d42f8c6"},
    "reward_ultrafeedback": {
        "tiny": "2fe17181dff8ecb2",
        "smollm2": "045e1a32921f8b25",
        "qwen3": "57d42b9c8c801a91",
    },
    "rloo": {"tiny": "aff3ad040ceb2f45", "smollm2": "9e03065db7a6c4e7", "qwen3": "23ee848ebcd705bd"},
    "sft": {"tiny": "c632645bd1e33195", "smollm2": "cbf5a29a05e25106", "qwen3": "9d6b41a0267de2a0"},
    "sft_chosen": {"tiny": "2635d89095795c4f", "smollm2": "55325baf013697c7", "qwen3": "349a2cf02d4b7ec0"},
    "sft_dl": {"tiny": "63c4a7499fe10fec", "smollm2": "5891338fe4d62973", "qwen3": "5b1cbf3af702f935"},
    "sft_ultrachat": {"tiny": "99e2573b3dc5f27b", "smollm2": "bd5e995bc5dbc7fa", "qwen3": "2258c4148ae00d3a"},
    "simpo": {"tiny": "d523c070bbd892e7", "smollm2": "f906368e2a6bdff3", "qwen3": "93f02f12f14b45f1"},
    "star": {"tiny": "ec48a189694390bf", "smollm2": "2311a05bca1639d8", "qwen3": "e784e71b3f8293aa"},
    "strong_weak_dpo": {
        "tiny": "9a05bb4db8299ff1",
        "smollm2": "a1e9d9fb427edb30",
        "qwen3": "720257763cb409f3",
    },
    "templates": {"tiny": "a8c81979c23d0b97", "smollm2": "936b4b8ae1fc7ca0", "qwen3": "9a5bb5759009854d"},
}


def test_every_recipe_and_profile_is_pinned() -> None:
    assert sorted(HASHES) == recipe_names()
    assert [name for name, hashes in HASHES.items() if set(hashes) != set(PROFILES)] == []


@pytest.mark.parametrize(
    ("name", "profile"), [(name, profile) for name, hashes in HASHES.items() for profile in hashes]
)
def test_the_hash_of_a_shipped_recipe_is_what_it_was(name: str, profile: str) -> None:
    assert load_recipe(name, profile).hash == HASHES[name][profile]


def test_every_setting_counts_and_nothing_of_the_machine() -> None:
    recipe = load_recipe("sft", "tiny")
    changes = {
        "stage": "other",
        "method": "kl_sft",
        "profile": "qwen3",
        "model": "x/y",
        "data": {"source": "rows.jsonl"},
        "own_args": {"max_steps": 3},
        "lora": {"r": 4},
        "quantization": "4bit",
        "seed": 1,
        "rewards": ("exact_answer",),
        "teacher": "grpo",
        "reference": "base",
        "early_stopping": 2,
    }
    hashes = {replace(recipe, **{key: value}).hash for key, value in changes.items()}
    assert len(hashes | {recipe.hash}) == len(changes) + 1
    elsewhere = replace(
        recipe, args={"output_dir": "elsewhere"}, path=recipe.path.parent, description="words"
    )
    assert elsewhere.hash == recipe.hash
