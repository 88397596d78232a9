"""A key bound to one algorithm: everything that does not depend on the data is prepared once and kept.

The classes of `schemes` are of this type. What a scheme does not do is refused here.
"""

from collections.abc import Iterable, Sequence

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encapsulated, Encrypted
from hsmbridge.core.errors import HsmBridgeError, KeyUseError, RequestError, Status
from hsmbridge.core.params import SignatureParameters
from hsmbridge.providers.software.material import KeyMaterial


class BoundKey:
    """Made of a key of a type that the row takes. Used by many threads at once; holds no state of a call."""

    __slots__ = ("_row",)

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        self._row = row

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        raise self._cannot("sign")

    def sign_many(self, messages: Sequence[bytes], parameters: SignatureParameters) -> list[bytes]:
        sign = self.sign
        return [sign(message, parameters) for message in messages]

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        raise self._cannot("verify")

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        raise self._cannot("encrypt")

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        raise self._cannot("decrypt")

    def encrypt_into(self, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview) -> Encrypted:
        """As `encrypt`, with the ciphertext in `target`."""
        raise self._cannot("encrypt in place")

    def encrypt_many_into(self, nonces: Sequence[bytes], messages: Sequence[memoryview], aads: Iterable[bytes]) -> None:
        """Encrypt each message where it lies; in its last bytes is room for the tag."""
        raise self._cannot("encrypt in place")

    def decrypt_into(self, nonce: bytes, sealed: memoryview, aad: bytes, target: memoryview) -> int:
        """As `decrypt`, with the plaintext in `target`, which is nobody else's: its length."""
        raise self._cannot("decrypt in place")

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        """Encrypt the value of a key."""
        raise self._cannot("wrap keys")

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        """The value that was wrapped. Raises DecryptionFailed whatever is wrong with it."""
        raise self._cannot("unwrap keys")

    def encapsulate(self) -> Encapsulated:
        raise self._cannot("encapsulate")

    def decapsulate(self, ciphertext: bytes) -> bytes:
        raise self._cannot("decapsulate")

    def agree(self, peer_public_key: bytes) -> bytes:
        raise self._cannot("agree a secret")

    def _cannot(self, what: str) -> HsmBridgeError:
        return RequestError(Status.NOT_SUPPORTED, f"{self._row.name} cannot {what}.")


def mismatch(row: Algorithm) -> HsmBridgeError:
    """What a key of a type that the row does not take is answered with."""
    return RequestError(Status.KEY_TYPE_MISMATCH, f"{row.name} takes keys of type {', '.join(row.key_types)}.")


def public_half_only(row: Algorithm) -> HsmBridgeError:
    """What a use that needs the private key is answered with where only the public one is there."""
    return KeyUseError(
        Status.KEY_OPERATION_NOT_PERMITTED,
        f"Only the public half of this key is here; the private one is needed for this use of {row.name}.",
    )
