"""The controls by which CMC proves the possession of a key that does not sign (RFC 5272 section 6.7).

EncryptedPOP ::= SEQUENCE { request TaggedRequest, cms ContentInfo, thePOPAlgID, witnessAlgID, witness OCTET STRING }
DecryptedPOP ::= SEQUENCE { bodyPartID, thePOPAlgID, thePOP OCTET STRING }
"""

from dataclasses import dataclass
from typing import ClassVar

from asn1crypto import core

from est.asn1.cmc import TaggedRequest
from est.asn1.der import Sequence, read


class _Algorithm(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("algorithm", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class _EncryptedPop(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("request", TaggedRequest),
        ("cms", core.Any),
        ("pop_algorithm", _Algorithm),
        ("witness_algorithm", _Algorithm),
        ("witness", core.OctetString),
    ]


class _DecryptedPop(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("body_part_id", core.Integer),
        ("pop_algorithm", _Algorithm),
        ("pop", core.OctetString),
    ]


@dataclass(frozen=True, slots=True)
class EncryptedPop:
    """A challenge.

    Attributes:
        request: the TaggedRequest that it is about, DER.
        sealed: the POP Proof Value as an EnvelopedData, a ContentInfo.
        pop_algorithm: by which the proof is to be computed.
        witness: digest of the POP Proof Value by `witness_algorithm`.
    """

    request: bytes
    sealed: bytes
    pop_algorithm: str
    witness_algorithm: str
    witness: bytes


@dataclass(frozen=True, slots=True)
class DecryptedPop:
    """The answer: the proof for the request of that body part."""

    part: int
    pop_algorithm: str
    proof: bytes


def dump_encrypted_pop(challenge: EncryptedPop) -> bytes:
    """Write a challenge."""
    written = {
        "request": TaggedRequest.load(challenge.request),
        "cms": core.Any.load(challenge.sealed),
        "pop_algorithm": {"algorithm": challenge.pop_algorithm},
        "witness_algorithm": {"algorithm": challenge.witness_algorithm},
        "witness": challenge.witness,
    }
    return bytes(_EncryptedPop(written).dump())


def parse_encrypted_pop(der: bytes) -> EncryptedPop:
    """Read a challenge.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> EncryptedPop:
        held = _EncryptedPop.load(der, strict=True)
        return EncryptedPop(
            request=bytes(held["request"].dump()),
            sealed=bytes(held["cms"].dump()),
            pop_algorithm=str(held["pop_algorithm"]["algorithm"].dotted),
            witness_algorithm=str(held["witness_algorithm"]["algorithm"].dotted),
            witness=bytes(held["witness"].native),
        )

    return read("challenge of the CA", der, take)


def dump_decrypted_pop(answer: DecryptedPop) -> bytes:
    """Write an answer."""
    written = {
        "body_part_id": answer.part,
        "pop_algorithm": {"algorithm": answer.pop_algorithm},
        "pop": answer.proof,
    }
    return bytes(_DecryptedPop(written).dump())


def parse_decrypted_pop(der: bytes) -> DecryptedPop:
    """Read an answer.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> DecryptedPop:
        held = _DecryptedPop.load(der, strict=True)
        algorithm = str(held["pop_algorithm"]["algorithm"].dotted)
        return DecryptedPop(int(held["body_part_id"].native), algorithm, bytes(held["pop"].native))

    return read("proof of possession", der, take)
