"""From a mechanism and a key to what the service is asked: algorithm, parameters, and the forms of data on both sides.

Signatures: PKCS#11 wants ECDSA as r and s side by side, the service speaks DER; mechanisms that take a digest become
digest signing; CKM_RSA_PKCS takes a DigestInfo of a known hash and nothing else. Encryption: GCM's tag is part of
the ciphertext, and nonces are the caller's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.frontends.p11kit.numbers import HASH_OF, MGF_OF, Ckm, Ckr
from hsmbridge.frontends.p11kit.public_keys import digest_of
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.wire.p11kit_mechanisms import Mechanism

_DIGEST: Final = SignatureParameters(digest_signing=True)
_BY_SCHEME: Final[Mapping[tuple[Scheme, str], tuple[Algorithm, ...]]] = {
    (scheme, hash_): tuple(row for row in ALGORITHMS.values() if row.scheme is scheme and row.hash == hash_)
    for scheme, hash_ in {(row.scheme, row.hash) for row in ALGORITHMS.values()}
}
_BY_CKM: Final[Mapping[int, tuple[Algorithm, ...]]] = {
    ckm: tuple(row for row in ALGORITHMS.values() if row.ckm == ckm)
    for ckm in {row.ckm for row in ALGORITHMS.values() if row.ckm is not None}
}
_PKCS1: Final = tuple(row for row in ALGORITHMS.values() if row.scheme is Scheme.RSASSA_PKCS1)
_HASHING_ECDSA: Final = {Ckm.ECDSA_SHA256: "SHA-256", Ckm.ECDSA_SHA384: "SHA-384", Ckm.ECDSA_SHA512: "SHA-512"}
_SIZE: Final = {"SHA-1": 20, "SHA-256": 32, "SHA-384": 48, "SHA-512": 64}


def new_hash(name: str) -> "hashlib._Hash":
    """A digest under way, by the name of its row, such as "SHA-256"."""
    return hashlib.new(name.replace("-", "").lower(), usedforsecurity=name != "SHA-1")


@dataclass(frozen=True, slots=True)
class SignatureWay:
    """How to sign and verify with one mechanism and one type of key.

    Attributes:
        algorithm: the row.
        size: bytes of a signature.
        parameters: for a whole message.
        hash: of the message, where the mechanism hashes it; many parts are hashed as they come, and signed as digest.
        form: what the data of a mechanism without a hash are: "digest", "info" (DigestInfo), "" for a message.
        digest_parameters: for a digest.
    """

    algorithm: Algorithm
    size: int
    parameters: SignatureParameters = DEFAULT_SIGNATURE
    hash: str = ""
    form: str = ""
    digest_parameters: SignatureParameters = field(init=False)

    def __post_init__(self) -> None:
        salt = self.parameters.salt_length
        object.__setattr__(self, "digest_parameters", SignatureParameters(digest_signing=True, salt_length=salt))

    @property
    def candidates(self) -> tuple[Algorithm, ...]:
        """The rows of which the data decide for one; else the one row."""
        return _PKCS1 if self.form == "info" else (self.algorithm,)

    @property
    def is_mac(self) -> bool:
        """Whether the result is a MAC."""
        return self.algorithm.kind is Kind.MAC

    def message(self, data: bytes) -> tuple[bytes, SignatureParameters]:
        """The message and the parameters for all the data of a one-shot call. Raises Refused."""
        if self.form == "info":
            found = digest_of(data)
            if found is None or found[0] != self.algorithm.hash:
                raise Refused(Ckr.DATA_INVALID)
            return found[1], self.parameters
        if self.form == "digest":
            return self.digest(data)
        if self.hash and self.hash != self.algorithm.hash:
            hashed = new_hash(self.hash)
            hashed.update(data)
            return self.digest(hashed.digest())
        return data, self.parameters

    def digest(self, digest: bytes) -> tuple[bytes, SignatureParameters]:
        """The same for a digest. Raises Refused (CKR_DATA_LEN_RANGE)."""
        size = _SIZE[self.algorithm.hash]
        if self.algorithm.scheme is Scheme.ECDSA:
            # Bits beyond the order of the curve are cut off, and missing ones are zero (FIPS 186-5 section 6.4.1);
            # with P-521 no digest of whole bytes is cut.
            if not digest or (len(digest) > size and size * 16 < self.size * 8):
                raise Refused(Ckr.DATA_LEN_RANGE)
            digest = digest[:size].rjust(size, b"\0")
        elif len(digest) != size:
            raise Refused(Ckr.DATA_LEN_RANGE)
        return digest, self.digest_parameters

    def outward(self, signature: bytes) -> bytes:
        """A signature of the service as PKCS#11 has it."""
        if self.algorithm.scheme is not Scheme.ECDSA:
            return signature
        width = self.size // 2
        r, s = decode_dss_signature(signature)
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")

    def inward(self, signature: bytes) -> bytes:
        """A signature of PKCS#11 as the service has it. Raises Refused (CKR_SIGNATURE_LEN_RANGE)."""
        if len(signature) != self.size:
            raise Refused(Ckr.SIGNATURE_LEN_RANGE)
        if self.algorithm.scheme is not Scheme.ECDSA:
            return signature
        width = self.size // 2
        return encode_dss_signature(int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big"))


def signature_way(mechanism: Mechanism, row: KeyType, data: bytes | None = None) -> SignatureWay:
    """How to sign or verify; with CKM_RSA_PKCS the data decide which hash, so it is asked again when they are there.

    Raises Refused: CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT.
    """
    if mechanism.type == Ckm.RSA_PKCS:
        found = None if data is None else digest_of(data)
        if data is not None and found is None:
            raise Refused(Ckr.DATA_INVALID)
        chosen = _row(Scheme.RSASSA_PKCS1, "SHA-256" if found is None else found[0], row)
        return SignatureWay(chosen, row.bits // 8, _DIGEST, form="info")
    if mechanism.type == Ckm.RSA_PKCS_PSS:
        chosen, salt = _pss(mechanism, row)
        return SignatureWay(chosen, row.bits // 8, SignatureParameters(salt_length=salt), form="digest")
    if mechanism.type == Ckm.ECDSA or mechanism.type in _HASHING_ECDSA:
        return _ecdsa(mechanism, row)
    rows = [one for one in _BY_CKM.get(mechanism.type, ()) if one.kind in {Kind.SIGNATURE, Kind.MAC}]
    if not rows:
        raise Refused(Ckr.MECHANISM_INVALID)
    chosen = _fitting(rows, row)
    if chosen.scheme is Scheme.RSASSA_PSS:
        chosen, salt = _pss(mechanism, row)
        if chosen.ckm != mechanism.type:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID)
        return SignatureWay(chosen, row.bits // 8, SignatureParameters(salt_length=salt), hash=chosen.hash)
    if chosen.scheme is Scheme.RSASSA_PKCS1:
        return SignatureWay(chosen, row.bits // 8, hash=chosen.hash)
    return SignatureWay(chosen, chosen.output_size)


def _ecdsa(mechanism: Mechanism, row: KeyType) -> SignatureWay:
    if row.family is not Family.EC:
        raise Refused(Ckr.KEY_TYPE_INCONSISTENT)
    chosen = next(one for one in ALGORITHMS.values() if one.scheme is Scheme.ECDSA and one.takes(row))
    if mechanism.type == Ckm.ECDSA:
        return SignatureWay(chosen, chosen.output_size, form="digest")
    return SignatureWay(chosen, chosen.output_size, hash=_HASHING_ECDSA[Ckm(mechanism.type)])


def _pss(mechanism: Mechanism, row: KeyType) -> tuple[Algorithm, int]:
    match mechanism.parameter:
        case (int(hash_), int(mgf), int(salt)):
            name = HASH_OF.get(hash_, "")
            if MGF_OF.get(name) != mgf or salt > _SIZE[name]:
                raise Refused(Ckr.MECHANISM_PARAM_INVALID)
            return _row(Scheme.RSASSA_PSS, name, row, Ckr.MECHANISM_PARAM_INVALID), salt
        case _:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID)


def _row(scheme: Scheme, hash_: str, row: KeyType, otherwise: Ckr = Ckr.MECHANISM_INVALID) -> Algorithm:
    rows = _BY_SCHEME.get((scheme, hash_), ())
    if not rows:
        raise Refused(otherwise)
    return _fitting(rows, row)


def _fitting(rows: "tuple[Algorithm, ...] | list[Algorithm]", row: KeyType) -> Algorithm:
    for one in rows:
        if one.takes(row):
            return one
    raise Refused(Ckr.KEY_TYPE_INCONSISTENT)


@dataclass(frozen=True, slots=True)
class CipherWay:
    """How to encrypt and decrypt with one mechanism and one type of key.

    Attributes:
        algorithm: the row.
        nonce, aad: the mechanism's parameter.
        modulus: bytes of an RSA key's modulus, else 0.
    """

    algorithm: Algorithm
    nonce: bytes = b""
    aad: bytes = b""
    modulus: int = 0

    def encrypted_size(self, plaintext: int) -> int:
        """Bytes that so many bytes become."""
        if self.modulus:
            return self.modulus
        if self.algorithm.scheme is Scheme.CBC:
            return (plaintext // 16 + 1) * 16
        return plaintext + self.algorithm.tag_size

    def decrypted_size(self, ciphertext: int) -> int:
        """The most bytes that so many bytes become."""
        return self.modulus or max(0, ciphertext - self.algorithm.tag_size)


def cipher_way(mechanism: Mechanism, row: KeyType) -> CipherWay:
    """How to encrypt or decrypt. Raises Refused as `signature_way` does."""
    if mechanism.type == Ckm.RSA_PKCS:
        return CipherWay(_row(Scheme.RSAES_PKCS1, "", row), modulus=row.bits // 8)
    if mechanism.type == Ckm.RSA_PKCS_OAEP:
        return CipherWay(_oaep(mechanism, row), modulus=row.bits // 8)
    rows = [one for one in _BY_CKM.get(mechanism.type, ()) if one.kind in {Kind.AEAD, Kind.CIPHER}]
    if not rows:
        raise Refused(Ckr.MECHANISM_INVALID)
    chosen = _fitting(rows, row)
    match chosen.scheme, mechanism.parameter:
        case Scheme.GCM, (bytes(nonce), int(_), bytes(aad), int(tag_bits)):
            if len(nonce) != chosen.nonce_size or tag_bits != chosen.tag_size * 8:
                raise Refused(Ckr.MECHANISM_PARAM_INVALID)
            return CipherWay(chosen, nonce, aad)
        case Scheme.CTR, (int(bits), bytes(nonce)) if bits == 128:
            pass
        case ((Scheme.CBC | Scheme.CFB), (bytes(nonce),)):
            pass
        case _:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID)
    if len(nonce) != chosen.nonce_size:
        raise Refused(Ckr.MECHANISM_PARAM_INVALID)
    return CipherWay(chosen, nonce)


def wrapping_way(mechanism: Mechanism, row: KeyType) -> CipherWay:
    """How to wrap or unwrap: only with what tells a wrapped key from any other bytes. Raises Refused."""
    way = cipher_way(mechanism, row)
    if KeyOperation.UNWRAP not in way.algorithm.operations:
        raise Refused(Ckr.MECHANISM_INVALID)
    return way


def _oaep(mechanism: Mechanism, row: KeyType) -> Algorithm:
    match mechanism.parameter:
        case (int(hash_), int(mgf), int(_), bytes(label)):
            name = HASH_OF.get(hash_, "")
            # A label is not among what the service takes.
            if MGF_OF.get(name) != mgf or label:
                raise Refused(Ckr.MECHANISM_PARAM_INVALID)
            return _row(Scheme.RSAES_OAEP, name, row, Ckr.MECHANISM_PARAM_INVALID)
        case _:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID)
