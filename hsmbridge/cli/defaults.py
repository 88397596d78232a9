"""Which algorithm is meant when none is named: read from the tables, and only where there is one obvious choice."""

from collections.abc import Iterable

from hsmbridge.client import SlotInfo
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Kind
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Maturity


def default_algorithm(slot: SlotInfo, kinds: Iterable[Kind]) -> Algorithm:
    """The one algorithm of these kinds that the slot's keys take; of several AEADs, the one that JOSE knows.

    Raises RequestError (INVALID_ARGUMENT), naming the choices.
    """
    wanted = frozenset(kinds)
    found = [
        row
        for row in ALGORITHMS.values()
        if row.kind in wanted
        and slot.key_type in row.key_types
        and row.maturity is Maturity.CURRENT
        and (not slot.algorithms or row.name in slot.algorithms)
    ]
    aeads = [row for row in found if row.kind is Kind.AEAD]
    if len(found) > 1 and aeads:
        found = aeads if len(aeads) == 1 else [row for row in aeads if row.jose]
    if len(found) == 1:
        return found[0]
    if not found:
        what = " or ".join(sorted(kind.value for kind in wanted))
        raise RequestError(
            Status.KEY_TYPE_MISMATCH, f"Slot {slot.name} holds keys of type {slot.key_type}, which are not for {what}."
        )
    names = ", ".join(row.name for row in found)
    raise RequestError(Status.INVALID_ARGUMENT, f"Say which algorithm with --algorithm: {names}.")
