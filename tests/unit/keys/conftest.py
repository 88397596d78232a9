"""An open store in a directory of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmbridge.keys.slots import Slots
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import open_at


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new store."""
    opened = open_at(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def slots(store: Store) -> Slots:
    """The slots of the store."""
    return Slots(store)
