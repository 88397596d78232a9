"""Key agreement in CMS: ECDH (RFC 5753), X25519 and X448 (RFC 8418), with the X9.63 KDF over SHA-256 and AES key wrap.

The sender's key is made for the one message. What the recipient agrees may stay where its key is: an `Agreer` is given
all that came, and hands out the content alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from asn1crypto import cms, core
from asn1crypto.keys import PublicKeyInfo
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from est import keys, oids, refusals
from est.asn1 import der as der_
from est.cms.content import WRAP_LENGTHS, EncryptedContent

AgreementPublicKey = ec.EllipticCurvePublicKey | x25519.X25519PublicKey | x448.X448PublicKey
AgreementPrivateKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | x448.X448PrivateKey


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the sender did for one recipient.

    Attributes:
        peer: the sender's key of this message.
        shared_info: of the KDF that makes the wrapping key.
        wrap_length: octets of the wrapping key.
        wrapped: the content-encryption key under it.
    """

    peer: AgreementPublicKey
    shared_info: bytes
    wrap_length: int
    wrapped: bytes


class Agreer(Protocol):
    """The holder of an agreement key, wherever that is."""

    def open(self, agreed: Agreed, content: EncryptedContent) -> bytes:
        """The content.

        Raises:
            ValueError, keywrap.InvalidUnwrap, HsmBridgeError: it is not for this key.
        """
        ...


class SoftwareAgreer:
    """An agreement key in the memory of this process."""

    def __init__(self, private_key: AgreementPrivateKey) -> None:
        self._private_key = private_key

    def open(self, agreed: Agreed, content: EncryptedContent) -> bytes:
        """The content."""
        shared = _exchange(self._private_key, agreed.peer)
        wrapping = _derive(shared, agreed.wrap_length, agreed.shared_info)
        return content.decrypt(keywrap.aes_key_unwrap(wrapping, agreed.wrapped))


def _exchange(private_key: AgreementPrivateKey, peer: AgreementPublicKey) -> bytes:
    match private_key, peer:
        case ec.EllipticCurvePrivateKey() as private, ec.EllipticCurvePublicKey() as public:
            return private.exchange(ec.ECDH(), public)
        case x25519.X25519PrivateKey() as private, x25519.X25519PublicKey() as public:
            return private.exchange(public)
        case x448.X448PrivateKey() as private, x448.X448PublicKey() as public:
            return private.exchange(public)
        case _:
            raise ValueError


def _derive(shared: bytes, length: int, shared_info: bytes) -> bytes:
    return X963KDF(hashes.SHA256(), length, shared_info).derive(shared)


class _EccSharedInfo(der_.Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("key_info", cms.KeyEncryptionAlgorithm),
        ("entity_u_info", core.OctetString, {"explicit": 0, "optional": True}),
        ("supp_pub_info", core.OctetString, {"explicit": 2}),
    ]


def _shared_info(wrap_oid: str, ukm: bytes | None) -> bytes:
    bits = (WRAP_LENGTHS[wrap_oid] * 8).to_bytes(4, "big")
    info = _EccSharedInfo({"key_info": {"algorithm": wrap_oid}, "supp_pub_info": bits})
    if ukm is not None:
        info["entity_u_info"] = ukm
    return bytes(info.dump())


def agreement_info(
    public_key: AgreementPublicKey, named: cms.KeyAgreementRecipientIdentifier, secret: bytes
) -> cms.KeyAgreeRecipientInfo:
    """The content-encryption key `secret` for the holder of a key; `named` says who that is."""
    ephemeral = _new_key_beside(public_key)
    shared_info = _shared_info(oids.AES256_WRAP, None)
    wrapping = _derive(_exchange(ephemeral, public_key), WRAP_LENGTHS[oids.AES256_WRAP], shared_info)
    originator = PublicKeyInfo.load(keys.spki(ephemeral.public_key()))
    return cms.KeyAgreeRecipientInfo(
        {
            "version": "v3",
            "originator": cms.OriginatorIdentifierOrKey("originator_key", originator),
            "key_encryption_algorithm": {
                "algorithm": oids.ECDH_STD_SHA256_KDF,
                "parameters": cms.KeyEncryptionAlgorithm({"algorithm": oids.AES256_WRAP}),
            },
            "recipient_encrypted_keys": [{"rid": named, "encrypted_key": keywrap.aes_key_wrap(wrapping, secret)}],
        }
    )


def _new_key_beside(public_key: AgreementPublicKey) -> AgreementPrivateKey:
    match public_key:
        case ec.EllipticCurvePublicKey():
            return ec.generate_private_key(public_key.curve)
        case x25519.X25519PublicKey():
            return x25519.X25519PrivateKey.generate()
        case x448.X448PublicKey():
            return x448.X448PrivateKey.generate()


def read_agreement(info: cms.KeyAgreeRecipientInfo) -> Agreed | None:
    """What the sender did; None where it is in a way that est does not take."""
    algorithm = info["key_encryption_algorithm"]
    wrap_oid = str(cms.KeyEncryptionAlgorithm.load(algorithm["parameters"].dump())["algorithm"].dotted)
    originator = info["originator"]
    if str(algorithm["algorithm"].dotted) != oids.ECDH_STD_SHA256_KDF or wrap_oid not in WRAP_LENGTHS:
        return None
    if originator.name != "originator_key":
        return None
    peer = _originator(originator.chosen)
    ukm = info["ukm"].native
    for one in info["recipient_encrypted_keys"]:
        shared_info = _shared_info(wrap_oid, None if ukm is None else bytes(ukm))
        return Agreed(peer, shared_info, WRAP_LENGTHS[wrap_oid], bytes(one["encrypted_key"].native))
    return None


def _originator(info: PublicKeyInfo) -> AgreementPublicKey:
    # Whether the octets are an OCTET STRING or a BIT STRING to asn1crypto depends on the algorithm.
    point = bytes(info["public_key"].contents[1:])
    match str(info["algorithm"]["algorithm"].dotted):
        case oids.X25519:
            return x25519.X25519PublicKey.from_public_bytes(point)
        case oids.X448:
            return x448.X448PublicKey.from_public_bytes(point)
        case _:
            curve = _CURVE_BY_POINT.get(len(point))
            if curve is None:
                raise refusals.malformed("The sender's key is on a curve that is not known.")
            return ec.EllipticCurvePublicKey.from_encoded_point(curve(), point)


# The originator's key often names no curve (RFC 5753 section 3.1.1: it is the recipient's); the point's length tells.
_CURVE_BY_POINT: dict[int, Callable[[], ec.EllipticCurve]] = {
    65: ec.SECP256R1,
    97: ec.SECP384R1,
    133: ec.SECP521R1,
}
