"""A key with its stack: the calls of `hsmbridge.client.key_use` and `.context_making` without naming the key again."""

from collections.abc import Sequence

from hsmbridge.client.calls import Buffer
from hsmbridge.client.connection import Connection
from hsmbridge.client.context_making import ContextMaking, Direction
from hsmbridge.client.contexts import AeadContext, CipherContext, MacContext, SignContext, VerifyContext
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.keys import KeyHolder
from hsmbridge.client.results import Ciphertext, Encapsulation, Mac, Signature
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters


class BoundKey(KeyHolder):
    """What slot handles and guards share."""

    __slots__ = ("_stack",)

    def __init__(self, stack: ContextMaking) -> None:
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

    # Data in pieces

    def sign_context(
        self,
        algorithm: str,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> SignContext:
        """A context that signs, as `CryptoStack.sign_context`."""
        return self._stack.sign_context(self, algorithm, parameters=parameters, init=init, timeout=timeout)

    def verify_context(
        self,
        algorithm: str,
        *,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> VerifyContext:
        """A context that verifies a signature, as `CryptoStack.verify_context`."""
        return self._stack.verify_context(
            self, algorithm, parameters=parameters, version=version, init=init, timeout=timeout
        )

    def mac_context(
        self,
        algorithm: str,
        *,
        verify: bool = False,
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> MacContext:
        """A context that computes or verifies a MAC, as `CryptoStack.mac_context`."""
        return self._stack.mac_context(self, algorithm, verify=verify, version=version, init=init, timeout=timeout)

    def cipher_context(
        self,
        algorithm: str,
        direction: Direction | str,
        *,
        nonce: Buffer = b"",
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> CipherContext:
        """A context that encrypts or decrypts without authenticating, as `CryptoStack.cipher_context`."""
        return self._stack.cipher_context(
            self, algorithm, direction, nonce=nonce, version=version, init=init, timeout=timeout
        )

    def aead_context(
        self,
        algorithm: str,
        direction: Direction | str,
        *,
        nonce: Buffer = b"",
        aad: Buffer = b"",
        version: int = 0,
        init: bool = True,
        timeout: Timeout = UNSET,
    ) -> AeadContext:
        """A context that encrypts or decrypts with an AEAD, as `CryptoStack.aead_context`."""
        return self._stack.aead_context(
            self, algorithm, direction, nonce=nonce, aad=aad, version=version, init=init, timeout=timeout
        )


class SlotHandle(BoundKey):
    """A slot by its name. It holds nothing in the daemon and is found again on every connection."""

    __slots__ = ("_name",)

    def __init__(self, stack: ContextMaking, name: str) -> None:
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
