"""The store's master key: made once, kept protected in the store, never used itself but through sub-keys.

HKDF-SHA-256 (RFC 5869), salted with the store's id, gives sub-keys for row MACs, for sealing key material and for PINs,
and one check value. Which Protector keeps the master key is recorded beside it. Not here: how a Protector works.
"""

import hmac
import secrets
import time

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.protocols import Protector
from hsmbridge.core.secrets import Secret
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import RowAuthenticator

_KEY_SIZE = 32
_NONCE_SIZE = 12
_STORE_ID_SIZE = 16
_THE_ROW = 1
_FORMAT = b"\x01"
_MATERIAL = b"hsmbridge material 1"


class MasterKey:
    """A master key in use."""

    def __init__(self, key: bytes, store_id: bytes) -> None:
        self._key = Secret(key)
        self._store_id = store_id

    def __repr__(self) -> str:
        return "MasterKey()"

    def authenticator(self) -> RowAuthenticator:
        """What computes and checks row MACs."""
        return RowAuthenticator(self._sub_key(b"hsmbridge row mac 1"))

    def material_seal(self) -> "AesGcmSeal":
        """What encrypts key material of the software provider."""
        return AesGcmSeal(self._sub_key(_MATERIAL))

    def pin_key(self) -> Secret:
        """What PINs are hashed under, so that the store without its master key is no place to guess them."""
        return Secret(self._sub_key(b"hsmbridge pins 1"))

    def check_value(self) -> bytes:
        """A value that tells this master key from any other and says nothing of it."""
        return self._sub_key(b"hsmbridge master key check 1")

    def _sub_key(self, info: bytes) -> bytes:
        return HKDF(SHA256(), _KEY_SIZE, salt=self._store_id, info=info).derive(self._key.reveal())


class AesGcmSeal:
    """Encrypts key material with AES-256-GCM (SP 800-38D) under random nonces; a core.protocols.MaterialSeal."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, material: bytes, binding: bytes) -> bytes:
        """`material` encrypted, with `binding` authenticated."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, material, _MATERIAL + _FORMAT + binding)

    def open(self, sealed: bytes, binding: bytes) -> bytes:
        """The material. Raises StoreError (STORE_TAMPERED)."""
        head = len(_FORMAT) + _NONCE_SIZE
        try:
            if len(sealed) < head or sealed[:1] != _FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(sealed[1:head], sealed[head:], _MATERIAL + _FORMAT + binding)
        except InvalidTag:
            raise StoreError(
                Status.STORE_TAMPERED,
                "Stored key material was changed outside of hsmbridge, or belongs to another slot or version;"
                " restore the store from a backup.",
            ) from None


def open_master_key(connection: sa.Connection, protector: Protector) -> MasterKey:
    """The store's master key; a new store gets one.

    Raises:
        StoreError: MASTER_KEY_UNAVAILABLE, or STORE_TAMPERED where the store's own row was changed or removed.
    """
    row = connection.execute(sa.select(schema.store)).mappings().one_or_none()
    if row is None:
        return _make(connection, protector)
    if row["protector"] != protector.name:
        raise StoreError(
            Status.MASTER_KEY_UNAVAILABLE,
            f"The store's master key is protected by a {row['protector']!s:.40},"
            f" the configuration names a {protector.name}; correct it.",
        )
    protected_key, store_id, check_value = (
        _blob(row[column]) for column in ("protected_key", "store_id", "check_value")
    )
    master = MasterKey(protector.recover(protected_key), store_id)
    if not hmac.compare_digest(master.check_value(), check_value):
        raise _changed()
    return master


def _make(connection: sa.Connection, protector: Protector) -> MasterKey:
    held = (sa.select(table.c.id).limit(1) for table in (schema.slots, schema.certificates))
    if any(connection.execute(query).first() is not None for query in held):
        raise StoreError(
            Status.STORE_TAMPERED,
            "The store holds slots but no master key; its record was removed. Restore the store from a backup.",
        )
    key = secrets.token_bytes(_KEY_SIZE)
    store_id = secrets.token_bytes(_STORE_ID_SIZE)
    master = MasterKey(key, store_id)
    connection.execute(
        sa.insert(schema.store).values(
            id=_THE_ROW,
            store_id=store_id,
            protector=protector.name,
            protected_key=protector.protect(key),
            check_value=master.check_value(),
            created=time.time_ns() // 1000,
        )
    )
    return master


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _changed()
    return value


def _changed() -> StoreError:
    return StoreError(
        Status.STORE_TAMPERED,
        "The record of the store's master key was changed outside of hsmbridge; restore the store from a backup.",
    )
