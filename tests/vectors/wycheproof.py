"""Reads Wycheproof's JSON (testvectors_v1): one loader a schema, each over the bytes of one file.

The structs name the fields that are used; whatever else a file holds is skipped. Numbers and bytes are hexadecimal.
"""

from collections.abc import Iterator
from functools import partial

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hsmbridge.client import Hkdf, Pbkdf2
from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.key_types import KEY_TYPES, Maturity
from tests.vectors.cases import (
    SECRET_TYPES,
    AgreeCase,
    Case,
    DecapsulateCase,
    DecryptByNameCase,
    DecryptCase,
    EncapsulateCase,
    Key,
    KeyPairCase,
    LeftOut,
    MacCase,
    P,
    SignByNameCase,
    SignCase,
    UnwrapCase,
    Verdict,
    VerifyCase,
)
from tests.vectors.cavp_ciphers import aead_case
from tests.vectors.cavp_secrets import agreed, derived
from tests.vectors.key_material import (
    CURVES,
    aes_key,
    ec_private_key,
    hmac_keys,
    public_key,
    raw_private_key,
    secret_key,
    seeded_key,
)

Loaded = Iterator[Case | LeftOut]


class _EcPublicKey(msgspec.Struct):
    uncompressed: str = ""


class _Test(msgspec.Struct, rename="camel"):
    tc_id: int
    result: Verdict
    flags: tuple[str, ...] = ()
    key: str = ""
    iv: str = ""
    aad: str = ""
    msg: str = ""
    ct: str = ""
    tag: str = ""
    mu: str = ""
    sig: str = ""
    public: str = ""
    private: str = ""
    shared: str = ""
    ikm: str = ""
    salt: str = ""
    info: str = ""
    okm: str = ""
    password: str = ""
    iteration_count: int = 0
    dk: str = ""
    label: str = ""
    ctx: str = ""
    seed: str = ""
    ek: str = ""
    c: str = ""
    K: str = msgspec.field(name="K", default="")


class _Group(msgspec.Struct, rename="camel"):
    tests: list[_Test]
    curve: str = ""
    sha: str = ""
    s_len: int = 0
    key_size: int = 0
    public_key_der: str = ""
    key_der: str = ""
    public_key: str | _EcPublicKey | None = ""
    private_key_pkcs8: str = ""
    private_seed: str = ""
    parameter_set: str = ""


class _File(msgspec.Struct, rename="camel"):
    test_groups: list[_Group]


def _tests(data: bytes) -> Iterator[tuple[_Group, _Test]]:
    for group in msgspec.json.decode(data, type=_File).test_groups:
        for test in group.tests:
            yield group, test


_bytes = bytes.fromhex


# Symmetric keys


def _aead(mode: str, data: bytes) -> Loaded:
    for _, test in _tests(data):
        key = aes_key(_bytes(test.key), P.DECRYPT) if mode else Key("ChaCha20", "raw", _bytes(test.key), P.DECRYPT)
        if isinstance(key, LeftOut):
            yield key
            continue
        yield aead_case(
            str(test.tc_id),
            test.result,
            f"{key.key_type}-{mode}" if mode else "ChaCha20-Poly1305",
            key,
            nonce=_bytes(test.iv),
            aad=_bytes(test.aad),
            plaintext=_bytes(test.msg),
            ciphertext=_bytes(test.ct),
            tag=_bytes(test.tag),
        )


gcm = partial(_aead, "GCM")
ccm = partial(_aead, "CCM")
chacha20_poly1305 = partial(_aead, "")


def cbc_pkcs5(data: bytes) -> Loaded:
    for _, test in _tests(data):
        key = aes_key(_bytes(test.key), P.DECRYPT)
        if isinstance(key, LeftOut):
            yield key
            continue
        yield DecryptCase(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(key,),
            algorithm=f"{key.key_type}-CBC",
            expected=_bytes(test.msg),
            ciphertext=_bytes(test.ct),
            nonce=_bytes(test.iv),
        )


def _mac(algorithm: str, hash_name: str, data: bytes) -> Loaded:
    size = ALGORITHMS[algorithm].output_size
    for _, test in _tests(data):
        value, permissions = _bytes(test.key), P.SIGN | P.VERIFY
        keys = hmac_keys(hash_name, value, permissions) if hash_name else aes_key(value, permissions)
        if isinstance(keys, LeftOut):
            yield keys
        elif test.result is Verdict.VALID and len(test.tag) != 2 * size:
            yield LeftOut("truncated MAC")
        else:
            yield MacCase(
                test=str(test.tc_id),
                verdict=test.result,
                keys=keys if isinstance(keys, tuple) else (keys,),
                algorithm=algorithm,
                expected=_bytes(test.tag),
                message=_bytes(test.msg),
                mac=_bytes(test.tag),
            )


def hmac(hash_name: str, data: bytes) -> Loaded:
    yield from _mac(f"HMAC-{hash_name}", hash_name, data)


cmac = partial(_mac, "AES-CMAC", "")


