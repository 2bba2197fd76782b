"""The evaluation of models: what is measured, what is taken from disk, what is refused."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation import runner
from posttrain_helpers.evaluation.records import read_records, record_path, write_record
from posttrain_helpers.evaluation.runner import evaluate
from posttrain_helpers.evaluation.suites.suite import Suite
from posttrain_helpers.generation.decoding import generate
from posttrain_helpers.generation.likelihood import kl_to_reference, text_losses
from posttrain_helpers.metrics import lenient_match
from posttrain_helpers.stages import loading

TEXTS = ["A cow says moo.", "3 + 4 = 7.", "An owl can fly."]


def length(reply: str, item: dict[str, Any]) -> float:
    return len(reply.split()) - (0.0 if item["stopped"] else 10.0)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"id": text, "prompt": [{"role": "user", "content": text}], "answer": "moo", **more}


FACTS = Suite(
    "facts",
    "facts",
    (asked("A cow says", relation="sounds"), asked("What is 3 + 4?"), asked("An owl", answer=None)),
    "correct",
    {"correct": lenient_match, "words": length},
    max_new_tokens=6,
)
TASTE = Suite(
    "preference",
    "taste",
    (asked("Capital of France?"), asked("Can an owl fly?")),
    "words",
    {"words": length},
    max_new_tokens=6,
    kind="preference",
)


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "retention_texts", lambda profile: TEXTS)


@pytest.fixture(scope="module")
def other_model_dir(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with other weights."""
    import torch

    model, tokenizer = loading.load_model_and_tokenizer(random_model_dir, verbose=False)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    directory = tmp_path_factory.mktemp("other") / "other_model"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were loaded, in order."""
    made: list[str] = []
    real = loading.load_model_and_tokenizer

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        made.append(Path(name).name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(loading, "load_model_and_tokenizer", counted)
    return made


def run(sources: Any, suites: Any = (FACTS, TASTE), **options: Any) -> Any:
    return evaluate(sources, suites=list(suites), profile="tiny", **{"reference": None, **options})


def test_a_record_holds_replies_scores_and_losses(output_root: Path, random_model_dir: Path) -> None:
    (record,) = run({"mine": random_model_dir}, batch_size=2)
    model, tokenizer = loading.load_model_and_tokenizer(random_model_dir, verbose=False)
    replies = generate(model, tokenizer, [i["prompt"] for i in FACTS.items], max_new_tokens=6, batch_size=2)
    suite = record.suites["facts"]
    assert suite.replies == tuple(reply.text for reply in replies)
    assert suite.tokens == tuple(len(reply.token_ids) for reply in replies)
    assert suite.stopped == tuple(reply.stop_reason == "stop" for reply in replies)
    assert suite.ids == suite.prompts == ("A cow says", "What is 3 + 4?", "An owl")
    assert suite.scores["correct"] == (
        *(lenient_match(text, {"answer": "moo"}) for text in suite.replies[:2]),
        None,
    )
    assert suite.scores["words"] == tuple(
        len(text.split()) - 10 * (not end) for text, end in zip(suite.replies, suite.stopped, strict=True)
    )
    assert list(suite.scores) == ["correct", "words"]
    assert suite.relations == ("sounds", None, None)
    assert record.suites["preference"].relations is None
    losses = text_losses(model, tokenizer, TEXTS)
    assert record.retention["losses"] == pytest.approx([loss for loss, _ in losses], rel=1e-5)
    assert record.retention["tokens"] == [count for _, count in losses]
    assert (record.label, record.profile, record.parent, record.divergence) == ("mine", "tiny", None, None)
    assert record.device == "cpu"
    assert record.peak_cpu_mb > 50
    assert record.seconds > 0
    assert record.settings["suite_hashes"] == {"facts": FACTS.hash, "preference": TASTE.hash}
    assert read_records("tiny") == [record]


def test_one_line_is_printed_for_each_model(
    output_root: Path, random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run({"mine": random_model_dir})
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"mine: \d+\.\d s, 2 suites, 5 prompts", line)
    run({"mine": random_model_dir})
    assert capsys.readouterr().out.startswith("mine: the record on disk is of the same model")
    run({"mine": random_model_dir}, reuse=False)
    assert capsys.readouterr().out.startswith("mine: ")


# --- reuse


def test_what_is_on_disk_is_not_made_again(
    output_root: Path, random_model_dir: Path, loads: list[str]
) -> None:
    first = run({"mine": random_model_dir})
    assert run({"mine": random_model_dir}) == first
    assert len(loads) == 1
    assert run({"mine": random_model_dir}, reuse=False)[0].suites == first[0].suites
    assert len(loads) == 2


def test_only_what_is_missing_is_measured_and_the_rest_stays_in_the_file(
    output_root: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = run({"mine": random_model_dir}, [FACTS])
    generated: list[str] = []
    real = runner._Evaluation._suite

    def counted(self: Any, model: Any, tokenizer: Any, suite: Suite) -> Any:
        generated.append(suite.name)
        return real(self, model, tokenizer, suite)

    monkeypatch.setattr(runner._Evaluation, "_suite", counted)
    (second,) = run({"mine": random_model_dir}, [TASTE, FACTS])
    assert generated == ["preference"]
    assert list(second.suites) == ["preference", "facts"]
    assert second.suites["facts"] == first.suites["facts"]
    assert second.retention == first.retention
    assert second.seconds > first.seconds
    (third,) = run({"mine": random_model_dir}, [FACTS])
    assert list(third.suites) == ["facts"]
    assert read_records("tiny") == [second]
    changed = replace(FACTS, items=FACTS.items[::-1])
    (fourth,) = run({"mine": random_model_dir}, [changed])
    assert generated == ["preference", "facts"]
    (on_disk,) = read_records("tiny")
    assert (on_disk.suites["facts"], set(on_disk.suites)) == (fourth.suites["facts"], {"facts", "preference"})
    assert on_disk.settings["suite_hashes"] == {"facts": changed.hash, "preference": TASTE.hash}


def test_a_look_at_a_few_items_leaves_the_longer_record_in_the_file(
    output_root: Path, random_model_dir: Path, other_model_dir: Path
) -> None:
    sources = {"mine": other_model_dir}
    (whole,) = run(sources, reference=str(random_model_dir), batch_size=1)
    (part,) = run(sources, reference=str(random_model_dir), batch_size=1, limit=1)
    assert part.suites["facts"].ids == whole.suites["facts"].ids[:1]
    assert part.divergence["kl"] == whole.divergence["kl"][:1]
    (on_disk,) = read_records("tiny")
    assert (on_disk.suites, on_disk.divergence) == (whole.suites, whole.divergence)
    assert on_disk.settings == whole.settings
    assert run(sources, reference=str(random_model_dir), batch_size=1)[0].written == on_disk.written
    (other,) = run(sources, reference=str(other_model_dir), batch_size=1, limit=1)
    assert read_records("tiny")[0].divergence == other.divergence  # of another reference, so not a part
    (fresh,) = run(sources, [FACTS], batch_size=1, limit=1, reuse=False)
    assert read_records("tiny") == [fresh]


def test_other_items_under_the_same_ids_replace_the_longer_record(
    output_root: Path, random_model_dir: Path
) -> None:
    run({"mine": random_model_dir}, [FACTS])
    edited = tuple({**item, "prompt": TASTE.items[0]["prompt"]} for item in FACTS.items[:2])
    for _ in range(2):
        (found,) = run({"mine": random_model_dir}, [replace(FACTS, items=edited)])
        assert read_records("tiny") == [found]
        assert found.suites["facts"].prompts == ("Capital of France?",) * 2


def test_other_weights_files_texts_or_batches_are_measured_again(
    output_root: Path,
    random_model_dir: Path,
    other_model_dir: Path,
    tmp_path: Path,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run({"mine": random_model_dir}, batch_size=2)
    run({"mine": random_model_dir}, batch_size=3)
    (other,) = run({"mine": other_model_dir}, batch_size=3)
    assert len(loads) == 3
    copy = shutil.copytree(other_model_dir, tmp_path / "copy")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{# changed #}", encoding="utf-8")
    (told,) = run({"mine": copy}, batch_size=3)
    assert told.identity == other.identity
    assert len(loads) == 4
    monkeypatch.setattr(runner, "retention_texts", lambda profile: TEXTS[:2])
    (shorter,) = run({"mine": copy}, batch_size=3)
    assert shorter.suites == told.suites
    assert len(shorter.retention["losses"]) == 2
    assert len(loads) == 5
    write_record(replace(shorter, device="cuda:0"))
    assert run({"mine": copy}, batch_size=3)[0].device == "cpu"
    assert len(loads) == 6


def test_a_record_keeps_the_versions_that_it_was_begun_with(
    output_root: Path, random_model_dir: Path
) -> None:
    (first,) = run({"mine": random_model_dir}, [FACTS])
    write_record(replace(first, versions={"torch": "1"}))
    assert run({"mine": random_model_dir})[0].versions == {"torch": "1"}


def test_what_another_process_writes_meanwhile_stays_in_the_file(
    output_root: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other,) = run({"mine": random_model_dir}, [TASTE])
    record_path("mine", "tiny").unlink()
    real = runner._Evaluation._retention
    monkeypatch.setattr(runner._Evaluation, "_retention", lambda *a: write_record(other) and real(*a))
    (found,) = run({"mine": random_model_dir}, [FACTS])
    assert set(read_records("tiny")[0].suites) == {"facts", "preference"}
    assert set(found.suites) == {"facts"}


# --- divergence


def test_divergence_is_measured_on_sampled_replies_from_the_reference(
    output_root: Path, random_model_dir: Path, other_model_dir: Path, loads: list[str]
) -> None:
    sources = {"reference": random_model_dir, "other": other_model_dir, "third": other_model_dir}
    first, second, third = run(sources, reference="reference", batch_size=2)
    loaded = [loading.load_model_and_tokenizer(path, verbose=False) for path in sources.values()]
    (model, tokenizer), (other, _) = loaded[:2]
    prompts = [item["prompt"] for item in TASTE.items]
    kl, replies = kl_to_reference(
        other, model, tokenizer, prompts, max_new_tokens=6, batch_size=2, return_generations=True
    )
    assert second.divergence["kl"] == pytest.approx(kl.tolist(), rel=1e-5)
    assert min(second.divergence["kl"]) > 0
    assert second.divergence["gold"] == [
        length(reply.text, {"stopped": reply.stop_reason == "stop"}) for reply in replies
    ]
    assert second.divergence["reference"] == "reference"
    assert second.divergence["reference_identity"] == first.identity
    assert second.divergence["ids"] == [item["id"] for item in TASTE.items]
    assert first.divergence["kl"] == [0.0, 0.0]
    own = generate(model, tokenizer, prompts, max_new_tokens=6, temperature=1.0, batch_size=2)
    assert first.divergence["gold"] == [
        length(reply.text, {"stopped": reply.stop_reason == "stop"}) for reply in own
    ]
    assert third.divergence == second.divergence
    assert loads[:4].count(random_model_dir.name) == 2  # once to answer, once to be the reference


def test_divergence_is_measured_again_when_the_reference_is_another_model(
    output_root: Path, random_model_dir: Path, other_model_dir: Path
) -> None:
    (none,) = run({"other": other_model_dir})
    (far,) = run({"other": other_model_dir}, reference=str(random_model_dir))
    (near,) = run({"other": other_model_dir}, reference=str(other_model_dir))
    assert none.divergence is None
    assert far.suites == near.suites == none.suites
    assert min(far.divergence["kl"]) > 0
    assert near.divergence["kl"] == [0.0, 0.0]
    (hidden,) = run({"other": other_model_dir})
    assert hidden.divergence is None
    assert read_records("tiny")[0].divergence == near.divergence


def test_a_reference_that_is_not_built_is_said_and_not_trained(
    output_root: Path, random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = run({"mine": random_model_dir}, reference="sft")
    assert record.divergence is None
    assert "no divergence: the reference 'sft' has not been built" in capsys.readouterr().out
    (record,) = run({"mine": random_model_dir}, [FACTS], reference="no such model")
    assert record.divergence is None  # nothing to measure it on


def test_a_reference_with_another_vocabulary_is_said(
    output_root: Path, random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = run({"mine": random_model_dir}, reference="base")
    assert record.divergence is None
    assert "'mine' and the reference 'base' have different vocabularies" in capsys.readouterr().out
    run({"mine": random_model_dir}, reference="base")
    assert "the record on disk" in capsys.readouterr().out


# --- retention


def test_texts_that_the_model_cannot_read_leave_retention_out(
    output_root: Path,
    random_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runner, "retention_texts", lambda profile: ["A cow says moo. " * 100])
    (record,) = run({"mine": random_model_dir})
    assert record.retention is None
    assert "no retention: Each text must have from 2 to 256 tokens" in capsys.readouterr().out
    monkeypatch.setattr(runner, "retention_texts", lambda profile: [])
    (record,) = run({"mine": random_model_dir})
    assert record.retention is None
    assert "no retention: the course's notebooks" in capsys.readouterr().out


# --- several turns


def test_a_suite_of_dialogues_keeps_its_transcripts(output_root: Path, random_model_dir: Path) -> None:
    items = (asked("A cow says", follow_ups=["And an owl?"]), asked("What is 3 + 4?"))
    suite = replace(FACTS, items=items)
    (record,) = run({"mine": random_model_dir}, [suite])
    talked = record.suites["facts"]
    assert talked.prompts == ("And an owl?", "What is 3 + 4?")
    assert [len(transcript) for transcript in talked.transcripts] == [4, 2]
    assert tuple(transcript[-1]["content"] for transcript in talked.transcripts) == talked.replies
    assert read_records("tiny") == [record]


# --- refusals


def test_nothing_to_evaluate_is_refused(output_root: Path, random_model_dir: Path) -> None:
    with pytest.raises(CourseError, match="no model to evaluate"):
        run([])
    with pytest.raises(CourseError, match="'facts' is empty"):
        run({"mine": random_model_dir}, [replace(FACTS, items=())])
    with pytest.raises(CourseError, match="all names or all suites"):
        run({"mine": random_model_dir}, [FACTS, "entities"])
    with pytest.raises(CourseError, match="limit must be"):
        evaluate([random_model_dir], suites="entities", profile="tiny", limit=0)
    for limit in (-1, 2.5):
        with pytest.raises(CourseError, match="limit must be"):
            run({"mine": random_model_dir}, limit=limit)
    with pytest.raises(CourseError, match=r"chat_template='chatlm' is unknown here; did you mean 'chatml'"):
        run({"mine": random_model_dir}, chat_template="chatlm")
    assert not record_path("mine", "tiny").exists()


def test_a_directory_without_a_model_is_refused_before_anything_is_measured(
    output_root: Path, random_model_dir: Path, tmp_path: Path, loads: list[str]
) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(CourseError, match=r"is no model directory: .* found .*notes\.txt"):
        run({"mine": random_model_dir, "empty": tmp_path})
    assert loads == []


def test_a_reward_model_is_refused_before_anything_is_measured(
    output_root: Path, random_model_dir: Path, tmp_path: Path, loads: list[str]
) -> None:
    model, tokenizer = loading.load_model_and_tokenizer(random_model_dir, head="reward", verbose=False)
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    loads.clear()
    with pytest.raises(CourseError, match="is a reward model: it has a score head and cannot answer"):
        run([random_model_dir, tmp_path / "rm"])
    assert loads == []


@pytest.fixture
def bare_model_dir(random_model_dir: Path, tmp_path: Path) -> Path:
    """The random model without a chat template."""
    from transformers import AutoTokenizer

    directory = shutil.copytree(random_model_dir, tmp_path / "bare")
    (directory / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(directory).chat_template is None
    return directory


def test_a_model_without_a_template_is_not_asked_in_one_unless_it_is_lent(
    output_root: Path, bare_model_dir: Path
) -> None:
    with pytest.raises(CourseError, match=r"has no chat template, .*\(`--chat-template chatml`"):
        run([bare_model_dir])
    assert read_records("tiny") == []
    (lent,) = run([bare_model_dir], chat_template="chatml")
    assert lent.settings["chat_template"] == "chatml"


def test_a_model_without_a_template_may_continue_texts(output_root: Path, bare_model_dir: Path) -> None:
    plain = replace(FACTS, items=({"id": "a", "prompt": "A cow says", "answer": "moo"},))
    (record,) = run([bare_model_dir], [plain])
    assert record.suites["facts"].prompts == ("A cow says",)
    assert record.settings["chat_template"] == "own"


def test_a_failure_leaves_the_records_of_the_models_before_it(
    output_root: Path, random_model_dir: Path, bare_model_dir: Path
) -> None:
    with pytest.raises(CourseError, match="has no chat template"):
        run({"first": random_model_dir, "second": bare_model_dir})
    assert [record.label for record in read_records("tiny")] == ["first"]


def test_a_damaged_record_is_named(output_root: Path, random_model_dir: Path) -> None:
    path = record_path("mine", "tiny")
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CourseError, match=r"mine\.json is damaged: it is not valid JSON"):
        run({"mine": random_model_dir}, [FACTS])
    run({"mine": random_model_dir}, [FACTS], reuse=False)
    assert len(read_records("tiny")) == 1
