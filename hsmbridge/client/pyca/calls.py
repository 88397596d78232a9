"""What the private-key objects share: the calls to the service, bound to the key version of the public key.

A slot signs with its active version, whatever that is by then. Signatures of another version than the one whose
public key an object shows would fit no certificate made for it, so they are refused here instead of handed out.
"""

from typing import NoReturn, Self

from cryptography.hazmat.primitives.serialization import Encoding, KeySerializationEncryption, PrivateFormat

from hsmbridge.client.calls import Buffer
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import Key, slot_name
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Scheme
from hsmbridge.core.errors import KeyUseError, ResourceError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters


class ServiceCalls:
    """A key of the service, for the classes that give it cryptography's form. Safe for any number of threads."""

    def __init__(self, stack: KeyUse, key: Key, version: int, row: KeyType) -> None:
        self._stack = stack
        self._key = key
        self._version = version
        self._row = row

    @property
    def version(self) -> int:
        """The version of the slot that this object stands for; 0 for an ephemeral key."""
        return self._version

    def private_bytes(
        self,
        encoding: Encoding,
        format: PrivateFormat,  # noqa: A002 - callers name it so
        encryption_algorithm: KeySerializationEncryption,
    ) -> NoReturn:
        """Raises ResourceError (NOT_TRANSFERABLE): the private key stays in the service."""
        raise stays_in_the_service()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __repr__(self) -> str:
        where = f"slot {slot_name(self._key)!r}, version {self._version}" if self._version else "ephemeral"
        return f"<{type(self).__name__}, {self._row.name}, {where}>"

    def _algorithm(self, scheme: Scheme, hash_: str = "") -> Algorithm | None:
        """The row of a scheme for this key, over this digest; None where the service has none."""
        for row in ALGORITHMS.values():
            if row.scheme is scheme and row.takes(self._row) and row.hash == hash_:
                return row
        return None

    def _sign(self, algorithm: str, message: Buffer, parameters: SignatureParameters = DEFAULT_SIGNATURE) -> bytes:
        """Raises KeyUseError (KEY_STATE_FORBIDS) where the slot signed with a version that came later."""
        signature = self._stack.sign(self._key, algorithm, message, parameters=parameters)
        if self._version and signature.version != self._version:
            raise KeyUseError(
                Status.KEY_STATE_FORBIDS,
                f"The slot signs with key version {signature.version} now, and this object stands for version "
                f"{self._version}: take the private key from the slot again, with its new certificate.",
            )
        return bytes(signature)

    def _decrypt(self, algorithm: str, ciphertext: bytes) -> bytes:
        return self._stack.decrypt(self._key, algorithm, ciphertext, version=self._version)

    def _decapsulate(self, algorithm: str, ciphertext: Buffer) -> bytes:
        return self._stack.decapsulate(self._key, algorithm, ciphertext, version=self._version)


def stays_in_the_service() -> ResourceError:
    """What every question for the private key itself raises."""
    return ResourceError(
        Status.NOT_TRANSFERABLE,
        "This private key stays in the service; sign or decrypt with this object, or move the key with wrap_key.",
    )


def secret_stays_in_the_service() -> ResourceError:
    """What `exchange` raises."""
    return ResourceError(
        Status.NOT_TRANSFERABLE,
        "The shared secret of a key agreement stays in the service; CryptoStack.agree_key makes a key of it.",
    )