def hkdf(hash_name: str, data: bytes) -> Loaded:
    for _, test in _tests(data):
        if test.result is not Verdict.VALID:
            yield LeftOut("output too long for the function; no key type is as long")
            continue
        kdf = Hkdf(algorithm=f"HKDF-{hash_name}", salt=_bytes(test.salt), info=_bytes(test.info))
        yield derived(str(test.tc_id), secret_key(_bytes(test.ikm)), kdf, _bytes(test.okm))


def pbkdf2(hash_name: str, data: bytes) -> Loaded:
    for _, test in _tests(data):
        keys = hmac_keys(hash_name, _bytes(test.password), P.DERIVE)
        if not isinstance(keys, LeftOut):
            keys = tuple(key for key in keys if key.key_type in SECRET_TYPES.values())
        kdf = Pbkdf2(algorithm=f"PBKDF2-HMAC-{hash_name}", salt=_bytes(test.salt), iterations=test.iteration_count)
        yield derived(str(test.tc_id), keys, kdf, _bytes(test.dk))


def _wrap(mode: str, data: bytes) -> Loaded:
    for _, test in _tests(data):
        key, value = aes_key(_bytes(test.key), P.UNWRAP), _bytes(test.msg)
        if isinstance(key, LeftOut):
            yield key
            continue
        if test.result is Verdict.VALID and len(value) not in SECRET_TYPES:
            yield LeftOut("wrapped value of a size that no key type has")
            continue
        yield UnwrapCase.of(str(test.tc_id), test.result, f"{key.key_type}-{mode}", key, _bytes(test.ct), value)


key_wrap = partial(_wrap, "KW")
key_wrap_padded = partial(_wrap, "KWP")


# Signatures


def ecdsa(algorithm: str, data: bytes) -> Loaded:
    key_type = ALGORITHMS[algorithm].key_types[0]
    for group, test in _tests(data):
        yield _signature(algorithm, Key(key_type, "spki", _bytes(group.public_key_der), P.VERIFY), test)


def ecdsa_p1363(algorithm: str, data: bytes) -> Loaded:
    """Signatures as two numbers of a fixed size, which a client of the service brings into DER."""
    row = ALGORITHMS[algorithm]
    half = row.output_size // 2
    for group, test in _tests(data):
        signature = _bytes(test.sig)
        if len(signature) != row.output_size:
            yield LeftOut("signature of another size: it has no form in DER")
            continue
        der = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
        key = Key(row.key_types[0], "spki", _bytes(group.public_key_der), P.VERIFY)
        yield _signature(algorithm, key, test, signature=der)


def eddsa(algorithm: str, data: bytes) -> Loaded:
    for group, test in _tests(data):
        yield _signature(algorithm, Key(algorithm, "spki", _bytes(group.public_key_der), P.VERIFY), test)


def _rsa(scheme: str, hash_name: str, data: bytes) -> Loaded:
    for group, test in _tests(data):
        key_type = f"RSA-{group.key_size}"
        if key_type not in KEY_TYPES or group.sha.replace("-", "") != hash_name:
            yield LeftOut("size or hash that no row has")
            continue
        key = Key(key_type, "spki", _bytes(group.public_key_der or group.key_der), P.VERIFY)
        yield _signature(f"RSA-{scheme}-{hash_name}", key, test, salt_length=group.s_len if scheme == "PSS" else None)


def rsa_pkcs1(hash_name: str, data: bytes) -> Loaded:
    yield from _rsa("PKCS1", hash_name, data)


def rsa_pss(hash_name: str, data: bytes) -> Loaded:
    yield from _rsa("PSS", hash_name, data)


def rsa_generated(data: bytes) -> Loaded:
    """Signatures that PKCS#1 v1.5 must yield, by several hashes."""
    for group, test in _tests(data):
        algorithm, key_type = f"RSA-PKCS1-{group.sha.replace('-', '')}", f"RSA-{group.key_size}"
        if algorithm not in ALGORITHMS or key_type not in KEY_TYPES:
            yield LeftOut("size or hash that no row has")
            continue
        yield (SignByNameCase if ALGORITHMS[algorithm].maturity is Maturity.BY_NAME else SignCase)(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(Key(key_type, "pkcs8", _bytes(group.private_key_pkcs8), P.SIGN),),
            algorithm=algorithm,
            expected=_bytes(test.sig),
            message=_bytes(test.msg),
        )


def _signature(
    algorithm: str,
    key: Key,
    test: _Test,
    *,
    signature: bytes | None = None,
    salt_length: int | None = None,
    mu: bytes = b"",
) -> VerifyCase:
    return VerifyCase(
        test=str(test.tc_id),
        verdict=test.result,
        keys=(key,),
        algorithm=algorithm,
        message=mu or _bytes(test.msg),
        signature=_bytes(test.sig) if signature is None else signature,
        context=_bytes(test.ctx),
        salt_length=salt_length,
        external_mu=bool(mu),
    )


def ml_dsa_verify(algorithm: str, data: bytes) -> Loaded:
    for group, test in _tests(data):
        assert isinstance(group.public_key, str)
        key = public_key(algorithm, _bytes(group.public_key))
        yield _signature(algorithm, key, test)


