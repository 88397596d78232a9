"""A service for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.service.served import Served, served


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made
