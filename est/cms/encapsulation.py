"""Key encapsulation in CMS: KEMRecipientInfo (RFC 9629) with ML-KEM, HKDF over SHA-256 and AES key wrap (RFC 9936).

KEMRecipientInfo ::= SEQUENCE { version, rid, kem, kemct, kdf, kekLength, ukm [0] OPTIONAL, wrap, encryptedKey }
"""

from typing import ClassVar, Protocol

from asn1crypto import cms, core
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from est import keys, oids
from est.asn1.der import Sequence
from est.cms.content import WRAP_LENGTHS

KemPublicKey = mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey


class Decapsulator(Protocol):
    """An ML-KEM key that opens what was sealed for it, wherever it is."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret. Raises ValueError for a ciphertext of another length."""
        ...


class _Algorithm(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("algorithm", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class _KemRecipientInfo(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("version", core.Integer),
        ("rid", cms.RecipientIdentifier),
        ("kem", _Algorithm),
        ("kemct", core.OctetString),
        ("kdf", _Algorithm),
        ("kek_length", core.Integer),
        ("ukm", core.OctetString, {"explicit": 0, "optional": True}),
        ("wrap", _Algorithm),
        ("encrypted_key", core.OctetString),
    ]


class _OtherInfo(Sequence):
    """CMSORIforKEMOtherInfo: what the KDF binds the wrapping key to."""

    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("wrap", _Algorithm),
        ("kek_length", core.Integer),
        ("ukm", core.OctetString, {"explicit": 0, "optional": True}),
    ]


def _wrapping_key(shared: bytes, wrap_oid: str, ukm: bytes | None) -> bytes:
    length = WRAP_LENGTHS[wrap_oid]
    info = _OtherInfo({"wrap": {"algorithm": wrap_oid}, "kek_length": length})
    if ukm is not None:
        info["ukm"] = ukm
    return HKDF(hashes.SHA256(), length, None, bytes(info.dump())).derive(shared)


def kem_info(public_key: KemPublicKey, named: cms.RecipientIdentifier, secret: bytes) -> cms.OtherRecipientInfo:
    """The content-encryption key `secret` for the holder of a key; `named` says who that is."""
    shared, ciphertext = public_key.encapsulate()
    wrapping = _wrapping_key(shared, oids.AES256_WRAP, None)
    info = _KemRecipientInfo(
        {
            "version": 0,
            "rid": named,
            "kem": {"algorithm": keys.key_type_oid(public_key)},
            "kemct": ciphertext,
            "kdf": {"algorithm": oids.HKDF_WITH_SHA256},
            "kek_length": len(wrapping),
            "wrap": {"algorithm": oids.AES256_WRAP},
            "encrypted_key": keywrap.aes_key_wrap(wrapping, secret),
        }
    )
    return cms.OtherRecipientInfo({"ori_type": oids.ORI_KEM, "ori_value": info})


def open_kem(info: cms.OtherRecipientInfo, key: Decapsulator) -> bytes | None:
    """The content-encryption key; None where it came in a way that est does not take.

    Raises:
        ValueError, keywrap.InvalidUnwrap, HsmBridgeError: it is not for this key.
    """
    if str(info["ori_type"].dotted) != oids.ORI_KEM:
        return None
    held = _KemRecipientInfo.load(info["ori_value"].dump(), strict=True)
    wrap_oid = str(held["wrap"]["algorithm"].dotted)
    if str(held["kdf"]["algorithm"].dotted) != oids.HKDF_WITH_SHA256 or wrap_oid not in WRAP_LENGTHS:
        return None
    if int(held["kek_length"].native) != WRAP_LENGTHS[wrap_oid]:
        return None
    ukm = held["ukm"].native
    shared = key.decapsulate(bytes(held["kemct"].native))
    wrapping = _wrapping_key(shared, wrap_oid, None if ukm is None else bytes(ukm))
    return keywrap.aes_key_unwrap(wrapping, bytes(held["encrypted_key"].native))
