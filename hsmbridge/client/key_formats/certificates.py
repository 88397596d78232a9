"""Certificates and CRLs in files: PEM bundles (RFC 7468) and DER, taken apart and put together, not understood.

A file with a private key in it is refused here, before anything of it leaves the process.
"""

import base64
from collections.abc import Iterator

from hsmbridge.client.key_formats.pem import decoded
from hsmbridge.core.certificates import ANCHORS_MAX
from hsmbridge.core.errors import CertificateError, LimitError, RequestError, Status

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_CERTIFICATE = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
_CRL = frozenset({b"X509 CRL"})
_SEQUENCE = 0x30
_LABEL_MAX = 64


def certificates_in(data: bytes) -> tuple[bytes, ...]:
    """The certificates of a file, each in DER: a PEM bundle, or one certificate or several in DER.

    Raises CertificateError (CERTIFICATE_INVALID) where the file is neither, is damaged, or holds a private key;
    LimitError (DATA_TOO_LARGE) for more than any call takes.
    """
    return _content(data, _CERTIFICATE, "certificate")


def crl_in(data: bytes) -> bytes:
    """The one CRL of a file, in DER. Raises as `certificates_in`."""
    found = _content(data, _CRL, "CRL")
    if len(found) != 1:
        raise RequestError(Status.INVALID_ARGUMENT, f"The file holds {len(found)} CRLs; give one at a time.")
    return found[0]


def certificate_pem(*certificates: bytes) -> str:
    """Certificates in DER as one PEM bundle."""
    return "".join(_armour("CERTIFICATE", der) for der in certificates)


def crl_pem(crl: bytes) -> str:
    """A CRL in DER as PEM."""
    return _armour("X509 CRL", crl)


def _content(data: bytes, wanted: frozenset[bytes], what: str) -> tuple[bytes, ...]:
    found = []
    # DER may hold the letters of a PEM's first line in a name: what is DER from end to end is no PEM.
    elements = _der(data)
    for der in _pem(data, wanted, what) if elements is None and _BEGIN in data else elements or ():
        found.append(der)
        if len(found) > ANCHORS_MAX:
            raise LimitError(Status.DATA_TOO_LARGE, f"The file holds more than {ANCHORS_MAX} of {what}; divide it.")
    if not found:
        told = f"holds no {what}" if _BEGIN in data or not data else f"is no {what} in PEM or DER, or is damaged"
        raise CertificateError(Status.CERTIFICATE_INVALID, f"The file {told}.")
    return tuple(found)


def _pem(data: bytes, wanted: frozenset[bytes], what: str) -> Iterator[bytes]:
    position = data.find(_BEGIN)
    while position >= 0:
        start = position + len(_BEGIN)
        label_end = data.find(_DASHES, start, start + _LABEL_MAX + len(_DASHES))
        label = data[start:label_end] if label_end >= 0 else b""
        end = data.find(_END + label + _DASHES, label_end) if label else -1
        if label.endswith(b"PRIVATE KEY"):
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                f"The file holds a private key beside its {what}; nothing of it was sent. Take the key out.",
            )
        if end < 0:
            raise CertificateError(Status.CERTIFICATE_INVALID, "The PEM is damaged: a BEGIN line has no END line.")
        if label in wanted:
            yield _decoded(data[label_end + len(_DASHES) : end], what)
        position = data.find(_BEGIN, end)


def _decoded(text: bytes, what: str) -> bytes:
    try:
        der = decoded(text)
    except RequestError:
        der = b""
    if not der:
        raise CertificateError(Status.CERTIFICATE_INVALID, f"The PEM of a {what} is damaged.")
    return der


def _der(data: bytes) -> list[bytes] | None:
    """Elements of DER one after another, by their lengths (X.690 section 8.1); None for anything else."""
    elements, position = [], 0
    while position < len(data):
        end = _element_end(data, position)
        if end is None:
            return None
        elements.append(data[position:end])
        position = end
    return elements


def _element_end(data: bytes, start: int) -> int | None:
    head = data[start : start + 2]
    if len(head) < 2 or head[0] != _SEQUENCE:
        return None
    length, body = head[1], start + 2
    if length >= 0x80:
        size = length - 0x80
        if not 1 <= size <= 4:
            return None
        length = int.from_bytes(data[body : body + size])
        body += size
    end = body + length
    return end if end <= len(data) else None


def _armour(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
