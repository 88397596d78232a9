"""Signatures: RSASSA-PKCS1-v1_5 and RSASSA-PSS (RFC 8017), ECDSA and EdDSA (FIPS 186-5), ML-DSA (FIPS 204)."""

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.providers.software.bound_key import BoundKey, mismatch, public_half_only
from hsmbridge.providers.software.digests import HASHES
from hsmbridge.providers.software.material import KeyMaterial, KeyPair
from hsmbridge.providers.software.signature_parameters import check_parameters


class _Rsa(BoundKey):
    __slots__ = ("_hash", "_padding", "_prehashed", "_private", "_public")
    _salted = False

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, rsa.RSAPublicKey):
            raise mismatch(row)
        self._public = material.public
        self._private = material.private if isinstance(material.private, rsa.RSAPrivateKey) else None
        self._hash = HASHES[row.hash]
        self._prehashed = Prehashed(self._hash)
        self._padding = self._pad(self._hash.digest_size)

    def _pad(self, salt_length: int) -> padding.AsymmetricPadding:
        raise NotImplementedError

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        if parameters == DEFAULT_SIGNATURE:
            return self._private.sign(message, self._padding, self._hash)
        chosen, hash_ = self._choose(message, parameters)
        try:
            return self._private.sign(message, chosen, hash_)
        except ValueError as error:
            raise RequestError(
                Status.INVALID_ARGUMENT, "The PSS salt is too long for this key.", origin=repr(error)
            ) from None

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        chosen: padding.AsymmetricPadding = self._padding
        hash_: hashes.HashAlgorithm | Prehashed = self._hash
        if parameters != DEFAULT_SIGNATURE:
            chosen, hash_ = self._choose(message, parameters)
        try:
            self._public.verify(signature, message, chosen, hash_)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None

    def _choose(
        self, message: bytes, parameters: SignatureParameters
    ) -> tuple[padding.AsymmetricPadding, hashes.HashAlgorithm | Prehashed]:
        check_parameters(self._row, parameters, message, salt=self._salted, digest=self._hash)
        salt_length = parameters.salt_length
        return (
            self._padding if salt_length is None else self._pad(salt_length),
            self._prehashed if parameters.digest_signing else self._hash,
        )


class RsaPkcs1(_Rsa):
    """RSASSA-PKCS1-v1_5."""

    __slots__ = ()

    def _pad(self, salt_length: int) -> padding.AsymmetricPadding:
        return padding.PKCS1v15()


class RsaPss(_Rsa):
    """RSASSA-PSS with MGF1 over the same hash."""

    __slots__ = ()
    _salted = True

    def _pad(self, salt_length: int) -> padding.AsymmetricPadding:
        return padding.PSS(padding.MGF1(self._hash), salt_length)


class Ecdsa(BoundKey):
    """ECDSA with a random nonce; signatures in DER."""

    __slots__ = ("_algorithm", "_hash", "_prehashed", "_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, ec.EllipticCurvePublicKey):
            raise mismatch(row)
        self._public = material.public
        self._private = material.private if isinstance(material.private, ec.EllipticCurvePrivateKey) else None
        self._hash = HASHES[row.hash]
        self._algorithm = ec.ECDSA(self._hash)
        self._prehashed = ec.ECDSA(Prehashed(self._hash))

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        if parameters == DEFAULT_SIGNATURE:
            return self._private.sign(message, self._algorithm)
        return self._private.sign(message, self._choose(message, parameters))

    def sign_many(self, messages: Sequence[bytes], parameters: SignatureParameters) -> list[bytes]:
        if self._private is None or parameters != DEFAULT_SIGNATURE:
            return super().sign_many(messages, parameters)
        sign, algorithm = self._private.sign, self._algorithm
        return [sign(message, algorithm) for message in messages]

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        chosen = self._algorithm if parameters == DEFAULT_SIGNATURE else self._choose(message, parameters)
        try:
            self._public.verify(signature, message, chosen)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None

    def _choose(self, message: bytes, parameters: SignatureParameters) -> ec.ECDSA:
        check_parameters(self._row, parameters, message, digest=self._hash)
        return self._prehashed if parameters.digest_signing else self._algorithm


class EdDsa(BoundKey):
    """Ed25519 and Ed448, pure and without a context (RFC 8032)."""

    __slots__ = ("_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(
            material.public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
        ):
            raise mismatch(row)
        self._public = material.public
        private = material.private
        self._private = private if isinstance(private, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else None

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_parameters(self._row, parameters, message)
        return self._private.sign(message)

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        check_parameters(self._row, parameters, message)
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None


class MlDsa(BoundKey):
    """ML-DSA, hedged, with the context of the parameters, or of the message representative that the caller gives."""

    __slots__ = ("_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(
            material.public, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
        ):
            raise mismatch(row)
        self._public = material.public
        private = material.private
        self._private = (
            private
            if isinstance(private, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey)
            else None
        )

    def sign(self, message: bytes, parameters: SignatureParameters) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_parameters(self._row, parameters, message, context=True, mu=True)
        if parameters.external_mu:
            return self._private.sign_mu(message)
        return self._private.sign(message, parameters.context)

    def verify(self, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
        check_parameters(self._row, parameters, message, context=True, mu=True)
        try:
            if parameters.external_mu:
                self._public.verify_mu(signature, message)
            else:
                self._public.verify(signature, message, parameters.context)
        except InvalidSignature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None
