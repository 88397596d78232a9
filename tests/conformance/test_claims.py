"""What a provider claims is what was reviewed: nothing is lost, and nothing is claimed that this suite does not run."""

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, algorithm
from tests.conformance.pinned import PINNED, each_backend
from tests.conformance.rig import Rig

_ADD = "if it is meant, add it to tests/conformance/pinned_rows.toml, so that the suite runs it"
_LOST = "the provider must offer it; tests/conformance/pinned_rows.toml says so"


def _compare(what: str, pinned: set[str], claimed: set[str]) -> None:
    assert not pinned - claimed, f"lost {what} {sorted(pinned - claimed)}: {_LOST}"
    assert not claimed - pinned, f"gained {what} {sorted(claimed - pinned)}: {_ADD}"


def _described(rig: Rig) -> calls.Description:
    return rig.ask(calls.DescribeCall(), calls.Description)


@each_backend
def test_it_generates_the_key_types_that_are_pinned(rig: Rig, backend: str) -> None:
    _compare("key types", set(rig.pinned.key_types), set(_described(rig).key_types))


@each_backend
def test_it_imports_the_key_types_that_are_pinned(rig: Rig, backend: str) -> None:
    _compare("imports", set(rig.pinned.imports), set(_described(rig).imports))


@each_backend
def test_it_offers_the_operations_that_are_pinned(rig: Rig, backend: str) -> None:
    pinned = {f"{name} {operation}" for name, operations in rig.pinned.operations.items() for operation in operations}
    claims = _described(rig).claims
    claimed = {f"{claim.algorithm} {KeyOperation(operation)}" for claim in claims for operation in claim.operations}
    _compare("operations", pinned, claimed)
    assert len(claims) == len({claim.algorithm for claim in claims}), "one claim an algorithm"


@each_backend
def test_it_says_whether_it_gives_random_bytes_and_lists_keys(rig: Rig, backend: str) -> None:
    described = _described(rig)
    assert (described.random, described.lists) == (rig.pinned.random, rig.pinned.lists)


@each_backend
def test_what_nobody_else_can_check_is_pinned_as_such(backend: str) -> None:
    pinned = PINNED[backend]
    unknown = {
        name
        for name in pinned.operations
        if any(row.symmetric for row in pinned.key_types_for(algorithm(name)))
        and not any(row.name in pinned.imports for row in pinned.key_types_for(algorithm(name)))
    }
    assert unknown == set(pinned.unchecked)


@each_backend
def test_it_names_what_stands_behind_it(rig: Rig, backend: str) -> None:
    described = _described(rig)
    assert described.scheme
    assert described.token.label
    assert described == _described(rig)
