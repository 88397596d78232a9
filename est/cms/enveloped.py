"""EnvelopedData (RFC 5652 section 6): sealed for an RSA key, an EC key or a shared key-encryption key, and opened.

Content is encrypted with AES-256-CBC, which CMS programs of every age read; it has no integrity of its own, so EST
puts a SignedData inside. The content-encryption key travels by RSAES-OAEP (RFC 3560), ECDH with the X9.63 key
derivation (RFC 5753), or AES key wrap (RFC 3394). A failure to open is one error, whatever failed.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from asn1crypto import cms, core
from asn1crypto.keys import PublicKeyInfo
from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap, padding
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from est import keys, oids, refusals
from est.asn1 import der as der_
from est.asn1.der import read
from est.cms.signed import key_identifier
from hsmbridge.core.errors import HsmBridgeError, Status, error


class RsaDecrypter(Protocol):
    """An RSA key that opens what was sealed for it, wherever it is."""

    def decrypt(self, ciphertext: bytes, padding: rsa_padding.AsymmetricPadding) -> bytes:
        """The plaintext."""
        ...


class EcAgreer(Protocol):
    """An EC key that agrees on secrets, wherever it is."""

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """The x coordinate of the shared point."""
        ...


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who can open it: a public key, and its certificate if there is one."""

    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    certificate: x509.Certificate | None = None


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A key-encryption key (AES, 16, 24 or 32 octets) that both sides know, and its name."""

    name: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"SharedKey({self.name!r}, ...)"


@dataclass(frozen=True, slots=True)
class Opener:
    """What the receiver holds: an RSA or EC key, a shared key, or both."""

    rsa: RsaDecrypter | None = None
    agreement: EcAgreer | None = None
    shared: Sequence[SharedKey] = ()


class _EccSharedInfo(der_.Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("key_info", cms.KeyEncryptionAlgorithm),
        ("entity_u_info", core.OctetString, {"explicit": 0, "optional": True}),
        ("supp_pub_info", core.OctetString, {"explicit": 2}),
    ]


_OAEP_DIGEST = hashes.SHA256
_CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "secp256r1": ec.SECP256R1,
    "secp384r1": ec.SECP384R1,
    "secp521r1": ec.SECP521R1,
}


def seal(content_type: str, content: bytes, recipient: Recipient | SharedKey) -> bytes:
    """Encrypt `content` for the recipient; a ContentInfo.

    Raises:
        RequestError: the recipient's key cannot receive.
    """
    secret, iv = os.urandom(32), os.urandom(16)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    info, version = _recipient_info(recipient, secret)
    data = {
        "version": version,
        "recipient_infos": [info],
        "encrypted_content_info": {
            "content_type": content_type,
            "content_encryption_algorithm": {"algorithm": oids.AES256_CBC, "parameters": core.OctetString(iv)},
            "encrypted_content": ciphertext,
        },
    }
    return bytes(cms.ContentInfo({"content_type": "enveloped_data", "content": cms.EnvelopedData(data)}).dump())


def _recipient_info(recipient: Recipient | SharedKey, secret: bytes) -> tuple[cms.RecipientInfo, str]:
    match recipient:
        case SharedKey():
            wrap = _WRAP_OID.get(len(recipient.secret))
            if wrap is None:
                raise refusals.unwanted("A shared key has 16 or 32 octets.")
            kek = {
                "version": "v4",
                "kekid": {"key_identifier": recipient.name},
                "key_encryption_algorithm": {"algorithm": wrap},
                "encrypted_key": keywrap.aes_key_wrap(recipient.secret, secret),
            }
            return cms.RecipientInfo("kekri", kek), "v2"
        case Recipient(public_key=rsa.RSAPublicKey() as key):
            transport = {
                "version": "v0" if recipient.certificate else "v2",
                "rid": _recipient_identifier(recipient),
                "key_encryption_algorithm": _oaep_identifier(),
                "encrypted_key": key.encrypt(secret, _oaep()),
            }
            return cms.RecipientInfo("ktri", transport), "v0" if recipient.certificate else "v2"
        case Recipient(public_key=ec.EllipticCurvePublicKey() as key):
            return _agreement_info(recipient, key, secret), "v2"
        case _:
            raise refusals.unsupported("Only RSA and EC keys receive what is encrypted.")


def _oaep() -> rsa_padding.OAEP:
    return rsa_padding.OAEP(rsa_padding.MGF1(_OAEP_DIGEST()), _OAEP_DIGEST(), None)


def _oaep_identifier() -> dict[str, object]:
    digest = {"algorithm": "sha256"}
    generator = {"algorithm": "mgf1", "parameters": digest}
    return {
        "algorithm": oids.RSAES_OAEP,
        "parameters": {"hash_algorithm": digest, "mask_gen_algorithm": generator},
    }


def _recipient_identifier(recipient: Recipient) -> cms.RecipientIdentifier:
    certificate = recipient.certificate
    if certificate is None:
        return cms.RecipientIdentifier("subject_key_identifier", key_identifier(recipient.public_key))
    issuer = cms.Name.load(certificate.issuer.public_bytes())
    return cms.RecipientIdentifier(
        "issuer_and_serial_number", {"issuer": issuer, "serial_number": certificate.serial_number}
    )


def _agreement_info(recipient: Recipient, key: ec.EllipticCurvePublicKey, secret: bytes) -> cms.RecipientInfo:
    ephemeral = ec.generate_private_key(key.curve)
    wrap_key = _derive(ephemeral.exchange(ec.ECDH(), key), oids.AES256_WRAP, None)
    originator = PublicKeyInfo.load(keys.spki(ephemeral.public_key()))
    info = {
        "version": "v3",
        "originator": cms.OriginatorIdentifierOrKey("originator_key", originator),
        "key_encryption_algorithm": {
            "algorithm": oids.ECDH_STD_SHA256_KDF,
            "parameters": cms.KeyEncryptionAlgorithm({"algorithm": oids.AES256_WRAP}),
        },
        "recipient_encrypted_keys": [
            {"rid": _agreement_identifier(recipient), "encrypted_key": keywrap.aes_key_wrap(wrap_key, secret)}
        ],
    }
    return cms.RecipientInfo("kari", info)


def _agreement_identifier(recipient: Recipient) -> cms.KeyAgreementRecipientIdentifier:
    identifier = _recipient_identifier(recipient)
    if identifier.name == "issuer_and_serial_number":
        return cms.KeyAgreementRecipientIdentifier("issuer_and_serial_number", identifier.chosen)
    named = {"subject_key_identifier": identifier.chosen}
    return cms.KeyAgreementRecipientIdentifier("r_key_id", named)


def _derive(shared: bytes, wrap_oid: str, ukm: bytes | None) -> bytes:
    length = _WRAP_LENGTH[wrap_oid]
    info = _EccSharedInfo({"key_info": {"algorithm": wrap_oid}, "supp_pub_info": (length * 8).to_bytes(4, "big")})
    if ukm is not None:
        info["entity_u_info"] = ukm
    return X963KDF(hashes.SHA256(), length, bytes(info.dump())).derive(shared)


_WRAP_OID = {16: oids.AES128_WRAP, 32: oids.AES256_WRAP}
_WRAP_LENGTH = {oid: length for length, oid in _WRAP_OID.items()}


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in it."""

    content_type: str
    content: bytes


