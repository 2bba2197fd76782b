import json
import shutil

import pytest

from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.tinyworld.pretraining.model_card import (
    dialogue_prompt,
    measure_skills,
    write_model_card,
)
from posttrain_helpers.tinyworld.pretraining.pretrain import BASE_DIRECTORY

RECORD = {
    "config": {
        "size": "small",
        "tokens": 3000,
        "seed": 0,
        "vocab_size": 400,
        "sequence_length": 64,
        "batch_size": 4,
        "learning_rate": 0.001,
    },
    "parameters": 50_000,
    "seconds": 120.0,
    "precision": "float32",
    "device": "cpu",
    "threads": 2,
    "torch": "2.13.0",
    "losses": [[20, 3.0], [40, 2.0]],
}


def test_random_weights_have_no_skills(random_model_dir):
    rows = measure_skills(*load_model_and_tokenizer(random_model_dir, verbose=False), per_suite=10)
    assert [row["suite"] for row in rows] == ["entities", "phrasings", "arithmetic", "word_problems"]
    assert all(row["n"] == 10 for row in rows)
    assert all(row["dialogue"] <= 0.1 and row["chat"] <= 0.1 for row in rows)


@pytest.mark.slow
def test_the_shipped_base_knows_its_world_but_does_not_answer():
    rows = measure_skills(*load_model_and_tokenizer("base", verbose=False), per_suite=60)
    by_suite = {row["suite"]: row for row in rows}
    assert by_suite["entities"]["dialogue"] >= 0.85
    assert by_suite["word_problems"]["dialogue"] >= 0.6
    assert by_suite["entities"]["chat"] <= 0.4


@pytest.mark.slow
def test_card_states_what_was_measured(random_model_dir, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(random_model_dir, directory)
    (directory / "pretraining.json").write_text(json.dumps(RECORD), encoding="utf-8")
    card = write_model_card(directory).read_text(encoding="utf-8")
    skills = json.loads((directory / "skills.json").read_text(encoding="utf-8"))
    assert "pretrain --size small --tokens 3e+03 --seed 0" in card
    assert "2.500 nats" in card
    for row in skills:
        assert f"| {row['suite']} | {row['n']} | {row['dialogue']:.0%} | {row['chat']:.0%} |" in card
    assert (directory / "loss.png").stat().st_size > 1000


def test_the_shipped_card_belongs_to_the_shipped_weights():
    record = json.loads((BASE_DIRECTORY / "pretraining.json").read_text(encoding="utf-8"))
    model, tokenizer = load_model_and_tokenizer("base", verbose=False)
    card = (BASE_DIRECTORY / "README.md").read_text(encoding="utf-8")
    assert model.num_parameters() == record["parameters"]
    assert f"{record['parameters'] / 1e6:.2f} million" in card
    assert len(tokenizer) == pytest.approx(record["config"]["vocab_size"], abs=3)


def test_dialogue_prompt_ends_where_the_answer_begins():
    assert dialogue_prompt("What is 1 + 1?") == "Mia: What is 1 + 1?\nTom:"
