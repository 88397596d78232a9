"""OpenSSH user certificates (PROTOCOL.certkeys) of keys in slots: read strictly, and kept among a slot's attributes.

A certificate says which accounts its key may log in to, signed by an authority that servers trust. It is public and
gives nobody a signature that he could not have without it; whether it holds is the server's business. Here it is looked
at so that only what belongs to a key is offered with it, and only as long as it is valid. Host certificates are none of
an agent's.
"""

import base64
import binascii
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from hsmbridge.core.errors import WireError
from hsmbridge.wire.ssh_agent import DataReader

ATTRIBUTE: Final = 0xC853_5348
"""Its number among the slot's attributes: in the range that PKCS#11 leaves to vendors, and no attribute of PKCS#11."""


class UserCertificate(NamedTuple):
    """A certificate; times in seconds since 1970.

    Attributes:
        blob: as SSH encodes it.
        key: the public key in it, as SSH encodes that.
        key_id, serial: what the authority calls it.
        principals: the accounts that it is for; none is all.
        valid_after, valid_before: it holds from the first to before the second; 2**64 - 1 is no end.
    """

    blob: bytes
    key: bytes
    key_id: str
    serial: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int

    def holds(self, now: float) -> bool:
        """Whether it is valid at a time, in seconds since 1970."""
        return self.valid_after <= now < self.valid_before


def read_certificate(blob: bytes) -> UserCertificate:
    """A user certificate as SSH encodes it, its authority's signature verified. Raises ValueError for all else."""
    try:
        kind = DataReader(blob).string()
        identity = load_ssh_public_identity(kind + b" " + base64.b64encode(blob))
        if not isinstance(identity, SSHCertificate):
            raise ValueError("it is a key and no certificate")
        if identity.type is not SSHCertificateType.USER:
            raise ValueError("it is a host's certificate")
        identity.verify_cert_signature()
    except WireError as problem:
        raise ValueError("it ends too early") from problem
    except InvalidSignature as problem:
        raise ValueError("its signature is not that of its authority") from problem
    except (UnsupportedAlgorithm, NotImplementedError) as problem:
        # NotImplementedError is what the library has for a compressed point.
        raise ValueError("it is of a kind that cannot be verified here") from problem
    line = identity.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return UserCertificate(
        blob=blob,
        key=base64.b64decode(line.split(b" ")[1]),
        key_id=identity.key_id.decode(errors="replace"),
        serial=identity.serial,
        principals=tuple(name.decode(errors="replace") for name in identity.valid_principals),
        valid_after=identity.valid_after,
        valid_before=identity.valid_before,
    )


def read_line(text: bytes) -> UserCertificate:
    """The certificate in a file such as `id_ecdsa-cert.pub`: one line. Raises ValueError."""
    lines = [line for line in text.splitlines() if line.strip()]
    words = lines[0].split(None, 2) if len(lines) == 1 else []
    if len(words) < 2:
        raise ValueError("it is not one line of a type and a certificate")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error as problem:
        raise ValueError("it is not base64") from problem
    found = read_certificate(blob)
    if DataReader(blob).string() != words[0]:
        raise ValueError("its line names another type than it is of")
    return found