def open_sealed(der: bytes, opener: Opener) -> Opened:
    """Decrypt an EnvelopedData.

    Raises:
        WireError: it cannot be read, or is encrypted in a way that est does not take.
        DecryptionFailed: none of the keys opens it.
    """

    def take() -> Opened:
        info = cms.ContentInfo.load(der, strict=True)
        if info["content_type"].native != "enveloped_data":
            raise refusals.malformed("The message is not an EnvelopedData.")
        data = info["content"]
        inner = data["encrypted_content_info"]
        algorithm = inner["content_encryption_algorithm"]
        length = {oids.AES128_CBC: 16, oids.AES256_CBC: 32}.get(str(algorithm["algorithm"].dotted))
        if length is None:
            raise refusals.malformed("The content is encrypted by another algorithm than AES in CBC mode.")
        secret = _content_key(data["recipient_infos"], opener, length)
        content = _decrypted(secret, bytes(algorithm["parameters"].native), bytes(inner["encrypted_content"].native))
        return Opened(str(inner["content_type"].dotted), content)

    return read("enveloped message", der, take)


def _failed() -> HsmBridgeError:
    return error(Status.DECRYPTION_FAILED, "None of the keys opens this message.")


def _decrypted(secret: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    try:
        decryptor = Cipher(algorithms.AES(secret), modes.CBC(iv)).decryptor()
        unpadder = padding.PKCS7(128).unpadder()
        return unpadder.update(decryptor.update(ciphertext) + decryptor.finalize()) + unpadder.finalize()
    except ValueError:
        raise _failed() from None


def _content_key(infos: Iterable[cms.RecipientInfo], opener: Opener, length: int) -> bytes:
    for info in infos:
        try:
            secret = _tried(info, opener)
        except (ValueError, keywrap.InvalidUnwrap, HsmBridgeError):
            # The next recipient may be us; if none is, the one error below is all that is told.
            continue
        if secret is not None and len(secret) == length:
            return secret
    raise _failed()


def _tried(info: cms.RecipientInfo, opener: Opener) -> bytes | None:
    match info.name:
        case "ktri" if opener.rsa is not None:
            chosen = info.chosen
            return opener.rsa.decrypt(
                bytes(chosen["encrypted_key"].native), _padding(chosen["key_encryption_algorithm"])
            )
        case "kekri":
            name = bytes(info.chosen["kekid"]["key_identifier"].native)
            shared = next((one for one in opener.shared if one.name == name), None)
            wrapped = bytes(info.chosen["encrypted_key"].native)
            return keywrap.aes_key_unwrap(shared.secret, wrapped) if shared else None
        case "kari" if opener.agreement is not None:
            return _agreed(info.chosen, opener.agreement)
    return None


def _padding(algorithm: cms.KeyEncryptionAlgorithm) -> rsa_padding.AsymmetricPadding:
    if str(algorithm["algorithm"].dotted) == oids.RSA_ENCRYPTION:
        return rsa_padding.PKCS1v15()
    if str(algorithm["algorithm"].dotted) != oids.RSAES_OAEP:
        raise refusals.malformed("The key is encrypted in a way that is not known.")
    parameters = algorithm["parameters"].native or {}
    names = (
        (parameters.get("hash_algorithm") or {}).get("algorithm", "sha1"),
        ((parameters.get("mask_gen_algorithm") or {}).get("parameters") or {}).get("algorithm", "sha1"),
    )
    digest, generator = (_OAEP_DIGESTS[str(name)]() for name in names)
    return rsa_padding.OAEP(rsa_padding.MGF1(generator), digest, None)


_OAEP_DIGESTS: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def _agreed(info: cms.KeyAgreeRecipientInfo, key: EcAgreer) -> bytes | None:
    algorithm = info["key_encryption_algorithm"]
    wrap_oid = str(cms.KeyEncryptionAlgorithm.load(algorithm["parameters"].dump())["algorithm"].dotted)
    originator = info["originator"]
    if str(algorithm["algorithm"].dotted) != oids.ECDH_STD_SHA256_KDF or wrap_oid not in _WRAP_LENGTH:
        return None
    if originator.name != "originator_key":
        return None
    point = bytes(originator.chosen["public_key"].contents[1:])
    curve = _CURVE_BY_POINT.get(len(point))
    if curve is None:
        return None
    peer = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), point)
    ukm = info["ukm"].native
    wrap_key = _derive(key.exchange(ec.ECDH(), peer), wrap_oid, None if ukm is None else bytes(ukm))
    for one in info["recipient_encrypted_keys"]:
        return keywrap.aes_key_unwrap(wrap_key, bytes(one["encrypted_key"].native))
    return None


# The originator's key often names no curve (RFC 5753 section 3.1.1: it is the recipient's); the point's length tells.
_CURVE_BY_POINT = {65: "secp256r1", 97: "secp384r1", 133: "secp521r1"}
