"""The table of key types: what slots hold and generation takes.

One frozen row a type. Numbers are from PKCS#11 v3.2 (CKK_*, CKM_*_GEN), object identifiers from the RFCs and
FIPS named in each group. No code outside this table decides by the name of a key type; it reads the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum, unique
from types import MappingProxyType

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import ALGORITHM_NAME_MAX
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names


@unique
class Family(StrEnum):
    """Keys of one family are made and stored the same way."""

    RSA = "RSA"
    EC = "EC"
    EDWARDS = "Edwards"
    MONTGOMERY = "Montgomery"
    AES = "AES"
    CHACHA20 = "ChaCha20"
    HMAC = "HMAC"
    SECRET = "generic secret"  # noqa: S105 - the name of a family of keys
    ML_DSA = "ML-DSA"
    ML_KEM = "ML-KEM"
    SLH_DSA = "SLH-DSA"
    HYBRID_KEM = "hybrid KEM"

    @property
    def symmetric(self) -> bool:
        """One secret value, with no public half."""
        return self in _SYMMETRIC


_SYMMETRIC = frozenset({Family.AES, Family.CHACHA20, Family.HMAC, Family.SECRET})


@unique
class Maturity(StrEnum):
    """Whether new keys and new data should use a row: by name only is as legacy where a slot does not name it."""

    CURRENT = "current"
    BY_NAME = "by name only"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyType:
    """One row.

    Attributes:
        name: as slots and parameters name it, such as "EC-P256".
        family: how it is made and stored.
        bits: modulus, field, key or security-parameter size in bits.
        parameter_set: the curve or FIPS parameter set where the family has several, else "".
        ckk, key_gen: PKCS#11 key type and generation mechanism, or None where v3.2 has none.
        ec_parameters: object identifier of the curve for CKA_EC_PARAMS and SPKI parameters, dotted.
        spki_oid: object identifier of the algorithm in SubjectPublicKeyInfo, dotted; "" for secret keys.
        tpm_template: how tpm2-pytss names a template of it, or "" where the TPM 2.0 library has none.
        tpm_curve: the TPM_ECC_CURVE number (TCG Algorithm Registry), or 0.
        permissions: the bits that mean anything for such a key.
        fips: approved by FIPS 186-5, 197, 198-1, 203, 204 or 205.
        postquantum: believed to resist a quantum computer (for asymmetric types).
        maturity: LEGACY types are not generated any more.
        slow_to_generate: generation takes over 100 microseconds in software.
    """

    name: str
    family: Family
    bits: int
    parameter_set: str = ""
    ckk: int | None = None
    key_gen: int | None = None
    ec_parameters: str = ""
    spki_oid: str = ""
    tpm_template: str = ""
    tpm_curve: int = 0
    permissions: P
    fips: bool = False
    postquantum: bool = False
    maturity: Maturity = Maturity.CURRENT
    slow_to_generate: bool = False

    @property
    def symmetric(self) -> bool:
        return self.family.symmetric

    @property
    def bytes(self) -> int:
        """Size of the secret value of a symmetric key, in bytes."""
        return self.bits // 8


_ANY = P.EXPORT | P.GENERATE
_SIGNATURE = P.SIGN | P.VERIFY | _ANY
_AGREEMENT = P.DERIVE | _ANY
_KEM = P.ENCAPSULATE | P.DECAPSULATE | _ANY
_CIPHER = P.ENCRYPT | P.DECRYPT | _ANY
_WRAPPING = P.WRAP | P.UNWRAP


def _rsa(bits: int) -> KeyType:
    return KeyType(
        name=f"RSA-{bits}",
        family=Family.RSA,
        bits=bits,
        ckk=0x00,
        key_gen=0x00,
        spki_oid="1.2.840.113549.1.1.1",
        tpm_template=f"rsa{bits}",
        permissions=_SIGNATURE | _CIPHER | _WRAPPING,
        fips=True,
        slow_to_generate=True,
    )


def _ec(name: str, bits: int, curve: str, oid: str, tpm: str, tpm_curve: int) -> KeyType:
    return KeyType(
        name=name,
        family=Family.EC,
        bits=bits,
        parameter_set=curve,
        ckk=0x03,
        key_gen=0x1040,
        ec_parameters=oid,
        spki_oid="1.2.840.10045.2.1",
        tpm_template=tpm,
        tpm_curve=tpm_curve,
        permissions=_SIGNATURE | _AGREEMENT | _CIPHER | _WRAPPING,
        fips=True,
    )


def _secret(family: Family, name: str, bits: int, ckk: int, permissions: P, **more: bool) -> KeyType:
    key_gen = {Family.AES: 0x1080, Family.CHACHA20: 0x1225}.get(family, 0x350)
    template = {Family.AES: f"aes{bits}cfb", Family.HMAC: "hmac"}.get(family, "")
    return KeyType(
        name=name,
        family=family,
        bits=bits,
        ckk=ckk,
        key_gen=key_gen,
        tpm_template=template,
        permissions=permissions,
        fips=more.get("fips", True),
    )


def _fips_set(family: Family, name: str, bits: int, ckk: int, gen: int, oid: str, permissions: P) -> KeyType:
    return KeyType(
        name=name,
        family=family,
        bits=bits,
        parameter_set=name,
        ckk=ckk,
        key_gen=gen,
        spki_oid=oid,
        permissions=permissions,
        fips=True,
        postquantum=True,
        slow_to_generate=True,
    )


_SLH_DSA_SETS = tuple(
    f"SLH-DSA-{hash_}-{size}{variant}" for hash_ in ("SHA2", "SHAKE") for size in (128, 192, 256) for variant in "sf"
)

_ROWS: tuple[KeyType, ...] = (
    # RFC 8017, FIPS 186-5
    _rsa(2048),
    _rsa(3072),
    _rsa(4096),
    # SEC 2, FIPS 186-5, RFC 5480
    _ec("EC-P256", 256, "secp256r1", "1.2.840.10045.3.1.7", "ecc_nist_p256", 0x0003),
    _ec("EC-P384", 384, "secp384r1", "1.3.132.0.34", "ecc_nist_p384", 0x0004),
    _ec("EC-P521", 521, "secp521r1", "1.3.132.0.35", "ecc_nist_p521", 0x0005),
    # RFC 8032, 7748, 8410
    KeyType(
        name="Ed25519",
        family=Family.EDWARDS,
        bits=256,
        parameter_set="Ed25519",
        ckk=0x40,
        key_gen=0x1055,
        ec_parameters="1.3.101.112",
        spki_oid="1.3.101.112",
        permissions=_SIGNATURE,
        fips=True,
    ),
    KeyType(
        name="Ed448",
        family=Family.EDWARDS,
        bits=448,
        parameter_set="Ed448",
        ckk=0x40,
        key_gen=0x1055,
        ec_parameters="1.3.101.113",
        spki_oid="1.3.101.113",
        permissions=_SIGNATURE,
        fips=True,
    ),
    KeyType(
        name="X25519",
        family=Family.MONTGOMERY,
        bits=256,
        parameter_set="X25519",
        ckk=0x41,
        key_gen=0x1056,
        ec_parameters="1.3.101.110",
        spki_oid="1.3.101.110",
        permissions=_AGREEMENT | _CIPHER | _WRAPPING,
    ),
    KeyType(
        name="X448",
        family=Family.MONTGOMERY,
        bits=448,
        parameter_set="X448",
        ckk=0x41,
        key_gen=0x1056,
        ec_parameters="1.3.101.111",
        spki_oid="1.3.101.111",
        permissions=_AGREEMENT,
    ),
    # FIPS 197
    *(
        _secret(Family.AES, f"AES-{bits}", bits, 0x1F, _CIPHER | _WRAPPING | P.SIGN | P.VERIFY)
        for bits in (128, 192, 256)
    ),
    # RFC 8439
    _secret(Family.CHACHA20, "ChaCha20", 256, 0x33, _CIPHER | _WRAPPING, fips=False),
    # FIPS 198-1; the key is as long as the hash
    _secret(Family.HMAC, "HMAC-SHA256", 256, 0x2B, P.SIGN | P.VERIFY | P.DERIVE | _ANY),
    _secret(Family.HMAC, "HMAC-SHA384", 384, 0x2C, P.SIGN | P.VERIFY | P.DERIVE | _ANY),
    _secret(Family.HMAC, "HMAC-SHA512", 512, 0x2D, P.SIGN | P.VERIFY | P.DERIVE | _ANY),
    # Secrets to derive from: what an agreement or a KEM yields
    *(
        _secret(Family.SECRET, f"SECRET-{bits}", bits, 0x10, P.DERIVE | P.SIGN | P.VERIFY | _ANY)
        for bits in (128, 256, 384, 448, 512, 528)
    ),
    # FIPS 204, RFC 9881
    *(
        _fips_set(Family.ML_DSA, f"ML-DSA-{size}", size, 0x4A, 0x1C, f"2.16.840.1.101.3.4.3.{arc}", _SIGNATURE)
        for size, arc in ((44, 17), (65, 18), (87, 19))
    ),
    # FIPS 203, RFC 9935
    *(
        _fips_set(Family.ML_KEM, f"ML-KEM-{size}", size, 0x49, 0x0F, f"2.16.840.1.101.3.4.4.{arc}", _KEM)
        for size, arc in ((512, 1), (768, 2), (1024, 3))
    ),
    # FIPS 205, RFC 9909
    *(
        _fips_set(
            Family.SLH_DSA,
            name,
            int(name.split("-")[3][:-1]),
            0x4B,
            0x2D,
            f"2.16.840.1.101.3.4.3.{20 + index}",
            _SIGNATURE,
        )
        for index, name in enumerate(_SLH_DSA_SETS)
    ),
    # draft-connolly-cfrg-xwing-kem
    KeyType(
        name="X-Wing",
        family=Family.HYBRID_KEM,
        bits=768,
        parameter_set="X-Wing",
        spki_oid="1.3.6.1.4.1.62253.25722",
        permissions=_KEM | _CIPHER | _WRAPPING,
        postquantum=True,
        slow_to_generate=True,
    ),
)

KEY_TYPES: Mapping[str, KeyType] = MappingProxyType({row.name: row for row in _ROWS})
"""Every key type by name, in the order of the documentation."""


def key_type(name: str) -> KeyType:
    """The row of a key type. Raises RequestError (UNKNOWN_KEY_TYPE), naming the nearest known one."""
    row = KEY_TYPES.get(name)
    if row is None:
        raise RequestError(Status.UNKNOWN_KEY_TYPE, unknown_name("key type", name, KEY_TYPES))
    return row


def check_permissions_fit(row: KeyType, permissions: P) -> None:
    """Refuse bits that mean nothing for such a key. Raises RequestError (INVALID_PERMISSIONS)."""
    useless = permissions & ~row.permissions
    if useless:
        raise RequestError(
            Status.INVALID_PERMISSIONS,
            f"A key of type {row.name} cannot {', '.join(permission_names(useless))};"
            f" it can {', '.join(permission_names(row.permissions))}.",
        )


def may_have_used_nonces(row: KeyType, permissions: P) -> bool:
    """Whether a key of a type has perhaps encrypted with nonces, as far as its permissions tell: an AEAD wraps, too."""
    return row.symmetric and bool(permissions & (P.ENCRYPT | P.WRAP))


def unknown_name(what: str, name: str, known: Mapping[str, object]) -> str:
    """A sentence for a name that no table has: too long, or which known one comes nearest."""
    if len(name.encode()) > ALGORITHM_NAME_MAX:
        return f"The name of a {what} has at most {ALGORITHM_NAME_MAX} bytes; this one has {len(name.encode())}."
    lowered = {known_name.lower(): known_name for known_name in known}
    near = get_close_matches(name.lower(), lowered, n=1)
    hint = f"; did you mean {lowered[near[0]]!r}?" if near else "; `hsmbridge providers` lists what is there."
    return f"There is no {what} {name!r}{hint}"
