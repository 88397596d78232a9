"""Reads pinned_rows.toml, and makes test cases of it: backend, algorithm and key type."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, algorithm
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.permissions import KeyOperationPermission as P

_FILE = Path(__file__).with_name("pinned_rows.toml")


@dataclass(frozen=True, slots=True)
class Pinned:
    """What one provider must offer; the head of pinned_rows.toml explains the fields."""

    backend: str
    key_types: tuple[str, ...]
    imports: tuple[str, ...]
    random: bool
    lists: bool
    keeps_material: bool
    agrees_secrets: bool
    agrees_keys: tuple[str, ...]
    agrees_keys_with_kdf: tuple[str, ...]
    derives_from_secrets: tuple[str, ...]
    derives: tuple[str, ...]
    unchecked: tuple[str, ...]
    operations: Mapping[str, frozenset[KeyOperation]]
    refuses: Mapping[str, tuple[str, ...]]
    wraps: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    longest: Mapping[str, int] = field(default_factory=dict)

    def offers(self, row: Algorithm, *operations: KeyOperation) -> bool:
        return self.operations.get(row.name, frozenset()).issuperset(operations)

    def key_types_for(self, row: Algorithm) -> tuple[KeyType, ...]:
        """Those that it can make, or take in the clear, for an algorithm."""
        there = dict.fromkeys((*self.key_types, *self.imports))
        refused = self.refuses.get(row.name, ())
        return tuple(key_type(name) for name in there if name in row.key_types and name not in refused)

    def algorithms_for(self, row: KeyType, *operations: KeyOperation) -> list[Algorithm]:
        rows = (algorithm(name) for name in self.operations)
        return [found for found in rows if row in self.key_types_for(found) and self.offers(found, *operations)]


@dataclass(frozen=True, slots=True)
class Case:
    """An algorithm of a backend, with a key type that it takes."""

    backend: str
    algorithm: Algorithm
    key_type: KeyType
    wraps: bool = False

    @property
    def permissions(self) -> P:
        return P.WRAP | P.UNWRAP if self.wraps else PERMISSIONS[self.algorithm.kind]

    def __str__(self) -> str:
        return f"{self.backend}-{self.algorithm.name}-{self.key_type.name}"


PERMISSIONS: Mapping[Kind, P] = {
    Kind.SIGNATURE: P.SIGN | P.VERIFY,
    Kind.MAC: P.SIGN | P.VERIFY,
    Kind.AEAD: P.ENCRYPT | P.DECRYPT,
    Kind.CIPHER: P.ENCRYPT | P.DECRYPT,
    Kind.PUBLIC_KEY_ENCRYPTION: P.ENCRYPT | P.DECRYPT,
    Kind.KEY_AGREEMENT: P.DERIVE,
    Kind.KEM: P.ENCAPSULATE | P.DECAPSULATE,
    Kind.KDF: P.DERIVE,
    Kind.KEY_WRAP: P.WRAP | P.UNWRAP,
}
"""What a key is made for, by the kind of the algorithm that it is tried with."""


def _read() -> Mapping[str, Pinned]:
    pinned = {}
    for backend, table in tomllib.loads(_FILE.read_text()).items():
        rows = {
            algorithm(name).name: frozenset(KeyOperation(operation) for operation in operations)
            for name, operations in table.pop("algorithms").items()
        }
        pinned[backend] = msgspec.convert({"backend": backend, "operations": rows, "refuses": {}, **table}, Pinned)
    return pinned


PINNED: Mapping[str, Pinned] = _read()
BACKENDS = tuple(PINNED)


def cases(
    *kinds: Kind,
    needs: Iterable[KeyOperation] = (),
    first: bool = False,
    imports: bool = False,
    wraps: bool = False,
) -> list[Case]:
    """The cases of some kinds of algorithm.

    Args:
        kinds: of algorithms.
        needs: operations that the backend offers of the algorithm.
        first: only the first key type of each algorithm, for what does not depend on the size of the key.
        imports: only key types that the backend takes in the clear.
        wraps: the keys are made to wrap others, whatever else the algorithms do.
    """
    found = []
    for pinned in PINNED.values():
        for name in pinned.operations:
            row = algorithm(name)
            if row.kind not in kinds or not pinned.offers(row, *needs):
                continue
            key_types = [one for one in pinned.key_types_for(row) if not imports or one.name in pinned.imports]
            found += [Case(pinned.backend, row, one, wraps) for one in (key_types[:1] if first else key_types)]
    return found


def each(found: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrises a test over cases."""
    return pytest.mark.parametrize("case", list(found), ids=str)


each_backend = pytest.mark.parametrize("backend", BACKENDS)
