"""What a server's CertificateRequest says of the certificates that it takes (RFC 5246 7.4.4, RFC 8446 4.3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est.tls.connection import ClientIdentity

_CERTIFICATE_AUTHORITIES = 47
_SIGNATURE_ALGORITHMS = 13
_EC = frozenset({0x0403, 0x0503, 0x0603})
_RSA = frozenset({0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806})
"""SignatureScheme: ecdsa_secp*, rsa_pkcs1_* and rsa_pss_rsae_*, each with SHA-2."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """Names of CAs as DER, and signature schemes; none listed means that any is taken."""

    authorities: frozenset[bytes] = frozenset()
    schemes: frozenset[int] = frozenset()

    def takes(self, identity: ClientIdentity) -> bool:
        """Whether a certificate of the chain is from one of the CAs, and the key signs by one of the schemes."""
        match identity.chain[0].public_key():
            case ec.EllipticCurvePublicKey():
                fitting = self.schemes & _EC
            case rsa.RSAPublicKey():
                fitting = self.schemes & _RSA
            case _:
                fitting = self.schemes
        if self.schemes and not fitting:
            return False
        issuers = {one.issuer.public_bytes() for one in identity.chain}
        return not self.authorities or bool(self.authorities & issuers)

    def choose(self, identities: Sequence[ClientIdentity]) -> ClientIdentity | None:
        """The first that the server takes, or None."""
        return next((one for one in identities if self.takes(one)), None)


def parse_certificate_request(message: bytes, *, tls13: bool) -> CertificateRequest:
    """Read the body of the handshake message. What cannot be read says nothing: the server decides in the end."""
    try:
        return _parse_13(message) if tls13 else _parse_12(message)
    except IndexError:
        return CertificateRequest()


def _parse_12(message: bytes) -> CertificateRequest:
    _, rest = _vector(message, 1)
    schemes, rest = _vector(rest, 2)
    authorities, _ = _vector(rest, 2)
    return CertificateRequest(_names(authorities), _numbers(schemes))


def _parse_13(message: bytes) -> CertificateRequest:
    _, rest = _vector(message, 1)
    extensions, _ = _vector(rest, 2)
    authorities, schemes = frozenset[bytes](), frozenset[int]()
    while extensions:
        type_ = int.from_bytes(_cut(extensions, 2), "big")
        value, extensions = _vector(extensions[2:], 2)
        if type_ == _CERTIFICATE_AUTHORITIES:
            authorities = _names(_vector(value, 2)[0])
        elif type_ == _SIGNATURE_ALGORITHMS:
            schemes = _numbers(_vector(value, 2)[0])
    return CertificateRequest(authorities, schemes)


def _names(listed: bytes) -> frozenset[bytes]:
    names = set()
    while listed:
        name, listed = _vector(listed, 2)
        names.add(name)
    return frozenset(names)


def _numbers(listed: bytes) -> frozenset[int]:
    return frozenset(int.from_bytes(_cut(listed[at:], 2), "big") for at in range(0, len(listed), 2))


def _vector(octets: bytes, size: int) -> tuple[bytes, bytes]:
    """A vector whose length stands before it in `size` octets, and what comes after it."""
    length = int.from_bytes(_cut(octets, size), "big")
    return _cut(octets[size:], length), octets[size + length :]


def _cut(octets: bytes, length: int) -> bytes:
    if len(octets) < length:
        raise IndexError
    return octets[:length]
