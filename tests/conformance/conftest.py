"""The rigs: each backend is started when a test first needs it, and lives as long as the session."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.backends import BACKENDS
from tests.conformance.cells import PROOFS
from tests.conformance.pinned import PINNED, Case
from tests.conformance.rig import Rig

ONLY_WITH_ALL = frozenset({"kryoptic"})
"""Backends that take minutes to build; `./dev test --all` does."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs with --all only, before it is left out."""
    for item in items:
        if isinstance(item, pytest.Function) and _backend_of(item) in ONLY_WITH_ALL:
            item.add_marker(pytest.mark.all)


def _backend_of(item: pytest.Function) -> str:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    case = given.get("case")
    return case.backend if isinstance(case, Case) else str(given.get("backend", ""))


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
def rig(rigs: Callable[[str], Rig], request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The rig of the test's `case` or `backend`; a test that stands for operations must have done them with it."""
    if "backend" in request.fixturenames:
        found = rigs(request.getfixturevalue("backend"))
        name = request.getfixturevalue("name") if "name" in request.fixturenames else ""
    else:
        case = request.getfixturevalue("case")
        assert isinstance(case, Case)
        found, name = rigs(case.backend), case.algorithm.name
    found.performed.clear()
    yield found
    proof = PROOFS.get(request.node.originalname)
    if proof is not None and proof.where(found.pinned):
        lacking = {(name, operation) for operation in proof.operations} - found.performed
        assert not lacking, f"cells.py says that this test performs {sorted(lacking)}, and it did not"
