"""The catalogue of public data sets that the course can read: one declarative adapter each.

Licences are for orientation, as known in 2026; the page of the set on the Hub decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain_helpers.data.public.converters import gsm8k_problem, transcript_pair

Row = dict[str, Any]
_SCORES = ("score_chosen", "score_rejected")
# Columns that some rows, or some copies of a set, do without.
_OPTIONAL = frozenset({"context", "system", *_SCORES})
_UNKNOWN = "not stated; read the set's page"


@dataclass(frozen=True)
class Adapter:
    """How one public data set is read.

    Attributes:
        name: what `data.adapter` takes.
        kind: of its rows: "conversations", "pairs" (chosen and rejected), "labels" (a reply and whether it is
            desirable) or "prompts".
        columns: field -> column of the set; a field of `FIELDS`, or a score of a reply.
        hub_id: the data set on the Hub; None for a reader's own columns.
        converter: makes a row of the fields; None takes the kind's own.
        split: the part to train on.
        subset: a configuration or a folder of the set, None for its default.
        licence: as the set's page states it.
    """

    name: str
    kind: str
    columns: Mapping[str, str]
    hub_id: str | None = None
    converter: Callable[[Row], Row | str] | None = None
    split: str = "train"
    subset: str | None = None
    licence: str = _UNKNOWN

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every row must have."""
        return tuple(column for field, column in self.columns.items() if field not in _OPTIONAL)


_INSTRUCTION = {"prompt": "instruction", "context": "input", "reply": "output"}
_BOTH = {side: side for side in ("chosen", "rejected")}
_SCORED = {**_BOTH, **{score: score for score in _SCORES}}

ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            name="alpaca",
            kind="conversations",
            columns=_INSTRUCTION,
            hub_id="tatsu-lab/alpaca",
            licence="CC BY-NC 4.0",
        ),
        Adapter(
            name="alpaca_cleaned",
            kind="conversations",
            columns=_INSTRUCTION,
            hub_id="yahma/alpaca-cleaned",
            licence="CC BY 4.0",
        ),
        Adapter(
            name="dolly",
            kind="conversations",
            columns={"prompt": "instruction", "context": "context", "reply": "response"},
            hub_id="databricks/databricks-dolly-15k",
            licence="CC BY-SA 3.0",
        ),
        Adapter(
            name="ultrachat",
            kind="conversations",
            columns={"messages": "messages"},
            hub_id="HuggingFaceH4/ultrachat_200k",
            split="train_sft",
            licence="MIT",
        ),
        Adapter(
            name="slimorca",
            kind="conversations",
            columns={"messages": "conversations"},
            hub_id="Open-Orca/SlimOrca",
            licence="MIT",
        ),
        Adapter(
            name="dl_sft",
            kind="conversations",
            columns={"messages": "messages"},
            hub_id="banghua/DL-SFT-Dataset",
        ),
        Adapter(
            name="ultrafeedback",
            kind="pairs",
            columns=_SCORED,
            hub_id="trl-lib/ultrafeedback_binarized",
            licence="MIT, as openbmb/UltraFeedback",
        ),
        Adapter(
            name="ultrafeedback_h4",
            kind="pairs",
            columns=_SCORED,  # its prompt is a text that both replies hold as a message
            hub_id="HuggingFaceH4/ultrafeedback_binarized",
            split="train_prefs",
            licence="MIT",
        ),
        Adapter(
            name="hh_rlhf",  # some texts are offensive; data.subset=helpful-base takes a part
            kind="pairs",
            columns=_BOTH,
            hub_id="Anthropic/hh-rlhf",
            converter=transcript_pair,
            licence="MIT",
        ),
        Adapter(
            name="orca_dpo",
            kind="pairs",
            columns={"system": "system", "prompt": "question", **_BOTH},
            hub_id="Intel/orca_dpo_pairs",
            licence="Apache-2.0",
        ),
        Adapter(
            name="stack_exchange_paired",
            kind="pairs",
            columns={"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
            hub_id="lvwerra/stack-exchange-paired",
            subset="data/rl",  # millions of rows: set data.max_samples
            licence="CC BY-SA, as Stack Exchange",
        ),
        Adapter(
            name="dl_dpo",
            kind="pairs",
            columns=_BOTH,
            hub_id="banghua/DL-DPO-Dataset",
        ),
        Adapter(
            name="kto_mix_14k",
            kind="labels",
            columns={"prompt": "prompt", "completion": "completion", "label": "label"},
            hub_id="trl-lib/kto-mix-14k",
            licence="MIT, as argilla/dpo-mix-7k",
        ),
        Adapter(
            name="gsm8k",
            kind="prompts",
            columns={"prompt": "question", "answer": "answer"},
            hub_id="openai/gsm8k",
            subset="main",
            converter=gsm8k_problem,
            licence="MIT",
        ),
    )
}
