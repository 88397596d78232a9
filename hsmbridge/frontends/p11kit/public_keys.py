"""Public keys between SubjectPublicKeyInfo (RFC 5280), which the service speaks, and the attributes of PKCS#11."""

from collections.abc import Mapping
from typing import Final

from asn1crypto.core import Any as AnyValue
from asn1crypto.core import Integer, ObjectIdentifier, OctetBitString, OctetString, PrintableString, Sequence

from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.frontends.p11kit.numbers import Cka, Ckr
from hsmbridge.frontends.p11kit.refusals import Refused

_CURVE_BY_OID: Final = {row.ec_parameters: row for row in KEY_TYPES.values() if row.ec_parameters}
_CURVE_BY_NAME: Final = {row.parameter_set.lower(): row for row in _CURVE_BY_OID.values()}


class _AlgorithmIdentifier(Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("algorithm", ObjectIdentifier), ("parameters", AnyValue, {"optional": True})]  # noqa: RUF012


class _Spki(Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("algorithm", _AlgorithmIdentifier), ("public_key", OctetBitString)]  # noqa: RUF012


class _RsaPublicKey(Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("modulus", Integer), ("public_exponent", Integer)]  # noqa: RUF012


def public_attributes(row: KeyType, spki: bytes) -> Mapping[int, bytes]:
    """The attributes that describe a public key, big-endian and DER as PKCS#11 has them."""
    if not spki:
        return {}
    bits: bytes = _Spki.load(spki)["public_key"].native
    attributes: dict[int, bytes] = {Cka.PUBLIC_KEY_INFO: spki}
    if row.family is Family.RSA:
        numbers = _RsaPublicKey.load(bits)
        attributes[Cka.MODULUS] = _unsigned(int(numbers["modulus"]))
        attributes[Cka.PUBLIC_EXPONENT] = _unsigned(int(numbers["public_exponent"]))
    elif row.ec_parameters:
        attributes[Cka.EC_PARAMS] = ObjectIdentifier(row.ec_parameters).dump()
        attributes[Cka.EC_POINT] = OctetString(bits).dump()
    else:
        attributes[Cka.VALUE] = bits
    return attributes


def curve_of(ec_parameters: bytes) -> KeyType:
    """The key type of CKA_EC_PARAMS: a curve's object identifier, or its name (PKCS#11 v3.1 section 6.3.3).

    Raises Refused (CKR_ATTRIBUTE_VALUE_INVALID) for a curve that is in no table.
    """
    row = None
    try:
        if ec_parameters[:1] == b"\x06":
            row = _CURVE_BY_OID.get(ObjectIdentifier.load(ec_parameters, strict=True).dotted)
        elif ec_parameters[:1] == b"\x13":
            row = _CURVE_BY_NAME.get(PrintableString.load(ec_parameters, strict=True).native.lower())
    except ValueError:
        row = None
    if row is None:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return row


def point_to_spki(row: KeyType, given: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a peer's point, raw or in a DER OCTET STRING.

    Raises Refused (CKR_MECHANISM_PARAM_INVALID) where its size is not that of the curve.
    """
    size = (row.bits + 7) // 8
    length = 2 * size + 1 if row.family is Family.EC else size
    point = given
    if len(given) != length:
        try:
            point = OctetString.load(given, strict=True).native
        except ValueError:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID) from None
    if len(point) != length:
        raise Refused(Ckr.MECHANISM_PARAM_INVALID)
    algorithm = {"algorithm": row.spki_oid}
    if row.family is Family.EC:
        algorithm["parameters"] = ObjectIdentifier(row.ec_parameters)
    encoded: bytes = _Spki({"algorithm": algorithm, "public_key": point}).dump()
    return encoded


def digest_of(digest_info: bytes) -> tuple[str, bytes] | None:
    """The hash and the digest in a DigestInfo (RFC 8017 section 9.2, note 1), or None where it is none.

    Anything but the exact bytes would be signed as something else than what was asked for.
    """
    for prefix, hash_, size in _DIGEST_INFOS:
        if len(digest_info) == len(prefix) + size and digest_info.startswith(prefix):
            return hash_, digest_info[len(prefix) :]
    return None


_DIGEST_INFOS: Final = (
    (bytes.fromhex("3021300906052b0e03021a05000414"), "SHA-1", 20),
    (bytes.fromhex("3031300d060960864801650304020105000420"), "SHA-256", 32),
    (bytes.fromhex("3041300d060960864801650304020205000430"), "SHA-384", 48),
    (bytes.fromhex("3051300d060960864801650304020305000440"), "SHA-512", 64),
)


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
