"""Edwards and Montgomery curve keys of the service: Ed25519 and Ed448 (RFC 8032), X25519 and X448 (RFC 7748)."""

from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, x448, x25519

from hsmbridge.client.calls import Buffer
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key
from hsmbridge.client.pyca.calls import ServiceCalls, secret_stays_in_the_service, stays_in_the_service
from hsmbridge.core.key_types import KeyType


class _RawBytesStay(ServiceCalls):
    """Private keys that cryptography also writes as raw bytes."""

    def private_bytes_raw(self) -> NoReturn:
        raise stays_in_the_service()


class ServiceEd25519PrivateKey(_RawBytesStay, ed25519.Ed25519PrivateKey):
    """An Ed25519 key that stays in the service."""

    def __init__(
        self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: ed25519.Ed25519PublicKey
    ) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self._public_key

    def sign(self, data: Buffer) -> bytes:
        return self._sign(self._row.name, data)


class ServiceEd448PrivateKey(_RawBytesStay, ed448.Ed448PrivateKey):
    """An Ed448 key that stays in the service."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: ed448.Ed448PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> ed448.Ed448PublicKey:
        return self._public_key

    def sign(self, data: Buffer) -> bytes:
        return self._sign(self._row.name, data)


class ServiceX25519PrivateKey(_RawBytesStay, x25519.X25519PrivateKey):
    """An X25519 key that stays in the service, and with it every secret that it agrees."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: x25519.X25519PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> x25519.X25519PublicKey:
        return self._public_key

    def exchange(self, peer_public_key: x25519.X25519PublicKey) -> NoReturn:
        raise secret_stays_in_the_service()


class ServiceX448PrivateKey(_RawBytesStay, x448.X448PrivateKey):
    """An X448 key that stays in the service, and with it every secret that it agrees."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType, public_key: x448.X448PublicKey) -> None:
        super().__init__(stack, key, version, row)
        self._public_key = public_key

    def public_key(self) -> x448.X448PublicKey:
        return self._public_key

    def exchange(self, peer_public_key: x448.X448PublicKey) -> NoReturn:
        raise secret_stays_in_the_service()
