from __future__ import annotations

import pytest
from public_schemas import SCHEMAS

from posttrain_helpers.data.public.adapters import FIELDS
from posttrain_helpers.data.public.catalog import ADAPTERS


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=lambda adapter: adapter.name)
def test_every_entry_is_complete(adapter) -> None:
    fields = {field for needed, more in FIELDS[adapter.kind] for field in (*needed, *more)}
    assert set(adapter.columns) <= fields | {"score_chosen", "score_rejected"}
    assert adapter.hub_id.count("/") == 1
    assert adapter.licence


def test_every_set_of_the_course_has_an_adapter_and_rows_to_test_it() -> None:
    assert set(ADAPTERS) == set(SCHEMAS)
    ids = {adapter.hub_id.lower() for adapter in ADAPTERS.values()}
    assert len(ids) == len(ADAPTERS)
