"""Secrets agreed and keys derived by openssl, and by `argon2`, which OpenSSL 3.0 lacks."""

from collections.abc import Callable, Mapping
from typing import Any

from hsmbridge.core.algorithms import Scheme, algorithm
from hsmbridge.core.params import Argon2id, KdfParameters
from tests.conformance.independent import argon2, openssl


def agree(pkcs8: bytes, peer: bytes) -> bytes:
    """The raw secret of a private key and a peer's SubjectPublicKeyInfo, both DER."""
    return openssl.run("pkeyutl", "-derive", "-keyform", "DER", "-inkey", "{key}", "-peerform", "DER",
                       "-peerkey", "{peer}", key=pkcs8, peer=peer)  # fmt: skip


def derive(secret: bytes, kdf: KdfParameters, length: int) -> bytes:
    """`length` bytes derived from a secret."""
    if isinstance(kdf, Argon2id):
        return argon2.argon2id(secret, kdf.salt, kdf.iterations, kdf.lanes, kdf.memory, length)
    row = algorithm(kdf.algorithm)
    name, options = _KDFS[row.scheme]
    chosen = {"digest": row.hash} if row.hash else {}
    chosen |= {option: text for option, text in options(secret, kdf).items() if text}
    words = [word for option, text in chosen.items() for word in ("-kdfopt", f"{option}:{text}")]
    return openssl.run("kdf", "-keylen", str(length), "-binary", *words, name)


# What each takes from its parameters; the structs differ, and each function is only given its own.
_KDFS: Mapping[Scheme, tuple[str, Callable[[bytes, Any], Mapping[str, str]]]] = {
    Scheme.HKDF: (
        "HKDF",
        lambda secret, kdf: {"hexkey": secret.hex(), "hexsalt": kdf.salt.hex(), "hexinfo": kdf.info.hex()},
    ),
    Scheme.PBKDF2: (
        "PBKDF2",
        lambda secret, kdf: {
            "hexpass": secret.hex(),
            "hexsalt": kdf.salt.hex(),
            "iter": str(kdf.iterations),
            "pkcs5": "1",
        },
    ),
    Scheme.KBKDF_COUNTER: (
        "KBKDF",
        lambda secret, kdf: {
            "mac": "HMAC",
            "hexkey": secret.hex(),
            "hexsalt": kdf.label.hex(),
            "hexinfo": kdf.context.hex(),
        },
    ),
    Scheme.X963: ("X963KDF", lambda secret, kdf: {"hexkey": secret.hex(), "hexinfo": kdf.shared_info.hex()}),
    Scheme.SCRYPT: (
        "SCRYPT",
        lambda secret, kdf: {
            "hexpass": secret.hex(),
            "hexsalt": kdf.salt.hex(),
            "n": str(kdf.cost),
            "r": str(kdf.block_size),
            "p": str(kdf.parallelization),
        },
    ),
    Scheme.TLS12_PRF: (
        "TLS1-PRF",
        lambda secret, kdf: {"hexsecret": secret.hex(), "hexseed": (kdf.label + kdf.seed).hex()},
    ),
    Scheme.TLS13_EXPAND_LABEL: (
        "TLS13-KDF",
        lambda secret, kdf: {
            "mode": "EXPAND_ONLY",
            "hexkey": secret.hex(),
            "prefix": "tls13 ",
            "hexlabel": kdf.label.hex(),
            "hexdata": kdf.context.hex(),
        },
    ),
}
