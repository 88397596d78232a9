"""The table of vector files: which file is about which rows, and how it is read.

A file that is there and could be thought to be run has a line in `NOT_RUN`, and a row that no file is about one in
`WITHOUT_VECTORS`; `test_vectors` holds the tables against the package and against what the software provider claims.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from hsmbridge.core.algorithms import KeyOperation as Op
from hsmbridge.core.algorithms import Kind, algorithm
from tests.vectors import acvp, cavp_ciphers, cavp_secrets, cavp_signatures, hpke, pkcs1, wycheproof
from tests.vectors.cases import Case, LeftOut
from tests.vectors.sources import Source

Load = Callable[[bytes], Iterator[Case | LeftOut]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSet:
    """One file.

    Attributes:
        source, path: where it is.
        load: reads it.
        algorithms: rows that its cases are about.
        operations: what its cases ask.
        half: the name of a part, where one file is run as several sets.
        most: how many cases are run at a provider, evenly spread; 0 is all of them.
        private: it has private keys too, though its cases only verify.
        key_types: those that its keys have, where that is not all that the rows take.
    """

    source: Source
    path: str
    load: Load
    algorithms: tuple[str, ...]
    operations: frozenset[Op]
    half: str = ""
    most: int = 0
    private: bool = False
    key_types: tuple[str, ...] = ()

    @property
    def public_only(self) -> bool:
        """Whether its cases have public keys alone."""
        signatures = all(algorithm(name).kind is Kind.SIGNATURE for name in self.algorithms)
        return self.operations == {Op.ENCAPSULATE} or (
            signatures and self.operations == {Op.VERIFY} and not self.private
        )

    @property
    def name(self) -> str:
        return f"{self.source}/{self.path}{f':{self.half}' if self.half else ''}"


def _text(load: Callable[[str], Iterator[Case | LeftOut]]) -> Load:
    return lambda data: load(data.decode())


def _package(
    path: str, load: Callable[[str], Iterator[Case | LeftOut]], algorithms: tuple[str, ...], *operations: Op
) -> VectorSet:
    return VectorSet(
        source=Source.PACKAGE,
        path=path,
        load=_text(load),
        algorithms=algorithms,
        operations=frozenset(operations),
    )


def _encrypting(path: str, load: Callable[[str], Iterator[Case | LeftOut]], algorithms: tuple[str, ...]) -> VectorSet:
    # Every key takes a version in a slot, which is written to disk, and on a token a permanent object.
    return VectorSet(
        source=Source.PACKAGE,
        path=path,
        load=_text(partial(cavp_ciphers.encryptions, load)),
        algorithms=algorithms,
        operations=frozenset({Op.ENCRYPT}),
        half="encrypt",
        most=60,
    )


def _wycheproof(
    path: str,
    load: Load,
    algorithms: tuple[str, ...],
    *operations: Op,
    most: int = 0,
    key_types: tuple[str, ...] = (),
) -> VectorSet:
    return VectorSet(
        source=Source.WYCHEPROOF,
        path=f"{path}_test.json",
        load=load,
        algorithms=algorithms,
        operations=frozenset(operations),
        most=most,
        key_types=key_types,
    )


def _aes(mode: str) -> tuple[str, ...]:
    return tuple(f"AES-{bits}-{mode}" for bits in (128, 192, 256))


_SIZES = (128, 192, 256)
_MAC = (Op.SIGN, Op.VERIFY)
_RSA_HASHES = ("SHA256", "SHA384", "SHA512")
_ECDSA = ("ECDSA-P256-SHA256", "ECDSA-P384-SHA384", "ECDSA-P521-SHA512")
_ECDH = ("ECDH-P256", "ECDH-P384", "ECDH-P521")
_RSA_PKCS1 = tuple(f"RSA-PKCS1-{hash_}" for hash_ in ("SHA1", *_RSA_HASHES))
_RSA_PSS = tuple(f"RSA-PSS-{hash_}" for hash_ in _RSA_HASHES)

_PACKAGE_SETS: tuple[VectorSet, ...] = (
    # Digests
    *(
        _package(f"hashes/{folder}/{name}{length}Msg.rsp", partial(cavp_secrets.digests, row), (row,), Op.DIGEST)
        for folder, name, row in (
            ("SHA1", "SHA1", "SHA-1"),
            *(("SHA2", f"SHA{size}", f"SHA-{size}") for size in (256, 384, 512)),
            *(("SHA3", f"SHA3_{size}", f"SHA3-{size}") for size in (256, 384, 512)),
        )
        for length in ("Short", "Long")
    ),
    _package("hashes/blake2/blake2b.txt", partial(cavp_secrets.digests, "BLAKE2b-512"), ("BLAKE2b-512",), Op.DIGEST),
    _package("hashes/blake2/blake2s.txt", partial(cavp_secrets.digests, "BLAKE2s-256"), ("BLAKE2s-256",), Op.DIGEST),
    # MACs
    *(
        _package(f"HMAC/rfc-4231-sha{n}.txt", partial(cavp_secrets.hmac, f"SHA{n}"), (f"HMAC-SHA{n}",), *_MAC)
        for n in (256, 384, 512)
    ),
    *(_package(f"CMAC/nist-800-38b-aes{bits}.txt", cavp_secrets.cmac, ("AES-CMAC",), *_MAC) for bits in _SIZES),
    # Encryption
    *(
        _package(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp", cavp_ciphers.gcm, (f"AES-{bits}-GCM",), Op.DECRYPT)
        for bits in _SIZES
    ),
    *(_encrypting(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp", cavp_ciphers.gcm, (f"AES-{bits}-GCM",)) for bits in _SIZES),
    *(
        _package(f"ciphers/AES/CCM/VNT{bits}.rsp", cavp_ciphers.ccm, (f"AES-{bits}-CCM",), Op.DECRYPT)
        for bits in _SIZES
    ),
    *(_encrypting(f"ciphers/AES/CCM/VNT{bits}.rsp", cavp_ciphers.ccm, (f"AES-{bits}-CCM",)) for bits in _SIZES),
    *(
        _package(
            f"ciphers/ChaCha20Poly1305/{name}.txt",
            cavp_ciphers.chacha20_poly1305,
            ("ChaCha20-Poly1305",),
            Op.DECRYPT,
        )
        for name in ("openssl", "boringssl")
    ),
    _encrypting("ciphers/ChaCha20Poly1305/boringssl.txt", cavp_ciphers.chacha20_poly1305, ("ChaCha20-Poly1305",)),
    *(
        _package(f"ciphers/AES/{folder}/{prefix}{test}{bits}.rsp", load, (f"AES-{bits}-{folder}",), Op.DECRYPT)
        for folder, prefix, load in (("CBC", "CBC", cavp_ciphers.cbc), ("CFB", "CFB128", cavp_ciphers.cfb128))
        for test in ("MMT", "GFSbox", "KeySbox", "VarKey", "VarTxt")
        for bits in _SIZES
    ),
    *(
        _encrypting(f"ciphers/AES/{folder}/{prefix}MMT{bits}.rsp", load, (f"AES-{bits}-{folder}",))
        for folder, prefix, load in (("CBC", "CBC", cavp_ciphers.cbc), ("CFB", "CFB128", cavp_ciphers.cfb128))
        for bits in _SIZES
    ),
    *(
        _package(f"ciphers/AES/CTR/aes-{bits}-ctr.txt", cavp_ciphers.ctr, (f"AES-{bits}-CTR",), Op.DECRYPT)
        for bits in _SIZES
    ),
    *(_encrypting(f"ciphers/AES/CTR/aes-{bits}-ctr.txt", cavp_ciphers.ctr, (f"AES-{bits}-CTR",)) for bits in _SIZES),
    _package("asymmetric/RSA/pkcs-1v2-1d2-vec/oaep-vect.txt", pkcs1.oaep_sha1, ("RSA-OAEP-SHA1",), Op.DECRYPT),
    *(
        _package(f"asymmetric/RSA/oaep-custom/oaep-sha{n}-sha{n}.txt", load, (f"RSA-OAEP-SHA{n}",), Op.DECRYPT)
        for n, load in ((256, pkcs1.oaep_sha256), (384, pkcs1.oaep_sha384), (512, pkcs1.oaep_sha512))
    ),
    _package("asymmetric/RSA/pkcs1v15crypt-vectors.txt", pkcs1.rsaes_pkcs1, ("RSA-PKCS1",), Op.DECRYPT),
    # Key wrapping
    *(
        VectorSet(
            source=Source.PACKAGE,
            path=f"keywrap/kwtestvectors/{mode}_{half}_{bits}.txt",
            load=_text(load),
            algorithms=(f"AES-{bits}-{mode}",),
            operations=frozenset({operation}),
            most=40,
        )
        for mode, half, load, operation in (
            ("KW", "AE", cavp_ciphers.wrapping, Op.WRAP),
            ("KW", "AD", cavp_ciphers.key_wrap, Op.UNWRAP),
            ("KWP", "AD", cavp_ciphers.key_wrap_padded, Op.UNWRAP),
        )
        for bits in _SIZES
    ),
    VectorSet(
        source=Source.PACKAGE,
        path="keywrap/kwp_botan.txt",
        load=_text(cavp_ciphers.wrapping_padded),
        algorithms=_aes("KWP"),
        operations=frozenset({Op.WRAP, Op.UNWRAP}),
    ),
    # HPKE
    VectorSet(
        source=Source.PACKAGE,
        path="HPKE/test-vectors.json",
        load=hpke.base_mode,
        algorithms=(
            "HPKE-X25519-SHA256-AES-128-GCM",
            "HPKE-X25519-SHA256-ChaCha20-Poly1305",
            "HPKE-P256-SHA256-AES-128-GCM",
            "HPKE-P521-SHA512-AES-256-GCM",
        ),
        operations=frozenset({Op.DECRYPT}),
    ),
    VectorSet(
        source=Source.PACKAGE,
        path="HPKE/hpke-pq-test-vectors.json",
        load=hpke.kem,
        algorithms=("X-Wing", "ML-KEM-512", "ML-KEM-768", "ML-KEM-1024"),
        operations=frozenset({Op.DECAPSULATE, Op.IMPORT}),
        half="KEM",
    ),
    # Signatures
    _package("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp", cavp_signatures.ecdsa, _ECDSA, Op.VERIFY),
    replace(_package("asymmetric/ECDSA/FIPS_186-3/SigGen.txt", cavp_signatures.ecdsa, _ECDSA, Op.VERIFY), private=True),
    *(
        _package(f"asymmetric/RSA/{path}", load, rows, Op.VERIFY)
        for path, load, rows in (
            ("FIPS_186-2/SigVer15_186-3.rsp", cavp_signatures.rsa_pkcs1, _RSA_PKCS1),
            ("FIPS_186-2/SigGen15_186-3.rsp", cavp_signatures.rsa_pkcs1, _RSA_PKCS1),
            ("SigVer15EMTest.txt", cavp_signatures.rsa_pkcs1, _RSA_PKCS1),
            ("FIPS_186-2/SigVerPSS_186-3.rsp", cavp_signatures.rsa_pss, _RSA_PSS),
            ("FIPS_186-2/SigGenPSS_186-3.rsp", cavp_signatures.rsa_pss, _RSA_PSS),
        )
    ),
    _package("asymmetric/Ed25519/sign.input", cavp_signatures.ed25519, ("Ed25519",), Op.SIGN, Op.VERIFY),
    _package("asymmetric/Ed448/rfc8032.txt", cavp_signatures.ed448, ("Ed448",), Op.SIGN, Op.VERIFY),
    *(
        _package(
            f"asymmetric/MLDSA/kat_MLDSA_{n}_det_pure.rsp",
            partial(cavp_signatures.ml_dsa, f"ML-DSA-{n}"),
            (f"ML-DSA-{n}",),
            Op.VERIFY,
            Op.IMPORT,
        )
        for n in (44, 65, 87)
    ),
    # Key agreement, KEM, derivation
    *(
        _package(
            f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_{role}.fax",
            cavp_secrets.ecdh,
            _ECDH,
            Op.AGREE,
        )
        for role in ("init", "resp")
    ),
    *(
        _package(f"asymmetric/{name}/rfc7748.txt", partial(cavp_secrets.xdh, name), (name,), Op.AGREE)
        for name in ("X25519", "X448")
    ),
    *(
        _package(
            f"asymmetric/MLKEM/kat_MLKEM_{n}.rsp",
            partial(cavp_secrets.ml_kem, f"ML-KEM-{n}"),
            (f"ML-KEM-{n}",),
            Op.DECAPSULATE,
            Op.IMPORT,
        )
        for n in (512, 768, 1024)
    ),
    _package("KDF/ansx963_2001.txt", cavp_secrets.x963, ("X963KDF-SHA512",), Op.DERIVE),
    _package("KDF/scrypt.txt", cavp_secrets.scrypt, ("scrypt",), Op.DERIVE),
    _package("KDF/argon2id.txt", cavp_secrets.argon2id, ("Argon2id",), Op.DERIVE),
)

_HASH_FILES = (("256", "SHA256"), ("384", "SHA384"), ("512", "SHA512"))
_CURVES = (
    ("secp256r1", "sha256", "ECDSA-P256-SHA256", "EC-P256", "ECDH-P256"),
    ("secp384r1", "sha384", "ECDSA-P384-SHA384", "EC-P384", "ECDH-P384"),
    ("secp521r1", "sha512", "ECDSA-P521-SHA512", "EC-P521", "ECDH-P521"),
)

_WYCHEPROOF_SETS: tuple[VectorSet, ...] = (
    # MACs
    *(
        _wycheproof(f"hmac_{file}", partial(wycheproof.hmac, name), (f"HMAC-{name}",), *_MAC)
        for file, name in (
            *((f"sha{n}", name) for n, name in _HASH_FILES),
            *((f"sha3_{n}", f"SHA3-{n}") for n in (256, 384, 512)),
        )
    ),
    _wycheproof("aes_cmac", wycheproof.cmac, ("AES-CMAC",), *_MAC),
    # Encryption
    _wycheproof("aes_gcm", wycheproof.gcm, _aes("GCM"), Op.DECRYPT),
    _wycheproof("aes_ccm", wycheproof.ccm, _aes("CCM"), Op.DECRYPT),
    _wycheproof("chacha20_poly1305", wycheproof.chacha20_poly1305, ("ChaCha20-Poly1305",), Op.DECRYPT),
    _wycheproof("aes_cbc_pkcs5", wycheproof.cbc_pkcs5, _aes("CBC"), Op.DECRYPT),
    *(
        _wycheproof(
            f"rsa_oaep_{size}_{file}_mgf1{file}",
            partial(wycheproof.rsa_oaep, f"RSA-OAEP-{row}"),
            (f"RSA-OAEP-{row}",),
            Op.DECRYPT,
            key_types=(f"RSA-{size}",),
        )
        for size, file, row in (
            (2048, "sha1", "SHA1"),
            *((2048, f"sha{n}", row) for n, row in _HASH_FILES),
            *((size, f"sha{n}", row) for size in (3072, 4096) for n, row in (_HASH_FILES[0], _HASH_FILES[2])),
        )
    ),
    *(
        _wycheproof(f"rsa_pkcs1_{size}", wycheproof.rsaes_pkcs1, ("RSA-PKCS1",), Op.DECRYPT, key_types=(f"RSA-{size}",))
        for size in (2048, 3072, 4096)
    ),
    # Key wrapping
    _wycheproof("aes_wrap", wycheproof.key_wrap, _aes("KW"), Op.UNWRAP, most=120),
    _wycheproof("aes_kwp", wycheproof.key_wrap_padded, _aes("KWP"), Op.UNWRAP, most=120),
    # Signatures
    *(
        _wycheproof(f"ecdsa_{curve}_{sha}", partial(wycheproof.ecdsa, row), (row,), Op.VERIFY)
        for curve, sha, row, *_ in _CURVES
    ),
    *(
        _wycheproof(f"ecdsa_{curve}_{sha}_p1363", partial(wycheproof.ecdsa_p1363, row), (row,), Op.VERIFY)
        for curve, sha, row, *_ in _CURVES
    ),
    *(_wycheproof(row.lower(), partial(wycheproof.eddsa, row), (row,), Op.VERIFY) for row in ("Ed25519", "Ed448")),
    *(
        _wycheproof(
            f"rsa_signature_{size}_sha{n}",
            partial(wycheproof.rsa_pkcs1, row),
            (f"RSA-PKCS1-{row}",),
            Op.VERIFY,
            key_types=(f"RSA-{size}",),
        )
        for size in (2048, 3072, 4096)
        for n, row in _HASH_FILES
    ),
    *(
        _wycheproof(
            f"rsa_pkcs1_{size}_sig_gen", wycheproof.rsa_generated, _RSA_PKCS1, Op.SIGN, key_types=(f"RSA-{size}",)
        )
        for size in (2048, 3072, 4096)
    ),
    *(
        _wycheproof(
            f"rsa_pss_{size}_sha{n}_mgf1_{salt}",
            partial(wycheproof.rsa_pss, row),
            (f"RSA-PSS-{row}",),
            Op.VERIFY,
            key_types=(f"RSA-{size}",),
        )
        for size, n, row, salt in (
            (2048, "256", "SHA256", 0),
            (2048, "256", "SHA256", 32),
            (2048, "384", "SHA384", 48),
            (3072, "256", "SHA256", 32),
            (4096, "256", "SHA256", 32),
            (4096, "384", "SHA384", 48),
            (4096, "512", "SHA512", 32),
            (4096, "512", "SHA512", 64),
        )
    ),
    *(
        _wycheproof(f"mldsa_{n}_verify", partial(wycheproof.ml_dsa_verify, row), (row,), Op.VERIFY)
        for n, row in ((n, f"ML-DSA-{n}") for n in (44, 65, 87))
    ),
    *(
        _wycheproof(f"mldsa_{n}_sign_seed", partial(wycheproof.ml_dsa_sign_seed, row), (row,), Op.VERIFY, Op.IMPORT)
        for n, row in ((n, f"ML-DSA-{n}") for n in (44, 65, 87))
    ),
    # Key agreement, KEM, derivation
    *(
        _wycheproof(f"ecdh_{curve}", partial(wycheproof.ecdh, key), (row,), Op.AGREE)
        for curve, _, _, key, row in _CURVES
    ),
    *(
        _wycheproof(f"ecdh_{curve}_ecpoint", partial(wycheproof.ecdh_point, key), (row,), Op.AGREE)
        for curve, _, _, key, row in _CURVES
    ),
    *(_wycheproof(row.lower(), partial(wycheproof.xdh, row), (row,), Op.AGREE) for row in ("X25519", "X448")),
    *(
        _wycheproof(f"mlkem_{n}", wycheproof.ml_kem, (f"ML-KEM-{n}",), Op.DECAPSULATE, Op.IMPORT)
        for n in (512, 768, 1024)
    ),
    *(
        _wycheproof(f"{row.lower()}_asn", partial(wycheproof.xdh_asn, row), (row,), Op.AGREE)
        for row in ("X25519", "X448")
    ),
    *(
        _wycheproof(f"mlkem_{n}_keygen_seed", wycheproof.ml_kem_key_generation, (f"ML-KEM-{n}",), Op.IMPORT)
        for n in (512, 768, 1024)
    ),
    *(
        _wycheproof(f"mlkem_{n}_encaps", wycheproof.ml_kem_encaps, (f"ML-KEM-{n}",), Op.ENCAPSULATE)
        for n in (512, 768, 1024)
    ),
    *(
        _wycheproof(f"hkdf_sha{n}", partial(wycheproof.hkdf, name), (f"HKDF-{name}",), Op.DERIVE)
        for n, name in _HASH_FILES
    ),
    *(
        _wycheproof(f"pbkdf2_hmacsha{n}", partial(wycheproof.pbkdf2, name), (f"PBKDF2-HMAC-{name}",), Op.DERIVE)
        for n, name in _HASH_FILES
    ),
)

_ACVP_SETS: tuple[VectorSet, ...] = (
    VectorSet(
        source=Source.ACVP,
        path="ML-DSA-sigVer-FIPS204.json",
        load=acvp.internal_signatures,
        algorithms=("ML-DSA-44", "ML-DSA-65", "ML-DSA-87"),
        operations=frozenset({Op.VERIFY}),
    ),
    VectorSet(
        source=Source.ACVP,
        path="ML-DSA-keyGen-FIPS204.json",
        load=acvp.key_generation,
        algorithms=("ML-DSA-44", "ML-DSA-65", "ML-DSA-87"),
        operations=frozenset({Op.IMPORT}),
    ),
    VectorSet(
        source=Source.ACVP,
        path="ML-KEM-keyGen-FIPS203.json",
        load=acvp.key_generation,
        algorithms=("ML-KEM-512", "ML-KEM-768", "ML-KEM-1024"),
        operations=frozenset({Op.IMPORT}),
    ),
)

SETS: tuple[VectorSet, ...] = (*_PACKAGE_SETS, *_WYCHEPROOF_SETS, *_ACVP_SETS)
"""Every set, whether this run has its file or not."""

NOT_RUN: Mapping[str, str] = {
    "cryptography-vectors/KDF/nist-800-108-KBKDF-CTR.txt": (
        "its fixed input is one opaque string; the service takes label and context, and puts them together itself"
    ),
    "cryptography-vectors/KDF/rfc-6070-PBKDF2-SHA1.txt": "SHA-1, which no row of PBKDF2 has",
    "cryptography-vectors/KDF/rfc-5869-HKDF-*.txt": "inputs of sizes that no key type has; Wycheproof has others",
    "cryptography-vectors/KDF/hkdf-generated.txt": "an input of a size that no key type has",
    "cryptography-vectors/keywrap/kwtestvectors/KWP_AE_*.txt": "values of sizes that no key type has",
    "cryptography-vectors/hashes/*/*Monte.rsp": "100,000 digests in a row; short and long messages are run",
    "cryptography-vectors/asymmetric/ECDSA/RFC6979/evppkey_ecdsa_rfc6979.txt": (
        "deterministic signatures; the service's are randomised, and FIPS 186-3's are verified"
    ),
    "cryptography-vectors/asymmetric/RSA/pkcs-1v2-1d2-vec/pss-vect.txt": "SHA-1, which no row of PSS has",
    "cryptography-vectors/asymmetric/RSA/pkcs1v15sign-vectors.txt": "SHA-1, which no row of PKCS#1 signatures has",
    "cryptography-vectors/asymmetric/RSA/oaep-label.txt": "a label, which the rows do not take",
    "wycheproof/hmac_sha1_test.json": "SHA-1, which no row of HMAC has",
    "wycheproof/json_web_signature_test.json": "for readers of JSON Web Signatures, which the service is not",
    "acvp/SLH-DSA-keyGen-FIPS205.json": "no provider of the suite has SLH-DSA",
}
"""Files that are there, and why they are not run; a star stands for part of a name."""

WITHOUT_VECTORS: Mapping[str, str] = {
    "KBKDF-HMAC-SHA256": "the published fixed inputs are opaque (NOT_RUN)",
    "KBKDF-HMAC-SHA384": "as with SHA-256",
    "KBKDF-HMAC-SHA512": "as with SHA-256",
    "X963KDF-SHA256": "the published secrets have 24 bytes, and no key type has as many",
    "X963KDF-SHA384": "as with SHA-256",
    "TLS12-PRF-SHA256": "no collection here has any",
    "TLS12-PRF-SHA384": "no collection here has any",
    "TLS13-EXPAND-LABEL-SHA256": "no collection here has any",
    "TLS13-EXPAND-LABEL-SHA384": "no collection here has any",
    "HPKE-P384-SHA384-AES-256-GCM": "no collection here has this suite",
    "HPKE-X-Wing-SHA256-AES-256-GCM": "no collection here has this suite; its KEM is run as X-Wing",
    **{f"RSA-AES-KEY-WRAP-{hash_}": "none are published" for hash_ in ("SHA1", "SHA256", "SHA384", "SHA512")},
}
"""Rows that no set is about; the conformance suite checks them against a second implementation."""
