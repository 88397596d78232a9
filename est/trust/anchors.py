"""The two sets of trust anchors of RFC 7030 section 3.6, and the file that keeps the Explicit one.

Explicit anchors come from configuration or from /cacerts and authorise for EST alone; Implicit anchors, such as those
of the Web, authenticate a server by its host name only, and can be switched off.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.trust.path import is_ca


@unique
class TrustedBy(StrEnum):
    """Which set authenticated a server."""

    EXPLICIT = "explicit"
    IMPLICIT = "implicit"
    NOBODY = "nobody"
    """A provisional connection of first contact: good for /cacerts alone."""


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """Both sets.

    Attributes:
        explicit: the anchors for EST.
        intermediates: CA certificates that lead to them.
        implicit: a PEM file of anchors, "system" for those of the operating system, or "" for none.
        allow_cmc_ra: a server whose certificate has id-kp-cmcRA and leads to an explicit anchor needs no matching
            host name.
    """

    explicit: tuple[x509.Certificate, ...] = ()
    intermediates: tuple[x509.Certificate, ...] = ()
    implicit: str = ""
    allow_cmc_ra: bool = False

    def with_explicit(
        self, anchors: Iterable[x509.Certificate], intermediates: Iterable[x509.Certificate] = ()
    ) -> "TrustAnchors":
        """The same with other explicit anchors; the implicit ones are off from then on."""
        return replace(self, explicit=tuple(anchors), intermediates=tuple(intermediates), implicit="")


def read_anchors(path: Path) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """The anchors and the intermediates in a PEM file.

    Raises:
        RequestError: the file cannot be read.
        CertificateError: it holds a certificate that is not a CA's.
    """
    from est.trust.path import is_self_signed

    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        raise refusals.unwanted(f"{path} is not a readable file of PEM certificates.") from None
    if not all(is_ca(one) for one in certificates):
        raise refusals.invalid_certificate(f"{path} holds a certificate that is not a CA's.")
    anchors = tuple(one for one in certificates if is_self_signed(one))
    return anchors, tuple(one for one in certificates if one not in anchors)


def write_pem(path: Path, certificates: Iterable[x509.Certificate]) -> None:
    """Replace a PEM file in one step: whoever reads it sees the old or the new one, whole."""
    write_whole(path, b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates), 0o644)


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step, and see it on the disk before returning."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
