from __future__ import annotations

import pytest
from public_schemas import SCHEMAS

from posttrain_helpers.datasources.adapters import FIELDS
from posttrain_helpers.datasources.catalog import ADAPTERS, adapter_table
from posttrain_helpers.prompt_data import ANSWER_FORMATS


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=lambda adapter: adapter.name)
def test_every_entry_is_complete(adapter) -> None:
    fields = {field for needed, more in FIELDS[adapter.kind] for field in (*needed, *more)}
    assert set(adapter.columns) <= fields | {"score_chosen", "score_rejected"}
    assert all(hub_id.count("/") == 1 for hub_id in adapter.hub_ids)
    assert adapter.hub_ids
    assert adapter.licence
    assert adapter.answer_format is None or adapter.answer_format in ANSWER_FORMATS


def test_every_set_of_the_course_has_an_adapter_and_rows_to_test_it() -> None:
    assert set(ADAPTERS) == set(SCHEMAS)
    ids = [hub_id.lower() for adapter in ADAPTERS.values() for hub_id in adapter.hub_ids]
    assert len(ids) == len(set(ids))


def test_the_table_shows_licence_and_size() -> None:
    table = adapter_table().set_index("adapter")
    assert list(table.index) == list(ADAPTERS)
    assert table.loc["alpaca", "licence"] == "CC BY-NC 4.0"
    assert table.loc["slimorca", "download"] == "986 MB"
    assert table.loc["dl_sft", "rows"] == "not known"
    assert table.loc["ultrachat", "split"] == "train_sft"
