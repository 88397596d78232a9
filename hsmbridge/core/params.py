"""Parameters of operations: immutable, with named fields, checked when built and when decoded.

The six key-making structs and the typed KDF parameters; no opaque bytes. Sizes are in bytes unless said
otherwise. Building one with a value that cannot be right raises RequestError.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from hsmbridge.core.algorithms import Scheme, algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import check_permissions_fit, key_type
from hsmbridge.core.permissions import KeyOperationPermission, permissions_from_bits


class _Parameters(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    pass


class SignatureParameters(_Parameters, frozen=True, array_like=True, kw_only=True):
    """How to sign or verify beyond the algorithm's name.

    Attributes:
        context: the context string of ML-DSA and SLH-DSA (FIPS 204 section 5.2), at most 255 bytes.
        salt_length: of RSASSA-PSS; None is the length of the hash.
        digest_signing: the message is the digest itself (PKCS#11 CKM_ECDSA, TLS); only for algorithms with a hash.
        external_mu: the message is the message representative mu of ML-DSA (FIPS 204 algorithm 7 line 6), 64 bytes
            that whoever computed them has bound to the public key and to the context.
    """

    context: bytes = b""
    salt_length: int | None = None
    digest_signing: bool = False
    external_mu: bool = False

    def __post_init__(self) -> None:
        if len(self.context) > 255:
            raise RequestError(Status.INVALID_ARGUMENT, "A signature context has at most 255 bytes.")
        if self.salt_length is not None and not 0 <= self.salt_length <= 512:
            raise RequestError(Status.INVALID_ARGUMENT, "A PSS salt has 0 to 512 bytes.")
        if self.external_mu and (self.context or self.digest_signing):
            raise RequestError(
                Status.INVALID_ARGUMENT, "With external_mu, the context went into mu already, and mu is no digest."
            )


DEFAULT_SIGNATURE = SignatureParameters()


class _KdfParameters(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    pass


class Hkdf(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="hkdf"):
    """HKDF (RFC 5869). `algorithm` is an HKDF row, such as "HKDF-SHA256"."""

    algorithm: str = "HKDF-SHA256"
    salt: bytes = b""
    info: bytes = b""


class Pbkdf2(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="pbkdf2"):
    """PBKDF2 (RFC 8018)."""

    algorithm: str = "PBKDF2-HMAC-SHA256"
    salt: bytes
    iterations: int


class KbkdfCounter(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="kbkdf"):
    """SP 800-108 in counter mode: 32-bit counter before the fixed data, label, 0x00, context, 32-bit length."""

    algorithm: str = "KBKDF-HMAC-SHA256"
    label: bytes = b""
    context: bytes = b""


class X963(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="x963"):
    """The KDF of ANSI X9.63."""

    algorithm: str = "X963KDF-SHA256"
    shared_info: bytes = b""


class Tls12Prf(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="tls12"):
    """The PRF of TLS 1.2 (RFC 5246 section 5)."""

    algorithm: str = "TLS12-PRF-SHA256"
    label: bytes
    seed: bytes


class Tls13ExpandLabel(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="tls13"):
    """HKDF-Expand-Label (RFC 8446 section 7.1); the label without its "tls13 " prefix."""

    algorithm: str = "TLS13-EXPAND-LABEL-SHA256"
    label: bytes
    context: bytes = b""


class Scrypt(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="scrypt"):
    """scrypt (RFC 7914)."""

    algorithm: str = "scrypt"
    salt: bytes
    cost: int = 1 << 15
    block_size: int = 8
    parallelization: int = 1


class Argon2id(_KdfParameters, frozen=True, array_like=True, kw_only=True, tag="argon2id"):
    """Argon2id (RFC 9106); memory in KiB."""

    algorithm: str = "Argon2id"
    salt: bytes
    iterations: int = 3
    lanes: int = 4
    memory: int = 64 * 1024


KdfParameters = Hkdf | Pbkdf2 | KbkdfCounter | X963 | Tls12Prf | Tls13ExpandLabel | Scrypt | Argon2id


_SCHEME_OF: Mapping[type[KdfParameters], Scheme] = MappingProxyType(
    {
        Hkdf: Scheme.HKDF,
        Pbkdf2: Scheme.PBKDF2,
        KbkdfCounter: Scheme.KBKDF_COUNTER,
        X963: Scheme.X963,
        Tls12Prf: Scheme.TLS12_PRF,
        Tls13ExpandLabel: Scheme.TLS13_EXPAND_LABEL,
        Scrypt: Scheme.SCRYPT,
        Argon2id: Scheme.ARGON2ID,
    }
)


def _check_kdf(kdf: KdfParameters | None) -> None:
    if kdf is not None and algorithm(kdf.algorithm).scheme is not _SCHEME_OF[type(kdf)]:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{kdf.algorithm} does not take {type(kdf).__name__} parameters: it is not {_SCHEME_OF[type(kdf)]}.",
        )


def _check_key(key_type_name: str, permissions: int) -> None:
    check_permissions_fit(key_type(key_type_name), permissions_from_bits(permissions))


class _KeyParameters(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What every key-making call says of the key that it makes. `permissions` is a KeyOperationPermission."""

    key_type: str
    permissions: int

    def __post_init__(self) -> None:
        _check_key(self.key_type, self.permissions)

    @property
    def allowed(self) -> KeyOperationPermission:
        return permissions_from_bits(self.permissions)


class GenerateKeyParams(_KeyParameters, frozen=True, array_like=True, kw_only=True):
    """A new random key."""


class DeriveKeyParams(_KeyParameters, frozen=True, array_like=True, kw_only=True):
    """A key derived from another by a KDF."""

    kdf: KdfParameters

    def __post_init__(self) -> None:
        _check_key(self.key_type, self.permissions)
        _check_kdf(self.kdf)


class AgreeKeyParams(_KeyParameters, frozen=True, array_like=True, kw_only=True):
    """A key agreed with a peer (ECDH, X25519), through a KDF or, with none, the raw secret itself.

    Attributes:
        peer_public_key: SubjectPublicKeyInfo, DER.
        kdf: None takes the raw shared secret; the key type then has exactly its size.
    """

    peer_public_key: bytes
    kdf: KdfParameters | None = None

    def __post_init__(self) -> None:
        _check_key(self.key_type, self.permissions)
        _check_kdf(self.kdf)


class WrapKeyParams(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How to wrap a key under another."""

    algorithm: str
    iv: bytes = b""
    aad: bytes = b""

    def __post_init__(self) -> None:
        algorithm(self.algorithm)


class UnwrapKeyParams(_KeyParameters, frozen=True, array_like=True, kw_only=True):
    """How to unwrap a key, and what it becomes. `format` is "raw" for secret keys, "pkcs8" for private ones.

    Wrapped secret keys are bytes and do not say of which type they were: `key_type` is the word of who unwraps, and the
    length alone is held against it.
    """

    algorithm: str
    iv: bytes = b""
    aad: bytes = b""
    format: str = "raw"

    def __post_init__(self) -> None:
        _check_key(self.key_type, self.permissions)
        algorithm(self.algorithm)


class ImportKeyParams(_KeyParameters, frozen=True, array_like=True, kw_only=True):
    """A key given in the clear. `format` is "raw", "pkcs8" (DER) or "spki" (DER, public key only)."""

    format: str
