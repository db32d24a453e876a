from __future__ import annotations

import pandas
import pytest

from tests.table_data import small_table


@pytest.fixture
def table() -> pandas.DataFrame:
    return small_table()
