"""`export`: what is written loads without the course, and its card says what it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_records import record, suite

from posttrain_helpers import cli
from posttrain_helpers.environment import profiles
from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import write_record
from posttrain_helpers.models.manifest import read_manifest, stage_path
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.report.export import export_stage
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.statistics.intervals import mean_interval

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ALONE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
for place in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer.apply_chat_template(json.loads(QUESTION), add_generation_prompt=True, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    stop = GenerationConfig.from_pretrained(place).eos_token_id
    print(json.dumps([stop, model(**ids).logits[0, -1].tolist()]))
assert not any(name.startswith("posttrain_helpers") for name in sys.modules)
"""


def save(name: str, model_dir: Path, lora: dict | None = None, head: str | None = None, **changes: object):
    import torch

    model, tokenizer = load_model_and_tokenizer(model_dir, lora=lora, head=head, verbose=False)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    recipe = load_recipe(
        "sft", "tiny", {"model": str(model_dir), "data.source": "tatsu-lab/alpaca", **changes}
    )
    return save_stage(model, name, recipe, tokenizer=tokenizer)


def change_settings(stage: Path, **changes: object) -> None:
    """Let the manifest of a stage tell of another recipe."""
    manifest = json.loads((stage / "manifest.json").read_text(encoding="utf-8"))
    manifest["settings"] |= changes
    (stage / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


LORA = {"r": 4, "target_modules": ["q_proj", "gate_proj"]}


def test_others_load_what_is_written_and_get_the_same_logits(
    output_root: Path, random_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("whole", random_model_dir)
    save("adapter", random_model_dir, lora=LORA)
    before = {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")}
    lines = ["whole", "adapter", "adapter --merge"]
    places = [tmp_path / f"export {number}" for number in range(3)]
    for line, place in zip(lines, places, strict=True):
        stage, *options = line.split()
        assert cli.main(["export", stage, str(place), *options]) == 0
    assert "a directory of this machine; with --merge it would stand alone" in capsys.readouterr().out
    written = {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")} - before
    assert all(any(path.is_relative_to(place) for place in places) for path in written)
    names = [{path.name for path in place.iterdir()} for place in places]
    common = {"README.md", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert all(common <= found and not {"manifest.json", "training_log.json"} & found for found in names)
    assert ["adapter_config.json" in found for found in names] == [False, True, False]
    program = ALONE.replace("QUESTION", repr(json.dumps(QUESTION)))
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, places)],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    for stage, line in zip(("whole", "adapter", "adapter"), done.stdout.splitlines(), strict=True):
        model, tokenizer = load_model_and_tokenizer(stage, verbose=False)
        ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
        stop, logits = json.loads(line)
        assert logits == pytest.approx(model(**ids).logits[0, -1].tolist(), abs=1e-4)
        assert tokenizer.eos_token_id in (stop if isinstance(stop, list) else [stop])


def test_the_card_says_what_the_model_is(output_root: Path, random_model_dir: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    stage = save("mine", random_model_dir, **{"model": "base", "data.source": str(tmp_path / "own.jsonl")})
    scored = record("mine", [suite("entities", [True] * 9 + [False])])
    export_stage("mine", tmp_path / "unmeasured", "tiny")
    write_record(scored)  # of other weights
    export_stage("mine", tmp_path / "others", "tiny")
    write_record(record("mine", scored.suites, identity=read_manifest(stage)["identity"]))
    export_stage("mine", tmp_path / "measured", "tiny")
    unmeasured, others, card = (
        ModelCard.load(tmp_path / name / "README.md") for name in ("unmeasured", "others", "measured")
    )
    assert unmeasured.content == others.content
    assert "These weights have not been evaluated." in others.text
    assert "| entities | correct | 10 | 0.900 | 0.596 to 0.982 |" in card.text
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "text-generation")
    assert (card.data.base_model, card.data.datasets) == (None, None)  # neither is on the Hub
    assert "own.jsonl (licence not known here)" in card.text
    assert "mine (sft, recipe sft" in card.text
    assert "method: sft" in card.text
    assert str(tmp_path) not in card.content


def test_the_card_names_the_reference_model(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    reference = str(tmp_path / "somewhere" / "polite")
    stage = save("mine", random_model_dir, **{"model": "base"})
    settings = json.loads((stage / "manifest.json").read_text(encoding="utf-8"))
    settings["settings"] |= {"method": "dpo", "reference": reference}
    (stage / "manifest.json").write_text(json.dumps(settings), encoding="utf-8")
    card = (export_stage("mine", tmp_path / "out", "tiny") / "README.md").read_text(encoding="utf-8")
    assert "seed 0, reference model polite)" in card
    assert "reference: polite" in card
    assert str(tmp_path) not in card


def test_the_card_names_what_is_on_the_hub(output_root: Path, random_model_dir: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    save("judge", random_model_dir, head="reward", model="Qwen/Qwen3-0.6B-Base")
    manifest = stage_path("judge", "tiny") / "manifest.json"
    settings = json.loads(manifest.read_text(encoding="utf-8"))
    settings["settings"]["method"] = "reward"
    manifest.write_text(json.dumps(settings), encoding="utf-8")
    card = ModelCard.load(export_stage("judge", tmp_path / "out", "tiny") / "README.md")
    assert (card.data.base_model, card.data.datasets) == ("Qwen/Qwen3-0.6B-Base", ["tatsu-lab/alpaca"])
    assert (card.data.license, card.data.pipeline_tag) == (None, "text-classification")
    assert "AutoModelForSequenceClassification" in card.text
    assert "tatsu-lab/alpaca (CC BY-NC 4.0)" in card.text


def test_an_adapter_that_others_could_not_load_is_refused_and_merged_instead(
    output_root: Path, random_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("first", random_model_dir, lora=LORA)
    save("second", stage_path("first", "tiny"), lora=LORA, model="first")
    assert cli.main(["export", "second", str(tmp_path / "out")]) == cli.EXIT_MISTAKE
    assert "export it with --merge" in capsys.readouterr().err
    assert not [*tmp_path.glob(".out*"), *tmp_path.glob("out")]
    assert cli.main(["export", "second", str(tmp_path / "out"), "--merge"]) == 0
    assert "second (sft" in (card := (tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert "← first (sft" in card


def test_a_stage_of_whole_weights_stays_as_it_is(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    stage = save("whole", random_model_dir)
    kept = {path.name: path.read_bytes() for path in stage.iterdir() if path.name != "manifest.json"}
    kept["notes.txt"] = b"of the reader"
    (stage / "notes.txt").write_bytes(kept["notes.txt"])
    (stage / "training_log.json").write_text("[]", encoding="utf-8")  # as a trainer leaves it
    (stage / ".DS_Store").touch()
    for merge in (False, True):
        place = export_stage("whole", tmp_path / f"out {merge}", "tiny", merge=merge)
        found = {path.name: path.read_bytes() for path in place.iterdir()}
        assert found.pop("README.md")
        assert found == kept


def test_a_merged_adapter_has_the_precision_of_its_base(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    base = tmp_path / "half"
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    model.to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    save("adapter", base, lora=LORA)
    merged = load_file(export_stage("adapter", tmp_path / "out", "tiny", merge=True) / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}


@pytest.mark.parametrize(("merge", "library"), [(False, "peft"), (True, "transformers")])
def test_the_card_says_how_a_reward_model_is_loaded(
    merge: bool, library: str, output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    stage = save("judge", random_model_dir, lora=LORA, head="reward")
    change_settings(stage, method="reward")
    card = ModelCard.load(export_stage("judge", tmp_path / "out", "tiny", merge=merge) / "README.md")
    assert card.data.library_name == library
    assert ('from_pretrained(".", num_labels=1)' in card.text) == (not merge)
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text


def test_the_card_tells_of_every_stage_on_the_way(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    hub = "Qwen/Qwen3-0.6B-Base"
    first = save("first", random_model_dir, model=hub, seed=3, **{"data.source": "tinyworld/sft"})
    save("second", first, model="first", seed=4)
    card = ModelCard.load(export_stage("second", tmp_path / "out", "tiny") / "README.md")
    assert card.data.base_model == hub
    assert re.search(
        r"second \(sft, recipe sft \w+, seed 4\) ← first \(sft, recipe sft \w+, seed 3\) \|", card.text
    )
    data = "| data | tatsu-lab/alpaca (CC BY-NC 4.0); tinyworld/sft (made by the course, MIT) |"
    assert data in card.text

    manifest = json.loads((first / "manifest.json").read_text(encoding="utf-8"))
    (first / "manifest.json").write_text(json.dumps(manifest | {"identity": "other"}), encoding="utf-8")
    text = (export_stage("second", tmp_path / "later", "tiny") / "README.md").read_text(encoding="utf-8")
    assert "seed 4; what it was trained from has been replaced since) ← first" in text
    assert text.count("has been replaced since") == 1


def test_the_licence_is_that_of_the_base_and_no_directory_is_named(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    base = Path(shutil.copytree(random_model_dir, tmp_path / "own base"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    stage = save("mine", base)
    change_settings(stage, rewards=[str(tmp_path / "judges" / "polite"), "format"])
    card = ModelCard.load(export_stage("mine", tmp_path / "out", "tiny") / "README.md")
    assert card.data.license == "apache-2.0"
    assert "- polite\n- format" in card.text
    assert str(tmp_path) not in card.content


def test_the_card_has_the_interval_of_related_items(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    stage = save("mine", random_model_dir)
    # Each of six facts is asked for four times, and known or not.
    scores = [float(number // 4 % 2) + number % 4 / 10 for number in range(24)]
    related = suite("gold", scores, relations=tuple(str(number // 4) for number in range(24)))
    write_record(record("mine", [related], identity=read_manifest(stage)["identity"]))
    text = (export_stage("mine", tmp_path / "out", "tiny") / "README.md").read_text(encoding="utf-8")
    low, high = mean_interval(scores, resamples=10_000, clusters=list(related.relations))
    alone = mean_interval(scores, resamples=10_000)
    assert high - low > 1.5 * (alone[1] - alone[0])
    found = re.search(r"\| gold \| correct \| 24 \| 0.650 \| (\S+) to (\S+) \|", text)
    assert [float(end) for end in found.groups()] == pytest.approx([low, high], abs=0.02)


def test_the_base_of_an_adapter_is_named_whole_and_at_its_revision(
    output_root: Path, random_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    shutil.copytree(random_model_dir, tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path)
    save("beside", Path("here/base"), lora=LORA)
    settings = export_stage("beside", tmp_path / "out", "tiny") / "adapter_config.json"
    read = json.loads(settings.read_text(encoding="utf-8"))
    assert (read["base_model_name_or_path"], read["revision"]) == (str(tmp_path / "here" / "base"), None)

    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--someone--some-model"
    shutil.copytree(random_model_dir, repository / "snapshots" / commit)
    pinned = replace(PROFILES["tiny"], base_model="someone/some-model")
    monkeypatch.setitem(profiles._REVISIONS, "someone/some-model", commit)
    monkeypatch.setitem(PROFILES, "tiny", pinned)
    save("published", random_model_dir, lora=LORA, model="base")
    settings = export_stage("published", tmp_path / "published", "tiny") / "adapter_config.json"
    read = json.loads(settings.read_text(encoding="utf-8"))
    assert (read["base_model_name_or_path"], read["revision"]) == ("someone/some-model", commit)


def test_an_adapter_with_added_tokens_is_refused(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    tokenizer.add_tokens(["<a new token>"])
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    recipe = load_recipe("sft", "tiny", {"model": str(random_model_dir)})
    save_stage(adapted, "wider", recipe, tokenizer=tokenizer)
    with pytest.raises(CourseError, match=r"stands on another adapter or on added tokens.*with --merge"):
        export_stage("wider", tmp_path / "out", "tiny")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_sentences(
    output_root: Path, random_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("mine", random_model_dir)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    for line, sentence in {
        "sft new": "the stage 'sft' is not there. Finished are mine; make it with",
        "mines new": "did you mean 'mine'?",
        "base new": "'base' cannot name a stage",
        "mine full": "full is there already and nothing is written over it; name a new directory.",
        "mine full/file": "is there already",
    }.items():
        stage, place = line.split()
        assert cli.main(["export", stage, str(tmp_path / place)]) == cli.EXIT_MISTAKE
        assert sentence in capsys.readouterr().err
    assert cli.main(["export", "mine", str(tmp_path / "empty")]) == 0
    weights = stage_path("mine", "tiny") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli.main(["export", "mine", str(tmp_path / "new")]) == cli.EXIT_MISTAKE
    assert not (tmp_path / "new").exists()
