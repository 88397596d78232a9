"""HPKE in base mode by the text of RFC 9180, over openssl's curves and ciphers and Python's HMAC."""

import hmac
from collections.abc import Mapping

from hsmbridge.core.algorithms import Algorithm, algorithm
from hsmbridge.core.key_types import KEY_TYPES
from tests.conformance.independent import ciphers, derivation, keys, openssl, spki, xwing

_KEMS: Mapping[str, tuple[int, str, int, int]] = {
    # KEM id, hash, bytes of the secret, bytes of enc
    "X25519": (0x0020, "sha256", 32, 32),
    "EC-P256": (0x0010, "sha256", 32, 65),
    "EC-P384": (0x0011, "sha384", 48, 97),
    "EC-P521": (0x0012, "sha512", 64, 133),
    "X-Wing": (0x647A, "", 32, 1120),
}
_KDFS = {"SHA-256": (1, "sha256"), "SHA-384": (2, "sha384"), "SHA-512": (3, "sha512")}
_AEADS = {"AES-128-GCM": (1, 16), "AES-256-GCM": (2, 32), "ChaCha20-Poly1305": (3, 32)}
_TAG = 16


class Refused(Exception):
    """The tag is wrong."""


def recipient(row: Algorithm) -> tuple[bytes, bytes]:
    """A key pair: SubjectPublicKeyInfo, and what `open_sealed` takes."""
    key_type = KEY_TYPES[row.key_types[0]]
    if key_type.name == "X-Wing":
        return xwing.recipient()
    return keys.public_key(key_type), keys.private_key(key_type)


def seal(row: Algorithm, public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Encapsulated key and ciphertext, for the holder of a public key."""
    if row.key_types[0] == "X-Wing":
        enc, secret = xwing.encapsulate(public_key)
    else:
        ephemeral = keys.private_key(KEY_TYPES[row.key_types[0]], 9)
        enc = spki.key_bits(openssl.public_half(ephemeral))
        secret = _dh_secret(row, derivation.agree(ephemeral, public_key), enc + spki.key_bits(public_key))
    key, nonce = _schedule(row, secret, info)
    return enc + b"".join(ciphers.encrypt(algorithm(row.aead), key, nonce, plaintext, b""))


def open_sealed(row: Algorithm, public_key: bytes, private: bytes, info: bytes, sealed: bytes) -> bytes:
    """The plaintext. Raises Refused."""
    size = _KEMS[row.key_types[0]][3]
    enc, ciphertext, tag = sealed[:size], sealed[size:-_TAG], sealed[-_TAG:]
    if row.key_types[0] == "X-Wing":
        secret = xwing.decapsulate(private, enc)
    else:
        own = spki.key_bits(public_key)
        peer = public_key[: -len(own)] + enc
        secret = _dh_secret(row, derivation.agree(private, peer), enc + own)
    key, nonce = _schedule(row, secret, info)
    aead = algorithm(row.aead)
    # All these AEADs add a stream to the plaintext, so that encrypting twice decrypts.
    plaintext, _ = ciphers.encrypt(aead, key, nonce, ciphertext, b"")
    if ciphers.encrypt(aead, key, nonce, plaintext, b"") != (ciphertext, tag):
        raise Refused
    return plaintext


def _dh_secret(row: Algorithm, agreed: bytes, context: bytes) -> bytes:
    """ExtractAndExpand of section 4.1."""
    number, hash_, size, _ = _KEMS[row.key_types[0]]
    suite = b"KEM" + number.to_bytes(2, "big")
    extracted = _extract(hash_, suite, b"", b"eae_prk", agreed)
    return _expand(hash_, suite, extracted, b"shared_secret", context, size)


def _schedule(row: Algorithm, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and first nonce, of section 5.1 in base mode."""
    (kdf, hash_), (aead, key_size) = _KDFS[row.hash], _AEADS[row.aead]
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (_KEMS[row.key_types[0]][0], kdf, aead))
    context = b"\0" + _extract(hash_, suite, b"", b"psk_id_hash", b"") + _extract(hash_, suite, b"", b"info_hash", info)
    secret = _extract(hash_, suite, secret, b"secret", b"")
    return (
        _expand(hash_, suite, secret, b"key", context, key_size),
        _expand(hash_, suite, secret, b"base_nonce", context, 12),
    )


def _extract(hash_: str, suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + material, hash_)


def _expand(hash_: str, suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    made = block = b""
    counter = 0
    while len(made) < length:
        counter += 1
        block = hmac.digest(secret, block + labeled + bytes((counter,)), hash_)
        made += block
    return made[:length]
