"""The catalogue of public data sets that the course can read: one declarative adapter each.

Licences are for orientation, as known in 2026; the page of the set on the Hub decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from posttrain_helpers.data.public.converters import SCORES, as_row, gsm8k_problem, transcript_pair
from posttrain_helpers.messages import Row

# Columns that some rows, or some copies of a set, do without.
_OPTIONAL = frozenset({"context", "system", *SCORES})


@dataclass(frozen=True)
class Adapter:
    """How one public data set is read.

    Attributes:
        name: what `data.adapter` takes.
        kind: of its rows: "conversations", "pairs" (chosen and rejected), "labels" (a reply and whether it is
            desirable) or "prompts".
        hub_id: the data set on the Hub; None for a reader's own columns.
        columns: field -> column of the set; a field of `FIELDS`, or a score of a reply.
        converter: makes a row of the fields.
        split: the part to train on.
        subset: a configuration or a folder of the set, None for its default.
        licence: as the set's page states it.
    """

    name: str
    kind: str
    hub_id: str | None
    columns: Mapping[str, str]
    converter: Callable[[Row], Row | str] = as_row
    split: str = "train"
    subset: str | None = None
    licence: str = "not stated; read the set's page"

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every row must have."""
        return tuple(column for field, column in self.columns.items() if field not in _OPTIONAL)


_INSTRUCTION = {"prompt": "instruction", "context": "input", "reply": "output"}
_DOLLY = {"prompt": "instruction", "context": "context", "reply": "response"}
_MESSAGES = {"messages": "messages"}
_BOTH = {side: side for side in ("chosen", "rejected")}
_SCORED = {**_BOTH, **{score: score for score in SCORES}}
_ORCA = {"system": "system", "prompt": "question", **_BOTH}
_STACK_EXCHANGE = {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}
_LABELLED = {name: name for name in ("prompt", "completion", "label")}
_PROBLEM = {"prompt": "question", "answer": "answer"}
ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter("alpaca", "conversations", "tatsu-lab/alpaca", _INSTRUCTION, licence="CC BY-NC 4.0"),
        Adapter("alpaca_cleaned", "conversations", "yahma/alpaca-cleaned", _INSTRUCTION, licence="CC BY 4.0"),
        Adapter("dolly", "conversations", "databricks/databricks-dolly-15k", _DOLLY, licence="CC BY-SA 3.0"),
        Adapter(
            "ultrachat",
            "conversations",
            "HuggingFaceH4/ultrachat_200k",
            _MESSAGES,
            split="train_sft",
            licence="MIT",
        ),
        Adapter(
            "slimorca", "conversations", "Open-Orca/SlimOrca", {"messages": "conversations"}, licence="MIT"
        ),
        Adapter("dl_sft", "conversations", "banghua/DL-SFT-Dataset", _MESSAGES),
        Adapter(
            "ultrafeedback",
            "pairs",
            "trl-lib/ultrafeedback_binarized",
            _SCORED,
            licence="MIT, as openbmb/UltraFeedback",
        ),
        # Its prompt is a text that both replies hold as a message.
        Adapter(
            "ultrafeedback_h4",
            "pairs",
            "HuggingFaceH4/ultrafeedback_binarized",
            _SCORED,
            split="train_prefs",
            licence="MIT",
        ),
        # Some texts are offensive; data.subset=helpful-base takes a part.
        Adapter("hh_rlhf", "pairs", "Anthropic/hh-rlhf", _BOTH, transcript_pair, licence="MIT"),
        Adapter("orca_dpo", "pairs", "Intel/orca_dpo_pairs", _ORCA, licence="Apache-2.0"),
        # Millions of rows: set data.max_samples.
        Adapter(
            "stack_exchange_paired",
            "pairs",
            "lvwerra/stack-exchange-paired",
            _STACK_EXCHANGE,
            subset="data/rl",
            licence="CC BY-SA, as Stack Exchange",
        ),
        Adapter("dl_dpo", "pairs", "banghua/DL-DPO-Dataset", _BOTH),
        Adapter(
            "kto_mix_14k", "labels", "trl-lib/kto-mix-14k", _LABELLED, licence="MIT, as argilla/dpo-mix-7k"
        ),
        Adapter("gsm8k", "prompts", "openai/gsm8k", _PROBLEM, gsm8k_problem, subset="main", licence="MIT"),
    )
}
