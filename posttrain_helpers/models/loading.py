"""Load a model and its tokenizer from a directory or the Hub, repaired to chat, be trained and be saved.

A model has one of two heads: a language head writes text, a score head gives each text one number, which
makes it a reward model. Only safetensors and GGUF are read and no code of a model repository runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.fetched import FETCHABLE
from posttrain_helpers.environment.imports import is_installed
from posttrain_helpers.environment.paths import read_json
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.environment.runtime import display_path
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.fetch import at_hand
from posttrain_helpers.models.gguf import SUFFIX, dequantized_directory, is_gguf_file
from posttrain_helpers.models.hub import cached_model, hub_snapshot
from posttrain_helpers.models.manifest import base_of_adapter, location
from posttrain_helpers.models.repairs import grow_embeddings, repair_generation_config, repair_tokenizer
from posttrain_helpers.models.weights import (
    check_weights,
    has_tokenizer,
    loading_errors,
    unsound_weight,
    weight_files,
)
from posttrain_helpers.wording import closest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEADS = ("language", "reward")
_SCORE_WEIGHT = "score.weight"
_BLOCK = 64  # weights that share a scale in NF4
_AGAIN = "save or download the model again"
# By these PEFT and the trainers know a model whose layers are quantized.
_QUANTIZATION_MARKS = {
    "hf_quantizer",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
    "is_quantized",
    "quantization_method",
}


def load_repaired(
    place: str,
    device: str,
    *,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    lora: dict[str, Any] | None = None,
    merge: bool = False,
    quantization: str | None = None,
    head: str | None = None,
    profile: str | Profile | None = None,
    default_chat_template: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Load what stands in a directory or on the Hub, repaired, in evaluation mode; no stage is built.

    Args:
        place: a directory, a GGUF file, or a Hub id.
        device: where the weights go, "cpu" or "cuda".
        dtype, revision, lora, merge, quantization, head, default_chat_template: as for
            `stages.loading.load_model_and_tokenizer`.
        profile: what the names of ready-made models refer to; None takes the profile in use.

    Returns:
        Model, tokenizer, and one line for each repair.

    Raises:
        CourseError: as `stages.loading.load_model_and_tokenizer`.
    """
    if head not in (None, *HEADS):
        raise CourseError(
            f"head must be {' or '.join(map(repr, HEADS))}, or None for the model's own, but it is {head!r}."
        )
    profile = get_profile(profile)
    directory = model_directory(place, revision, profile)
    model, tokenizer = _load_directory(directory, dtype or "float32", device, quantization, profile, head)
    if merge:
        model = _merged(model)
    if problem := unsound_weight(model):
        raise CourseError(
            f"the weights of {display_path(place)} are damaged: {problem}; every reply and every loss "
            "would be NaN. Save or download the model again, or load it with another dtype."
        )
    wants_template = profile.chat_template if place == profile.base_model else None
    if not (default_chat_template or wants_template or tokenizer.chat_template):
        raise CourseError(
            f"{display_path(place)} has no chat template, so conversations would reach it in a format "
            "that it has never seen; lend it one on purpose (`--chat-template chatml` on the command line, "
            "chat_template='chatml' in evaluate())."
        )
    repairs = []
    if head == "reward" and head_of(directory) == "language":
        repairs.append("a fresh score head was added; its scores mean nothing until it is trained")
    rows = model.get_input_embeddings().num_embeddings
    repairs += repair_tokenizer(tokenizer, model, wants_template)
    repairs += repair_generation_config(model, tokenizer)
    if lora:
        if model.get_input_embeddings().num_embeddings > rows and not lora.get("modules_to_save"):
            repairs.append(_untrained_rows(model))
        model = _with_lora(model, lora)
    model.eval()
    return model, tokenizer, repairs


