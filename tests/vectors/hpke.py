"""Reads the test vectors of HPKE (RFC 9180, and draft-ietf-hpke-pq): base mode, and the KEMs under it.

The service leaves HPKE's `aad` empty, and the files do not. So a message is sealed anew here, with an empty one, under
the key and the nonce that the file has for the context, by the `cryptography` library: that the service opens it says
that KEM, key schedule and first nonce are those of the file.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tests.vectors.cases import Case, DecapsulateCase, DecryptCase, Key, KeyPairCase, LeftOut, P, Verdict
from tests.vectors.key_material import ec_private_key, public_key, raw_private_key, seeded_key

Loaded = Iterator[Case | LeftOut]

_Seal = Callable[[bytes, bytes, bytes], bytes]

# Code points of RFC 9180 section 7, and of draft-ietf-hpke-pq
_KEY_TYPES = {0x10: "EC-P256", 0x11: "EC-P384", 0x12: "EC-P521", 0x20: "X25519", 0x647A: "X-Wing"}
_KEMS = {0x40: "ML-KEM-512", 0x41: "ML-KEM-768", 0x42: "ML-KEM-1024", 0x647A: "X-Wing"}
_ROWS: Mapping[tuple[int, int, int], str] = {
    (0x20, 1, 1): "HPKE-X25519-SHA256-AES-128-GCM",
    (0x20, 1, 3): "HPKE-X25519-SHA256-ChaCha20-Poly1305",
    (0x10, 1, 1): "HPKE-P256-SHA256-AES-128-GCM",
    (0x11, 2, 2): "HPKE-P384-SHA384-AES-256-GCM",
    (0x12, 3, 2): "HPKE-P521-SHA512-AES-256-GCM",
    (0x647A, 1, 2): "HPKE-X-Wing-SHA256-AES-256-GCM",
}


class _Encryption(msgspec.Struct):
    pt: str


class _Vector(msgspec.Struct):
    mode: int
    kem_id: int
    kdf_id: int
    aead_id: int
    info: str
    enc: str
    shared_secret: str
    key: str
    base_nonce: str
    sk: str = msgspec.field(name="skRm")
    pk: str = msgspec.field(name="pkRm")
    encryptions: list[_Encryption] = msgspec.field(default_factory=list)


def _vectors(data: bytes) -> Iterator[tuple[int, _Vector]]:
    yield from enumerate(msgspec.json.decode(data, type=list[_Vector]))


def base_mode(data: bytes) -> Loaded:
    """Messages to the suites of our rows."""
    for number, vector in _vectors(data):
        algorithm = _ROWS.get((vector.kem_id, vector.kdf_id, vector.aead_id))
        if algorithm is None or vector.mode != 0:
            yield LeftOut("mode or suite that no row has")
            continue
        key = _private_key(_KEY_TYPES[vector.kem_id], bytes.fromhex(vector.sk), P.DECRYPT)
        plaintext = bytes.fromhex(vector.encryptions[0].pt)
        seal = _seal(vector.aead_id, bytes.fromhex(vector.key))
        yield DecryptCase(
            test=str(number),
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=algorithm,
            expected=plaintext,
            ciphertext=bytes.fromhex(vector.enc) + seal(bytes.fromhex(vector.base_nonce), plaintext, b""),
            aad=bytes.fromhex(vector.info),
        )


def kem(data: bytes) -> Loaded:
    """The KEMs of the post-quantum suites: the key of each seed, and the secret of `enc`."""
    for number, vector in _vectors(data):
        algorithm = _KEMS.get(vector.kem_id)
        if algorithm is None or vector.mode != 0:
            yield LeftOut("KEM that no row has")
            continue
        key = _private_key(algorithm, bytes.fromhex(vector.sk), P.DECAPSULATE)
        yield KeyPairCase(
            test=f"{number} key",
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=algorithm,
            expected=public_key(algorithm, bytes.fromhex(vector.pk)).material,
        )
        yield DecapsulateCase(
            test=str(number),
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=algorithm,
            expected=bytes.fromhex(vector.shared_secret),
            ciphertext=bytes.fromhex(vector.enc),
        )


def _private_key(key_type: str, value: bytes, permissions: P) -> Key:
    if key_type.startswith("EC-"):
        return ec_private_key(key_type, int.from_bytes(value, "big"), permissions)
    make = raw_private_key if key_type == "X25519" else seeded_key
    return make(key_type, value, permissions)


def _seal(aead_id: int, key: bytes) -> _Seal:
    return ChaCha20Poly1305(key).encrypt if aead_id == 3 else AESGCM(key).encrypt
