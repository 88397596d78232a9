"""SubjectPublicKeyInfo (RFC 5280 section 4.1) by asn1crypto, whatever the algorithm."""

from asn1crypto import core

from hsmbridge.core.key_types import KeyType


class _AlgorithmIdentifier(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [  # noqa: RUF012 - how asn1crypto is told
        ("algorithm", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class _SubjectPublicKeyInfo(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [  # noqa: RUF012 - how asn1crypto is told
        ("algorithm", _AlgorithmIdentifier),
        ("subject_public_key", core.OctetBitString),
    ]


def encode(row: KeyType, key: bytes) -> bytes:
    """A key without algorithm parameters."""
    return bytes(_SubjectPublicKeyInfo({"algorithm": {"algorithm": row.spki_oid}, "subject_public_key": key}).dump())


def key_bits(spki: bytes) -> bytes:
    """The subjectPublicKey, as the algorithm has it."""
    return bytes(_SubjectPublicKeyInfo.load(spki, strict=True)["subject_public_key"])


def identifiers(spki: bytes) -> tuple[str, str]:
    """The algorithm's object identifier, and that of its parameters or ""; both dotted."""
    algorithm = _SubjectPublicKeyInfo.load(spki, strict=True)["algorithm"]
    parameters = algorithm["parameters"]
    curve = parameters.parsed if isinstance(parameters, core.Any) else parameters
    named = curve.dotted if isinstance(curve, core.ObjectIdentifier) else ""
    return str(algorithm["algorithm"].dotted), str(named)
