"""What certificates, trust stores and CRLs have in common: their limits, and the words of a verification.

Values only; who reads X.509 (RFC 5280) is the service, and who verifies a chain is the library that it uses.
"""

from enum import StrEnum, unique

CERTIFICATE_MAX = 128 * 1024
"""Bytes of one certificate in DER; one signed with SLH-DSA has about 52 KiB."""

CHAIN_MAX = 16
"""Certificates of one chain."""

ANCHORS_MAX = 1024
"""Certificates of one trust store; what operating systems ship has about 150."""

ANCHORS_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of all certificates of one trust store."""

ANCHORS_OF_ONE_SUBJECT_MAX = 16
"""Anchors of one trust store with the same subject: each is tried as the issuer of whatever names it."""

CRL_MAX = 8 * 1024 * 1024
"""Bytes of one certificate revocation list in DER."""

CRLS_MAX = 32
"""Certificate revocation lists that one verification looks at."""

FINGERPRINT_LENGTH = 32
"""Of SHA-256 over the DER of a certificate, by which it is named."""


@unique
class CertificatePurpose(StrEnum):
    """What the certificate is to be good for: its extended key usage, and whether it must have a name.

    ANY leaves both out: for certificates that sign documents or code, whose use the caller checks.
    """

    SERVER = "server"
    CLIENT = "client"
    ANY = "any"


@unique
class RevocationCheck(StrEnum):
    """Which certificates of a chain the named CRLs must speak of: all below the anchor, or only the first."""

    CHAIN = "chain"
    LEAF = "leaf"
