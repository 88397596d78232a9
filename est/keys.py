"""What est needs of a key: to sign what it is given, and to serve a TLS handshake. The key itself may be anywhere.

A `Key` is anything that has these members: a software key from a PEM file (`SoftwareKey`, below), or a key in a slot
(`est.key_places.SlotKey`). `signer` has the private key interface of the `cryptography` package; its private numbers
are never asked for. Which algorithm a key signs with is chosen here, once, for requests, CMS and certificates.
"""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from est import oids, refusals

Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


def digest_named(name: str) -> Digest:
    """The digest that hashlib calls so.

    Raises:
        RequestError: est does not use it.
    """
    match name:
        case "sha256":
            return hashes.SHA256()
        case "sha384":
            return hashes.SHA384()
        case "sha512":
            return hashes.SHA512()
        case _:
            raise refusals.unsupported(f"The digest {name} is not one of sha256, sha384 and sha512.")


@runtime_checkable
class Key(Protocol):
    """A key that signs, wherever it is."""

    @property
    def signer(self) -> CertificateIssuerPrivateKeyTypes:
        """The key under the private key interface of `cryptography`."""
        ...

    def use_for_tls(self, context: ssl.SSLContext, chain: Sequence[x509.Certificate]) -> None:
        """Make `context` authenticate with this key; `chain` begins with the key's own certificate."""
        ...


@dataclass(frozen=True, slots=True)
class SignatureChoice:
    """A signature algorithm: its identifier in certificates, and the digest or None where there is none to choose."""

    oid: str
    digest: str | None


_RSA = {"sha256": oids.SHA256_WITH_RSA, "sha384": oids.SHA384_WITH_RSA, "sha512": oids.SHA512_WITH_RSA}
_ECDSA = {"sha256": oids.ECDSA_WITH_SHA256, "sha384": oids.ECDSA_WITH_SHA384, "sha512": oids.ECDSA_WITH_SHA512}


def choose_signature(public_key: object, digest: str | None = None) -> SignatureChoice:
    """The algorithm a key of this kind signs with; `digest` is a wish, "" or None the default for its strength.

    Raises:
        RequestError: the key does not sign, or not over that digest.
    """
    if digest:
        digest_named(digest)
    match public_key:
        case rsa.RSAPublicKey():
            chosen = digest or "sha256"
            return SignatureChoice(_RSA[chosen], chosen)
        case ec.EllipticCurvePublicKey():
            chosen = digest or ("sha256" if public_key.key_size <= 256 else "sha384")
            return SignatureChoice(_ECDSA[chosen], chosen)
        case _:
            oid = key_type_oid(public_key)
    if oid not in _ONE_WAY:
        raise refusals.unsupported("A key of this type cannot sign; it needs a full CMC request with another proof.")
    return SignatureChoice(oid, None)


_ONE_WAY = frozenset({oids.ED25519, oids.ED448, oids.ML_DSA_44, oids.ML_DSA_65, oids.ML_DSA_87})


def key_type_oid(public_key: object) -> str:
    """The identifier in a SubjectPublicKeyInfo of a key of this kind, or "" for one that est does not know."""
    kinds: tuple[tuple[type[object], str], ...] = (
        (rsa.RSAPublicKey, oids.RSA_ENCRYPTION),
        (ec.EllipticCurvePublicKey, oids.EC_PUBLIC_KEY),
        (ed25519.Ed25519PublicKey, oids.ED25519),
        (ed448.Ed448PublicKey, oids.ED448),
        (mldsa.MLDSA44PublicKey, oids.ML_DSA_44),
        (mldsa.MLDSA65PublicKey, oids.ML_DSA_65),
        (mldsa.MLDSA87PublicKey, oids.ML_DSA_87),
        (x25519.X25519PublicKey, oids.X25519),
        (x448.X448PublicKey, oids.X448),
        (mlkem.MLKEM768PublicKey, oids.ML_KEM_768),
        (mlkem.MLKEM1024PublicKey, oids.ML_KEM_1024),
    )
    return next((oid for kind, oid in kinds if isinstance(public_key, kind)), "")


