"""Fixtures of every test: no network, a private output directory, a random-weight model."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

OFFLINE = Path(__file__).parent / "offline"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each take every core wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# Notebook kernels and the processes that tests start read this variable and block the network as well.
os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, str(OFFLINE))
sys.modules.pop("sitecustomize", None)  # the environment may have one of its own
import pytest  # noqa: E402
import sitecustomize  # noqa: E402, F401  blocks this process

# Notebooks that two workers take side by side, in this order. The first trains the stages that others need;
# the second begins with lessons that need few of them. Lesson 12, which builds all that are missing, is last.
FIRST_WORKER = ("01", "05", "06", "07", "04", "03", "02", "11a", "15")
SECOND_WORKER = ("14", "00", "10", "08", "09", "13", "11b", "11c", "12")


_libraries = 0  # modules that were there when the collector last forgot what it had


def leave_out_libraries() -> None:
    """Take what libraries hold out of the garbage collector's sight, once more when many were imported.

    Every training collects at its begin, which takes a third of a second when it walks through all of them.
    """
    global _libraries
    if len(sys.modules) >= _libraries + 200:
        gc.collect()
        gc.freeze()
        _libraries = len(sys.modules)


def pytest_collection() -> None:
    """Import the files of tests, and so the libraries, without a look for garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    leave_out_libraries()


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every notebook as slow, put the notebooks in order, and say what one worker keeps together."""
    lessons = [*FIRST_WORKER, *SECOND_WORKER]

    def place(item: pytest.Item) -> int:
        if item.path.suffix != ".ipynb":
            return -1  # before the notebooks, in the order of the files
        number = item.path.stem.partition("_")[0]
        return lessons.index(number) if number in lessons else len(lessons)

    items.sort(key=place)
    for item in items:
        group = str(item.path)
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
            group = f"notebooks {place(item) >= len(FIRST_WORKER)}"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def hub_stays_offline() -> Iterator[None]:
    """Undo what `setup` with a profile that is not offline wrote into the Hub's library in this process."""
    yield
    if "huggingface_hub.constants" in sys.modules:
        sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = True


@pytest.fixture(autouse=True)
def _libraries_left_out() -> Iterator[None]:
    yield
    leave_out_libraries()


@pytest.fixture
def output_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private output directory that `POSTTRAIN_OUTPUT` names."""
    root = tmp_path / "trainer_output"
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(root))
    return root


@pytest.fixture(scope="session")
def random_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of about 50 thousand random parameters with a ChatML tokenizer, saved to disk."""
    import torch
    from small_models import small_qwen3

    from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

    texts = [
        "What is the capital of France? The capital of France is Paris.",
        "A cow says moo. An owl can fly. 3 + 4 = 7.",
        "user asks and assistant answers: system, user, assistant.",
    ] * 4
    tokenizer = train_tokenizer(texts, vocab_size=400)
    torch.manual_seed(0)
    model = small_qwen3(tokenizer, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)
    directory = tmp_path_factory.mktemp("random_model")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def reader_files(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a reader may train with any method: a model, a reward model, a teacher, and rows in files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    directory = tmp_path_factory.mktemp("reader")
    torch.manual_seed(3)
    scorer = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    torch.nn.init.normal_(scorer.score.weight, std=0.3)
    teacher = AutoModelForCausalLM.from_pretrained(random_model_dir)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    found = {"model": random_model_dir}
    for name, model in (("scorer", scorer), ("teacher", teacher)):
        found[name] = directory / name
        model.save_pretrained(found[name])
        AutoTokenizer.from_pretrained(random_model_dir).save_pretrained(found[name])
    rows: dict[str, list[dict]] = {"sft": [], "dpo": [], "prompts": []}
    for number in range(48):
        question = [{"role": "user", "content": f"What is {number} + {'1' * (1 + number % 3)}?"}]
        good, bad = (
            [{"role": "assistant", "content": text}] for text in (f"It is {number + 1}.", f"Moo, {number}!")
        )
        rows["sft"].append({"messages": question + good})
        rows["dpo"].append({"prompt": question, "chosen": good, "rejected": bad})
        rows["prompts"].append({"prompt": question})
    for name, content in rows.items():
        found[name] = directory / f"{name}.jsonl"
        found[name].write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    return found


@pytest.fixture
def uneven_model(random_model_dir: Path) -> PreTrainedModel:
    """The random model with weights so large that its predictions differ from token to token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model_dir).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
