"""Reading a key that somebody gives: which format it is in, what it is, and its material as the daemon takes it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from hsmbridge.client.key_formats.asymmetric import form_of_der, pkcs8_of, type_of_pkcs8, type_of_spki, unreadable
from hsmbridge.client.key_formats.cose import read_cose_key
from hsmbridge.client.key_formats.jwk import read_jwk
from hsmbridge.client.key_formats.names import Format
from hsmbridge.client.key_formats.pem import armoured
from hsmbridge.client.key_formats.ssh import read_ssh_key
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Secret

_TRADITIONAL = frozenset({"RSA PRIVATE KEY", "EC PRIVATE KEY"})
_HINTS = {
    "CERTIFICATE": "`openssl x509 -pubkey -noout` takes the public key out of a certificate",
    "OPENSSH PRIVATE KEY": "`ssh-keygen -p -m PKCS8` turns a copy of it into PKCS#8",
    "TSS2 PRIVATE KEY": "`hsmbridge slot adopt` takes the key of a TPM",
}


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key as the daemon imports it.

    Attributes:
        form: "spki", "pkcs8" or "raw".
        key_type: a row of the key type table, or "" for a secret key, which does not tell.
        material: DER, or the secret itself.
    """

    form: str
    key_type: str
    material: bytes = field(repr=False)


def read_key(data: bytes, format_: Format = Format.AUTO, passphrase: Secret | None = None) -> GivenKey:
    """The key in a file.

    Args:
        data: the whole of it.
        format_: AUTO finds out, except that a raw secret must be said to be one.
        passphrase: of an encrypted private key.

    Raises:
        RequestError: INVALID_ARGUMENT for what cannot be read, UNKNOWN_KEY_TYPE for a key of no type here.
    """
    if format_ is Format.AUTO:
        format_ = _detected(data)
    match format_:
        case Format.PEM:
            return _from_pem(data, passphrase)
        case Format.JWK:
            return GivenKey(*read_jwk(data))
        case Format.COSE:
            return GivenKey("spki", *read_cose_key(data))
        case Format.SSH:
            return GivenKey("spki", *read_ssh_key(data))
        case Format.RAW:
            return GivenKey("raw", "", data)
        case _:
            return _from_der(data, passphrase)


def _detected(data: bytes) -> Format:
    start = data[:4096].lstrip()
    if b"-----BEGIN " in data:
        return Format.PEM
    if start[:1] == b"{":
        return Format.JWK
    if start.startswith((b"ssh-", b"ecdsa-sha2-")):
        return Format.SSH
    if data[:1] == b"\x30":
        return Format.DER
    if data[:1] and data[0] >> 5 == 5:
        return Format.COSE
    raise RequestError(
        Status.INVALID_ARGUMENT,
        "The file is no key in PEM, DER, JWK, COSE or OpenSSH form; say --format raw if it is a secret key.",
    )


def _from_pem(data: bytes, passphrase: Secret | None) -> GivenKey:
    label, der = armoured(data)
    if label == "PUBLIC KEY" and der:
        return _public(der)
    if label == "PRIVATE KEY" and der:
        return _private(der)
    if label == "ENCRYPTED PRIVATE KEY" or label in _TRADITIONAL:
        text = data[data.index(b"-----BEGIN ") :]
        return _private(pkcs8_of(_opened(lambda password: load_pem_private_key(text, password), passphrase)))
    hint = _HINTS.get(label, "what can be read is a PUBLIC KEY, PRIVATE KEY or ENCRYPTED PRIVATE KEY")
    raise RequestError(Status.INVALID_ARGUMENT, f"The PEM holds a {label.lower()}; {hint}.")


def _from_der(data: bytes, passphrase: Secret | None) -> GivenKey:
    form = form_of_der(data)
    if form == "spki":
        return _public(data)
    if form == "pkcs8":
        return _private(data)
    return _private(pkcs8_of(_opened(lambda password: load_der_private_key(data, password), passphrase)))


def _public(spki: bytes) -> GivenKey:
    return GivenKey("spki", type_of_spki(spki).name, spki)


def _private(pkcs8: bytes) -> GivenKey:
    return GivenKey("pkcs8", type_of_pkcs8(pkcs8).name, pkcs8)


def _opened(load: Callable[[bytes | None], PrivateKeyTypes], passphrase: Secret | None) -> PrivateKeyTypes:
    try:
        return load(None if passphrase is None else passphrase.reveal())
    except TypeError:
        if passphrase is None:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                "The private key is encrypted; give its passphrase by --passphrase-file or --passphrase-fd.",
            ) from None
        raise RequestError(Status.INVALID_ARGUMENT, "The private key is not encrypted; give no passphrase.") from None
    except ValueError:
        what = "private key" if passphrase is None else "private key (or its passphrase is another one)"
        raise unreadable(what) from None
    except UnsupportedAlgorithm:
        raise unreadable("private key") from None
