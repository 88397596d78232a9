"""EnvelopedData (RFC 5652 section 6): sealed for a key that decrypts, agrees or decapsulates, or for a shared key.

Content is encrypted with AES-256-CBC, which CMS programs of every age read; it has no integrity of its own, so EST
puts a SignedData inside. How the content-encryption key travels is in `transport`, `agreement` and `encapsulation`,
and for a shared key AES key wrap (RFC 3394). A failure to open is one error, whatever failed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa, x448, x25519

from est import oids, refusals
from est.asn1.der import read
from est.cms.agreement import Agreer, agreement_info, read_agreement
from est.cms.content import KEY_LENGTHS, EncryptedContent, encrypt
from est.cms.encapsulation import Decapsulator, kem_info, open_kem
from est.cms.signed import key_identifier
from est.cms.transport import read_padding, transport_info
from hsmbridge.core.errors import HsmBridgeError, Status, error

ReceivingPublicKey = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | x25519.X25519PublicKey
    | x448.X448PublicKey
    | mlkem.MLKEM768PublicKey
    | mlkem.MLKEM1024PublicKey
)
"""Keys that something can be sealed for."""


class RsaDecrypter(Protocol):
    """An RSA key that opens what was sealed for it, wherever it is."""

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        """The plaintext."""
        ...


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who can open it: a public key, and its certificate if there is one.

    Attributes:
        oaep: the digest for RSAES-OAEP, of those that the recipient's RSA key decrypts with.
    """

    public_key: ReceivingPublicKey
    certificate: x509.Certificate | None = None
    oaep: str = "sha256"


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A key-encryption key (AES, 16 or 32 octets) that both sides know, and its name."""

    name: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"SharedKey({self.name!r}, ...)"


@dataclass(frozen=True, slots=True)
class Opener:
    """What the receiver holds: a key of one of the kinds, shared keys, or both.

    Attributes:
        oaep: the digests that `rsa` decrypts RSAES-OAEP with, told to the server; empty says nothing of them.
    """

    rsa: RsaDecrypter | None = None
    agreement: Agreer | None = None
    kem: Decapsulator | None = None
    shared: Sequence[SharedKey] = ()
    oaep: tuple[str, ...] = ()


def seal(content_type: str, content: bytes, recipient: Recipient | SharedKey) -> bytes:
    """Encrypt `content` for the recipient; a ContentInfo.

    Raises:
        RequestError: the recipient's key cannot receive.
    """
    secret, encrypted = encrypt(content)
    info, version = _recipient_info(recipient, secret)
    algorithm = {"algorithm": oids.AES256_CBC, "parameters": core.OctetString(encrypted.iv)}
    data = {
        "version": version,
        "recipient_infos": [info],
        "encrypted_content_info": {
            "content_type": content_type,
            "content_encryption_algorithm": algorithm,
            "encrypted_content": encrypted.ciphertext,
        },
    }
    return bytes(cms.ContentInfo({"content_type": "enveloped_data", "content": cms.EnvelopedData(data)}).dump())


def _recipient_info(recipient: Recipient | SharedKey, secret: bytes) -> tuple[cms.RecipientInfo, str]:
    """The RecipientInfo, and the version that it gives the EnvelopedData (section 6.1)."""
    match recipient:
        case SharedKey():
            return cms.RecipientInfo("kekri", _shared_info(recipient, secret)), "v2"
        case Recipient(public_key=rsa.RSAPublicKey() as key):
            named = _recipient_identifier(recipient)
            info = transport_info(key, named, secret, recipient.oaep)
            return cms.RecipientInfo("ktri", info), "v0" if recipient.certificate else "v2"
        case Recipient(public_key=(mlkem.MLKEM768PublicKey() | mlkem.MLKEM1024PublicKey()) as key):
            return cms.RecipientInfo("ori", kem_info(key, _recipient_identifier(recipient), secret)), "v3"
        case Recipient(
            public_key=(ec.EllipticCurvePublicKey() | x25519.X25519PublicKey() | x448.X448PublicKey()) as key
        ):
            return cms.RecipientInfo("kari", agreement_info(key, _agreement_identifier(recipient), secret)), "v2"
        case _:
            raise refusals.unsupported("Only keys that decrypt, agree or decapsulate receive what is encrypted.")


def _shared_info(shared: SharedKey, secret: bytes) -> dict[str, object]:
    wrap = {16: oids.AES128_WRAP, 32: oids.AES256_WRAP}.get(len(shared.secret))
    if wrap is None:
        raise refusals.unwanted("A shared key has 16 or 32 octets.")
    return {
        "version": "v4",
        "kekid": {"key_identifier": shared.name},
        "key_encryption_algorithm": {"algorithm": wrap},
        "encrypted_key": keywrap.aes_key_wrap(shared.secret, secret),
    }


def _recipient_identifier(recipient: Recipient) -> cms.RecipientIdentifier:
    certificate = recipient.certificate
    if certificate is None:
        return cms.RecipientIdentifier("subject_key_identifier", key_identifier(recipient.public_key))
    issuer = cms.Name.load(certificate.issuer.public_bytes())
    return cms.RecipientIdentifier(
        "issuer_and_serial_number", {"issuer": issuer, "serial_number": certificate.serial_number}
    )


def _agreement_identifier(recipient: Recipient) -> cms.KeyAgreementRecipientIdentifier:
    identifier = _recipient_identifier(recipient)
    if identifier.name == "issuer_and_serial_number":
        return cms.KeyAgreementRecipientIdentifier("issuer_and_serial_number", identifier.chosen)
    named = {"subject_key_identifier": identifier.chosen}
    return cms.KeyAgreementRecipientIdentifier("r_key_id", named)


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
        length = KEY_LENGTHS.get(str(algorithm["algorithm"].dotted))
        if length is None:
            raise refusals.malformed("The content is encrypted by another algorithm than AES in CBC mode.")
        encrypted = EncryptedContent(
            length, bytes(algorithm["parameters"].native), bytes(inner["encrypted_content"].native)
        )
        return Opened(str(inner["content_type"].dotted), _content(data["recipient_infos"], opener, encrypted))

    return read("enveloped message", der, take)


def _content(infos: Iterable[cms.RecipientInfo], opener: Opener, encrypted: EncryptedContent) -> bytes:
    for info in infos:
        try:
            content = _tried(info, opener, encrypted)
        except (ValueError, keywrap.InvalidUnwrap, HsmBridgeError):
            # The next recipient may be us; if none is, the one error below is all that is told.
            continue
        if content is not None:
            return content
    raise error(Status.DECRYPTION_FAILED, "None of the keys opens this message.")


def _tried(info: cms.RecipientInfo, opener: Opener, encrypted: EncryptedContent) -> bytes | None:
    secret: bytes | None = None
    match info.name:
        case "kari" if opener.agreement is not None:
            agreed = read_agreement(info.chosen)
            return opener.agreement.open(agreed, encrypted) if agreed else None
        case "ktri" if opener.rsa is not None:
            padded = read_padding(info.chosen["key_encryption_algorithm"])
            secret = opener.rsa.decrypt(bytes(info.chosen["encrypted_key"].native), padded)
        case "kekri":
            name = bytes(info.chosen["kekid"]["key_identifier"].native)
            shared = next((one for one in opener.shared if one.name == name), None)
            wrapped = bytes(info.chosen["encrypted_key"].native)
            secret = keywrap.aes_key_unwrap(shared.secret, wrapped) if shared else None
        case "ori" if opener.kem is not None:
            secret = open_kem(info.chosen, opener.kem)
    return None if secret is None else encrypted.decrypt(secret)