def ml_dsa_sign_seed(algorithm: str, data: bytes) -> Loaded:
    """The key of each seed, and the signature, verified: the service's own are randomised."""
    for group, test in _tests(data):
        if len(group.private_seed) != 64:
            yield LeftOut("seed of a wrong length: it has no form in PKCS#8")
            continue
        key = seeded_key(algorithm, _bytes(group.private_seed), P.SIGN | P.VERIFY)
        assert isinstance(group.public_key, str)
        yield KeyPairCase(
            test=f"{test.tc_id} key",
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=algorithm,
            expected=public_key(algorithm, _bytes(group.public_key)).material,
        )
        # The tests of the internal interface give mu alone, which the service takes as well.
        yield _signature(algorithm, key, test, mu=_bytes(test.mu) if "Internal" in test.flags else b"")


# Encryption with public keys


def _rsa_decryption(algorithm: str, data: bytes) -> Loaded:
    for group, test in _tests(data):
        key_type = f"RSA-{group.key_size}"
        if test.label:
            yield LeftOut("label, which the row does not take")
            continue
        yield (DecryptByNameCase if algorithm == "RSA-PKCS1" else DecryptCase)(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(Key(key_type, "pkcs8", _bytes(group.private_key_pkcs8), P.DECRYPT),),
            algorithm=algorithm,
            expected=_bytes(test.msg),
            ciphertext=_bytes(test.ct),
        )


rsa_oaep = _rsa_decryption
"""By the name of the row."""
rsaes_pkcs1 = partial(_rsa_decryption, "RSA-PKCS1")


# Key agreement


def ecdh(key_type: str, data: bytes) -> Loaded:
    """Peers as SubjectPublicKeyInfo."""
    for _, test in _tests(data):
        yield _ecdh(key_type, test, _bytes(test.public))


def ecdh_point(key_type: str, data: bytes) -> Loaded:
    """Peers as points."""
    for _, test in _tests(data):
        yield _ecdh(key_type, test, public_key(key_type, _bytes(test.public)).material)


def _ecdh(key_type: str, test: _Test, peer: bytes) -> AgreeCase | LeftOut:
    scalar = int(test.private, 16)
    key = ec_private_key(key_type, scalar, P.DERIVE)
    size = (CURVES[key_type].key_size + 7) // 8
    secret = _bytes(test.shared) or bytes(size)
    return agreed(str(test.tc_id), test.result, f"ECDH-{key_type.removeprefix('EC-')}", key, peer, secret)


def xdh(key_type: str, data: bytes) -> Loaded:
    """Peers by their bytes, those of small order among them."""
    for _, test in _tests(data):
        key = raw_private_key(key_type, _bytes(test.private), P.DERIVE)
        peer = public_key(key_type, _bytes(test.public)).material
        yield agreed(str(test.tc_id), test.result, key_type, key, peer, _bytes(test.shared))


def xdh_asn(key_type: str, data: bytes) -> Loaded:
    """Keys as PKCS#8, peers as SubjectPublicKeyInfo, some of them of other types."""
    for _, test in _tests(data):
        key = Key(key_type, "pkcs8", _bytes(test.private), P.DERIVE)
        secret = _bytes(test.shared) or bytes(KEY_TYPES[key_type].bits // 8)
        yield agreed(str(test.tc_id), test.result, key_type, key, _bytes(test.public), secret)


# KEM


def ml_kem_key_generation(data: bytes) -> Loaded:
    """The key of each seed."""
    for group, test in _tests(data):
        if len(test.seed) != 2 * 64:
            yield LeftOut("seed of a wrong length: it has no form in PKCS#8")
            continue
        yield KeyPairCase(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(seeded_key(group.parameter_set, _bytes(test.seed), P.DECAPSULATE),),
            algorithm=group.parameter_set,
            expected=public_key(group.parameter_set, _bytes(test.ek)).material,
        )


def ml_kem(data: bytes) -> Loaded:
    """The key of each seed, and the secret of a ciphertext."""
    for group, test in _tests(data):
        seed = _bytes(test.seed)
        if len(seed) != 64:
            yield LeftOut("seed of a wrong length: it has no form in PKCS#8")
            continue
        key = seeded_key(group.parameter_set, seed, P.DECAPSULATE)
        if test.ek:
            yield KeyPairCase(
                test=f"{test.tc_id} key",
                verdict=Verdict.VALID,
                keys=(key,),
                algorithm=group.parameter_set,
                expected=public_key(group.parameter_set, _bytes(test.ek)).material,
            )
        yield DecapsulateCase(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(key,),
            algorithm=group.parameter_set,
            expected=_bytes(test.K),
            ciphertext=_bytes(test.c),
        )


def ml_kem_encaps(data: bytes) -> Loaded:
    """Whether public keys are checked; what is encapsulated to a good one is random."""
    for group, test in _tests(data):
        yield EncapsulateCase(
            test=str(test.tc_id),
            verdict=test.result,
            keys=(public_key(group.parameter_set, _bytes(test.ek), P.ENCAPSULATE),),
            algorithm=group.parameter_set,
        )
