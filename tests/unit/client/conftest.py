"""A running echo daemon and a stack on it."""

from collections.abc import Iterator

import pytest

from hsmbridge.client import CryptoStack
from tests.unit.client.echo_daemon import EchoDaemon


@pytest.fixture
def daemon() -> Iterator[EchoDaemon]:
    made = EchoDaemon()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def stack(daemon: EchoDaemon) -> Iterator[CryptoStack]:
    with CryptoStack(daemon.path, timeout=10) as made:
        yield made
