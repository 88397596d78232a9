"""CAVP files, and others of their form, on digests, MACs, key derivation, key agreement and KEMs."""

from collections.abc import Iterator

from hsmbridge.client import X963, Argon2id, KdfParameters, Scrypt
from hsmbridge.core.algorithms import ALGORITHMS
from tests.vectors.cases import (
    SECRET_TYPES,
    AgreeCase,
    Case,
    DecapsulateCase,
    DeriveCase,
    DigestCase,
    Key,
    KeyPairCase,
    LeftOut,
    MacCase,
    P,
    Verdict,
    fingerprint,
)
from tests.vectors.cavp import SECTION, Record, octets, records
from tests.vectors.key_material import (
    CURVES,
    aes_key,
    ec_point,
    ec_private_key,
    hmac_keys,
    public_key,
    raw_private_key,
    secret_key,
    seeded_key,
)

Loaded = Iterator[Case | LeftOut]

_SCRYPT_MOST = 1 << 30
"""Bytes that a derivation with scrypt may go through in the service."""


def digests(algorithm: str, text: str) -> Loaded:
    """*ShortMsg.rsp and *LongMsg.rsp, and the BLAKE2 files of the same form."""
    for record in records(text, "len"):
        yield DigestCase(
            test=f"{record['len']} bits",
            verdict=Verdict.VALID,
            keys=(),
            algorithm=algorithm,
            expected=octets(record["md"]),
            message=octets(record["msg"])[: int(record["len"]) // 8],
        )


def hmac(hash_name: str, text: str) -> Loaded:
    """The test cases of RFC 4231."""
    for number, record in enumerate(records(text, "len")):
        keys = hmac_keys(hash_name, octets(record["key"]), P.SIGN | P.VERIFY)
        mac = octets(record["md"])
        if isinstance(keys, LeftOut):
            yield keys
        elif len(mac) != ALGORITHMS[f"HMAC-{hash_name}"].output_size:
            yield LeftOut("truncated MAC")
        else:
            yield _mac(str(number), Verdict.VALID, keys, f"HMAC-{hash_name}", octets(record["msg"]), mac)


def cmac(text: str) -> Loaded:
    """The examples of SP 800-38B."""
    for record in records(text, "count"):
        key = aes_key(octets(record["key"]), P.SIGN | P.VERIFY)
        if isinstance(key, LeftOut):
            yield key
            continue
        message, mac = octets(record["message"]), octets(record["output"])
        yield _mac(record["count"], Verdict.VALID, (key,), "AES-CMAC", message, mac)


def _mac(test: str, verdict: Verdict, keys: tuple[Key, ...], algorithm: str, message: bytes, mac: bytes) -> MacCase:
    return MacCase(test=test, verdict=verdict, keys=keys, algorithm=algorithm, expected=mac, message=message, mac=mac)


# Key derivation


def derived(
    test: str,
    keys: tuple[Key, ...] | Key | LeftOut,
    kdf: KdfParameters,
    output: bytes,
    *,
    cut: bool = True,
) -> DeriveCase | LeftOut:
    """A case for an output of any size: the derived key takes the longest beginning of it that a key type has.

    `cut` says that a shorter output of the same function is a longer one's beginning.
    """
    if isinstance(keys, LeftOut):
        return keys
    sizes = [size for size in SECRET_TYPES if size == len(output) or (cut and size < len(output))]
    if not sizes:
        return LeftOut("output of a size that no key type has")
    return DeriveCase(
        test=test,
        verdict=Verdict.VALID,
        keys=keys if isinstance(keys, tuple) else (keys,),
        algorithm=kdf.algorithm,
        expected=fingerprint(output[: max(sizes)]),
        kdf=kdf,
        size=max(sizes),
    )


def x963(text: str) -> Loaded:
    """ansx963_2001.txt."""
    for number, record in enumerate(records(text, "count")):
        algorithm = f"X963KDF-{record[SECTION].replace('-', '')}"
        if algorithm not in ALGORITHMS:
            yield LeftOut("hash that no row has")
            continue
        kdf = X963(algorithm=algorithm, shared_info=octets(record["sharedinfo"]))
        yield derived(str(number), secret_key(octets(record["z"])), kdf, octets(record["key_data"]))


def scrypt(text: str) -> Loaded:
    """The test vectors of RFC 7914; salt and password are text."""
    for record in records(text, "count"):
        cost, block_size, lanes = int(record["n"]), int(record["r"]), int(record["p"])
        if 128 * cost * block_size * lanes > _SCRYPT_MOST - 1:
            yield LeftOut("more memory than the service spends on a derivation")
            continue
        kdf = Scrypt(salt=record["salt"].encode(), cost=cost, block_size=block_size, parallelization=lanes)
        # The password is the key of an HMAC-SHA256 (RFC 7914 section 6, with RFC 8018 section 5.2).
        keys = hmac_keys("SHA256", record["password"].encode(), P.DERIVE)
        yield derived(record["count"], _secrets(keys), kdf, octets(record["derived_key"]))


def argon2id(text: str) -> Loaded:
    """The test vector of RFC 9106, and those around it that have neither a secret nor associated data."""
    for record in records(text, "count"):
        if record.get("secret") or record.get("ad"):
            yield LeftOut("secret or associated data, which the parameters do not have")
            continue
        kdf = Argon2id(
            salt=octets(record["salt"]),
            iterations=int(record["iter"]),
            lanes=int(record["lanes"]),
            memory=int(record["memcost"]),
        )
        key = secret_key(octets(record["pass"]))
        yield derived(record["count"], key, kdf, octets(record["output"]), cut=False)


def _secrets(keys: tuple[Key, ...] | LeftOut) -> tuple[Key, ...] | LeftOut:
    if isinstance(keys, LeftOut):
        return keys
    return tuple(key for key in keys if key.key_type in SECRET_TYPES.values())


# Key agreement


def ecdh(text: str) -> Loaded:
    """KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_*.fax: whether keys agree, bad peers among them."""
    curves = {"EC": "P256", "ED": "P384", "EE": "P521"}
    for number, record in enumerate(records(text, "count")):
        curve = curves.get(record[SECTION].split(" ")[0])
        if curve is None:
            yield LeftOut("curve that no row has")
            continue
        key_type = f"EC-{curve}"
        wrong = record["result"].startswith("F")
        if wrong and "PKV" not in record["result"]:
            yield LeftOut("hash of the secret changed: the service shows no such hash")
            continue
        size = (CURVES[key_type].key_size + 7) // 8
        secret = octets(record["z"]).lstrip(b"\0").rjust(size, b"\0")
        peer = ec_point(key_type, octets(record["qscavsx"]), octets(record["qscavsy"]))
        if wrong and "IUT" in record["result"]:
            yield LeftOut("our own key is wrong: it would not be imported")
            continue
        yield agreed(
            str(number),
            Verdict.of(not wrong),
            f"ECDH-{curve}",
            ec_private_key(key_type, int(record["dsiut"], 16), P.DERIVE),
            public_key(key_type, peer).material,
            secret,
        )


def agreed(test: str, verdict: Verdict, algorithm: str, key: Key, peer: bytes, secret: bytes) -> AgreeCase:
    """An agreement on a secret."""
    size = len(secret) or 32
    return AgreeCase(
        test=test,
        verdict=verdict,
        keys=(key,),
        algorithm=algorithm,
        expected=fingerprint(secret),
        peer=peer,
        size=size,
    )


def xdh(key_type: str, text: str) -> Loaded:
    """The test vectors of RFC 7748 section 5.2."""
    for record in records(text, "count"):
        yield _xdh(key_type, record)


def _xdh(key_type: str, record: Record) -> AgreeCase:
    key = raw_private_key(key_type, octets(record["input_scalar"]), P.DERIVE)
    peer = public_key(key_type, octets(record["input_u"])).material
    return agreed(record["count"], Verdict.VALID, key_type, key, peer, octets(record["output_u"]))


# KEM


def ml_kem(algorithm: str, text: str) -> Loaded:
    """kat_MLKEM_*.rsp: the key of each seed, a ciphertext, and a random one, which yields another secret."""
    for record in records(text, "count"):
        test = record["count"]
        key = seeded_key(algorithm, octets(record["d"]) + octets(record["z"]), P.DECAPSULATE)
        yield KeyPairCase(
            test=f"{test} key",
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=algorithm,
            expected=public_key(algorithm, octets(record["pk"])).material,
        )
        for ciphertext, secret, what in (("ct", "ss", ""), ("ct_n", "ss_n", " rejected implicitly")):
            yield DecapsulateCase(
                test=f"{test}{what}",
                verdict=Verdict.VALID,
                keys=(key,),
                algorithm=algorithm,
                expected=octets(record[secret]),
                ciphertext=octets(record[ciphertext]),
            )
