"""The table of algorithms: what operations take.

One frozen row an algorithm. Numbers are from PKCS#11 v3.2 (CKM_*), the TCG Algorithm Registry (TPM_ALG_*), the
IANA JOSE and COSE registries. No code outside this table decides by the name of an algorithm; it reads the row.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType, Maturity, unknown_name
from hsmbridge.core.permissions import KeyOperationPermission as P


@unique
class KeyOperation(StrEnum):
    """What a provider does with a key or without one, in PKCS#11's words. A MAC is signed and verified."""

    GENERATE = "generate"
    IMPORT = "import"
    SIGN = "sign"
    VERIFY = "verify"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    ENCAPSULATE = "encapsulate"
    DECAPSULATE = "decapsulate"
    AGREE = "agree"
    DERIVE = "derive"
    WRAP = "wrap"
    UNWRAP = "unwrap"
    DIGEST = "digest"


PERMISSION_FOR: Mapping[KeyOperation, P] = MappingProxyType(
    {
        KeyOperation.GENERATE: P.GENERATE,
        KeyOperation.SIGN: P.SIGN,
        KeyOperation.VERIFY: P.VERIFY,
        KeyOperation.ENCRYPT: P.ENCRYPT,
        KeyOperation.DECRYPT: P.DECRYPT,
        KeyOperation.ENCAPSULATE: P.ENCAPSULATE,
        KeyOperation.DECAPSULATE: P.DECAPSULATE,
        KeyOperation.AGREE: P.DERIVE,
        KeyOperation.DERIVE: P.DERIVE,
        KeyOperation.WRAP: P.WRAP,
        KeyOperation.UNWRAP: P.UNWRAP,
    }
)


@unique
class Kind(StrEnum):
    """What an algorithm is for; decides which operations take it."""

    SIGNATURE = "signature"
    MAC = "MAC"
    AEAD = "AEAD"
    CIPHER = "cipher"
    PUBLIC_KEY_ENCRYPTION = "public-key encryption"
    KEY_AGREEMENT = "key agreement"
    KEM = "KEM"
    KDF = "KDF"
    KEY_WRAP = "key wrap"
    DIGEST = "digest"

    @property
    def operations(self) -> tuple[KeyOperation, ...]:
        return _OPERATIONS[self]


_ENCRYPTS_AND_WRAPS = (KeyOperation.ENCRYPT, KeyOperation.DECRYPT, KeyOperation.WRAP, KeyOperation.UNWRAP)

_OPERATIONS: Mapping[Kind, tuple[KeyOperation, ...]] = MappingProxyType(
    {
        Kind.SIGNATURE: (KeyOperation.SIGN, KeyOperation.VERIFY),
        Kind.MAC: (KeyOperation.SIGN, KeyOperation.VERIFY),
        Kind.AEAD: _ENCRYPTS_AND_WRAPS,
        Kind.CIPHER: (KeyOperation.ENCRYPT, KeyOperation.DECRYPT),
        Kind.PUBLIC_KEY_ENCRYPTION: _ENCRYPTS_AND_WRAPS,
        Kind.KEY_AGREEMENT: (KeyOperation.AGREE,),
        Kind.KEM: (KeyOperation.ENCAPSULATE, KeyOperation.DECAPSULATE),
        Kind.KDF: (KeyOperation.DERIVE,),
        Kind.KEY_WRAP: (KeyOperation.WRAP, KeyOperation.UNWRAP),
        Kind.DIGEST: (KeyOperation.DIGEST,),
    }
)


