"""Making keys: generate, derive, agree, import, unwrap; wrapping, keeping, exporting and attesting one.

Each has two forms. Without `slot` the key is an ephemeral one of the connection, and a CryptoResourceGuard holds
it; with `slot=` it becomes a new version there, and its number is the result. `nonce_policy` is of an ephemeral key:
who chooses the nonces that it encrypts with; a slot has its own.
"""

from collections.abc import Callable, Iterable
from typing import overload

import msgspec

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.context_making import ContextMaking
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.guards import CryptoResourceGuard
from hsmbridge.client.keys import Key
from hsmbridge.client.results import KeyAttestation, WrappedKey
from hsmbridge.core import messages as m
from hsmbridge.core.errors import Status, WireError
from hsmbridge.core.params import (
    AgreeKeyParams,
    DeriveKeyParams,
    GenerateKeyParams,
    ImportKeyParams,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.policy import NoncePolicy


class KeyMaking(ContextMaking):
    """The calls that make keys."""

    @overload
    def generate_key(
        self,
        params: GenerateKeyParams,
        *,
        provider: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard: ...
    @overload
    def generate_key(self, params: GenerateKeyParams, *, slot: str, timeout: Timeout = UNSET) -> int: ...
    def generate_key(
        self,
        params: GenerateKeyParams,
        *,
        slot: str = "",
        provider: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard | int:
        """Generate a key. `provider` "" leaves the choice to the daemon; long ones may need `timeout=None`."""
        return self._make(lambda: m.GenerateRequest(params, slot, provider, nonce_policy), slot, timeout=timeout)

    @overload
    def derive_key(
        self,
        key: Key,
        params: DeriveKeyParams,
        *,
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard: ...
    @overload
    def derive_key(self, key: Key, params: DeriveKeyParams, *, slot: str, timeout: Timeout = UNSET) -> int: ...
    def derive_key(
        self,
        key: Key,
        params: DeriveKeyParams,
        *,
        slot: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard | int:
        """Derive a key from another."""
        return self._make(lambda id_: m.DeriveRequest(id_, params, slot, nonce_policy), slot, key, timeout=timeout)

    @overload
    def agree_key(
        self,
        key: Key,
        params: AgreeKeyParams,
        *,
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard: ...
    @overload
    def agree_key(self, key: Key, params: AgreeKeyParams, *, slot: str, timeout: Timeout = UNSET) -> int: ...
    def agree_key(
        self,
        key: Key,
        params: AgreeKeyParams,
        *,
        slot: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard | int:
        """Agree a key with the holder of a public key."""
        return self._make(lambda id_: m.AgreeRequest(id_, params, slot, nonce_policy), slot, key, timeout=timeout)

    @overload
    def import_key(
        self,
        params: ImportKeyParams,
        material: Buffer,
        *,
        provider: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard: ...
    @overload
    def import_key(self, params: ImportKeyParams, material: Buffer, *, slot: str, timeout: Timeout = UNSET) -> int: ...
    def import_key(
        self,
        params: ImportKeyParams,
        material: Buffer,
        *,
        slot: str = "",
        provider: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard | int:
        """Take in a key that is known in the clear."""
        data = octets(material)
        return self._make(lambda: m.ImportRequest(params, data, slot, provider, nonce_policy), slot, timeout=timeout)

    @overload
    def unwrap_key(
        self,
        key: Key,
        params: UnwrapKeyParams,
        material: Buffer,
        *,
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard: ...
    @overload
    def unwrap_key(
        self, key: Key, params: UnwrapKeyParams, material: Buffer, *, slot: str, timeout: Timeout = UNSET
    ) -> int: ...
    def unwrap_key(
        self,
        key: Key,
        params: UnwrapKeyParams,
        material: Buffer,
        *,
        slot: str = "",
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        timeout: Timeout = UNSET,
    ) -> CryptoResourceGuard | int:
        """Unwrap a key that was wrapped under `key`. Raises DecryptionFailed whatever is wrong with it."""
        data = octets(material)
        return self._make(
            lambda id_: m.UnwrapRequest(id_, data, params, slot, nonce_policy), slot, key, timeout=timeout
        )

    def wrap_key(self, key: Key, wrapped: Key, params: WrapKeyParams, *, timeout: Timeout = UNSET) -> WrappedKey:
        """The key `wrapped`, encrypted under `key`; with an AEAD its `iv` is needed to unwrap it again.

        Raises KeyUseError (KEY_OPERATION_NOT_PERMITTED) without WRAP on the one and EXPORT on the other,
        ResourceError (NOT_TRANSFERABLE) where they live in different providers.
        """
        reply = self._perform(
            m.WrapReply,
            lambda id_, wrapped_id: m.WrapRequest(id_, wrapped_id, params),
            key,
            wrapped,
            timeout=timeout,
        )
        return WrappedKey(reply.material, reply.version, reply.iv)

    def persist_key(self, slot: str, key: Key, *, timeout: Timeout = UNSET) -> int:
        """Copy an ephemeral key into a slot: the number of its new version. The guard stays live.

        Raises ResourceError (NOT_TRANSFERABLE) where the slot is of another provider and the key may not leave its own.
        """
        return self._perform(m.KeyReply, lambda id_: m.PersistRequest(id_, slot), key, timeout=timeout).version

    def export_key(self, key: Key, format_: str, *, recipient: Buffer = b"", timeout: Timeout = UNSET) -> bytes:
        """The private key in a form that nobody reads in the clear, such as "tss2"; needs EXPORT.

        Raises RequestError (NOT_SUPPORTED), naming the formats that the key's provider offers.
        """
        given = octets(recipient)
        return self._perform(
            m.SlotExportReply, lambda id_: m.SlotExportRequest(id_, format_, given), key, timeout=timeout
        ).material

    def attest_key(
        self, key: Key, nonce: Buffer, *, version: int = 0, pcrs: Iterable[int] = (), timeout: Timeout = UNSET
    ) -> KeyAttestation:
        """What the key's token states of it, signed together with a random nonce of 8 to 64 bytes.

        With `pcrs`, numbers of PCRs of the SHA-256 bank, a TPM quotes these besides.
        """
        given, numbers = octets(nonce), tuple(pcrs)
        reply = self._perform(
            m.SlotAttestReply, lambda id_: m.SlotAttestRequest(id_, given, version, numbers), key, timeout=timeout
        )
        return KeyAttestation(reply.attestation, reply.public_key, reply.version)

    def _make(
        self, make: Callable[..., msgspec.Struct], slot: str, *keys: Key, timeout: Timeout
    ) -> CryptoResourceGuard | int:
        reply, connection = self._perform_where(m.KeyReply, make, *keys, timeout=timeout)
        if slot:
            return reply.version
        if reply.resource is None:
            raise WireError(Status.MALFORMED_FRAME, "The daemon made a key and did not say which.")
        return CryptoResourceGuard(self, connection, reply.resource, reply.public_key)
