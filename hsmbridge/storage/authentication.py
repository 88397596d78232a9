"""Row MACs: whoever edits the store's tables without the master key is found out at load.

HMAC-SHA-256 (FIPS 198-1) over a canonical encoding of every column of a slot's row, its versions and its access
entries together, so that neither a value nor the membership of a row can be changed, and no row can be moved to
another slot. Detected: any edit, any row added or taken away within a slot, a blob swapped with another slot's.
Not detected by the MAC: a slot put back, whole, to a state that it once had, and a slot removed whole; the store
adds what a running process can remember (`hsmbridge.storage.store`), the rest needs a counter outside the store.
"""

import hmac
from collections.abc import Mapping, Sequence

import msgspec

from hsmbridge.core.errors import Status, StoreError

MAC_COLUMN = "mac"
_SLOT_LABEL = "hsmbridge slot 1"
_NAME = ("namespace", "name")
_CERTIFICATE_LABEL = "hsmbridge certificate 1"
_NONCES_LABEL = "hsmbridge nonces 1"
_PINS_LABEL = "hsmbridge pins 1"
_ENCODER = msgspec.msgpack.Encoder()

Value = str | bytes | int | float | None
Row = Mapping[str, Value]


class RowAuthenticator:
    """Computes and checks the MACs under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def slot_mac(self, slot: Row, versions: Sequence[Row], access: Sequence[Row]) -> bytes:
        """The MAC of a slot with all that belongs to it, whatever order the rows come in."""
        return self._mac(_SLOT_LABEL, _columns(slot), _any_order(versions), _any_order(access))

    def check_slot(self, slot: Row, versions: Sequence[Row], access: Sequence[Row]) -> None:
        """Raises StoreError (STORE_TAMPERED) unless the row's MAC is right."""
        if not self._equal(slot.get(MAC_COLUMN), self.slot_mac(slot, versions, access)):
            raise tampered(shown_name(slot))

    def nonces_mac(self, row: Row) -> bytes:
        """The MAC of what the store knows of a key version's nonces."""
        return self._mac(_NONCES_LABEL, _columns(row))

    def check_nonces(self, row: Row) -> None:
        """Raises StoreError (STORE_TAMPERED) unless the row's MAC is right."""
        if not self._equal(row.get(MAC_COLUMN), self.nonces_mac(row)):
            raise StoreError(
                Status.STORE_TAMPERED,
                "The record of this key version's nonces was changed outside of hsmbridge; rotate the slot.",
            )

    def pins_mac(self, row: Row) -> bytes:
        """The MAC of a principal's PINs for a token."""
        return self._mac(_PINS_LABEL, _columns(row))

    def check_pins(self, row: Row) -> None:
        """Raises StoreError (STORE_TAMPERED) unless the row's MAC is right."""
        if not self._equal(row.get(MAC_COLUMN), self.pins_mac(row)):
            raise pins_tampered(str(row.get("principal")), str(row.get("token")))

    def certificate_mac(self, row: Row, items: Sequence[Row], access: Sequence[Row]) -> bytes:
        """The MAC of a certificate, trust store or CRL with all that belongs to it."""
        return self._mac(_CERTIFICATE_LABEL, _columns(row), _any_order(items), _any_order(access))

    def check_certificate(self, row: Row, items: Sequence[Row], access: Sequence[Row]) -> None:
        """Raises StoreError (STORE_TAMPERED) unless the row's MAC is right."""
        if not self._equal(row.get(MAC_COLUMN), self.certificate_mac(row, items, access)):
            raise tampered(shown_name(row), "certificate or trust store")

    def _mac(self, *content: object) -> bytes:
        return hmac.digest(self._key, _ENCODER.encode(content), "sha256")

    @staticmethod
    def _equal(found: Value, right: bytes) -> bool:
        return isinstance(found, bytes) and hmac.compare_digest(found, right)


def shown_name(slot: Row) -> str:
    """A slot's name as its row has it, which may be anything where somebody edited it."""
    return "/".join(str(slot.get(column)) if isinstance(slot.get(column), str) else "?" for column in _NAME)[:130]


def tampered(name: str, what: str = "slot") -> StoreError:
    """The refusal of a slot, or of something else, whose record does not fit its MAC."""
    return StoreError(
        Status.STORE_TAMPERED,
        f"The stored record of {what} {name} was changed outside of hsmbridge and is not obeyed;"
        " restore the store from a backup.",
    )


def pins_tampered(principal: str, token: str) -> StoreError:
    """The refusal of PINs whose record does not fit its MAC."""
    return StoreError(
        Status.STORE_TAMPERED,
        f"The stored PINs of {principal} for token {token} were changed outside of hsmbridge and are not obeyed; an"
        " operator resets them with `hsmbridge pkcs11 pin reset`.",
    )


def _columns(row: Row) -> list[tuple[str, Value]]:
    # Columns by name, nulls left out: a migration that adds a nullable column keeps every MAC right.
    return sorted((name, value) for name, value in row.items() if value is not None and name != MAC_COLUMN)


def _any_order(rows: Sequence[Row]) -> list[bytes]:
    return sorted(_ENCODER.encode(_columns(row)) for row in rows)