@unique
class Scheme(StrEnum):
    """The construction that a provider's code dispatches on."""

    RSASSA_PKCS1 = "RSASSA-PKCS1-v1_5"
    RSASSA_PSS = "RSASSA-PSS"
    RSAES_OAEP = "RSAES-OAEP"
    RSAES_PKCS1 = "RSAES-PKCS1-v1_5"
    ECDSA = "ECDSA"
    EDDSA = "EdDSA"
    ML_DSA = "ML-DSA"
    SLH_DSA = "SLH-DSA"
    ECDH = "ECDH"
    XDH = "XDH"
    ML_KEM = "ML-KEM"
    X_WING = "X-Wing"
    GCM = "GCM"
    CCM = "CCM"
    CHACHA20_POLY1305 = "ChaCha20-Poly1305"
    CBC = "CBC"
    CTR = "CTR"
    CFB = "CFB128"
    KEY_WRAP = "KW"
    KEY_WRAP_PADDED = "KWP"
    RSA_AES_KEY_WRAP = "RSA-AES key wrap"
    HPKE = "HPKE"
    HMAC = "HMAC"
    CMAC = "CMAC"
    HKDF = "HKDF"
    PBKDF2 = "PBKDF2"
    KBKDF_COUNTER = "SP 800-108 counter"
    X963 = "X9.63"
    SCRYPT = "scrypt"
    ARGON2ID = "Argon2id"
    TLS12_PRF = "TLS 1.2 PRF"
    TLS13_EXPAND_LABEL = "HKDF-Expand-Label"
    HASH = "hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One row.

    Attributes:
        name: as operations name it, such as "ECDSA-P256-SHA256".
        kind: what it is for.
        scheme: the construction.
        key_types: names of the key types that it takes; empty where it takes no key.
        hash: the digest row that it uses, such as "SHA-256", or "".
        aead: the AEAD row that it uses, such as "AES-128-GCM", or "".
        ckm: the PKCS#11 mechanism, or None where v3.2 has none.
        tpm_alg: the TPM_ALG_ID of the scheme, or None.
        jose: the "alg" (or "enc") of the IANA JOSE registry, or "".
        cose: the number of the IANA COSE registry, or None.
        nonce_size: bytes of nonce or initialisation vector.
        tag_size: bytes of the authentication tag.
        output_size: bytes of signature, MAC or digest where fixed, else 0. ECDSA counts r and s, not DER.
        fips: approved by NIST.
        postquantum: believed to resist a quantum computer.
        maturity: LEGACY rows verify what exists, decrypt it for a slot whose list of algorithms names them, and make
            nothing new; BY_NAME rows verify and decrypt, and make something new for such a slot.
        slow: operations that take over 100 microseconds in software.
    """

    name: str
    kind: Kind
    scheme: Scheme
    key_types: tuple[str, ...] = ()
    hash: str = ""
    aead: str = ""
    ckm: int | None = None
    tpm_alg: int | None = None
    jose: str = ""
    cose: int | None = None
    nonce_size: int = 0
    tag_size: int = 0
    output_size: int = 0
    fips: bool = False
    postquantum: bool = False
    maturity: Maturity = Maturity.CURRENT
    slow: frozenset[KeyOperation] = frozenset()

    @property
    def operations(self) -> tuple[KeyOperation, ...]:
        """The operations that take this algorithm."""
        return self.kind.operations

    @property
    def takes_aad(self) -> bool:
        """Authenticates associated data along with what it encrypts."""
        return self.kind is Kind.AEAD or self.scheme is Scheme.HPKE

    def takes(self, row: KeyType) -> bool:
        return row.name in self.key_types

    def makes(self, allowed: Collection[str]) -> bool:
        """Whether new data are made with it under a key whose slot allows these names, or all where there are none."""
        if self.maturity is Maturity.CURRENT:
            return not allowed or self.name in allowed
        return self.maturity is Maturity.BY_NAME and self.name in allowed

    def decrypts(self, allowed: Collection[str]) -> bool:
        """Whether what exists is decrypted with it under a key whose slot allows these names, as `makes` has them."""
        return self.name in allowed or (not allowed and self.maturity is not Maturity.LEGACY)


def _of(family: Family) -> tuple[str, ...]:
    return tuple(row.name for row in KEY_TYPES.values() if row.family is family)


_SIGN_SLOW = frozenset({KeyOperation.SIGN})
_DECRYPT_SLOW = frozenset({KeyOperation.DECRYPT, KeyOperation.UNWRAP})
_DERIVE_SLOW = frozenset({KeyOperation.DERIVE})
_EC_SLOW = frozenset({KeyOperation.SIGN, KeyOperation.VERIFY})
_KEM_SLOW = frozenset({KeyOperation.ENCAPSULATE, KeyOperation.DECAPSULATE})
_RSA = _of(Family.RSA)
_AES = _of(Family.AES)

_RSA_SIGNATURES = (
    # hash, PKCS#1 CKM, PSS CKM, JOSE suffix, COSE PKCS#1, COSE PSS
    ("SHA-256", 0x40, 0x43, "256", -257, -37),
    ("SHA-384", 0x41, 0x44, "384", -258, -38),
    ("SHA-512", 0x42, 0x45, "512", -259, -39),
)
_ECDSA = (
    # curve, hash, CKM, JOSE, COSE, bytes
    ("P256", "SHA-256", 0x1044, "ES256", -7, 64),
    ("P384", "SHA-384", 0x1045, "ES384", -35, 96),
    ("P521", "SHA-512", 0x1046, "ES512", -36, 132),
)
_HASHES = (
    # name, CKM, CKM of its HMAC, bytes, TPM_ALG_ID
    ("SHA-256", 0x250, 0x251, 32, 0x000B),
    ("SHA-384", 0x260, 0x261, 48, 0x000C),
    ("SHA-512", 0x270, 0x271, 64, 0x000D),
    ("SHA3-256", 0x2B0, 0x2B1, 32, 0x0027),
    ("SHA3-384", 0x2C0, 0x2C1, 48, 0x0028),
    ("SHA3-512", 0x2D0, 0x2D1, 64, 0x0029),
)
_HPKE = (
    # key type, hash of the KDF, AEAD
    ("X25519", "SHA-256", "AES-128-GCM"),
    ("X25519", "SHA-256", "ChaCha20-Poly1305"),
    ("EC-P256", "SHA-256", "AES-128-GCM"),
    ("EC-P384", "SHA-384", "AES-256-GCM"),
    ("EC-P521", "SHA-512", "AES-256-GCM"),
    ("X-Wing", "SHA-256", "AES-256-GCM"),
)
_ML_DSA = (("ML-DSA-44", -48, 2420), ("ML-DSA-65", -49, 3309), ("ML-DSA-87", -50, 4627))
_SLH_DSA_SIGNATURE = {"128s": 7856, "128f": 17088, "192s": 16224, "192f": 35664, "256s": 29792, "256f": 49856}


def _short(hash_: str) -> str:
    return hash_.replace("SHA-", "SHA")


_ROWS: tuple[Algorithm, ...] = (
    # RFC 8017
    *(
        Algorithm(
            name=f"RSA-PKCS1-{_short(hash_)}",
            kind=Kind.SIGNATURE,
            scheme=Scheme.RSASSA_PKCS1,
            key_types=_RSA,
            hash=hash_,
            ckm=ckm,
            tpm_alg=0x0014,
            jose=f"RS{jose}",
            cose=cose,
            fips=True,
            slow=_SIGN_SLOW,
        )
        for hash_, ckm, _, jose, cose, _ in _RSA_SIGNATURES
    ),
    Algorithm(
        name="RSA-PKCS1-SHA1",
        kind=Kind.SIGNATURE,
        scheme=Scheme.RSASSA_PKCS1,
        key_types=_RSA,
        hash="SHA-1",
        ckm=0x06,
        tpm_alg=0x0014,
        jose="RS1",
        cose=-65535,
        maturity=Maturity.BY_NAME,
        slow=_SIGN_SLOW,
    ),
    *(
        Algorithm(
            name=f"RSA-PSS-{_short(hash_)}",
            kind=Kind.SIGNATURE,
            scheme=Scheme.RSASSA_PSS,
            key_types=_RSA,
            hash=hash_,
            ckm=ckm,
            tpm_alg=0x0016,
            jose=f"PS{jose}",
            cose=cose,
            fips=True,
            slow=_SIGN_SLOW,
        )
        for hash_, _, ckm, jose, _, cose in _RSA_SIGNATURES
    ),
    Algorithm(
        name="RSA-OAEP-SHA1",
        kind=Kind.PUBLIC_KEY_ENCRYPTION,
        scheme=Scheme.RSAES_OAEP,
        key_types=_RSA,
        hash="SHA-1",
        ckm=0x09,
        tpm_alg=0x0017,
        jose="RSA-OAEP",
        cose=-40,
        fips=True,
        slow=_DECRYPT_SLOW,
    ),
    Algorithm(
        name="RSA-OAEP-SHA256",
        kind=Kind.PUBLIC_KEY_ENCRYPTION,
        scheme=Scheme.RSAES_OAEP,
        key_types=_RSA,
        hash="SHA-256",
        ckm=0x09,
        tpm_alg=0x0017,
        jose="RSA-OAEP-256",
        cose=-41,
        fips=True,
        slow=_DECRYPT_SLOW,
    ),
    Algorithm(
        name="RSA-OAEP-SHA384",
        kind=Kind.PUBLIC_KEY_ENCRYPTION,
        scheme=Scheme.RSAES_OAEP,
        key_types=_RSA,
        hash="SHA-384",
        ckm=0x09,
        tpm_alg=0x0017,
        jose="RSA-OAEP-384",
        fips=True,
        slow=_DECRYPT_SLOW,
    ),
    Algorithm(
        name="RSA-OAEP-SHA512",
        kind=Kind.PUBLIC_KEY_ENCRYPTION,
        scheme=Scheme.RSAES_OAEP,
        key_types=_RSA,
        hash="SHA-512",
        ckm=0x09,
        tpm_alg=0x0017,
        jose="RSA-OAEP-512",
        cose=-42,
        fips=True,
        slow=_DECRYPT_SLOW,
    ),
    Algorithm(
        name="RSA-PKCS1",
        kind=Kind.PUBLIC_KEY_ENCRYPTION,
        scheme=Scheme.RSAES_PKCS1,
        key_types=_RSA,
        ckm=0x01,
        tpm_alg=0x0015,
        jose="RSA1_5",
        maturity=Maturity.LEGACY,
        slow=_DECRYPT_SLOW,
    ),
    # RFC 9180, base mode; over X-Wing by draft-ietf-hpke-pq. The associated data is the `info` of HPKE.
    *(
        Algorithm(
            name=f"HPKE-{key.removeprefix('EC-')}-{_short(hash_)}-{aead}",
            kind=Kind.PUBLIC_KEY_ENCRYPTION,
            scheme=Scheme.HPKE,
            key_types=(key,),
            hash=hash_,
            aead=aead,
            postquantum=key == "X-Wing",
            slow=frozenset(_ENCRYPTS_AND_WRAPS),
        )
        for key, hash_, aead in _HPKE
    ),
    # FIPS 186-5
    *(
        Algorithm(
            name=f"ECDSA-{curve}-{_short(hash_)}",
            kind=Kind.SIGNATURE,
            scheme=Scheme.ECDSA,
            key_types=(f"EC-{curve}",),
            hash=hash_,
            ckm=ckm,
            tpm_alg=0x0018,
            jose=jose,
            cose=cose,
            output_size=size,
            fips=True,
            slow=frozenset() if curve == "P256" else _EC_SLOW,
        )
        for curve, hash_, ckm, jose, cose, size in _ECDSA
    ),
    # RFC 8032
    Algorithm(
        name="Ed25519",
        kind=Kind.SIGNATURE,
        scheme=Scheme.EDDSA,
        key_types=("Ed25519",),
        ckm=0x1057,
        jose="Ed25519",
        cose=-19,
        output_size=64,
        fips=True,
    ),
    Algorithm(
        name="Ed448",
        kind=Kind.SIGNATURE,
        scheme=Scheme.EDDSA,
        key_types=("Ed448",),
        ckm=0x1057,
        jose="Ed448",
        cose=-53,
        output_size=114,
        fips=True,
        slow=_EC_SLOW,
    ),
    # FIPS 204, FIPS 205
    *(
        Algorithm(
            name=name,
            kind=Kind.SIGNATURE,
            scheme=Scheme.ML_DSA,
            key_types=(name,),
            ckm=0x1D,
            jose=name,
            cose=cose,
            output_size=size,
            fips=True,
            postquantum=True,
            slow=_EC_SLOW,
        )
        for name, cose, size in _ML_DSA
    ),
    *(
        Algorithm(
            name=name,
            kind=Kind.SIGNATURE,
            scheme=Scheme.SLH_DSA,
            key_types=(name,),
            ckm=0x2E,
            output_size=_SLH_DSA_SIGNATURE[name.rsplit("-", 1)[1]],
            fips=True,
            postquantum=True,
            slow=_EC_SLOW,
        )
        for name in _of(Family.SLH_DSA)
    ),
    # SP 800-56A, RFC 7748
    *(
        Algorithm(
            name=f"ECDH-{curve}",
            kind=Kind.KEY_AGREEMENT,
            scheme=Scheme.ECDH,
            key_types=(f"EC-{curve}",),
            ckm=0x1050,
            tpm_alg=0x0019,
            fips=True,
            slow=frozenset() if curve == "P256" else frozenset({KeyOperation.AGREE}),
        )
        for curve in ("P256", "P384", "P521")
    ),
    *(
        Algorithm(name=name, kind=Kind.KEY_AGREEMENT, scheme=Scheme.XDH, key_types=(name,), ckm=0x1050)
        for name in _of(Family.MONTGOMERY)
    ),
    # FIPS 203
    *(
        Algorithm(
            name=name,
            kind=Kind.KEM,
            scheme=Scheme.ML_KEM,
            key_types=(name,),
            ckm=0x17,
            fips=True,
            postquantum=True,
        )
        for name in _of(Family.ML_KEM)
    ),
    # draft-connolly-cfrg-xwing-kem
    Algorithm(
        name="X-Wing",
        kind=Kind.KEM,
        scheme=Scheme.X_WING,
        key_types=("X-Wing",),
        postquantum=True,
        slow=_KEM_SLOW,
    ),
    # SP 800-38D, SP 800-38C, RFC 8439
    *(
        Algorithm(
            name=f"AES-{bits}-GCM",
            kind=Kind.AEAD,
            scheme=Scheme.GCM,
            key_types=(f"AES-{bits}",),
            ckm=0x1087,
            jose=f"A{bits}GCM",
            cose=cose,
            nonce_size=12,
            tag_size=16,
            fips=True,
        )
        for bits, cose in ((128, 1), (192, 2), (256, 3))
    ),
    *(
        Algorithm(
            name=f"AES-{bits}-CCM",
            kind=Kind.AEAD,
            scheme=Scheme.CCM,
            key_types=(f"AES-{bits}",),
            ckm=0x1088,
            nonce_size=12,
            tag_size=16,
            fips=True,
        )
        for bits in (128, 192, 256)
    ),
    Algorithm(
        name="ChaCha20-Poly1305",
        kind=Kind.AEAD,
        scheme=Scheme.CHACHA20_POLY1305,
        key_types=("ChaCha20",),
        ckm=0x4021,
        cose=24,
        nonce_size=12,
        tag_size=16,
    ),
    # SP 800-38A; PKCS#7 padding with CBC
    *(
        Algorithm(
            name=f"AES-{bits}-{mode}",
            kind=Kind.CIPHER,
            scheme=scheme,
            key_types=(f"AES-{bits}",),
            ckm=ckm,
            tpm_alg=tpm,
            nonce_size=16,
            fips=True,
        )
        for mode, scheme, ckm, tpm in (
            ("CBC", Scheme.CBC, 0x1085, None),
            ("CTR", Scheme.CTR, 0x1086, 0x0040),
            ("CFB", Scheme.CFB, 0x2107, 0x0043),
        )
        for bits in (128, 192, 256)
    ),
    # SP 800-38F, RFC 3394, RFC 5649
    *(
        Algorithm(
            name=f"AES-{bits}-{mode}",
            kind=Kind.KEY_WRAP,
            scheme=scheme,
            key_types=(f"AES-{bits}",),
            ckm=ckm,
            jose=f"A{bits}KW" if mode == "KW" else "",
            fips=True,
        )
        for mode, scheme, ckm in (("KW", Scheme.KEY_WRAP, 0x2109), ("KWP", Scheme.KEY_WRAP_PADDED, 0x210B))
        for bits in (128, 192, 256)
    ),
    # PKCS#11 v3.2, CKM_RSA_AES_KEY_WRAP: a fresh AES-256 key under RSAES-OAEP, then the key under that one by AES-KWP
    *(
        Algorithm(
            name=f"RSA-AES-KEY-WRAP-{_short(hash_)}",
            kind=Kind.KEY_WRAP,
            scheme=Scheme.RSA_AES_KEY_WRAP,
            key_types=_RSA,
            hash=hash_,
            ckm=0x1054,
            slow=frozenset({KeyOperation.UNWRAP}),
        )
        for hash_ in ("SHA-1", "SHA-256", "SHA-384", "SHA-512")
    ),
    # FIPS 198-1, SP 800-38B
    *(
        Algorithm(
            name=f"HMAC-{_short(hash_)}",
            kind=Kind.MAC,
            scheme=Scheme.HMAC,
            key_types=((f"HMAC-{_short(hash_)}",) if hash_.startswith("SHA-") else ()) + _of(Family.SECRET),
            hash=hash_,
            ckm=hmac,
            tpm_alg=0x0005,
            jose=f"HS{hash_[4:]}" if hash_.startswith("SHA-") else "",
            cose={"SHA-256": 5, "SHA-384": 6, "SHA-512": 7}.get(hash_),
            output_size=size,
            fips=True,
        )
        for hash_, _, hmac, size, _ in _HASHES
    ),
    Algorithm(
        name="AES-CMAC",
        kind=Kind.MAC,
        scheme=Scheme.CMAC,
        key_types=_AES,
        ckm=0x108A,
        output_size=16,
        fips=True,
    ),
    # RFC 5869, RFC 8018, SP 800-108, ANSI X9.63, RFC 7914, RFC 9106, RFC 5246, RFC 8446
    *(
        Algorithm(
            name=f"HKDF-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.HKDF,
            key_types=_of(Family.SECRET) + _of(Family.HMAC),
            hash=hash_,
            ckm=0x402A,
            fips=True,
        )
        for hash_, *_ in _HASHES[:3]
    ),
    *(
        Algorithm(
            name=f"PBKDF2-HMAC-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.PBKDF2,
            key_types=_of(Family.SECRET),
            hash=hash_,
            ckm=0x3B0,
            fips=True,
            slow=_DERIVE_SLOW,
        )
        for hash_, *_ in _HASHES[:3]
    ),
    *(
        Algorithm(
            name=f"KBKDF-HMAC-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.KBKDF_COUNTER,
            key_types=_of(Family.SECRET) + _of(Family.HMAC),
            hash=hash_,
            ckm=0x3AC,
            fips=True,
        )
        for hash_, *_ in _HASHES[:3]
    ),
    *(
        Algorithm(
            name=f"X963KDF-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.X963,
            key_types=_of(Family.SECRET),
            hash=hash_,
            fips=True,
        )
        for hash_, *_ in _HASHES[:3]
    ),
    Algorithm(name="scrypt", kind=Kind.KDF, scheme=Scheme.SCRYPT, key_types=_of(Family.SECRET), slow=_DERIVE_SLOW),
    Algorithm(
        name="Argon2id",
        kind=Kind.KDF,
        scheme=Scheme.ARGON2ID,
        key_types=_of(Family.SECRET),
        slow=_DERIVE_SLOW,
    ),
    *(
        Algorithm(
            name=f"TLS12-PRF-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.TLS12_PRF,
            key_types=_of(Family.SECRET),
            hash=hash_,
            ckm=0x378,
        )
        for hash_ in ("SHA-256", "SHA-384")
    ),
    *(
        Algorithm(
            name=f"TLS13-EXPAND-LABEL-{_short(hash_)}",
            kind=Kind.KDF,
            scheme=Scheme.TLS13_EXPAND_LABEL,
            key_types=_of(Family.SECRET),
            hash=hash_,
        )
        for hash_ in ("SHA-256", "SHA-384")
    ),
    # FIPS 180-4, FIPS 202, RFC 7693
    Algorithm(
        name="SHA-1",
        kind=Kind.DIGEST,
        scheme=Scheme.HASH,
        hash="SHA-1",
        ckm=0x220,
        tpm_alg=0x0004,
        output_size=20,
        maturity=Maturity.LEGACY,
    ),
    *(
        Algorithm(
            name=hash_,
            kind=Kind.DIGEST,
            scheme=Scheme.HASH,
            hash=hash_,
            ckm=ckm,
            tpm_alg=tpm,
            output_size=size,
            fips=True,
        )
        for hash_, ckm, _, size, tpm in _HASHES
    ),
    Algorithm(
        name="BLAKE2b-512",
        kind=Kind.DIGEST,
        scheme=Scheme.HASH,
        hash="BLAKE2b-512",
        ckm=0x401B,
        output_size=64,
    ),
    Algorithm(name="BLAKE2s-256", kind=Kind.DIGEST, scheme=Scheme.HASH, hash="BLAKE2s-256", output_size=32),
)

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({row.name: row for row in _ROWS})
"""Every algorithm by name, in the order of the documentation."""


def algorithm(name: str) -> Algorithm:
    """The row of an algorithm. Raises RequestError (UNKNOWN_ALGORITHM), naming the nearest known one."""
    row = ALGORITHMS.get(name)
    if row is None:
        raise RequestError(Status.UNKNOWN_ALGORITHM, unknown_name("algorithm", name, ALGORITHMS))
    return row
