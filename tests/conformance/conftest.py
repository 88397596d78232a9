"""The rigs: each backend is started when a test first needs it, and lives as long as the session."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.backends import BACKENDS
from tests.conformance.pinned import PINNED, Case
from tests.conformance.rig import Rig


@pytest.fixture(scope="session")
def rigs() -> Iterator[Callable[[str], Rig]]:
    running: dict[str, Rig] = {}

    def rig(name: str) -> Rig:
        if name not in running:
            running[name] = Rig(BACKENDS[name](), PINNED[name])
        return running[name]

    yield rig
    for one in running.values():
        one.close()


@pytest.fixture
def rig(rigs: Callable[[str], Rig], request: pytest.FixtureRequest) -> Rig:
    """The rig of the test's `case` or `backend`."""
    if "backend" in request.fixturenames:
        return rigs(request.getfixturevalue("backend"))
    case = request.getfixturevalue("case")
    assert isinstance(case, Case)
    return rigs(case.backend)
