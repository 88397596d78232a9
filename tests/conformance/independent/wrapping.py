"""Keys wrapped and unwrapped elsewhere."""

import secrets

from hsmbridge.core.algorithms import Algorithm, Kind, Scheme
from tests.conformance.independent import ciphers, hpke, openssl

_MODES = {Scheme.KEY_WRAP: ("wrap", "A6" * 8), Scheme.KEY_WRAP_PADDED: ("wrap-pad", "A65959A6")}


def wrap(row: Algorithm, key: bytes, value: bytes, iv: bytes, aad: bytes) -> bytes:
    """Under a secret key that both sides know."""
    if row.kind is Kind.AEAD:
        return b"".join(ciphers.encrypt(row, key, iv, value, aad))
    return _aes_wrap(row.scheme, key, value)


def unwrap(row: Algorithm, key: bytes, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
    if row.kind is Kind.AEAD:
        ciphertext = wrapped[: -row.tag_size]
        # All these AEADs add a stream to the plaintext, so that encrypting twice decrypts.
        value, _ = ciphers.encrypt(row, key, iv, ciphertext, aad)
        assert wrap(row, key, value, iv, aad) == wrapped
        return value
    return _aes_wrap(row.scheme, key, wrapped, "-d")


def wrap_to(row: Algorithm, public_key: bytes, value: bytes, aad: bytes) -> bytes:
    """Under the public key of a pair, SubjectPublicKeyInfo in DER."""
    if row.scheme is Scheme.HPKE:
        return hpke.seal(row, public_key, aad, value)
    if row.scheme is Scheme.RSAES_OAEP:
        return ciphers.oaep_encrypt(row, public_key, value)
    between = secrets.token_bytes(32)
    return ciphers.oaep_encrypt(row, public_key, between) + _aes_wrap(Scheme.KEY_WRAP_PADDED, between, value)


def unwrap_by(row: Algorithm, public_key: bytes, private: bytes, wrapped: bytes, aad: bytes) -> bytes:
    """By the private key of a pair, as `recipient` gives it."""
    if row.scheme is Scheme.HPKE:
        return hpke.open_sealed(row, public_key, private, aad, wrapped)
    if row.scheme is Scheme.RSAES_OAEP:
        return ciphers.oaep_decrypt(row, private, wrapped)
    size = _modulus_size(private)
    between = ciphers.oaep_decrypt(row, private, wrapped[:size])
    return _aes_wrap(Scheme.KEY_WRAP_PADDED, between, wrapped[size:], "-d")


def _modulus_size(private: bytes) -> int:
    modulus = openssl.run("rsa", "-in", "{key}", "-inform", "DER", "-noout", "-modulus", key=private)
    return len(modulus.strip().removeprefix(b"Modulus=")) // 2


def _aes_wrap(scheme: Scheme, key: bytes, data: bytes, *direction: str) -> bytes:
    name, iv = _MODES[scheme]
    cipher = f"-id-aes{8 * len(key)}-{name}"
    return openssl.run("enc", *direction, cipher, "-K", key.hex(), "-iv", iv, "-in", "{data}", data=data)
