from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation import decoding as generation
from posttrain_helpers.generation import rollouts
from posttrain_helpers.generation.decoding import Generation
from posttrain_helpers.generation.rollouts import SampledTokens
from posttrain_helpers.stages.samples import Sample, sample_replies

PROMPTS = [
    [{"role": "user", "content": text}] for text in ("What is the capital of France?", "Hi!", "Go on.")
]
SETTINGS = {"samples": 2, "temperature": 1.0, "max_new_tokens": 4, "profile": "tiny"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for generation whose replies name their prompt; the list holds what it was called with."""
    made: list[dict[str, Any]] = []

    def generate(model: Any, tokenizer: Any, prompts: list[Any], **settings: Any) -> list[Any]:
        made.append({"prompts": prompts, **settings})
        samples = settings["num_return_sequences"]
        replies = [
            [
                Generation(
                    f"{prompt[-1]['content']} {number} {len(made)}", (1,), ("stop", "length")[number % 2]
                )
                for number in range(samples)
            ]
            for prompt in prompts
        ]
        return replies if samples > 1 else [reply for (reply,) in replies]

    monkeypatch.setattr(generation, "generate", generate)
    return made


@pytest.fixture
def sample(random_model_dir: Path, output_root: Path):
    """Sample from the random model with the settings above and changes to them."""

    def call(prompts: Any = PROMPTS, policy: Any = None, **changes: Any) -> list[list[Sample]]:
        return sample_replies(str(policy or random_model_dir), prompts, **{**SETTINGS, **changes})

    call.files = lambda: sorted((output_root / "tiny" / "samples").glob("*"))
    return call


def test_a_real_model_gives_the_asked_number_of_replies(sample) -> None:
    drawn = sample(samples=3)
    assert [len(group) for group in drawn] == [3, 3, 3]
    assert all(isinstance(reply.text, str) and isinstance(reply.stopped, bool) for g in drawn for reply in g)
    assert len({reply.text for group in drawn for reply in group}) > 3


def test_the_second_call_reads_from_disk(sample, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sample()
    (file,) = sample.files()
    before = file.stat().st_mtime_ns
    for name in ("generate", "_generate_batch"):
        monkeypatch.setattr(generation, name, lambda *_, **__: pytest.fail("the model is asked again"))
    assert sample() == drawn
    assert sample.files() == [file]
    assert file.stat().st_mtime_ns == before


def test_the_same_settings_give_the_same_replies(sample) -> None:
    drawn = sample()
    shutil.rmtree(sample.files()[0].parent)
    assert sample() == drawn
    assert sample(seed=1) != drawn


def test_the_settings_reach_the_generation(sample, calls) -> None:
    sample(samples=2, temperature=0.7, max_new_tokens=9, seed=5, batch_size=3)
    (call,) = calls
    call.pop("prompts")
    assert call == {
        "num_return_sequences": 2,
        "temperature": 0.7,
        "max_new_tokens": 9,
        "seed": 5,
        "batch_size": 3,
    }


@pytest.mark.parametrize("samples", [1, 2])
def test_replies_belong_to_their_prompts(sample, calls, samples: int) -> None:
    """Prompts are sorted by length for the batches, so the order must be undone."""
    prompts = [[{"role": "user", "content": "x" * (n * 7 % 11) + f" {n}"}] for n in range(11)]
    drawn = sample(prompts, samples=samples)
    lengths = [len(prompt[-1]["content"]) for prompt in calls[0]["prompts"]]
    assert lengths == sorted(lengths)
    for prompt, group in zip(prompts, drawn, strict=True):
        expected = [f"{prompt[-1]['content']} {number} 1" for number in range(samples)]
        assert [reply.text for reply in group] == expected
    assert drawn == sample(prompts, samples=samples)
    assert len(calls) == 1


def test_a_reply_knows_whether_the_model_ended_it(sample, calls) -> None:
    for _ in range(2):  # sampled, then read
        assert [[reply.stopped for reply in group] for group in sample()] == [[True, False]] * 3
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 3},
        {"temperature": 0.9},
        {"max_new_tokens": 5},
        {"seed": 1},
        {"batch_size": 2},
        {"prompts": PROMPTS[:2]},
        {"prompts": PROMPTS[::-1]},
        {"prompts": [*PROMPTS[:2], [{"role": "user", "content": "Go on!"}]]},
        {"prompts": [*PROMPTS[:2], [{"role": "system", "content": "Be."}, *PROMPTS[2]]]},
    ],
    ids=str,
)
def test_any_change_samples_anew(sample, calls, change: dict[str, Any]) -> None:
    first = sample()
    assert sample(**change) != first
    assert len(calls) == len(sample.files()) == 2
    assert sample() == first
    assert len(calls) == 2


def test_other_weights_sample_anew_and_the_same_ones_elsewhere_do_not(
    sample, calls, random_model_dir: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    first = sample()
    copy = tmp_path / "copy"
    shutil.copytree(random_model_dir, copy)
    assert sample(policy=copy) == first
    assert len(calls) == 1
    weights = load_file(copy / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, copy / "model.safetensors", metadata={"format": "pt"})
    assert sample(policy=copy) != first
    assert len(calls) == 2


def test_another_chat_template_samples_anew(sample, calls, random_model_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(random_model_dir, tmp_path / "copy"))
    first = sample(policy=copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "Now.", encoding="utf-8")
    assert sample(policy=copy) != first
    assert len(calls) == 2


def test_a_stage_is_what_its_name_stands_for(
    calls, output_root: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.stages import build as stages

    monkeypatch.setattr(stages, "resolve_model", lambda name, profile: str(random_model_dir))
    drawn = sample_replies("sft", PROMPTS, **SETTINGS)
    (file,) = (output_root / "tiny" / "samples").iterdir()
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["policy"] == "sft"
    assert content["replies"][1][0] == {"text": drawn[1][0].text, "stopped": True}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: '{"replies": null}',
        lambda text: text.replace('"stopped"', '"stoped"'),
        lambda text: b"\xff\xfe\x00",
    ],
    ids=["cut off", "empty", "a list", "no replies", "null", "other keys", "no text"],
)
def test_a_damaged_file_is_one_sentence(sample, calls, damage) -> None:
    sample()
    (file,) = sample.files()
    damaged = damage(file.read_text(encoding="utf-8"))
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(CourseError, match=rf"{file.name} is damaged .*; delete it, and it will be sampled"):
        sample()
    file.unlink()
    sample()
    assert len(calls) == 2


@pytest.mark.parametrize(
    "short", [lambda rows: rows[:-1], lambda rows: [*rows[:-1], rows[-1][:1]], lambda _: []]
)
def test_an_incomplete_file_is_sampled_again(sample, calls, short) -> None:
    sample()
    (file,) = sample.files()
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "replies": short(content["replies"])}), encoding="utf-8")
    again = sample()
    assert len(calls) == 2
    assert [len(group) for group in again] == [2, 2, 2]
    assert sample() == again
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"samples": 0}, "samples >= 1 and a temperature above 0; found samples=0 and temperature=1.0"),
        ({"temperature": 0}, "a temperature above 0; found samples=2 and temperature=0"),
        ({"temperature": -1.0}, "found samples=2 and temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature must be 0 .greedy. or a positive number, but it is inf"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, but 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, but 0"),
        ({"prompts": []}, "no prompts to complete"),
        ({"prompts": PROMPTS[0]}, "a list of conversations"),
        ({"prompts": "Who are you?"}, "prompts must be a list, but one string was found"),
        ({"policy": "no/such-model"}, "no/such-model"),
    ],
    ids=str,
)
def test_bad_arguments(sample, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        sample(**change)
    assert sample.files() == []


def test_a_failed_sampling_leaves_no_file(sample, calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", stop)
        with pytest.raises(KeyboardInterrupt):
            sample()
    assert sample.files() == []
    assert len(sample()) == 3


def test_replies_to_train_a_real_model_on_leave_their_batch_when_they_end(
    sample, calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def complete(policy: Any, prompts: list[list[int]], **settings: Any) -> list[SampledTokens]:
        asked.extend(prompts)
        stop = settings["stop_ids"][0]
        return [SampledTokens([20 + number, stop if number % 2 else 21], [], []) for number in range(6)]

    monkeypatch.setattr(rollouts, "sample_completions", complete)
    drawn = sample(profile="smollm2")
    assert not calls  # `generate` waits for the last reply of a batch
    assert [asked[n] == asked[n + 1] for n in range(5)] == [True, False, True, False, True]
    assert [[reply.stopped for reply in group] for group in drawn] == [[False, True]] * 3
    assert len({reply.text for group in drawn for reply in group}) == 6
    sample(profile="tiny")
    assert calls
