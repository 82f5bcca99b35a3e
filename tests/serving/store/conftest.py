"""An empty store, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.store.engine import open_engine
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE
from tests.postgres_server import needs_postgres, own_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "deep" / "decisions.db")
    return own_database(request.getfixturevalue("postgres"))


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    made = DecisionStore(open_engine(url))
    yield made
    made.close(PATIENCE)
