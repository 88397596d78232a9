"""Using keys: sign, verify, MAC, encrypt, decrypt, encapsulate, decapsulate; one message or many.

The `key` of every method is a slot's name or handle, a guard, or a CryptoResourceId. The single forms cost one
round trip. The `_batch` forms cost one for many and give, for each, its result or its HsmBridgeError; `_many` is
the same for who wants all or an exception. What a key may not do raises KeyUseError
(KEY_OPERATION_NOT_PERMITTED); a slot that is not there, or not for this caller, ResourceError.
"""

from collections.abc import Sequence
from typing import TypeVar

from hsmbridge.client.calls import Buffer, octets, parts
from hsmbridge.client.data_plane import SHARED_FROM, TOGETHER, DataPlane
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.keys import Key
from hsmbridge.client.results import Ciphertext, Encapsulation, Mac, Signature
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Kind
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters

_T = TypeVar("_T")


class KeyUse(DataPlane):
    """The calls that use a key."""

    def sign(
        self,
        key: Key,
        algorithm: str,
        message: Buffer,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> Signature:
        """Sign a message: the bytes of the signature (ECDSA in DER), with the version that made it."""
        data = octets(message)
        reply = self._perform(
            m.SignReply, lambda id_: m.SignRequest(id_, algorithm, data, parameters), key, timeout=timeout
        )
        return Signature(reply.signature, reply.version)

    def sign_batch(
        self,
        key: Key,
        algorithm: str,
        messages: Sequence[Buffer],
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> list[Signature | HsmBridgeError]:
        """Sign many messages: for each its signature or its error, in their order."""
        replies = self._perform_batch(
            m.SignReply,
            lambda id_, part: [m.SignRequest(id_, algorithm, octets(data), parameters) for data in messages[part]],
            [len(data) for data in messages],
            key,
            timeout,
        )
        return [
            reply if isinstance(reply, HsmBridgeError) else Signature(reply.signature, reply.version)
            for reply in replies
        ]

    def sign_many(
        self,
        key: Key,
        algorithm: str,
        messages: Sequence[Buffer],
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> list[Signature]:
        """Sign many messages, all of one frame by the same key version. Raises the error of the first that failed."""
        signatures: list[Signature] = []
        for part in parts([len(data) for data in messages], self.max_frame if messages else 0):
            reply = self._sign_part(key, algorithm, messages[part], parameters, timeout)
            signatures += Signature.each(reply.signatures, reply.version)
        return signatures

    def _sign_part(
        self,
        key: Key,
        algorithm: str,
        messages: Sequence[Buffer],
        parameters: SignatureParameters,
        timeout: Timeout,
    ) -> m.SignManyReply:
        given = tuple([data if type(data) is bytes else bytes(data) for data in messages])
        return self._perform(
            m.SignManyReply,
            lambda id_: m.SignManyRequest(id_, algorithm, given, parameters),
            key,
            timeout=timeout,
        )

    def verify(
        self,
        key: Key,
        algorithm: str,
        message: Buffer,
        signature: Buffer,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> int:
        """Verify a signature: the number of the key version that it belongs to.

        `version` 0 tries the active one, then rotated ones, newest first. Raises SignatureInvalid.
        """
        data, signed = octets(message), octets(signature)
        return self._perform(
            m.VerifyReply,
            lambda id_: m.VerifyRequest(id_, algorithm, data, signed, parameters, version),
            key,
            timeout=timeout,
        ).version

    def verify_batch(
        self,
        key: Key,
        algorithm: str,
        signed: Sequence[tuple[Buffer, Buffer]],
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> list[int | HsmBridgeError]:
        """Verify many (message, signature) pairs: for each the key version, or SignatureInvalid as a value."""
        replies = self._perform_batch(
            m.VerifyReply,
            lambda id_, part: [
                m.VerifyRequest(id_, algorithm, octets(data), octets(signature), parameters)
                for data, signature in signed[part]
            ],
            [len(data) + len(signature) for data, signature in signed],
            key,
            timeout,
        )
        return [reply if isinstance(reply, HsmBridgeError) else reply.version for reply in replies]

    def mac(self, key: Key, algorithm: str, message: Buffer, *, timeout: Timeout = UNSET) -> Mac:
        """Compute a MAC: its bytes, with the version that made it."""
        data = octets(message)
        if len(data) >= SHARED_FROM and (large := self._large_mac(key, algorithm, data, timeout)) is not None:
            return Mac(large.mac, large.version)
        reply = self._perform(m.MacReply, lambda id_: m.MacRequest(id_, algorithm, data), key, timeout=timeout)
        return Mac(reply.mac, reply.version)

    def mac_batch(
        self, key: Key, algorithm: str, messages: Sequence[Buffer], *, timeout: Timeout = UNSET
    ) -> list[Mac | HsmBridgeError]:
        """Compute many MACs: for each message its MAC or its error."""
        replies = self._perform_batch(
            m.MacReply,
            lambda id_, part: [m.MacRequest(id_, algorithm, octets(data)) for data in messages[part]],
            [len(data) for data in messages],
            key,
            timeout,
        )
        return [reply if isinstance(reply, HsmBridgeError) else Mac(reply.mac, reply.version) for reply in replies]

    def mac_many(self, key: Key, algorithm: str, messages: Sequence[Buffer], *, timeout: Timeout = UNSET) -> list[Mac]:
        """Compute many MACs. Raises the error of the first one that failed."""
        return _all(self.mac_batch(key, algorithm, messages, timeout=timeout))

    def verify_mac(
        self,
        key: Key,
        algorithm: str,
        message: Buffer,
        mac: Buffer,
        *,
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> int:
        """Verify a MAC: the number of the key version that it belongs to. Raises SignatureInvalid."""
        data, given = octets(message), octets(mac)
        return self._perform(
            m.VerifyReply,
            lambda id_: m.MacVerifyRequest(id_, algorithm, data, given, version),
            key,
            timeout=timeout,
        ).version

    def encrypt(
        self,
        key: Key,
        algorithm: str,
        plaintext: Buffer,
        *,
        aad: Buffer = b"",
        nonce: Buffer = b"",
        timeout: Timeout = UNSET,
    ) -> Ciphertext:
        """Encrypt. `nonce` stays empty unless the key's nonce policy leaves it to the caller.

        Raises KeyUseError: NONCE_REUSED, or KEY_ROTATION_REQUIRED where the version was used as often as is safe.
        """
        data, associated, given = octets(plaintext), octets(aad), octets(nonce)
        if len(data) >= SHARED_FROM:
            large = self._large_encrypt(key, algorithm, data, associated, given, timeout)
            if large is not None:
                return large
        return Ciphertext.of(
            self._perform(
                m.EncryptReply,
                lambda id_: m.EncryptRequest(id_, algorithm, data, associated, given),
                key,
                timeout=timeout,
            )
        )

    def encrypt_batch(
        self,
        key: Key,
        algorithm: str,
        plaintexts: Sequence[Buffer],
        *,
        aads: Sequence[Buffer] | None = None,
        timeout: Timeout = UNSET,
    ) -> list[Ciphertext | HsmBridgeError]:
        """Encrypt many plaintexts, each with its own associated data where `aads` has as many items."""
        associated = [b""] * len(plaintexts) if aads is None else list(aads)
        pairs = list(zip(plaintexts, associated, strict=True))
        replies = self._perform_batch(
            m.EncryptReply,
            lambda id_, part: [m.EncryptRequest(id_, algorithm, octets(p), octets(a)) for p, a in pairs[part]],
            [len(plaintext) + len(aad) for plaintext, aad in pairs],
            key,
            timeout,
        )
        return [reply if isinstance(reply, HsmBridgeError) else Ciphertext.of(reply) for reply in replies]

    def encrypt_many(
        self,
        key: Key,
        algorithm: str,
        plaintexts: Sequence[Buffer],
        *,
        aads: Sequence[Buffer] | None = None,
        timeout: Timeout = UNSET,
    ) -> list[Ciphertext]:
        """Encrypt many plaintexts. Raises the error of the first one that failed."""
        row = ALGORITHMS.get(algorithm)
        if row is None or row.kind is not Kind.AEAD or len(plaintexts) < 2:
            return _all(self.encrypt_batch(key, algorithm, plaintexts, aads=aads, timeout=timeout))
        given = [data if type(data) is bytes else bytes(data) for data in plaintexts]
        sizes = list(map(len, given))
        if aads is not None:
            sizes = [size + len(aad) for size, aad in zip(sizes, aads, strict=True)]
        sealed: list[Ciphertext] = []
        for part in parts(sizes, min(self.max_frame, TOGETHER)):
            together, associated = given[part], None if aads is None else aads[part]
            done = self._large_encrypt_many(key, row, together, associated or (), timeout)
            if done is None:
                done = _all(self.encrypt_batch(key, algorithm, together, aads=associated, timeout=timeout))
            sealed += done
        return sealed

    def decrypt(
        self,
        key: Key,
        algorithm: str,
        ciphertext: Ciphertext | Buffer,
        *,
        aad: Buffer = b"",
        nonce: Buffer = b"",
        tag: Buffer = b"",
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> bytes:
        """Decrypt what `encrypt` gave, or the bare bytes with their nonce and tag.

        `version` 0 tries the active key version, then rotated ones. Raises DecryptionFailed whatever is wrong.
        """
        given = _parts_of(ciphertext, nonce, tag, version)
        associated = octets(aad)
        if len(given.ciphertext) >= SHARED_FROM:
            large = self._large_decrypt(key, algorithm, given, associated, timeout)
            if large is not None:
                return large
        return self._perform(
            m.DecryptReply,
            lambda id_: m.DecryptRequest(
                id_, algorithm, given.ciphertext, associated, given.nonce, given.tag, given.version
            ),
            key,
            timeout=timeout,
        ).plaintext

    def decrypt_batch(
        self,
        key: Key,
        algorithm: str,
        ciphertexts: Sequence[Ciphertext],
        *,
        aads: Sequence[Buffer] | None = None,
        timeout: Timeout = UNSET,
    ) -> list[bytes | HsmBridgeError]:
        """Decrypt many ciphertexts: for each its plaintext or its error."""
        associated = [b""] * len(ciphertexts) if aads is None else list(aads)
        pairs = list(zip(ciphertexts, associated, strict=True))
        replies = self._perform_batch(
            m.DecryptReply,
            lambda id_, part: [
                m.DecryptRequest(id_, algorithm, c.ciphertext, octets(aad), c.nonce, c.tag, c.version)
                for c, aad in pairs[part]
            ],
            [len(c.ciphertext) + len(aad) for c, aad in pairs],
            key,
            timeout,
        )
        return [reply if isinstance(reply, HsmBridgeError) else reply.plaintext for reply in replies]

    def decrypt_many(
        self,
        key: Key,
        algorithm: str,
        ciphertexts: Sequence[Ciphertext],
        *,
        aads: Sequence[Buffer] | None = None,
        timeout: Timeout = UNSET,
    ) -> list[bytes]:
        """Decrypt many ciphertexts. Raises the error of the first one that failed."""
        return _all(self.decrypt_batch(key, algorithm, ciphertexts, aads=aads, timeout=timeout))

    def encapsulate(self, key: Key, algorithm: str, *, slot: str = "", timeout: Timeout = UNSET) -> Encapsulation:
        """Make a shared secret for the holder of the key pair. With `slot` it becomes a new key version there."""
        reply = self._perform(
            m.EncapsulateReply, lambda id_: m.EncapsulateRequest(id_, algorithm, slot), key, timeout=timeout
        )
        return Encapsulation(reply.ciphertext, reply.version, reply.secret, reply.slot_version)

    def decapsulate(
        self, key: Key, algorithm: str, ciphertext: Buffer, *, version: int = 0, timeout: Timeout = UNSET
    ) -> bytes:
        """The shared secret of a KEM ciphertext. Raises DecryptionFailed for one of a wrong length."""
        data = octets(ciphertext)
        return self._perform(
            m.DecapsulateReply,
            lambda id_: m.DecapsulateRequest(id_, algorithm, data, version),
            key,
            timeout=timeout,
        ).secret

    def decapsulate_into(
        self, key: Key, algorithm: str, ciphertext: Buffer, slot: str, *, version: int = 0, timeout: Timeout = UNSET
    ) -> int:
        """Put the shared secret of a KEM ciphertext into a slot: the number of its new key version."""
        data = octets(ciphertext)
        return self._perform(
            m.DecapsulateReply,
            lambda id_: m.DecapsulateRequest(id_, algorithm, data, version, slot),
            key,
            timeout=timeout,
        ).slot_version


def _parts_of(given: Ciphertext | Buffer, nonce: Buffer, tag: Buffer, version: int) -> Ciphertext:
    if isinstance(given, Ciphertext):
        return given
    return Ciphertext(version, octets(nonce), octets(given), octets(tag))


def _all(answers: list[_T | HsmBridgeError]) -> list[_T]:
    results: list[_T] = []
    for answer in answers:
        if isinstance(answer, HsmBridgeError):
            raise answer
        results.append(answer)
    return results
