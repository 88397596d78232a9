"""A key of liboqs in this process, and its stored form.

The stored form, which the store's seal encrypts, is one format byte and then
    0x03  a public key alone: SubjectPublicKeyInfo in DER (RFC 5280);
    0x04  a private key: OneAsymmetricKey in DER with the expanded key and the public key (RFC 5958, 9881, 9935).
No byte means something else in the software provider, so that neither takes a key of the other for its own.
"""

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.oqs import encodings
from hsmbridge.providers.oqs.parameter_sets import PARAMETER_SETS
from hsmbridge.providers.sealed_keys import not_as_described

_PUBLIC = 0x03
_EXPANDED = 0x04


class OqsKey:
    """A public key, and the expanded private key where it is there. That is overwritten when its last user is gone."""

    __slots__ = ("__weakref__", "private", "public", "row")

    def __init__(self, row: KeyType, public: bytes, private: bytearray | None) -> None:
        """Raises ValueError for a size that is not that of the type."""
        self.private = private
        self.public = public
        self.row = row
        sizes = PARAMETER_SETS[row.name]
        if len(public) != sizes.public or (private is not None and len(private) != sizes.private):
            raise ValueError(f"a key whose size is not that of {row.name}")

    def __del__(self) -> None:
        if self.private is not None:
            self.private[:] = bytes(len(self.private))

    def __repr__(self) -> str:
        return f"OqsKey({self.row.name})"

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return encodings.encode_public_key(self.row, self.public)

    def stored(self) -> bytes:
        """The stored form."""
        if self.private is None:
            return bytes((_PUBLIC,)) + self.public_key
        return bytes((_EXPANDED,)) + encodings.encode_private_key(self.row, bytes(self.private), self.public)


def from_stored(row: KeyType, stored: bytes) -> OqsKey:
    """The key of a stored form that the seal has authenticated. Raises StoreError (STORE_TAMPERED)."""
    form, der = stored[:1], stored[1:]
    try:
        if form == bytes((_PUBLIC,)):
            oid, public = encodings.decode_public_key(der)
            private = None
        elif form == bytes((_EXPANDED,)):
            fields = encodings.decode_private_key(der)
            oid, public, private = fields.oid, fields.public, bytearray(fields.expanded)
        else:
            raise StoreError(
                Status.STORE_TAMPERED,
                "The stored key has a form that the oqs provider does not know; give it back to the provider that"
                " made it, under its name.",
            )
        if oid != row.spki_oid:
            raise not_as_described()
        return OqsKey(row, public, private)
    except ValueError as error:
        raise StoreError(
            Status.STORE_TAMPERED, "The stored key cannot be read; restore it from a backup.", origin=repr(error)
        ) from error
