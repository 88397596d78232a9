"""An open store in a directory of its own."""

import shutil
import tempfile
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


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)
