"""Names and ids: resources, slots, principals, key ids."""

import re
import secrets
from enum import IntEnum, unique
from typing import NewType

import msgspec

from hsmbridge.core.errors import RequestError, Status

KeyId = NewType("KeyId", bytes)
"""16 random bytes that the store chooses before a key exists: CKA_ID on a token, the record's key in the store."""
KEY_ID_LENGTH = 16

ALGORITHM_NAME_MAX = 64
PROVIDER_NAME_MAX = 32
RESERVED_SLOT_PREFIX = "shm-"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
_UID_PRINCIPAL = re.compile(r"uid:(0|[1-9][0-9]{0,9})", re.ASCII)


@unique
class ResourceKind(IntEnum):
    """What a CryptoResourceId names."""

    KEY = 1
    KEY_SLOT = 2
    CERTIFICATE = 3
    CERT_SLOT = 4
    VERIFICATION_TRUST_STORE = 5
    CRL = 6


class CryptoResourceId(msgspec.Struct, frozen=True, array_like=True):
    """A random 64-bit number with its kind, valid on the connection that made it."""

    number: int
    kind: ResourceKind


class QualifiedName(msgspec.Struct, frozen=True, array_like=True, order=True):
    """NAMESPACE/NAME of a slot."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def new_key_id() -> KeyId:
    """A fresh random key id."""
    return KeyId(secrets.token_bytes(KEY_ID_LENGTH))


def uid_principal(uid: int) -> str:
    """The principal of a peer on a unix socket."""
    return f"uid:{uid}"


def default_namespace(principal: str) -> str:
    """The caller's own namespace: uid-N for uid:N."""
    return principal.replace(":", "-", 1)


def check_name(name: str, what: str = "slot name") -> str:
    """`name` if it is one. Raises RequestError (INVALID_NAME)."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        length = f" It has {len(name)} characters." if len(name) > 64 else ""
        raise RequestError(
            Status.INVALID_NAME,
            f"{shown!r} is not a {what}: 1 to 64 characters of A-Z a-z 0-9 . _ -, the first a letter or digit.{length}",
        )
    return name


def parse_slot_name(text: str, principal: str) -> QualifiedName:
    """A slot's name as a caller writes it: NAME in the caller's own namespace, or NAMESPACE/NAME."""
    namespace, separator, name = text.rpartition("/")
    if not separator:
        namespace = default_namespace(principal)
    return QualifiedName(check_name(namespace, "namespace"), check_name(name))


def check_provider_name(name: str) -> str:
    """`name` if it names a provider instance (at most 32 bytes). Raises RequestError (INVALID_NAME)."""
    if not _PROVIDER_NAME.fullmatch(name):
        raise RequestError(
            Status.INVALID_NAME,
            f"{name[:80]!r} is not a provider name: 1 to 32 characters of A-Z a-z 0-9 . _ -.",
        )
    return name


def check_principal(text: str) -> str:
    """`text` if it is a principal such as uid:1000. Raises RequestError (INVALID_ARGUMENT)."""
    if not _UID_PRINCIPAL.fullmatch(text):
        raise RequestError(Status.INVALID_ARGUMENT, f"{text[:80]!r} is not a principal; write uid:N.")
    return text


def new_incident_id() -> str:
    """A random id under which the log has the detail of an error that a client was told of."""
    return secrets.token_hex(8)
