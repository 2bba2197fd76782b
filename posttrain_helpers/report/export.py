"""A stage as a plain Hugging Face directory, with a model card, for whatever reads these.

`python -m posttrain_helpers export dpo ./my-assistant` leaves out what only the course reads (manifest,
training log) and adds what others look for. Nothing is sent anywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain_helpers.data.public.adapters import licence_of
from posttrain_helpers.data.public.files import is_file_name
from posttrain_helpers.environment.fetched import fetched_directory
from posttrain_helpers.environment.paths import (
    atomic_directory,
    naming_file,
    new_directory,
    read_json,
    write_json_atomic,
    write_text_atomic,
)
from posttrain_helpers.environment.profiles import PROFILES, Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board.scores import suite_scores
from posttrain_helpers.evaluation.records import read_record, record_path
from posttrain_helpers.models.loading import head_of, load_repaired, model_directory
from posttrain_helpers.models.manifest import (
    MANIFEST,
    base_of_adapter,
    finished_stage,
    location,
    model_identity,
    read_manifest,
)
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.recipes.sources import is_built_in
from posttrain_helpers.report.formats import interval, number, words
from posttrain_helpers.stages.save import TRAINING_LOG
from posttrain_helpers.statistics.ranking import score_interval

_ADAPTER = "adapter_config.json"
_UNKNOWN = "not known here; read the page of the base"


def export_stage(
    name: str, target: str | Path, profile: str | Profile | None = None, merge: bool = False
) -> Path:
    """Write a finished stage as a plain Hugging Face directory: weights, tokenizer, settings and a card.

    Args:
        name: of the stage; none is built.
        target: a directory that does not exist, or is empty.
        profile: None takes the profile in use.
        merge: add an adapter to the weights of its base; a stage of whole weights stays as it is.

    Returns:
        The directory, written whole or not at all.

    Raises:
        CourseError: no such stage or a damaged one, something at the target, or an adapter that others could
            not load on its base.
    """
    target, profile = new_directory(target), get_profile(profile)
    stage = finished_stage(name, profile)
    adapter = (stage / _ADAPTER).is_file()
    with naming_file(target), atomic_directory(target) as directory:
        if adapter and merge:
            model, tokenizer, _ = load_repaired(str(stage), "cpu", dtype="auto", merge=True, profile=profile)
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        else:
            shutil.copytree(
                stage,
                directory,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(MANIFEST, TRAINING_LOG, "README.md", ".*"),
            )
        if adapter and not merge:
            _name_base(directory, stage, profile)
        write_text_atomic(directory / "README.md", _card(name, stage, profile, adapter and not merge))
    return target


def _name_base(directory: Path, stage: Path, profile: Profile) -> None:
    """Let the adapter in a directory name a base that others can load, and how to generate with both."""
    from transformers import AutoConfig

    place = location(base_of_adapter(stage, profile), profile)
    revision = profile.revision_of(place)
    base = model_directory(place, revision, profile)
    model, _, _ = load_repaired(str(stage), "cpu", dtype="auto", profile=profile)
    rows = model.get_input_embeddings().num_embeddings
    if (base / _ADAPTER).is_file() or rows != AutoConfig.from_pretrained(base).get_text_config().vocab_size:
        raise CourseError(
            f"the adapter of {stage.name!r} stands on another adapter or on added tokens, so it cannot be "
            "loaded on a published model; export it with --merge."
        )
    here = Path(place).expanduser()
    settings = read_json(directory / _ADAPTER, "train the stage again")
    settings |= {"base_model_name_or_path": str(here.resolve()) if here.exists() else place}
    write_json_atomic(directory / _ADAPTER, settings | {"revision": revision})
    if head_of(stage) == "language":
        model.generation_config.save_pretrained(directory)
    if here.exists():
        print(
            f"the adapter needs its base in {here}, a directory of this machine; with --merge it would stand "
            "alone."
        )


def _lineage(stage: Path, profile: Profile) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the manifests of a stage and of what it was trained from, and whether that is still there."""
    seen: set[Path] = set()
    while (stage / MANIFEST).is_file() and stage not in seen:
        seen.add(stage)
        manifest = read_manifest(stage)
        stage = Path(location(manifest["model"], profile))
        yield manifest, model_identity(str(stage)) == manifest["parent_identity"]


