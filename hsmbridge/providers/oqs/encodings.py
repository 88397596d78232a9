"""The keys of ML-KEM and ML-DSA in DER: SubjectPublicKeyInfo and OneAsymmetricKey (RFC 5280, 5958, 9881, 9935).

Of the three forms that a private key has (a seed, the expanded key, both), liboqs uses the expanded key. A private key
of ML-DSA does not hold its public key, which cannot be had without computing it, so that has to stand beside it.
"""

from dataclasses import dataclass

from asn1crypto import core

from hsmbridge.core.key_types import KeyType

_V1, _V2 = 0, 1


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


class _Both(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("seed", core.OctetString), ("expanded_key", core.OctetString)]  # noqa: RUF012 - see above


class _PrivateKey(core.Choice):  # type: ignore[misc]  # asn1crypto has no types
    _alternatives = [  # noqa: RUF012 - how asn1crypto is told
        ("seed", core.OctetString, {"implicit": 0}),
        ("expanded_key", core.OctetString),
        ("both", _Both),
    ]


class _OneAsymmetricKey(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [  # noqa: RUF012 - how asn1crypto is told
        ("version", core.Integer),
        ("algorithm", _AlgorithmIdentifier),
        ("private_key", core.ParsableOctetString),
        ("attributes", core.SetOf, {"implicit": 0, "optional": True, "spec": core.Any}),
        ("public_key", core.OctetBitString, {"implicit": 1, "optional": True}),
    ]


@dataclass(frozen=True, slots=True)
class PrivateKeyFields:
    """What a OneAsymmetricKey holds; what it lacks is b""."""

    oid: str
    seed: bytes
    expanded: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"PrivateKeyFields({self.oid})"


def encode_public_key(row: KeyType, public: bytes) -> bytes:
    """SubjectPublicKeyInfo of a public key as its standard encodes it."""
    return bytes(_SubjectPublicKeyInfo({"algorithm": {"algorithm": row.spki_oid}, "subject_public_key": public}).dump())


def decode_public_key(spki: bytes) -> tuple[str, bytes]:
    """The dotted object identifier and the public key. Raises ValueError."""
    info = _read(_SubjectPublicKeyInfo, spki)
    return _oid(info["algorithm"]), bytes(info["subject_public_key"])


def encode_private_key(row: KeyType, expanded: bytes, public: bytes) -> bytes:
    """OneAsymmetricKey with the expanded key and the public key."""
    return bytes(
        _OneAsymmetricKey(
            {
                "version": _V2,
                "algorithm": {"algorithm": row.spki_oid},
                "private_key": core.OctetString(expanded).dump(),
                "public_key": public,
            }
        ).dump()
    )


def decode_private_key(pkcs8: bytes) -> PrivateKeyFields:
    """What a PrivateKeyInfo or OneAsymmetricKey holds. Raises ValueError."""
    info = _read(_OneAsymmetricKey, pkcs8)
    if info["version"].native not in {_V1, _V2}:
        raise ValueError("a version of OneAsymmetricKey that is not known")
    key = _PrivateKey.load(bytes(info["private_key"]), strict=True)
    form, chosen = key.name, key.chosen
    seed, expanded = b"", b""
    if form == "both":
        seed, expanded = bytes(chosen["seed"]), bytes(chosen["expanded_key"])
    elif form == "seed":
        seed = bytes(chosen)
    else:
        expanded = bytes(chosen)
    public = info["public_key"]
    return PrivateKeyFields(
        _oid(info["algorithm"]), seed, expanded, b"" if isinstance(public, core.Void) else bytes(public)
    )


def _read(kind: type[core.Sequence], der: bytes) -> core.Sequence:
    try:
        value = kind.load(der, strict=True)
        # Parsing is lazy; what is wrong further in shall show here.
        value.native  # noqa: B018
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as problem:
        raise ValueError(f"not DER of a key: {problem!r}") from problem
    return value


def _oid(identifier: core.Sequence) -> str:
    if not isinstance(identifier["parameters"], core.Void):
        raise ValueError("an algorithm with parameters, of which it has none")
    return str(identifier["algorithm"].dotted)
