"""Keys that an application gives in the clear (C_CreateObject), in the forms that the service takes.

RSA and EC keys come as numbers and go on as PKCS#8 or SubjectPublicKeyInfo; whether the numbers belong together is
checked by whoever takes them in.
"""

from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.public_keys import checked
from hsmbridge.frontends.p11kit.numbers import Cka, Ckk, Cko, Ckr
from hsmbridge.frontends.p11kit.public_keys import curve_of, point_to_spki
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.templates import Template, number, octets, required, secret_type, sized

_CURVES: dict[str, ec.EllipticCurve] = {
    "EC-P256": ec.SECP256R1(),
    "EC-P384": ec.SECP384R1(),
    "EC-P521": ec.SECP521R1(),
}


class GivenKey(NamedTuple):
    """A key in the clear: its type, and "raw", "pkcs8" or "spki" with the bytes."""

    row: KeyType
    format: str
    material: bytes


def given_key(kind: Cko, template: Template) -> GivenKey:
    """The key in a template. Raises Refused."""
    match kind:
        case Cko.SECRET_KEY:
            value = required(template, Cka.VALUE)
            return GivenKey(secret_type(template, None, len(value)), "raw", value)
        case Cko.PRIVATE_KEY | Cko.PUBLIC_KEY:
            ckk = number(template, Cka.KEY_TYPE)
            if ckk not in {int(Ckk.RSA), int(Ckk.EC)}:
                raise Refused(Ckr.TEMPLATE_INCOMPLETE if ckk is None else Ckr.ATTRIBUTE_VALUE_INVALID)
            try:
                return _rsa(kind, template) if ckk == Ckk.RSA else _ec(kind, template)
            except (ValueError, UnsupportedAlgorithm):
                raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID) from None
        case _:
            raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)


def _rsa(kind: Cko, template: Template) -> GivenKey:
    public = rsa.RSAPublicNumbers(_integer(template, Cka.PUBLIC_EXPONENT), _integer(template, Cka.MODULUS))
    row = sized(Family.RSA, public.n.bit_length())
    if kind is Cko.PUBLIC_KEY:
        spki = checked(public.public_key()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return GivenKey(row, "spki", spki)
    d = _integer(template, Cka.PRIVATE_EXPONENT)
    if octets(template, Cka.PRIME_1):
        p, q = _integer(template, Cka.PRIME_1), _integer(template, Cka.PRIME_2)
    else:
        p, q = rsa.rsa_recover_prime_factors(public.n, public.e, d)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return GivenKey(row, "pkcs8", _pkcs8(numbers.private_key()))


def _ec(kind: Cko, template: Template) -> GivenKey:
    row = curve_of(required(template, Cka.EC_PARAMS))
    if row.family is not Family.EC:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    if kind is Cko.PUBLIC_KEY:
        return GivenKey(row, "spki", point_to_spki(row, required(template, Cka.EC_POINT)))
    private = ec.derive_private_key(_integer(template, Cka.VALUE), _CURVES[row.name])
    return GivenKey(row, "pkcs8", _pkcs8(private))


def _pkcs8(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _integer(template: Template, type_: int) -> int:
    return int.from_bytes(required(template, type_), "big")
