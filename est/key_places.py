"""Where keys are: in a PEM file, or in a slot of the hsmbridge daemon, written `slot:NAME`.

A slot's key signs requests, certificates and TLS handshakes where it is; of its private half nothing is ever here.
"""

import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes

from est import refusals
from est.cms.receiver import Receiver, software_receiver
from est.keys import Key, SoftwareKey
from est.slot_receiving import slot_receiver
from est.trust.anchors import write_whole
from hsmbridge.client import CryptoStack, ImportKeyParams, KeyOperationPermission
from hsmbridge.client.pyca import private_key
from hsmbridge.client.tls import load_slot_key
from hsmbridge.core.errors import HsmBridgeError, RequestError, ResourceError, Status

SLOT = "slot:"

KEY_TYPES: dict[str, Callable[[], PrivateKeyTypes]] = {
    "EC-P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC-P384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EC-P521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
    "RSA-4096": lambda: rsa.generate_private_key(65537, 4096),
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}
"""Types of keys that can be made and sign, by the names that the daemon has for them too."""

_P = KeyOperationPermission
RECEIVING_TYPES: dict[str, tuple[Callable[[], PrivateKeyTypes], KeyOperationPermission]] = {
    "X25519": (x25519.X25519PrivateKey.generate, _P.DERIVE),
    "X448": (x448.X448PrivateKey.generate, _P.DERIVE),
    "ML-KEM-768": (mlkem.MLKEM768PrivateKey.generate, _P.DECAPSULATE),
    "ML-KEM-1024": (mlkem.MLKEM1024PrivateKey.generate, _P.DECAPSULATE),
}
"""Types of keys that can be made and do not sign, with what their slots permit."""

_SIGN_NOTHING = (
    x25519.X25519PrivateKey,
    x448.X448PrivateKey,
    mlkem.MLKEM768PrivateKey,
    mlkem.MLKEM1024PrivateKey,
)
_SIGNING = _P.SIGN | _P.VERIFY | _P.GENERATE
_TAKEN_IN = _P.SIGN | _P.VERIFY


class SlotKey:
    """The key version of a slot that was active when it was opened."""

    def __init__(self, stack: CryptoStack, name: str) -> None:
        """Raises ResourceError (RESOURCE_NOT_FOUND), RequestError for keys that do not sign."""
        self._stack = stack
        self._name = name
        made = private_key(stack, name)
        if isinstance(made, _SIGN_NOTHING):
            raise refusals.unsupported(f"The key in slot {name!r} cannot sign a request or a certificate.")
        self._signer: CertificateIssuerPrivateKeyTypes = made

    def __repr__(self) -> str:
        return f"SlotKey({self._name!r})"

    @property
    def name(self) -> str:
        """The slot's name."""
        return self._name

    @property
    def signer(self) -> CertificateIssuerPrivateKeyTypes:
        """The key under cryptography's interface; each signature is a call to the daemon."""
        return self._signer

    def use_for_tls(self, context: ssl.SSLContext, chain: Sequence[x509.Certificate]) -> None:
        """Make `context` authenticate with this key, which signs each handshake in its slot. RSA and EC keys."""
        load_slot_key(context, self._signer, chain)


