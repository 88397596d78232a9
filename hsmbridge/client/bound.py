"""A key with its stack: the calls of `hsmbridge.client.key_use` without naming the key again."""

from collections.abc import Sequence

from hsmbridge.client.calls import Buffer
from hsmbridge.client.connection import Connection
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.key_use import KeyUse
from hsmbridge.client.keys import KeyHolder
from hsmbridge.client.results import Ciphertext, Encapsulation, Mac, Signature
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters


class BoundKey(KeyHolder):
    """What slot handles and guards share."""

    __slots__ = ("_stack",)

    def __init__(self, stack: KeyUse) -> None:
        self._stack = stack

    def sign(
        self,
        algorithm: str,
        message: Buffer,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> Signature:
        """Sign a message, as `CryptoStack.sign`."""
        return self._stack.sign(self, algorithm, message, parameters=parameters, timeout=timeout)

    def sign_many(
        self,
        algorithm: str,
        messages: Sequence[Buffer],
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        timeout: Timeout = UNSET,
    ) -> list[Signature]:
        """Sign many messages in one round trip, as `CryptoStack.sign_many`."""
        return self._stack.sign_many(self, algorithm, messages, parameters=parameters, timeout=timeout)

    def verify(
        self,
        algorithm: str,
        message: Buffer,
        signature: Buffer,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> int:
        """Verify a signature, as `CryptoStack.verify`. Raises SignatureInvalid."""
        return self._stack.verify(
            self, algorithm, message, signature, parameters=parameters, version=version, timeout=timeout
        )

    def mac(self, algorithm: str, message: Buffer, *, timeout: Timeout = UNSET) -> Mac:
        """Compute a MAC, as `CryptoStack.mac`."""
        return self._stack.mac(self, algorithm, message, timeout=timeout)

    def verify_mac(
        self, algorithm: str, message: Buffer, mac: Buffer, *, version: int = 0, timeout: Timeout = UNSET
    ) -> int:
        """Verify a MAC, as `CryptoStack.verify_mac`. Raises SignatureInvalid."""
        return self._stack.verify_mac(self, algorithm, message, mac, version=version, timeout=timeout)

    def encrypt(
        self,
        algorithm: str,
        plaintext: Buffer,
        *,
        aad: Buffer = b"",
        nonce: Buffer = b"",
        timeout: Timeout = UNSET,
    ) -> Ciphertext:
        """Encrypt, as `CryptoStack.encrypt`."""
        return self._stack.encrypt(self, algorithm, plaintext, aad=aad, nonce=nonce, timeout=timeout)

    def decrypt(
        self,
        algorithm: str,
        ciphertext: Ciphertext | Buffer,
        *,
        aad: Buffer = b"",
        nonce: Buffer = b"",
        tag: Buffer = b"",
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> bytes:
        """Decrypt, as `CryptoStack.decrypt`. Raises DecryptionFailed."""
        return self._stack.decrypt(
            self, algorithm, ciphertext, aad=aad, nonce=nonce, tag=tag, version=version, timeout=timeout
        )

    def encapsulate(self, algorithm: str, *, slot: str = "", timeout: Timeout = UNSET) -> Encapsulation:
        """Make a shared secret, as `CryptoStack.encapsulate`."""
        return self._stack.encapsulate(self, algorithm, slot=slot, timeout=timeout)

    def decapsulate(self, algorithm: str, ciphertext: Buffer, *, version: int = 0, timeout: Timeout = UNSET) -> bytes:
        """The shared secret of a KEM ciphertext, as `CryptoStack.decapsulate`."""
        return self._stack.decapsulate(self, algorithm, ciphertext, version=version, timeout=timeout)


class SlotHandle(BoundKey):
    """A slot by its name. It holds nothing in the daemon and is found again on every connection."""

    __slots__ = ("_name",)

    def __init__(self, stack: KeyUse, name: str) -> None:
        super().__init__(stack)
        self._name = name

    @property
    def name(self) -> str:
        """The name it was made with: NAME or NAMESPACE/NAME."""
        return self._name

    @property
    def slot_name(self) -> str:
        return self._name

    def resource_on(self, connection: Connection) -> CryptoResourceId | None:
        return connection.slots.get(self._name)

    def __repr__(self) -> str:
        return f"SlotHandle({self._name!r})"
