"""Reads the JSON of NIST's ACVP server on ML-KEM (FIPS 203) and ML-DSA (FIPS 204): keys from seeds, signatures."""

from collections.abc import Iterator

import msgspec
from cryptography.hazmat.primitives.hashes import SHAKE256, Hash

from hsmbridge.core.key_types import KEY_TYPES
from tests.vectors.cases import Case, KeyPairCase, LeftOut, P, Verdict, VerifyCase
from tests.vectors.key_material import public_key, seeded_key

Loaded = Iterator[Case | LeftOut]


class _Test(msgspec.Struct, rename="camel"):
    tc_id: int
    seed: str = ""
    d: str = ""
    z: str = ""
    pk: str = ""
    ek: str = ""
    message: str = ""
    signature: str = ""
    test_passed: bool = True


class _Group(msgspec.Struct, rename="camel"):
    parameter_set: str
    tests: list[_Test]
    pk: str = ""


class _File(msgspec.Struct, rename="camel"):
    test_groups: list[_Group]


def key_generation(data: bytes) -> Loaded:
    """ML-KEM-keyGen and ML-DSA-keyGen: the public key of each seed."""
    for group in msgspec.json.decode(data, type=_File).test_groups:
        name = group.parameter_set
        for test in group.tests:
            permissions = P.SIGN if KEY_TYPES[name].permissions & P.SIGN else P.DECAPSULATE
            yield KeyPairCase(
                test=str(test.tc_id),
                verdict=Verdict.VALID,
                keys=(seeded_key(name, bytes.fromhex(test.seed or test.d + test.z), permissions),),
                algorithm=name,
                expected=public_key(name, bytes.fromhex(test.pk or test.ek)).material,
            )


def internal_signatures(data: bytes) -> Loaded:
    """ML-DSA-sigVer of the internal interface (FIPS 204 algorithm 8), whose messages have no prefix.

    Every signature of the service has one, unless its caller brings mu, so mu is computed here (line 7).
    """
    for group in msgspec.json.decode(data, type=_File).test_groups:
        public = bytes.fromhex(group.pk)
        for test in group.tests:
            yield VerifyCase(
                test=str(test.tc_id),
                verdict=Verdict.of(test.test_passed),
                keys=(public_key(group.parameter_set, public),),
                algorithm=group.parameter_set,
                message=_shake(_shake(public) + bytes.fromhex(test.message)),
                signature=bytes.fromhex(test.signature),
                external_mu=True,
            )


def _shake(data: bytes) -> bytes:
    digest = Hash(SHAKE256(64))
    digest.update(data)
    return digest.finalize()
