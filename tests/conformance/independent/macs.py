"""MACs computed elsewhere."""

import hashlib
import hmac

from hsmbridge.core.algorithms import Algorithm, Scheme
from tests.conformance.independent import openssl


def hash_name(row: Algorithm) -> str:
    """As Python's hashlib calls the hash of a row."""
    name = row.hash.lower()
    return name.replace("sha-", "sha").replace("sha3-", "sha3_").split("-")[0]


def digest(row: Algorithm, data: bytes) -> bytes:
    return hashlib.new(hash_name(row), data).digest()


def mac(row: Algorithm, key: bytes, message: bytes) -> bytes:
    if row.scheme is Scheme.HMAC:
        return hmac.digest(key, message, hash_name(row))
    assert row.scheme is Scheme.CMAC
    return openssl.run("mac", "-cipher", f"AES-{8 * len(key)}-CBC", "-macopt", f"hexkey:{key.hex()}",
                       "-binary", "-in", "{message}", "CMAC", message=message)  # fmt: skip
