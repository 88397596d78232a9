"""CAVP files, and others of their form, on signatures: ECDSA, RSA (FIPS 186), EdDSA (RFC 8032), ML-DSA (FIPS 204)."""

from collections.abc import Iterator
from functools import partial

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hsmbridge.core.algorithms import ALGORITHMS
from tests.vectors.cases import Case, KeyPairCase, LeftOut, P, SignCase, Verdict, VerifyCase
from tests.vectors.cavp import SECTION, Record, octets, records
from tests.vectors.key_material import ec_point, ec_private_key, public_key, raw_private_key, rsa_public_key, seeded_key

Loaded = Iterator[Case | LeftOut]


def _passes(record: Record) -> Verdict:
    return Verdict.of(record.get("result", "P").startswith("P"))


def ecdsa(text: str) -> Loaded:
    """SigVer.rsp, and SigGen.txt with the signatures that it has."""
    for number, record in enumerate(records(text, "msg")):
        curve, hash_name = (part.strip().replace("-", "") for part in record[SECTION].split(","))
        key_type, algorithm = f"EC-{curve}", f"ECDSA-{curve}-{hash_name}"
        if algorithm not in ALGORITHMS:
            yield LeftOut("curve and hash that no row has together")
            continue
        keys = [public_key(key_type, ec_point(key_type, octets(record["qx"]), octets(record["qy"])))]
        if "d" in record:
            # For providers that take no public key alone.
            keys.append(ec_private_key(key_type, int(record["d"], 16), P.SIGN | P.VERIFY))
        yield VerifyCase(
            test=str(number),
            verdict=_passes(record),
            keys=tuple(keys),
            algorithm=algorithm,
            message=octets(record["msg"]),
            signature=encode_dss_signature(int(record["r"], 16), int(record["s"], 16)),
        )


def _rsa(scheme: str, text: str) -> Loaded:
    # SigVer files have an exponent for each signature, SigGen ones for each modulus.
    common = frozenset({"n", "p", "q"})
    for number, record in enumerate(records(text, "shaalg", common=common)):
        algorithm = f"RSA-{scheme}-{record['shaalg'].replace('-', '')}"
        if algorithm not in ALGORITHMS:
            yield LeftOut("hash that no row has")
            continue
        key = rsa_public_key(int(record["n"], 16), int(record["e"], 16))
        if isinstance(key, LeftOut):
            yield key
            continue
        salt = octets(record.get("saltval", ""))  # SigGenPSS has none: its salts are empty
        yield VerifyCase(
            test=str(number),
            verdict=_passes(record),
            keys=(key,),
            algorithm=algorithm,
            message=octets(record["msg"]),
            signature=octets(record["s"]),
            salt_length=len(salt) if scheme == "PSS" else None,
        )


rsa_pkcs1 = partial(_rsa, "PKCS1")
"""SigVer15 and SigGen15."""
rsa_pss = partial(_rsa, "PSS")
"""SigVerPSS and SigGenPSS."""


def _eddsa(key_type: str, test: str, secret: bytes, public: bytes, message: bytes, signature: bytes) -> Loaded:
    yield VerifyCase(
        test=test,
        verdict=Verdict.VALID,
        keys=(public_key(key_type, public),),
        algorithm=key_type,
        message=message,
        signature=signature,
    )
    yield SignCase(
        test=f"{test} signed",
        verdict=Verdict.VALID,
        keys=(raw_private_key(key_type, secret, P.SIGN),),
        algorithm=key_type,
        expected=signature,
        message=message,
    )


def ed448(text: str) -> Loaded:
    """The test vectors of RFC 8032."""
    for record in records(text, "count"):
        fields = [octets(record[name]) for name in ("secret", "public", "message", "signature")]
        if record.get("context"):
            yield LeftOut("context string; the row takes none")
        else:
            yield from _eddsa("Ed448", record["count"], *fields)


def ed25519(text: str) -> Loaded:
    """sign.input of the reference implementation: secret and public key, public key, message, signature and message."""
    for number, line in enumerate(text.split()):
        secret, public, message, signed = (bytes.fromhex(field) for field in line.split(":")[:4])
        yield from _eddsa("Ed25519", str(number), secret[:32], public, message, signed[:64])


def ml_dsa(algorithm: str, text: str) -> Loaded:
    """kat_MLDSA_*_det_pure.rsp: the key of each seed, and a signature with a context."""
    for record in records(text, "count"):
        test, public = record["count"], octets(record["pk"])
        message = octets(record["msg"])
        yield KeyPairCase(
            test=f"{test} key",
            verdict=Verdict.VALID,
            keys=(seeded_key(algorithm, octets(record["xi"]), P.SIGN),),
            algorithm=algorithm,
            expected=public_key(algorithm, public).material,
        )
        yield VerifyCase(
            test=test,
            verdict=Verdict.VALID,
            keys=(public_key(algorithm, public),),
            algorithm=algorithm,
            message=message,
            signature=octets(record["sm"])[: ALGORITHMS[algorithm].output_size],
            context=octets(record["ctx"]),
        )
