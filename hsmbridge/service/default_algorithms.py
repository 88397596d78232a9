"""The algorithms of a slot that names none.

A key that serves several modes of one block cipher protects none of them: what GCM encrypted, CTR decrypts without
looking at the tag. So a slot for such keys allows one mode for each of its permissions unless it is told otherwise:
the first, in the order of the table, that its providers offer - for wrapping those that are made for it, because an
AEAD wraps too but needs a nonce; KW and KWP tell their outputs apart by themselves (RFC 5649), so both may stand on one
key. Other key types have no such trouble and allow all.
"""

from collections.abc import Iterable

from hsmbridge.core.algorithms import ALGORITHMS, PERMISSION_FOR, Algorithm, Kind
from hsmbridge.core.calls import Description
from hsmbridge.core.key_types import Family, KeyType, Maturity
from hsmbridge.core.permissions import KeyOperationPermission as P

_ONE_MODE = frozenset({Family.AES})


def default_algorithms(row: KeyType, permissions: P, offered: Iterable[Description | None]) -> tuple[str, ...]:
    """The algorithms for a slot; empty where every one that takes the key type may be allowed.

    Args:
        row: the slot's key type.
        permissions: its ceiling.
        offered: what its providers can do, as far as is known.
    """
    if row.family not in _ONE_MODE:
        return ()
    claimed = {claim.algorithm for description in offered if description is not None for claim in description.claims}
    fitting = [
        algorithm
        for algorithm in ALGORITHMS.values()
        if algorithm.takes(row)
        and algorithm.maturity is Maturity.CURRENT
        and (not claimed or algorithm.name in claimed)
    ]
    chosen: dict[str, None] = {}
    for permission in permissions:
        serving = [algorithm for algorithm in fitting if permission in _permissions_of(algorithm)]
        made_for_it = [algorithm for algorithm in serving if algorithm.kind is Kind.KEY_WRAP]
        chosen.update((algorithm.name, None) for algorithm in made_for_it or serving[:1])
    return tuple(name for name in ALGORITHMS if name in chosen)


def _permissions_of(row: Algorithm) -> P:
    permissions = P.NONE
    for operation in row.operations:
        permissions |= PERMISSION_FOR[operation]
    return permissions
