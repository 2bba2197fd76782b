"""The catalogue of public data sets that the course can read: one declarative adapter each.

Rows, download size and licence are for orientation, as known in 2026; the page of the set on the Hub decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.datasources.converters import transcript_pair

if TYPE_CHECKING:
    import pandas

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
        hub_ids: data sets on the Hub with these columns.
        converter: makes a row of the fields; None takes the kind's own.
        split: the part to train on.
        subset: a configuration or a folder of the set, None for its default.
        answer_format: for prompts with solutions, a key of `prompt_data.ANSWER_FORMATS`.
        licence: as the set's page states it.
        rows: of that split, None where it is not known.
        download_mb: of all its files, rounded; None where it is not known.
        note: what else a reader should know.
    """

    name: str
    kind: str
    columns: Mapping[str, str]
    hub_ids: tuple[str, ...] = ()
    converter: Callable[[Row], Row | str] | None = None
    split: str = "train"
    subset: str | None = None
    answer_format: str | None = None
    licence: str = _UNKNOWN
    rows: int | None = None
    download_mb: int | None = None
    note: str = ""

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
            hub_ids=("tatsu-lab/alpaca",),
            licence="CC BY-NC 4.0",
            rows=52_002,
            download_mb=24,
        ),
        Adapter(
            name="alpaca_cleaned",
            kind="conversations",
            columns=_INSTRUCTION,
            hub_ids=("yahma/alpaca-cleaned",),
            licence="CC BY 4.0",
            rows=51_760,
            download_mb=44,
        ),
        Adapter(
            name="dolly",
            kind="conversations",
            columns={"prompt": "instruction", "context": "context", "reply": "response"},
            hub_ids=("databricks/databricks-dolly-15k",),
            licence="CC BY-SA 3.0",
            rows=15_011,
            download_mb=13,
        ),
        Adapter(
            name="ultrachat",
            kind="conversations",
            columns={"messages": "messages"},
            hub_ids=("HuggingFaceH4/ultrachat_200k",),
            split="train_sft",
            licence="MIT",
            rows=207_865,
            download_mb=1_600,
        ),
        Adapter(
            name="slimorca",
            kind="conversations",
            columns={"messages": "conversations"},
            hub_ids=("Open-Orca/SlimOrca",),
            licence="MIT",
            rows=517_982,
            download_mb=986,
            note="the speakers human and gpt become user and assistant",
        ),
        Adapter(
            name="dl_sft",
            kind="conversations",
            columns={"messages": "messages"},
            hub_ids=("banghua/DL-SFT-Dataset",),
        ),
        Adapter(
            name="ultrafeedback",
            kind="pairs",
            columns=_SCORED,
            hub_ids=("trl-lib/ultrafeedback_binarized",),
            licence="MIT, as openbmb/UltraFeedback",
            rows=62_135,
            download_mb=133,
            note="ties are dropped",
        ),
        Adapter(
            name="ultrafeedback_h4",
            kind="pairs",
            columns=_SCORED,  # its prompt is a text that both replies hold as a message
            hub_ids=("HuggingFaceH4/ultrafeedback_binarized",),
            split="train_prefs",
            licence="MIT",
            rows=61_135,
            download_mb=650,
            note="ties are dropped",
        ),
        Adapter(
            name="hh_rlhf",
            kind="pairs",
            columns=_BOTH,
            hub_ids=("Anthropic/hh-rlhf",),
            converter=transcript_pair,
            licence="MIT",
            rows=160_800,
            download_mb=95,
            note="transcripts become turns; some texts are offensive; data.subset: helpful-base takes a part",
        ),
        Adapter(
            name="orca_dpo",
            kind="pairs",
            columns={"system": "system", "prompt": "question", **_BOTH},
            hub_ids=("Intel/orca_dpo_pairs",),
            licence="Apache-2.0",
            rows=12_859,
            download_mb=36,
        ),
        Adapter(
            name="stack_exchange_paired",
            kind="pairs",
            columns={"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
            hub_ids=("lvwerra/stack-exchange-paired",),
            subset="data/rl",
            licence="CC BY-SA, as Stack Exchange",
            download_mb=23_000,
            note="millions of rows: set data.max_samples",
        ),
        Adapter(
            name="dl_dpo",
            kind="pairs",
            columns=_BOTH,
            hub_ids=("banghua/DL-DPO-Dataset",),
            note="pairs with equal replies, more than half of them, are dropped",
        ),
        Adapter(
            name="kto_mix_14k",
            kind="labels",
            columns={"prompt": "prompt", "completion": "completion", "label": "label"},
            hub_ids=("trl-lib/kto-mix-14k",),
            licence="MIT, as argilla/dpo-mix-7k",
            rows=13_500,
            download_mb=18,
        ),
        Adapter(
            name="gsm8k",
            kind="prompts",
            columns={"prompt": "question", "answer": "answer"},
            hub_ids=("openai/gsm8k",),
            subset="main",
            answer_format="gsm8k",
            licence="MIT",
            rows=7_473,
            download_mb=5,
        ),
    )
}


def adapter_table() -> pandas.DataFrame:
    """Return all adapters as a table: Hub id, kind, columns, licence, rows and download."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "adapter": adapter.name,
                "kind": adapter.kind,
                "Hub id": ", ".join(adapter.hub_ids),
                "columns": ", ".join(adapter.columns.values()),
                "split": adapter.split,
                "rows": "not known" if adapter.rows is None else f"{adapter.rows:,}",
                "download": "not known" if adapter.download_mb is None else f"{adapter.download_mb:,} MB",
                "licence": adapter.licence,
                "note": adapter.note,
            }
            for adapter in ADAPTERS.values()
        ]
    )
