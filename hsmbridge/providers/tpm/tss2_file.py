"""TSS2 PRIVATE KEY: a wrapped key as a file, the ASN.1 of draft-bottomley-tpm2-keys in DER or PEM.

Loadable keys (2.23.133.10.1.3) are wrapped under a parent of one TPM; importable ones (2.23.133.10.1.4) are
duplicates that one TPM takes in. Not here: keys that need a policy or a password, and sealed data, which are refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeVar

from asn1crypto import core, pem
from tpm2_pytss import TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_PUBLIC, TSS2_Exception

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status

_T = TypeVar("_T")

OWNER_HIERARCHY = 0x40000001
"""TPM_RH_OWNER, as a parent: the primary key that the usual template gives there."""

_PEM_TYPE = "TSS2 PRIVATE KEY"
_SEALED = "2.23.133.10.1.5"
_SEQUENCE = b"\x30"
_FILE_MAX = 16384


class Tss2Kind(Enum):
    """What the object identifier says."""

    LOADABLE = "2.23.133.10.1.3"
    IMPORTABLE = "2.23.133.10.1.4"


@dataclass(frozen=True, slots=True)
class Tss2Key:
    """One wrapped key.

    Attributes:
        kind: loadable as it is, or a duplicate to be imported.
        parent: a persistent handle, or OWNER_HIERARCHY.
        public: its public area.
        private: its sensitive area, encrypted for the parent.
        secret: what the parent derives the outer wrapping of a duplicate from; b"" where it is loadable.
    """

    kind: Tss2Kind
    parent: int
    public: TPM2B_PUBLIC
    private: TPM2B_PRIVATE
    secret: bytes = b""


class _Policy(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("command_code", core.Integer, {"explicit": 0}),
        ("command_policy", core.OctetString, {"explicit": 1}),
    ]


class _Policies(core.SequenceOf):  # type: ignore[misc]  # asn1crypto has no types
    _child_spec = _Policy


class _AuthPolicy(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("name", core.UTF8String, {"explicit": 0, "optional": True}),
        ("policy", _Policies, {"explicit": 1}),
    ]


class _AuthPolicies(core.SequenceOf):  # type: ignore[misc]  # asn1crypto has no types
    _child_spec = _AuthPolicy


class _Key(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("type", core.ObjectIdentifier),
        ("empty_auth", core.Boolean, {"explicit": 0, "optional": True}),
        ("policy", _Policies, {"explicit": 1, "optional": True}),
        ("secret", core.OctetString, {"explicit": 2, "optional": True}),
        ("auth_policy", _AuthPolicies, {"explicit": 3, "optional": True}),
        ("description", core.UTF8String, {"explicit": 4, "optional": True}),
        ("rsa_parent", core.Boolean, {"explicit": 5, "optional": True}),
        ("parent", core.Integer),
        ("public", core.OctetString),
        ("private", core.OctetString),
    ]


def to_der(key: Tss2Key) -> bytes:
    """The file's content."""
    fields: dict[str, object] = {
        "type": key.kind.value,
        "empty_auth": True,
        "parent": key.parent,
        "public": bytes(key.public.marshal()),
        "private": bytes(key.private.marshal()),
    }
    if key.kind is Tss2Kind.IMPORTABLE:
        fields["secret"] = bytes(TPM2B_ENCRYPTED_SECRET(secret=key.secret).marshal())
    return bytes(_Key(fields).dump())


def to_pem(key: Tss2Key) -> bytes:
    """The file."""
    return bytes(pem.armor(_PEM_TYPE, to_der(key)))


def from_file(material: bytes) -> Tss2Key:
    """The key of a file, PEM or DER.

    Raises RequestError: INVALID_ARGUMENT for what is no such file, NOT_SUPPORTED for one that needs more than this
    provider can give it.
    """
    if len(material) > _FILE_MAX:
        raise _no_file("it is too long")
    try:
        # A wrapped key is random and may hold any bytes, those of a PEM line too.
        if not material.startswith(_SEQUENCE) and pem.detect(material):
            type_, _, material = pem.unarmor(material)
            if type_ != _PEM_TYPE:
                raise _no_file(f"it is a {type_[:32]}")
        fields = _Key.load(material, strict=True).native
        kind, parent = str(fields["type"]), int(fields["parent"])
        _check_supported(kind, fields)
        public = _whole(fields["public"], TPM2B_PUBLIC.unmarshal)
        private = _whole(fields["private"], TPM2B_PRIVATE.unmarshal)
        secret = b""
        if fields["secret"] is not None:
            secret = bytes(_whole(fields["secret"], TPM2B_ENCRYPTED_SECRET.unmarshal))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, TSS2_Exception) as cause:
        # asn1crypto shows malformed input by whichever of these its code meets first.
        raise _no_file("its content cannot be read", repr(cause)) from None
    return Tss2Key(Tss2Kind(kind), parent, public, private, secret)


def _check_supported(kind: str, fields: dict[str, object]) -> None:
    if kind == _SEALED:
        raise _needs("holds sealed data and no key")
    if kind not in {known.value for known in Tss2Kind}:
        raise _no_file("its object identifier is of no such key")
    if fields["policy"] is not None or fields["auth_policy"] is not None:
        raise _needs("has a policy, which hsmbridge does not fulfil; make the key without one")
    if not fields["empty_auth"]:
        raise _needs("has a password (an auth value), and hsmbridge keeps none; make the key without one")
    if (fields["secret"] is not None) is not (kind == Tss2Kind.IMPORTABLE.value):
        raise _no_file("its secret does not fit its type")
    if fields["rsa_parent"]:
        raise _needs("was made under an RSA parent of the hierarchy; make that parent persistent and name it")


def _whole(content: bytes, unmarshal: Callable[[bytes], tuple[_T, int]]) -> _T:
    structure, used = unmarshal(content)
    if used != len(content):
        raise ValueError("more than one structure")
    return structure


def _no_file(why: str, origin: str = "") -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT,
        f"This is no TSS2 PRIVATE KEY: {why}. `openssl genpkey -provider tpm2` and `hsmbridge slot export` write one.",
        origin=origin,
    )


def _needs(what: str) -> HsmBridgeError:
    return RequestError(Status.NOT_SUPPORTED, f"The TSS2 PRIVATE KEY {what}.")
