"""The formats by name."""

from enum import StrEnum, unique


@unique
class Format(StrEnum):
    """What a file may be said to be."""

    AUTO = "auto"
    PEM = "pem"
    DER = "der"
    JWK = "jwk"
    COSE = "cose"
    SSH = "ssh"
    RAW = "raw"


@unique
class PublicKeyFormat(StrEnum):
    """How one public key is written."""

    PEM = "pem"
    DER = "der"
    JWK = "jwk"
    COSE = "cose"
    SSH = "ssh"
