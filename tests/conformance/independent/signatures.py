"""Signatures made and verified elsewhere."""

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.core.algorithms import Algorithm, Scheme
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from tests.conformance.independent import openssl, postquantum


def verifies(
    row: Algorithm,
    spki: bytes,
    message: bytes,
    signature: bytes,
    parameters: SignatureParameters = DEFAULT_SIGNATURE,
) -> bool:
    """Whether another implementation accepts a signature over the message itself."""
    try:
        return _VERIFIERS[row.scheme](row, spki, message, signature, parameters)
    except openssl.Refused:
        return False


def sign(row: Algorithm, pkcs8: bytes, message: bytes) -> bytes:
    """A signature by openssl."""
    return _SIGNERS[row.scheme](row, pkcs8, message)


def _options(row: Algorithm, parameters: SignatureParameters) -> list[str]:
    if row.scheme is not Scheme.RSASSA_PSS:
        return []
    salt = "digest" if parameters.salt_length is None else str(parameters.salt_length)
    return ["-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{salt}"]


def _openssl_verifies(
    row: Algorithm, spki: bytes, message: bytes, signature: bytes, parameters: SignatureParameters
) -> bool:
    options = _options(row, parameters)
    openssl.run("dgst", f"-{row.hash}", *options, "-keyform", "DER", "-verify", "{key}",
                "-signature", "{signature}", "{message}",
                key=spki, signature=signature, message=message)  # fmt: skip
    return True


def _openssl_signs(row: Algorithm, pkcs8: bytes, message: bytes) -> bytes:
    options = _options(row, DEFAULT_SIGNATURE)
    return openssl.run("dgst", f"-{row.hash}", *options, "-keyform", "DER", "-sign", "{key}", "{message}",
                       key=pkcs8, message=message)  # fmt: skip


def _openssl_verifies_pure(
    row: Algorithm, spki: bytes, message: bytes, signature: bytes, parameters: SignatureParameters
) -> bool:
    if not message:
        return _pyca_verifies(spki, message, signature)
    openssl.run("pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "{key}",
                "-sigfile", "{signature}", "-in", "{message}",
                key=spki, signature=signature, message=message)  # fmt: skip
    return True


def _pyca_verifies(spki: bytes, message: bytes, signature: bytes) -> bool:
    # The tool of OpenSSL 3.0 cannot read an empty file here.
    key = load_der_public_key(spki)
    assert isinstance(key, Ed25519PublicKey | Ed448PublicKey)
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _openssl_signs_pure(row: Algorithm, pkcs8: bytes, message: bytes) -> bytes:
    return openssl.run("pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", "{key}", "-in", "{message}",
                       key=pkcs8, message=message)  # fmt: skip


_VERIFIERS: Mapping[Scheme, Callable[[Algorithm, bytes, bytes, bytes, SignatureParameters], bool]] = {
    Scheme.RSASSA_PKCS1: _openssl_verifies,
    Scheme.RSASSA_PSS: _openssl_verifies,
    Scheme.ECDSA: _openssl_verifies,
    Scheme.EDDSA: _openssl_verifies_pure,
    Scheme.ML_DSA: postquantum.verifies,
    Scheme.SLH_DSA: postquantum.verifies,
}
_SIGNERS: Mapping[Scheme, Callable[[Algorithm, bytes, bytes], bytes]] = {
    Scheme.RSASSA_PKCS1: _openssl_signs,
    Scheme.RSASSA_PSS: _openssl_signs,
    Scheme.ECDSA: _openssl_signs,
    Scheme.EDDSA: _openssl_signs_pure,
}