def load_tokenizer(name: str, profile: str | Profile | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, repaired as `load_repaired` does; no weights are fetched.

    Args:
        name: "base", a stage, a directory, or a Hub id.
        profile: what these names refer to; None takes the profile in use.
    """
    from transformers import AutoTokenizer

    profile = get_profile(profile)
    place = location(name, profile)
    revision = profile.revision_of(place)
    if Path(place).expanduser().exists() or place in FETCHABLE or cached_model(place, revision):
        tokenizer = _load_tokenizer(model_directory(place, None, profile))
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
        except loading_errors() as error:
            raise CourseError(
                f"the tokenizer of {place!r} is not here and could not be fetched: {_first_sentence(error)}"
            ) from error
    repair_tokenizer(tokenizer, None, profile.chat_template if place == profile.base_model else None)
    return tokenizer


def with_all_weights_trained(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of which training changes every weight; one with an adapter has it merged before."""
    merged = _merged(model)
    return model if merged is model else merged.requires_grad_(True)


def describe_model(model: PreTrainedModel, name: str) -> str:
    """Return one line: name, number of parameters (those that train, if not all do), dtype and device."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = f", {trainable:,} of them trained" if trainable != total else ""
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{name}: {total:,} parameters{share}, {dtype}, {model.device}"


def has_score_head(model: PreTrainedModel) -> bool:
    """Say whether a model, or the one inside a PEFT model, gives a text one score instead of next tokens."""
    return hasattr(model, "score") and getattr(model.config, "num_labels", None) == 1


def model_directory(resolved: str, revision: str | None, profile: Profile) -> Path:
    """Return the directory of what `resolve_model` returned.

    A GGUF file is dequantized into one. A Hub id is downloaded if need be, but for a model that `fetch` gets
    in one of two ways, which differ: there the reader chooses.
    """
    path = Path(resolved).expanduser()
    if path.is_dir():
        return path
    if is_gguf_file(path):
        return dequantized_directory(path)
    if path.exists():
        raise CourseError(
            f"{path} is a file; give the directory that holds config.json and the weights, or a file that "
            f"ends with {SUFFIX}."
        )
    if resolved in FETCHABLE and revision is None:
        return at_hand(resolved)
    looks_like_path = path.is_absolute() or resolved.startswith((".", "~")) or resolved.count("/") > 1
    if looks_like_path or "\\" in resolved:
        raise CourseError(
            f"the model directory {path} does not exist (working directory {Path.cwd()}); correct the path."
        )
    return hub_snapshot(resolved, revision=revision or profile.revision_of(resolved))


def head_of(directory: Path) -> str:
    """Return the head that the files of a model or an adapter speak of: "language" or "reward".

    Raises:
        CourseError: the directory holds neither a model nor an adapter.
    """
    adapter = directory / "adapter_config.json"
    if adapter.is_file():
        settings = read_json(adapter, _AGAIN)
        return "reward" if settings.get("task_type") == "SEQ_CLS" else "language"
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
        raise CourseError(
            f"{directory} is no model directory: expected config.json or adapter_config.json, found "
            f"{found[:200]}."
        )
    names = read_json(directory / "config.json", _AGAIN).get("architectures") or []
    if not isinstance(names, list):
        raise CourseError(
            f"{directory / 'config.json'} is damaged: architectures should be a list of names; {_AGAIN}."
        )
    return "reward" if any(str(name).endswith("ForSequenceClassification") for name in names) else "language"


def _load_directory(
    directory: Path,
    dtype: str | torch.dtype,
    device: str,
    quantization: str | None,
    profile: Profile,
    head: str | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    found = head_of(directory)
    check_weights(directory)
    if found == "reward" and head == "language":
        raise CourseError(
            f"{directory} is a reward model: it has a score head and cannot write text; load the language "
            "model that it was made from."
        )
    if (directory / "adapter_config.json").is_file():
        return _load_adapter(directory, dtype, device, quantization, profile, head)
    model = _load_model(directory, dtype, device, quantization, found, head or found)
    return model, _load_tokenizer(directory)


def _load_model(
    directory: Path, dtype: str | torch.dtype, device: str, quantization: str | None, found: str, head: str
) -> PreTrainedModel:
    """Load a model with the head asked for; `found` is the head that the directory holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification if head == "reward" else AutoModelForCausalLM
    options: dict[str, Any] = (
        {"quantization_config": _quantization_config(quantization)} if quantization else {}
    )
    if head != found:
        options["num_labels"] = 1
    try:
        model, report = loader.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except loading_errors() as error:
        raise CourseError(
            f"{directory} could not be loaded as a {head} model: {_first_sentence(error)}"
        ) from error
    if head == "reward" and model.config.num_labels != 1:
        raise CourseError(
            f"{directory} is a classifier with {model.config.num_labels} labels, but a reward model gives "
            "one score; load a model with num_labels=1, or a language model with head='reward'."
        )
    # transformers fills what the file lacks with random numbers and only logs it.
    expected = {_SCORE_WEIGHT} if head != found else set()
    missing = sorted(set(report["missing_keys"]) - expected)
    if missing:
        raise CourseError(
            f"the weights in {directory} lack {len(missing)} parameters of a {type(model).__name__} (the "
            f"first is {missing[0]}), which would be random; save the model again, or check config.json."
        )
    if quantization == "4bit" and device == "cpu":
        _check_block_size(model, directory)
    try:
        return model if quantization else model.to(device)
    except torch.cuda.OutOfMemoryError as error:
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        raise CourseError(
            f"the GPU has too little free memory for the {size / 1e9:.1f} GB of {directory}; restart other "
            "kernels, or load with use_gpu=False or quantization='4bit'."
        ) from error


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not has_tokenizer(directory):
        raise CourseError(
            f"{directory} has weights but no tokenizer; save it there with "
            "tokenizer.save_pretrained(directory)."
        )
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except loading_errors() as error:
        raise CourseError(
            f"the tokenizer in {directory} could not be loaded: {_first_sentence(error)}"
        ) from error


def _load_adapter(
    directory: Path,
    dtype: str | torch.dtype,
    device: str,
    quantization: str | None,
    profile: Profile,
    head: str | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from peft import PeftModel

    settings = read_json(directory / "adapter_config.json", _AGAIN)
    found = head_of(directory)
    # A stage knows its parent by name, which holds on every machine; the adapter knows a path, which may not.
    base = base_of_adapter(directory, profile) or settings.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise CourseError(
            f"the adapter {directory} does not name its base model; set base_model_name_or_path in "
            "adapter_config.json."
        )
    base_directory = model_directory(location(base, profile), settings.get("revision"), profile)
    # The adapter of a reward model brings the score head; it takes the place of the fresh one made here.
    if found == "reward" and not _holds_score_head(directory):
        raise CourseError(
            f"the adapter {directory} lacks its score head, which would be random; save it again from a "
            "model with task_type='SEQ_CLS'."
        )
    model, tokenizer = _load_directory(base_directory, dtype, device, quantization, profile, found)
    model = _merged(model)
    if (directory / "tokenizer_config.json").is_file():
        tokenizer = _load_tokenizer(directory)
    grow_embeddings(model, len(tokenizer))
    try:
        adapted = PeftModel.from_pretrained(model, directory, local_files_only=True)
    except loading_errors() as error:
        raise CourseError(
            f"the adapter {directory} does not fit its base model {display_path(base)}: "
            f"{_first_sentence(error)}"
        ) from error
    if head == "reward" and found == "language":
        return _with_score_head(_merged(adapted)), tokenizer
    return adapted, tokenizer


def _with_score_head(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the body of a language model and a fresh score head, all of it to be trained."""
    from transformers import AutoModelForSequenceClassification

    model.config.num_labels = 1
    scoring = AutoModelForSequenceClassification.from_config(model.config, dtype=model.dtype)
    setattr(scoring, scoring.base_model_prefix, model.base_model)
    for name in _QUANTIZATION_MARKS & vars(model).keys():
        setattr(scoring, name, getattr(model, name))
    scoring.score.to(model.device)
    for weight in scoring.parameters():
        weight.requires_grad_(weight.is_floating_point())  # packed integers cannot have a gradient
    return scoring


def _holds_score_head(adapter: Path) -> bool:
    from safetensors import safe_open

    for path in weight_files(adapter):
        with safe_open(path, framework="np") as file:
            if any(name.endswith(_SCORE_WEIGHT) for name in file.keys()):  # noqa: SIM118  no iterator
                return True
    return False


def _with_lora(model: PreTrainedModel, lora: dict[str, Any]) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    model = _merged(model)
    names = [name for name, _ in model.named_modules()]
    for wanted in lora.get("modules_to_save") or []:  # peft passes over a name that it does not find
        if not any(name.endswith(wanted) for name in names):
            raise CourseError(
                f"lora.modules_to_save names {wanted!r}, which {type(model).__name__} does not have; "
                f"{closest(wanted, {name.rpartition('.')[2] for name in names if name})}correct or remove it."
            )
    try:
        # "SEQ_CLS" trains and saves the score head beside the adapter.
        task = "SEQ_CLS" if has_score_head(model) else "CAUSAL_LM"
        return get_peft_model(model, LoraConfig(**{"task_type": task, **lora}))
    except (TypeError, ValueError, AttributeError) as error:
        raise CourseError(f"the LoRA settings {lora} do not fit {type(model).__name__}: {error}") from error


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with its adapter added to the weights: one adapter cannot stand on another."""
    from peft import PeftModel

    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _untrained_rows(model: PreTrainedModel) -> str:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name.rpartition(".")[2] for name, module in model.named_modules() if module in layers]
    return (
        "the rows for new tokens are random and the adapter does not train them; set lora.modules_to_save="
        f"[{', '.join(names)}], or train every weight"
    )


def _quantization_config(quantization: str) -> Any:
    if quantization not in ("4bit", "8bit"):
        raise CourseError(f"quantization must be '4bit' or '8bit', but it is {quantization!r}.")
    if not is_installed("bitsandbytes"):
        raise CourseError(
            f"quantization={quantization!r} needs bitsandbytes; run `pip install bitsandbytes`."
        )
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _check_block_size(model: PreTrainedModel, directory: Path) -> None:
    """Refuse rows that are no whole number of blocks: on a CPU bitsandbytes reads such rows wrongly."""
    from bitsandbytes.nn import Linear4bit

    for name, layer in model.named_modules():
        if isinstance(layer, Linear4bit) and layer.in_features % _BLOCK:
            raise CourseError(
                f"on a CPU bitsandbytes reads 4-bit rows wrongly unless they hold a multiple of {_BLOCK}: "
                f"{name} of {directory} has rows of {layer.in_features}; load it without quantization."
            )


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] + " …") if len(text) > 300 else text
