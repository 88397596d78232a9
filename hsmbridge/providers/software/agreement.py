"""Agreement of secrets: ECDH (SP 800-56A), X25519 and X448 (RFC 7748), ML-KEM (FIPS 203), X-Wing."""

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x448, x25519

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encapsulated
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, RequestError, Status
from hsmbridge.providers.software.bound_key import BoundKey, mismatch, public_half_only
from hsmbridge.providers.software.material import KeyMaterial, KeyPair, public_key_from
from hsmbridge.providers.software.xwing import XWingPrivateKey, XWingPublicKey


def _wrong_peer(row: Algorithm) -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT, f"The peer's public key is not of the type that {row.name} agrees with here."
    )


def _useless_peer() -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT, "The peer's public key yields no secret: everybody would know the result."
    )


class Ecdh(BoundKey):
    """ECDH on the curve of the key; the secret is the x coordinate."""

    __slots__ = ("_private",)
    _ecdh = ec.ECDH()

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, ec.EllipticCurvePublicKey):
            raise mismatch(row)
        self._private = material.private if isinstance(material.private, ec.EllipticCurvePrivateKey) else None

    def agree(self, peer_public_key: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        peer = public_key_from(peer_public_key)
        if not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != self._private.curve.name:
            raise _wrong_peer(self._row)
        return self._private.exchange(self._ecdh, peer)


class Xdh(BoundKey):
    """X25519 and X448; a peer of small order, whose secret is all zero, is refused (RFC 7748 section 6)."""

    __slots__ = ("_private",)

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(
            material.public, x25519.X25519PublicKey | x448.X448PublicKey
        ):
            raise mismatch(row)
        private = material.private
        self._private = private if isinstance(private, x25519.X25519PrivateKey | x448.X448PrivateKey) else None

    def agree(self, peer_public_key: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        peer = public_key_from(peer_public_key)
        try:
            if isinstance(self._private, x25519.X25519PrivateKey) and isinstance(peer, x25519.X25519PublicKey):
                return self._private.exchange(peer)
            if isinstance(self._private, x448.X448PrivateKey) and isinstance(peer, x448.X448PublicKey):
                return self._private.exchange(peer)
        except ValueError:
            raise _useless_peer() from None
        raise _wrong_peer(self._row)


class MlKem(BoundKey):
    """ML-KEM. A ciphertext of the right length always yields a secret, the peer's or another (implicit rejection)."""

    __slots__ = ("_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(
            material.public, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey
        ):
            raise mismatch(row)
        self._public = material.public
        private = material.private
        self._private = private if isinstance(private, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey) else None

    def encapsulate(self) -> Encapsulated:
        secret, ciphertext = self._public.encapsulate()
        return Encapsulated(ciphertext, secret)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        try:
            return self._private.decapsulate(ciphertext)
        except ValueError:
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None


class XWing(BoundKey):
    """X-Wing. Its X25519 half refuses points of small order; otherwise it rejects implicitly, as ML-KEM does."""

    __slots__ = ("_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, XWingPublicKey):
            raise mismatch(row)
        self._public = material.public
        self._private = material.private if isinstance(material.private, XWingPrivateKey) else None

    def encapsulate(self) -> Encapsulated:
        try:
            ciphertext, secret = self._public.encapsulate()
        except ValueError:
            raise _useless_peer() from None
        return Encapsulated(ciphertext, secret)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        try:
            return self._private.decapsulate(ciphertext)
        except ValueError:
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