def can_sign(public_key: object) -> bool:
    """Whether keys of this kind sign; those that only agree or open are proved by full CMC."""
    return isinstance(public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or (
        key_type_oid(public_key) in _ONE_WAY
    )


def sign(signer: CertificateIssuerPrivateKeyTypes, choice: SignatureChoice, message: bytes) -> bytes:
    """A signature as certificates carry it."""
    match signer:
        case rsa.RSAPrivateKey():
            return signer.sign(message, padding.PKCS1v15(), _digest(choice))
        case ec.EllipticCurvePrivateKey():
            return signer.sign(message, ec.ECDSA(_digest(choice)))
        case (
            ed25519.Ed25519PrivateKey()
            | ed448.Ed448PrivateKey()
            | mldsa.MLDSA44PrivateKey()
            | mldsa.MLDSA65PrivateKey()
            | mldsa.MLDSA87PrivateKey()
        ):
            return signer.sign(message)
        case _:
            raise refusals.unsupported("A key of this type does not sign.")


def verify(public_key: CertificatePublicKeyTypes, choice: SignatureChoice, signature: bytes, message: bytes) -> None:
    """Check a signature made by `sign`.

    Raises:
        cryptography.exceptions.InvalidSignature: it does not fit.
        RequestError: keys of this type do not sign.
    """
    match public_key:
        case rsa.RSAPublicKey():
            public_key.verify(signature, message, padding.PKCS1v15(), _digest(choice))
        case ec.EllipticCurvePublicKey():
            public_key.verify(signature, message, ec.ECDSA(_digest(choice)))
        case (
            ed25519.Ed25519PublicKey()
            | ed448.Ed448PublicKey()
            | mldsa.MLDSA44PublicKey()
            | mldsa.MLDSA65PublicKey()
            | mldsa.MLDSA87PublicKey()
        ):
            public_key.verify(signature, message)
        case _:
            raise refusals.unsupported("A key of this type does not sign.")


def spki(public_key: CertificatePublicKeyTypes) -> bytes:
    """The SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def issuer_hash(public_key: object) -> Digest | None:
    """The digest a CA with this key signs certificates over; None where the algorithm has its own."""
    choice = choose_signature(public_key)
    return None if choice.digest is None else digest_named(choice.digest)


def _digest(choice: SignatureChoice) -> Digest:
    return digest_named(choice.digest or "sha256")


class SoftwareKey:
    """A key in the memory of this process."""

    def __init__(self, private_key: PrivateKeyTypes) -> None:
        match private_key:
            case (
                rsa.RSAPrivateKey()
                | ec.EllipticCurvePrivateKey()
                | ed25519.Ed25519PrivateKey()
                | ed448.Ed448PrivateKey()
                | mldsa.MLDSA44PrivateKey()
                | mldsa.MLDSA65PrivateKey()
                | mldsa.MLDSA87PrivateKey()
            ):
                self._signer: CertificateIssuerPrivateKeyTypes = private_key
            case _:
                raise refusals.unsupported("A key of this type cannot sign a request or a certificate.")

    def __repr__(self) -> str:
        return "SoftwareKey(...)"

    @classmethod
    def from_pem(cls, pem: bytes, password: bytes | None = None) -> "SoftwareKey":
        """The key in a PEM text.

        Raises:
            RequestError: the text holds no key, or the password does not open it.
        """
        try:
            return cls(serialization.load_pem_private_key(pem, password))
        except (ValueError, TypeError):
            raise refusals.unwanted("This is no private key in PEM, or its password is another.") from None

    @classmethod
    def from_der(cls, pkcs8: bytes) -> "SoftwareKey":
        """The key in a PrivateKeyInfo, DER.

        Raises:
            WireError: there is none.
        """
        try:
            return cls(serialization.load_der_private_key(pkcs8, None))
        except (ValueError, TypeError):
            raise refusals.malformed("This is no PKCS#8 private key.") from None

    @classmethod
    def from_file(cls, path: Path, password: bytes | None = None) -> "SoftwareKey":
        """The key in a PEM file."""
        return cls.from_pem(path.read_bytes(), password)

    @property
    def signer(self) -> CertificateIssuerPrivateKeyTypes:
        """The key itself."""
        return self._signer

    def to_pem(self) -> bytes:
        """The key as PKCS#8 in PEM, in the clear: for files of mode 0600 only."""
        return self._signer.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def use_for_tls(self, context: ssl.SSLContext, chain: Sequence[x509.Certificate]) -> None:
        """Make `context` authenticate with this key and certificate chain.

        The ssl module reads files only, so the key goes through an anonymous memory file that no path leads to.
        """
        pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain) + self.to_pem()
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
