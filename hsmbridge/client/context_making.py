"""The calls of a stack that create contexts, each of its kind."""

from collections.abc import Callable
from enum import StrEnum, unique

import msgspec

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.connection import Connection
from hsmbridge.client.contexts import (
    AeadContext,
    CipherContext,
    DigestContext,
    MacContext,
    SignContext,
    VerifyContext,
)
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key
from hsmbridge.core import messages as m
from hsmbridge.core.contexts import ContextState
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.messages import ContextKind
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters

_Create = Callable[[CryptoResourceId, m.ContextStart | None], msgspec.Struct]


@unique
class Direction(StrEnum):
    """What a cipher or AEAD context does."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"


class ContextMaking(KeyUse):
    """The calls that create contexts.

    Each initialises the context in the same round trip, unless `init` is False. `timeout` is that of every call on
    the context, unless it is UNSET: then it is the stack's.
    """

    def sign_context(
        self,
        key: Key,
        algorithm: str,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> SignContext:
        """A context that signs."""

        def create(id_: CryptoResourceId, start: m.ContextStart | None) -> msgspec.Struct:
            return m.ContextSignRequest(id_, algorithm, ContextKind.SIGN, parameters, start)

        return SignContext(self, *self._created(create, (key,), algorithm, timeout, _start(init)))

    def verify_context(
        self,
        key: Key,
        algorithm: str,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> VerifyContext:
        """A context that verifies a signature. Where the slot has rotated versions, name one to have it streamed."""

        def create(id_: CryptoResourceId, start: m.ContextStart | None) -> msgspec.Struct:
            return m.ContextVerifyRequest(id_, algorithm, ContextKind.VERIFY, parameters, version, start)

        return VerifyContext(self, *self._created(create, (key,), algorithm, timeout, _start(init)))

    def mac_context(
        self,
        key: Key,
        algorithm: str,
        *,
        verify: bool = False,
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> MacContext:
        """A context that computes a MAC, or with `verify` one that verifies it (by `version`)."""

        def create(id_: CryptoResourceId, start: m.ContextStart | None) -> msgspec.Struct:
            if verify:
                return m.ContextVerifyRequest(id_, algorithm, ContextKind.MAC, DEFAULT_SIGNATURE, version, start)
            return m.ContextSignRequest(id_, algorithm, ContextKind.MAC, DEFAULT_SIGNATURE, start)

        return MacContext(self, *self._created(create, (key,), algorithm, timeout, _start(init)))

    def cipher_context(
        self,
        key: Key,
        algorithm: str,
        direction: Direction | str,
        *,
        nonce: Buffer = b"",
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> CipherContext:
        """A context that encrypts or decrypts without authenticating. `version` is for decryption."""
        create = _crypt(ContextKind.CIPHER, Direction(direction), algorithm, version)
        return CipherContext(self, *self._created(create, (key,), algorithm, timeout, _start(init, nonce)))

    def aead_context(
        self,
        key: Key,
        algorithm: str,
        direction: Direction | str,
        *,
        nonce: Buffer = b"",
        aad: Buffer = b"",
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> AeadContext:
        """A context that encrypts or decrypts with an AEAD. `version` is for decryption."""
        create = _crypt(ContextKind.AEAD, Direction(direction), algorithm, version)
        return AeadContext(self, *self._created(create, (key,), algorithm, timeout, _start(init, nonce, aad)))

    def digest_context(
        self, algorithm: str, *, provider: str = "", init: bool = True, timeout: Timeout = UNSET
    ) -> DigestContext:
        """A context that hashes. `provider` "" leaves the choice to the daemon."""
        start = _start(init)
        reply, connection = self._perform_where(
            m.ContextReply, lambda: m.ContextDigestRequest(algorithm, provider, start), timeout=timeout
        )
        return DigestContext(self, connection, reply, algorithm, timeout, _state(start))

    def _created(
        self, create: _Create, keys: tuple[Key], algorithm: str, timeout: Timeout, start: m.ContextStart | None
    ) -> tuple[Connection, m.ContextReply, str, Timeout, ContextState]:
        reply, connection = self._perform_where(m.ContextReply, lambda id_: create(id_, start), *keys, timeout=timeout)
        return connection, reply, algorithm, timeout, _state(start)


def _crypt(kind: ContextKind, direction: Direction, algorithm: str, version: int) -> _Create:
    if direction is Direction.DECRYPT:
        return lambda id_, start: m.ContextDecryptRequest(id_, algorithm, kind, version, start)
    if version:
        raise RequestError(Status.INVALID_ARGUMENT, "The active key version encrypts; name no other.")
    return lambda id_, start: m.ContextEncryptRequest(id_, algorithm, kind, start)


def _start(init: bool, nonce: Buffer = b"", aad: Buffer = b"") -> m.ContextStart | None:
    return m.ContextStart(octets(nonce), octets(aad)) if init else None


def _state(start: m.ContextStart | None) -> ContextState:
    return ContextState.CREATED if start is None else ContextState.INITIALIZED