class KeyPlaces:
    """Opens and makes keys by what they are called: a file's path, or `slot:NAME`."""

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        """The daemon is asked for the first slot, not before; `socket` None is $HSMBRIDGE_SOCKET or the usual place."""
        self._socket = socket
        self._stack: CryptoStack | None = None

    @property
    def stack(self) -> CryptoStack:
        """The client of the daemon."""
        if self._stack is None:
            self._stack = CryptoStack(self._socket)
        return self._stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the daemon; keys of slots that were opened here sign no more."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def exists(self, reference: str) -> bool:
        """Whether there is a key of this name."""
        name = slot_of(reference)
        if not name:
            return Path(reference).exists()
        try:
            self.stack.show_slot(name)
        except ResourceError as problem:
            if problem.status is Status.RESOURCE_NOT_FOUND:
                return False
            raise
        return True

    def open(self, reference: str) -> Key:
        """The key of this name.

        Raises:
            RequestError: the file cannot be read, or holds no key that signs.
            ResourceError: there is no such slot.
        """
        name = slot_of(reference)
        if name:
            return SlotKey(self.stack, name)
        try:
            return SoftwareKey.from_file(Path(reference))
        except OSError:
            raise refusals.unwanted(f"{reference} cannot be read.") from None

    def open_receiver(self, reference: str) -> Receiver:
        """The key of this name as one that opens what is sealed for it.

        Raises:
            RequestError: the file cannot be read, or the key receives nothing.
            ResourceError: there is no such slot.
        """
        name = slot_of(reference)
        if name:
            return slot_receiver(self.stack, name)
        try:
            private = serialization.load_pem_private_key(Path(reference).read_bytes(), None)
        except (OSError, ValueError, TypeError):
            raise refusals.unwanted(f"{reference} cannot be read.") from None
        return software_receiver(private)

    def open_either(self, reference: str) -> Key | Receiver:
        """The key of this name; a receiver if it does not sign, by its kind or by what its slot permits."""
        name = slot_of(reference)
        if name and not self.stack.show_slot(name).permissions & _P.SIGN:
            return self.open_receiver(reference)
        try:
            return self.open(reference)
        except RequestError as problem:
            if name or problem.status is not Status.NOT_SUPPORTED:
                raise
        return self.open_receiver(reference)

    def make_receiver(self, reference: str, key_type: str, provider: str = "") -> Receiver:
        """Make a key that does not sign: a file of mode 0600, or a slot at `provider`.

        Raises:
            RequestError: no provider is named, or it has no keys of this type.
            ResourceError: the slot is there already.
        """
        name = slot_of(reference)
        make, permissions = RECEIVING_TYPES[key_type]
        if name:
            self.stack.create_slot(name, key_type, permissions | _P.GENERATE, providers=[_named(provider, name)])
        else:
            pem = make().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_whole(Path(reference), pem, 0o600)
        return self.open_receiver(reference)

    def make(self, reference: str, key_type: str, provider: str = "") -> Key:
        """Make a key: a file of mode 0600, or a slot at `provider`.

        Raises:
            RequestError: no provider is named, or it has no keys of this type.
            ResourceError: the slot is there already.
        """
        name = slot_of(reference)
        if not name:
            key = SoftwareKey(KEY_TYPES[key_type]())
            write_whole(Path(reference), key.to_pem(), 0o600)
            return key
        self.stack.create_slot(name, key_type, _SIGNING, providers=[_named(provider, name)])
        return SlotKey(self.stack, name)

    def take_in(self, reference: str, pkcs8: bytes, provider: str) -> Key:
        """Import a private key (PKCS#8) into a new slot. No file is written.

        Raises:
            RequestError: keys of this type are not taken, or no provider is named.
            ResourceError: the slot is there already.
        """
        name = slot_of(reference)
        key_type = type_of(SoftwareKey.from_der(pkcs8))
        self.stack.create_slot(name, key_type, _TAKEN_IN, providers=[_named(provider, name)], empty=True)
        try:
            self.stack.import_key(
                ImportKeyParams(key_type=key_type, permissions=_TAKEN_IN, format="pkcs8"), pkcs8, slot=name
            )
            return SlotKey(self.stack, name)
        except HsmBridgeError:
            self.stack.destroy(name)
            raise

    def remove(self, reference: str) -> None:
        """Destroy a slot and its key; one that is gone already is fine."""
        try:
            self.stack.destroy(slot_of(reference))
        except ResourceError as problem:
            if problem.status is not Status.RESOURCE_NOT_FOUND:
                raise


def slot_of(reference: str) -> str:
    """The slot's name in `slot:NAME`; "" where it is a file's path."""
    return reference.removeprefix(SLOT) if reference.startswith(SLOT) else ""


def check_reference(reference: str) -> str:
    """The reference, if it can be one. Raises RequestError where `slot:` is followed by nothing."""
    if not reference or reference == SLOT:
        raise refusals.unwanted(f"{reference!r} names no key; write slot:NAME, or the path of a PEM file.")
    return reference


def type_of(key: Key) -> str:
    """What the daemon calls keys of this type.

    Raises:
        RequestError: it is of none that est makes.
    """
    match key.signer:
        case rsa.RSAPrivateKey() as private:
            name = f"RSA-{private.key_size}"
        case ec.EllipticCurvePrivateKey() as private:
            name = f"EC-P{private.key_size}"
        case other:
            kinds = {
                "ML-DSA-44": mldsa.MLDSA44PrivateKey,
                "ML-DSA-65": mldsa.MLDSA65PrivateKey,
                "ML-DSA-87": mldsa.MLDSA87PrivateKey,
            }
            name = next((known for known, kind in kinds.items() if isinstance(other, kind)), "")
    if name not in KEY_TYPES:
        raise refusals.unsupported("A key of this type is not taken into a slot.")
    return name


def _named(provider: str, slot: str) -> str:
    if not provider:
        raise refusals.unwanted(f"Slot {slot!r} is not there; name the provider to make its key at (--provider).")
    return provider
