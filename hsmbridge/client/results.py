"""What operations give back: bytes that know which key version made them, and the parts of what has several."""

from collections.abc import Iterable
from typing import Self

import msgspec

from hsmbridge.core.calls import Attestation
from hsmbridge.core.messages import EncryptReply


class _VersionedBytes(bytes):
    version: int

    def __new__(cls, value: bytes, version: int) -> Self:
        made = bytes.__new__(cls, value)  # as super() would, in two thirds of the time
        made.version = version
        return made

    @classmethod
    def each(cls, values: Iterable[bytes], version: int) -> list[Self]:
        """One of each value, all by the same key version."""
        new, made = bytes.__new__, []
        for value in values:
            one = new(cls, value)
            one.version = version
            made.append(one)
        return made

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} bytes by key version {self.version}>"

    def __getnewargs__(self) -> tuple[bytes, int]:  # type: ignore[override]  # bytes pickles by its value alone
        return bytes(self), self.version


class Signature(_VersionedBytes):
    """A signature, ECDSA in DER: plain bytes with a `version`, the number of the key version that signed."""


class Mac(_VersionedBytes):
    """A message authentication code: plain bytes with a `version`, the number of the key version that made it."""


class WrappedKey(_VersionedBytes):
    """A wrapped key: plain bytes with the `version` of the key that wrapped it, and the `iv` of an AEAD, else b""."""

    iv: bytes

    def __new__(cls, value: bytes, version: int, iv: bytes = b"") -> Self:
        made = super().__new__(cls, value, version)
        made.iv = iv
        return made

    def __getnewargs__(self) -> tuple[bytes, int, bytes]:  # type: ignore[override]  # bytes pickles by its value alone
        return bytes(self), self.version, self.iv


class Ciphertext(msgspec.Struct, frozen=True):
    """What an encryption yields; `decrypt` takes it whole.

    Attributes:
        version: the key version that encrypted.
        nonce: nonce or initialisation vector; empty for public-key encryption.
        ciphertext: as long as the plaintext for AEADs.
        tag: the authentication tag; empty where the algorithm has none.
    """

    version: int
    nonce: bytes
    ciphertext: bytes
    tag: bytes

    @classmethod
    def of(cls, reply: EncryptReply) -> Self:
        return cls(reply.version, reply.nonce, reply.ciphertext, reply.tag)


class Encapsulation(msgspec.Struct, frozen=True):
    """A KEM ciphertext for the holder of the key pair, and the shared secret.

    Attributes:
        ciphertext: for the other side to decapsulate.
        version: the key version that it belongs to.
        secret: empty where it went into a slot.
        slot_version: the version that it became there, else 0.
    """

    ciphertext: bytes
    version: int
    secret: bytes
    slot_version: int

    def __repr__(self) -> str:
        return f"<Encapsulation of {len(self.ciphertext)} bytes by key version {self.version}>"


class KeyAttestation(msgspec.Struct, frozen=True):
    """What a token states of a key that it holds.

    Attributes:
        attestation: format, statement, signature, the key that signed it, and certificates of the token.
        public_key: of the key that was attested, SubjectPublicKeyInfo in DER.
        version: its version.
    """

    attestation: Attestation
    public_key: bytes
    version: int