def _card(name: str, stage: Path, profile: Profile, adapter: bool) -> str:
    """Return the model card, which names no directory of this machine."""
    import yaml
    from huggingface_hub import ModelCardData

    lineage = list(_lineage(stage, profile))
    manifest = lineage[0][0]
    place = location(lineage[-1][0]["model"], profile)
    base = place if "/" in place and not is_file_name(place) and not Path(place).exists() else ""
    own = PROFILES[profile.name]
    of_the_profile = place == own.base_model
    licence = own.licence if of_the_profile else _licence_beside(Path(place))
    sources = list(dict.fromkeys(_source(each) for each, _ in lineage))
    method, head = manifest["settings"]["method"], METHODS[manifest["settings"]["method"]].head
    data = ModelCardData(
        license=licence.lower() if licence != _UNKNOWN else None,
        base_model=base or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation" if head == "language" else "text-classification",
        tags=["trl", method],
        datasets=[source for source in sources if _on_the_hub(source)] or None,
    )
    steps = [
        f"{each['stage']} ({each['settings']['method']}, recipe {each['recipe']} {each['recipe_hash']}, seed "
        f"{each['seed']}{_reference(each)}"
        f"{'' if same else '; what it was trained from has been replaced since'})"
        for each, same in lineage
    ]
    shown = own.description if of_the_profile else _public(place)
    near = ", dequantized from GGUF and so not quite its weights" if fetched_directory(place) else ""
    rows = {
        "base": f"[{base}](https://huggingface.co/{base}){near}" if base else shown,
        "licence of the base": licence,
        "trained": " ← ".join(steps),
        "data": "; ".join(f"{source} ({_data_licence(source)})" for source in sources),
        "written": manifest["written"],
        "versions": ", ".join(f"{key} {value}" for key, value in manifest["versions"].items()),
    }
    loader = "AutoModelForCausalLM" if head == "language" else "AutoModelForSequenceClassification"
    options = ", num_labels=1" if head == "reward" and adapter else ""
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    recipe = yaml.safe_dump(_public(manifest["settings"]), sort_keys=False, allow_unicode=True)
    return f"""---
{data.to_yaml()}
---

# {name}

```python
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained("."{options})  # this directory
tokenizer = AutoTokenizer.from_pretrained(".")
```

| | |
|---|---|
{table}

## Recipe

```yaml
{recipe}```

## Measured

{_measured(name, manifest["identity"], profile)}
"""


def _measured(name: str, identity: str, profile: Profile) -> str:
    """Return the scores of exactly these weights, as an evaluation has left them on disk."""
    path = record_path(name, profile.name)
    record = read_record(path) if path.is_file() else None
    if record is None or record.identity != identity:
        return "These weights have not been evaluated."
    rows = [
        f"| {suite.name} | {words(suite.measure)} | {suite.n} | {number(scores.mean())} | "
        f"{interval(*score_interval(scores, suite.yes_no, suite.clusters))} |"
        for suite in suite_scores({name: record})[0].values()
        for scores in suite.scores.values()
    ]
    heading = "| suite | measure | items | mean | 95 % interval |\n|---|---|---|---|---|\n"
    return f"On the items of the split {record.split!r}, {record.written}:\n\n{heading}" + "\n".join(rows)


def _reference(manifest: Mapping[str, Any]) -> str:
    name = manifest["settings"].get("reference")
    return f", reference model {_public(name)}" if name else ""


def _source(manifest: Mapping[str, Any]) -> str:
    return _public(str(manifest["settings"]["data"].get("source")))


def _on_the_hub(source: str) -> bool:
    return not is_built_in(source) and not is_file_name(source)


def _data_licence(source: str) -> str:
    if is_built_in(source):
        return "made by the course, MIT"
    return licence_of(source) or "licence not known here"


def _licence_beside(directory: Path) -> str:
    """Return the licence that the card of a model in a directory states."""
    from huggingface_hub import ModelCard

    card = directory / "README.md"
    stated = ModelCard.load(card, ignore_metadata_errors=True).data.license if card.is_file() else None
    return stated if isinstance(stated, str) else _UNKNOWN


def _public(value: Any) -> Any:
    """Return a value without the directories of this machine: of a whole path the name is left."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
