"""Key agreement on the token: CKM_ECDH1_DERIVE with no KDF (PKCS#11 v3.2, section 6.3; SP 800-56A, RFC 7748).

The token cuts a secret that is longer than the key asked for, at its front, so a key must have exactly the size of
the secret: nothing is ever cut. With a KDF that the token has, the secret stays there as an object in between; KDFs of
CK_ECDH1_DERIVE_PARAMS itself are not used, for what they compute differs from token to token.
"""

from dataclasses import dataclass

from asn1crypto.core import OctetString
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import KDF, Attribute, DeriveMixin, Mechanism, MechanismFlag, SecretKey
from pkcs11 import KeyType as Ckk

from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import KdfParameters
from hsmbridge.providers.pkcs11.derivation import derive
from hsmbridge.providers.pkcs11.making import secret_kind
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.public_keys import is_of_type, key_bits
from hsmbridge.providers.pkcs11.templates import Template, readable_template, temporary_template

_NO_USES = MechanismFlag(0)


@dataclass(frozen=True, slots=True)
class PeerPoint:
    """The peer's point, uncompressed.

    Attributes:
        wrapped: in a DER OCTET STRING, as some tokens want it; the standard lets them choose.
    """

    point: bytes
    wrapped: bool

    @property
    def given(self) -> bytes:
        """What goes into CK_ECDH1_DERIVE_PARAMS."""
        if not self.wrapped:
            return self.point
        der: bytes = OctetString(self.point).dump()
        return der


def peer_point(row: KeyType, peer_public_key: bytes, *, wrapped: bool) -> PeerPoint:
    """The point of a peer's SubjectPublicKeyInfo, on the curve of `row`. Raises RequestError (INVALID_ARGUMENT)."""
    try:
        key = load_der_public_key(peer_public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The peer's public key is no SubjectPublicKeyInfo in DER with a point on its curve.",
        ) from None
    if not is_of_type(row, peer_public_key):
        raise RequestError(Status.INVALID_ARGUMENT, f"The peer's public key is not of type {row.name}.")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return PeerPoint(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), wrapped)
    _check_order(key)
    return PeerPoint(key_bits(peer_public_key), wrapped)


def _check_order(key: PublicKeyTypes) -> None:
    # With a point of small order every key agrees the same zeros (RFC 7748, section 6.1), and not every token looks.
    try:
        if isinstance(key, x25519.X25519PublicKey):
            x25519.X25519PrivateKey.generate().exchange(key)
        elif isinstance(key, x448.X448PublicKey):
            x448.X448PrivateKey.generate().exchange(key)
    except ValueError:
        raise RequestError(Status.INVALID_ARGUMENT, "The peer's public key leads to no secret.") from None


def check_holds(row: KeyType, target: KeyType) -> None:
    """Refuse a target that cannot be the whole secret that a key of type `row` agrees.

    Raises:
        RequestError: NOT_SUPPORTED for key types that are no bytes, INVALID_ARGUMENT for another size.
    """
    if not target.symmetric:
        raise RequestError(
            Status.NOT_SUPPORTED, f"An agreed secret cannot become a key of type {target.name} on the token."
        )
    size = secret_size(row)
    if target.bytes != size:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{row.name} agrees {size} bytes and a key of type {target.name} has {target.bytes};"
            " choose a key type of that size, or a KDF.",
        )


def secret_size(row: KeyType) -> int:
    """Bytes of the secret that a key of this type agrees."""
    return (row.bits + 7) // 8


def agree(keys: KeyObjects, peer: PeerPoint, target: KeyType, template: Template) -> SecretKey:
    """The agreed key as an object that `template` describes."""
    kind, _ = secret_kind(target)
    return _derive(keys, peer, kind, target.bits, template)


def agree_through(
    keys: KeyObjects, row: KeyType, peer: PeerPoint, kdf: KdfParameters, target: KeyType, template: Template
) -> SecretKey:
    """A key derived on the token from the agreed secret."""
    agreed = _derive(keys, peer, Ckk.GENERIC_SECRET, secret_size(row) * 8, temporary_template(Attribute.DERIVE))
    try:
        return derive(agreed, kdf, target, template)
    finally:
        agreed.destroy()


def agree_readable(keys: KeyObjects, row: KeyType, peer: PeerPoint) -> bytes:
    """The agreed secret itself, out of a session object that is gone afterwards."""
    derived = _derive(keys, peer, Ckk.GENERIC_SECRET, secret_size(row) * 8, readable_template())
    try:
        return bytes(derived[Attribute.VALUE])
    finally:
        derived.destroy()


def _derive(keys: KeyObjects, peer: PeerPoint, kind: Ckk, bits: int, template: Template) -> SecretKey:
    key = keys.private
    if not isinstance(key, DeriveMixin):
        raise KeyUseError(Status.KEY_OPERATION_NOT_PERMITTED, "The token does not let this key agree or derive.")
    return key.derive_key(
        kind,
        bits,
        capabilities=_NO_USES,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, peer.given),
        template=template,
    )
