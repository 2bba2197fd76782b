"""The identity of every shipped recipe under every profile: stages on disk record it."""

from __future__ import annotations

import pytest

from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.recipes import load_recipe, recipe_names

pytestmark = pytest.mark.usefixtures("output_root")

# A recipe whose settings change gets another line here. A change of the code that reads recipes changes none:
# it would make every stage that a reader has trained out of date.
HASHES = {
    "dpo": {"tiny": "4bfbc52bf1a89ae9", "qwen3": "5f9a5c03d687e0ca", "smol": "5f9043cbae01e594"},
    "dpo_identity": {"tiny": "94d3a9ce623716ba", "qwen3": "5f9a5c03d687e0ca", "smol": "5f9043cbae01e594"},
    "grpo": {"tiny": "cd329d53e5b00bc3", "qwen3": "7a11789b41b0fef8", "smol": "0a4710ed1aa4a6f7"},
    "grpo_reward_model": {
        "tiny": "0c51f5b5bb36a494",
        "qwen3": "ee4346b79eb22fbc",
        "smol": "c9d2daac49dffabd",
    },
    "ipo": {"tiny": "ccfe93af29560434", "qwen3": "c6854f2b0705204c", "smol": "2eac13afb5323c02"},
    "judge": {"tiny": "5c3de33ba35d443c"},
    "kto": {"tiny": "61a4c0ba3af21d83", "qwen3": "18495b1bf9161c14", "smol": "1d4820f49d40e4f5"},
    "orpo": {"tiny": "c1b37d12c002785e", "qwen3": "dbcd2cb6568243a3", "smol": "e810345fcf25bc2c"},
    "ppo": {"tiny": "0ee799ffbecc79cf", "qwen3": "80d0a8ce78dd758b", "smol": "c1929267acd88b06"},
    "reward": {"tiny": "be52d3ecfadf2949", "qwen3": "2bfda4972c70a872", "smol": "f48120fd8c38ed4b"},
    "rloo": {"tiny": "674d25d766fa3c16", "qwen3": "b1bcd3bd4b6c3992", "smol": "a61925eb6438c243"},
    "sft": {"tiny": "c632645bd1e33195", "qwen3": "5b1cbf3af702f935", "smol": "b03b952d8b1e3a9c"},
    "sft_chosen": {"tiny": "2635d89095795c4f", "qwen3": "afdef6ee2ac3eeb5", "smol": "4e823a9c7a42ab74"},
    "simpo": {"tiny": "d523c070bbd892e7", "qwen3": "8916d7b8613f530f", "smol": "f3a43e973a7b63e5"},
}


def test_every_recipe_and_profile_is_pinned() -> None:
    assert sorted(HASHES) == recipe_names()
    assert {name for name, hashes in HASHES.items() if set(hashes) != set(PROFILES)} == {"judge"}


@pytest.mark.parametrize(
    ("name", "profile"), [(name, profile) for name, hashes in HASHES.items() for profile in hashes]
)
def test_the_hash_of_a_shipped_recipe_is_what_it_was(name: str, profile: str) -> None:
    assert load_recipe(name, profile).hash == HASHES[name][profile]
